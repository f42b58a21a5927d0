package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
)

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"syntax", "permit (principal, action, resource)", "test.cedar:1:"},
		{"syntax below", "permit (principal, action, resource);\npermit (principal, acton, resource);", "test.cedar:2:"},
		{"unknown action", "permit (principal, action == Action::\"kms:encrypt\", resource);", `test.cedar:1:30: unrecognized action ` + "`Action::\"kms:encrypt\"`" + `: did you mean Action::"kms:Encrypt"?`},
		{"action without a service", "permit (principal, action == Action::\"Decrypt\", resource);", `did you mean Action::"kms:Decrypt"?`},
		{"unknown action in a set", "permit (principal, action in [Action::\"kms:Encrypt\", Action::\"kms:Burn\"], resource);", "test.cedar:1:54"},
		{"unknown principal", "permit (principal == Robot::\"x\", action, resource);", "test.cedar:1:22: unrecognized entity type"},
		{"unknown attribute", "permit (principal, action == Action::\"kms:Encrypt\", resource)\nwhen { resource.colour == \"red\" };", "test.cedar:2:17"},
		{"unknown context", "permit (principal, action == Action::\"kms:Encrypt\", resource)\nwhen { context.mood == \"red\" };", "test.cedar:2:16"},
		{"attribute of some kinds only", "permit (principal, action, resource) when { resource.tier == \"device\" };", "test for the type first"},
		{"tag unasked", "permit (principal, action, resource) when { context.encryption.getTag(\"tenant\") == \"42\" };", "ask first: context.encryption.hasTag"},
		{"type error", "permit (principal, action == Action::\"kms:Encrypt\", resource) when { resource.tier == 7 };", "test.cedar:1:1"},
		{"not a condition", "permit (principal, action == Action::\"kms:Encrypt\", resource) when { resource.tier };", "expected Bool"},
		{"never applicable", "permit (principal, action == Action::\"audit:Read\", resource is Key);", "no action joins"},
		{"role as principal", "permit (principal == Role::\"administrator\", action, resource);", "applicable action"},
		{"bad address", "permit (principal, action, resource) when { context.source.isInRange(ip(\"10.0.0.0/99\")) };", "IP address"},
		{"unknown annotation", "@owner(\"me\") permit (principal, action, resource);", "test.cedar:1:1: unknown annotation @owner"},
		{"annotation twice", "@id(\"a\") @id(\"b\") permit (principal, action, resource);", "duplicate annotation"},
		{"id's form", "@id(\"a b\") permit (principal, action, resource);", "@id"},
		{"id taken", "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") forbid (principal, action, resource);", "test.cedar:2:1: policy a has the id of the policy at test.cedar:1:1"},
		{"approvals on forbid", "@approvals(\"2 of security\") forbid (principal, action, resource);", "cannot be approved away"},
		{"approvals' form", "@approvals(\"two of security\") permit (principal, action, resource);", "2 of security"},
		{"no approvals", "@approvals(\"0 of security\") permit (principal, action, resource);", "from 1 to 9"},
		{"approvals' role", "@approvals(\"2 of Security Officers\") permit (principal, action, resource);", "2 of security"},
		{"window's form", "@window(\"weekdays\") permit (principal, action, resource);", "mon-fri 08:00-18:00"},
		{"template slot", "permit (principal == ?principal, action, resource);", "test.cedar:1:"},
		{"nesting", "permit (principal, action, resource) when { " + strings.Repeat("(", 100_000), "nest deeper"},
		{"statement size", "permit (principal, action, resource) when { " + strings.Repeat("if ", 100_000), "larger than"},
		{"tests", "permit (principal, action, resource) when { " + strings.Repeat("context.encryption.hasTag(\"a\") || ", 9) + "false };", "9 tests"},
		{"not text", "permit\xff", "UTF-8"},
		{"text size", strings.Repeat("//////////\n", policy.MaxText/11+1), "the limit is"},
		{"count", strings.Repeat("permit(principal,action,resource);", policy.MaxPolicies+1), "more than 20000 policies"},
	} {
		_, err := policy.Parse("test.cedar", []byte(c.text))
		if !errors.Is(err, key.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %q", c.name, err, c.want)
		}
	}
}

