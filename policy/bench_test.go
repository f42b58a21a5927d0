package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/policy"
)

// services returns n policies as a house of n services would have them: each
// uses its own keys, a tenth only with its tenant in the context.
func services(n int) string {
	var b strings.Builder
	b.WriteString("@id(\"administrators\") permit (principal in Role::\"administrator\", action, resource);\n")
	for i := range n - 1 {
		condition := ""
		if i%10 == 0 {
			condition = ` when { context.encryption.hasTag("tenant") && context.encryption.getTag("tenant") == "42" && context.source.isInRange(ip("10.0.0.0/8")) }`
		}
		fmt.Fprintf(&b, "@id(\"s%d\") permit (principal == Service::\"dev/s%d\", action in Action::\"kms:Use\", resource in ServiceScope::\"dev/s%d\")%s;\n", i, i, i, condition)
	}
	return b.String()
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		s := parse(b, services(n))
		plain := ask(service("dev", "s1"), policy.Encrypt, keyNamed("dev/s1/orders", "tier", "wrapped"))
		conditional := ask(service("dev", "s0"), policy.Encrypt, keyNamed("dev/s0/orders"))
		conditional.Context = map[string]string{"tenant": "42"}
		for name, q := range map[string]policy.Query{"scope": plain, "condition": conditional} {
			if d := s.Decide(q); d.Outcome != policy.Allow {
				b.Fatal(d)
			}
			b.Run(fmt.Sprintf("%s/policies=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.Decide(q)
				}
			})
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		text := []byte(services(n))
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := policy.Parse("bench", text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
