package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"pgregory.net/rapid"
)

var anyTime = time.Date(2026, 11, 23, 10, 30, 0, 0, time.UTC)

// plain decides as Cedar itself does: every policy, every entity, no index, no
// laziness. Only @id is understood.
func plain(t *rapid.T, text string, q Query) (Outcome, []string) {
	list, err := cedar.NewPolicyListFromBytes("x", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	set := cedar.NewPolicySet()
	for _, p := range list {
		set.Add(cedar.PolicyID(p.Annotations()["id"]), p)
	}
	r, problem := newRequest(&q)
	if problem != "" {
		t.Fatal(problem)
	}
	r.needs = needs{everything, everything, everything}
	entities := types.EntityMap{}
	for _, uid := range append([]types.EntityUID{r.principal, r.resource, encryptionUID}, r.within...) {
		if e, ok := r.Get(uid); ok {
			entities[uid] = e
		}
	}
	for group := range ours().resolved.Actions { // for conditions on the action's groups
		entities[group] = ours().resolved.Actions[group].Entity
	}
	decision, diag := cedar.Authorize(set, entities, *r.cedar())
	if len(diag.Errors) > 0 {
		t.Fatalf("a checked policy fails: %v\n%s", diag.Errors, text)
	}
	var ids []string
	for _, reason := range diag.Reasons {
		ids = append(ids, string(reason.PolicyID))
	}
	slices.Sort(ids)
	if decision == cedar.Allow {
		return Allow, ids
	}
	return Deny, ids
}

func drawPolicy(t *rapid.T, id int) string {
	principal := rapid.SampledFrom([]string{
		"principal", "principal is Service", "principal is User", `principal == User::"a"`, `principal == Service::"dev/a"`,
		`principal in Role::"r"`, `principal in Role::"s"`, `principal is User in Role::"r"`, `principal in Service::"dev/a"`, `principal in User::"a"`,
	}).Draw(t, "principal")
	action := rapid.SampledFrom([]string{
		"action", `action == Action::"kms:Encrypt"`, `action in Action::"kms"`, `action in Action::"kms:Use"`,
		`action in [Action::"kms:Encrypt", Action::"kms:Decrypt"]`, `action in [Action::"kms:Manage", Action::"kms:Sign"]`,
	}).Draw(t, "action")
	resource := rapid.SampledFrom([]string{
		"resource", "resource is Key", `resource == Key::"dev/a/k"`, `resource in ServiceScope::"dev/a"`, `resource in Environment::"dev"`,
		`resource is Key in Environment::"dev"`, `resource in Key::"dev/a/k"`, `resource is Key in ServiceScope::"prod/a"`,
	}).Draw(t, "resource")
	conditions := rapid.SliceOfN(rapid.SampledFrom([]string{
		`when { resource is Key && resource.tier == "device" }`,
		`unless { resource is Key && resource.owner == principal.path }`,
		`when { principal.environment == "dev" }`,
		`when { context.encryption.hasTag("t") && context.encryption.getTag("t") == "1" }`,
		`unless { context.encryption.hasTag("t") }`,
		`when { context.source.isInRange(ip("10.0.0.0/8")) }`,
		`when { context.authMethod == "mtls" && principal in Role::"s" }`,
		`when { resource in ServiceScope::"dev/a" || resource in Environment::"prod" }`,
		`when { (if principal is User then principal.person else principal.spiffe) like "*a*" }`,
		`when { context.now > datetime("2026-01-01") }`,
		`when { action in Action::"kms:Use" }`,
		`when { {p: principal}.p.environment == "dev" }`,
		`when { [principal.path, "b"].contains(if resource is Key then resource.service else "") }`,
	}), 0, 2).Draw(t, "conditions")
	effect := rapid.SampledFrom([]string{"permit", "permit", "permit", "forbid"}).Draw(t, "effect")
	return fmt.Sprintf("@id(\"p%02d\") %s (%s, %s, %s) %s;\n", id, effect, principal, action, resource, strings.Join(conditions, " "))
}

func drawQuery(t *rapid.T) Query {
	text := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	q := Query{
		Principal: Principal{Kind: text("kind", KindUser, KindService, KindNode), Environment: text("env", "dev", "prod"), Path: text("path", "a", "b"),
			Roles: rapid.SliceOfN(rapid.SampledFrom([]string{"r", "s", "z"}), 0, 3).Draw(t, "roles"), PersonID: text("person", "", "a"), AuthMethod: text("method", "mtls", "jwt"), SPIFFEID: "spiffe://dev.x/a"},
		Action: rapid.SampledFrom([]Action{Encrypt, Decrypt, Sign, RotateKey, CreateKey, DescribeKey}).Draw(t, "asked"),
		Object: Object{Kind: KindKey, Name: text("object", "dev/a/k", "dev/a/l", "dev/b/k", "prod/a/k"),
			Attributes: map[string]string{"tier": text("tier", "device", "wrapped"), "owner": text("owner", "", "a", "b")}},
		Source: rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1%eth0")}).Draw(t, "source"),
		Now:    anyTime,
	}
	if rapid.Bool().Draw(t, "context") {
		q.Context = map[string]string{"t": text("tag", "1", "2"), "u": ""}
	}
	return q
}

// The index and the laziness change nothing: Decide is Cedar.
func TestDecideIsCedar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		n := rapid.IntRange(0, 12).Draw(t, "policies")
		for i := range n {
			text.WriteString(drawPolicy(t, i))
		}
		s, err := Parse("x", []byte(text.String()))
		if err != nil {
			// What can never apply is refused, as it should be; nothing to compare then.
			t.Skip(err)
		}
		for range 4 {
			q := drawQuery(t)
			before := maps.Clone(q.Object.Attributes)
			outcome, ids := plain(t, text.String(), q)
			d := s.Decide(q)
			got := slices.Sorted(slices.Values(d.Policies))
			if d.Outcome != outcome || !slices.Equal(got, ids) {
				t.Fatalf("Decide: %s by %v, Cedar: %s by %v\n%+v\n%s", d.Outcome, got, outcome, ids, q, text.String())
			}
			if !maps.Equal(before, q.Object.Attributes) {
				t.Fatal("Decide wrote to the question")
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(defaultText)
	f.Add("@id(\"a\")@window(\"mon-fri 08:00-18:00\")permit(principal,action,resource)when{context.encryption.hasTag(\"a\")};")
	f.Add("/*;*/ // x\n\"")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		s, err := Parse("f", []byte(text))
		if err != nil {
			return
		}
		q := Query{Principal: Principal{Kind: KindUser, Environment: "ops", Path: "a", Roles: []string{"administrator"}}, Action: Encrypt,
			Object: Object{Kind: KindKey, Name: "dev/a/k"}, Now: anyTime}
		d := s.Decide(q)
		if d.Reason == "" || (d.Outcome != Deny) && len(d.Policies) == 0 {
			t.Errorf("%+v", d)
		}
		s.Explain(q)
	})
}