func TestParseReportsEveryPolicy(t *testing.T) {
	text := strings.Repeat("permit (principal, action == Action::\"kms:Burn\", resource);\n", 30)
	_, err := policy.Parse("test.cedar", []byte(text))
	if err == nil || strings.Count(err.Error(), "unrecognized action") != 20 || !strings.Contains(err.Error(), "test.cedar:20:") || !strings.Contains(err.Error(), "may be more") {
		t.Errorf("%v", err)
	}
}

// Comments and strings hide brackets and semicolons from the limits, and columns count characters.
func TestParseComments(t *testing.T) {
	s := parse(t, `// ((((;
/* ;
;{{ */ @id("one") permit (principal == User::"a;\"(", action, resource); // end
permit (principal == User::"ü", action, resource); // no newline`)
	if s.Len() != 2 || s.Name() != "test.cedar" || len(s.Digest()) != 64 {
		t.Errorf("%d policies, name %q, digest %q", s.Len(), s.Name(), s.Digest())
	}
	d := s.Decide(ask(user(`a;"(`), policy.Encrypt, keyNamed("dev/a/b")))
	if d.Outcome != policy.Allow || d.Policies[0] != "one" {
		t.Errorf("%+v", d)
	}
	if parse(t, "").Len() != 0 || parse(t, "// nothing").Len() != 0 {
		t.Error("an empty text has policies")
	}
}

func TestWindows(t *testing.T) {
	at := func(day int, clock string) time.Time { // 2026-11-23 is a Monday
		c, err := time.Parse("15:04:05", clock)
		if err != nil {
			t.Fatal(err)
		}
		return time.Date(2026, 11, 22+day, c.Hour(), c.Minute(), c.Second(), 0, time.UTC)
	}
	for _, c := range []struct {
		window string
		at     time.Time
		open   bool
	}{
		{"mon-fri 08:00-18:00", at(1, "08:00:00"), true},
		{"mon-fri 08:00-18:00", at(1, "07:59:59"), false},
		{"mon-fri 08:00-18:00", at(5, "17:59:59"), true},
		{"mon-fri 08:00-18:00", at(5, "18:00:00"), false},
		{"mon-fri 08:00-18:00", at(6, "12:00:00"), false},
		{"fri-mon 08:00-18:00", at(0, "12:00:00"), true},
		{"fri-mon 08:00-18:00", at(2, "12:00:00"), false},
		{"sat,sun 00:00-24:00", at(0, "23:59:59"), true},
		{"sat,sun 00:00-24:00", at(1, "00:00:00"), false},
		{"daily 22:00-06:00", at(3, "23:00:00"), true},
		{"daily 22:00-06:00", at(3, "05:59:00"), true},
		{"daily 22:00-06:00", at(3, "06:00:00"), false},
		{"sun 22:00-06:00", at(1, "05:00:00"), true}, // began last week
		{"sun 22:00-06:00", at(2, "05:00:00"), false},
		{"sun 22:00-06:00", at(0, "05:00:00"), false},
		{"mon 08:00-09:00; tue 10:00-11:00", at(2, "10:30:00"), true},
		{"mon 08:00-09:00; tue 10:00-11:00", at(2, "08:30:00"), false},
		{"mon 08:00-09:00", at(1, "08:30:00").In(time.FixedZone("east", 5*3600)), true}, // always UTC
	} {
		s := parse(t, fmt.Sprintf("@window(%q) permit (principal, action, resource);", c.window))
		q := ask(user("ada"), policy.Encrypt, keyNamed("dev/a/b"))
		q.Now = c.at
		if got := s.Decide(q).Outcome == policy.Allow; got != c.open {
			t.Errorf("%s at %s: open %v, want %v", c.window, c.at.Format("Mon 15:04:05"), got, c.open)
		}
	}
	for _, bad := range []string{"", "mon", "08:00-18:00", "mon 8:00-18:00", "mon 08:00", "mon 08:00-08:00", "mon 24:00-08:00", "mon 08:00-24:01", "mon 08:60-09:00",
		"Mon 08:00-09:00", "mon- 08:00-09:00", "mon,,tue 08:00-09:00", "mon 08:00-09:00;", "mon 08:00-09:00 UTC", "mon +8:00-09:00"} {
		if _, err := policy.Parse("x", fmt.Appendf(nil, "@window(%q) permit (principal, action, resource);", bad)); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("window %q: %v", bad, err)
		}
	}
}

func TestCheckRoles(t *testing.T) {
	for _, good := range [][]string{nil, {"administrator"}, {"developer", "administrator"}, {"security", "auditor"}} {
		if err := policy.CheckRoles(good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for _, bad := range [][]string{{"developer", "operator"}, {"security", "x", "operator"}, {"Admin"}, {""}, {"a", "a"}, {"a,b"}} {
		if err := policy.CheckRoles(bad); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%v: %v, want ErrInvalid", bad, err)
		}
	}
}

func TestCheckApply(t *testing.T) {
	ada, bob := user("ada", "administrator"), user("bob", "operator")
	apply := `permit (principal in Role::"administrator", action == Action::"policy:Apply", resource)`
	for _, c := range []struct {
		name    string
		text    string
		holders []policy.Principal
		ok      bool
	}{
		{"plain", apply + ";", []policy.Principal{bob, ada}, true},
		{"no administrator", apply + ";", []policy.Principal{bob}, false},
		{"nobody", apply + ";", nil, false},
		{"empty policy", "", []policy.Principal{ada}, false},
		{"only another role may", `permit (principal in Role::"operator", action, resource);`, []policy.Principal{ada, bob}, false},
		{"forbidden", apply + "; forbid (principal, action, resource is PolicySet);", []policy.Principal{ada}, false},
		{"one of two forbidden", apply + `; forbid (principal == User::"ada", action, resource);`, []policy.Principal{ada, user("eve", "administrator")}, true},
		{"closed now, open later", `@window("sun 03:00-04:00") ` + apply + ";", []policy.Principal{ada}, true},
		{"forbidden whenever open", `@window("sun 03:00-04:00") ` + apply + `; @window("sun 00:00-12:00") forbid (principal, action, resource);`, []policy.Principal{ada}, false},
		{"forbidden only at times", apply + `; @window("mon-fri 00:00-24:00") forbid (principal, action, resource);`, []policy.Principal{ada}, true},
		{"approvals", `@approvals("1 of security") ` + apply + ";", []policy.Principal{ada}, false},
		{"from elsewhere", apply + ` when { context.source.isInRange(ip("192.0.2.0/24")) };`, []policy.Principal{ada}, false},
		{"from here", apply + ` when { context.source.isInRange(ip("10.0.0.0/8")) && context.authMethod == "mtls" };`, []policy.Principal{ada}, true},
	} {
		err := parse(t, c.text).CheckApply(monday, office, "mtls", c.holders)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := policy.Default().CheckApply(monday, netip.Addr{}, "", []policy.Principal{ada}); err != nil {
		t.Errorf("the default policy: %v", err)
	}
}

func TestExplain(t *testing.T) {
	s := parse(t, house)
	for _, c := range []struct {
		q    policy.Query
		want []string
	}{
		{ask(service("dev", "payments"), policy.Encrypt, keyNamed("dev/payments/orders")),
			[]string{`allow: Service::"dev/payments" asks for kms:Encrypt on Key::"dev/payments/orders"`, "because: allowed by policy payments (test.cedar:", "payments (test.cedar:5:1) permit: applies",
				`admins (test.cedar:2:1) permit: does not apply: it is for principal in Role::"administrator"`}},
		{ask(service("prod", "payments"), policy.Encrypt, keyNamed("dev/payments/orders")),
			[]string{"deny: ", "because: no policy allows it", `payments (test.cedar:5:1) permit: does not apply: it is for principal == Service::"dev/payments"`}},
		{ask(service("prod", "shop"), policy.Decrypt, keyNamed("dev/payments/orders")), []string{"tenants (test.cedar:8:1) permit: does not apply: its condition is false"}},
		{ask(user("ola", "operator"), policy.DisableKey, keyNamed("dev/x/y")), []string{"needs-approvals: ", "permit with approvals of 2 of security: applies"}},
		{policy.Query{Action: "kms:Frobnicate"}, []string{"deny: no such action: kms:Frobnicate"}},
	} {
		text := s.Explain(c.q)
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("explanation lacks %q:\n%s", want, text)
			}
		}
	}
	if text := parse(t, "").Explain(ask(user("a"), policy.Encrypt, keyNamed("dev/a/b"))); !strings.Contains(text, "no policy is about this") {
		t.Errorf("of an empty set: %s", text)
	}
}
