package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/policy"
)

var (
	monday = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	sunday = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	office = netip.MustParseAddr("10.1.2.3")
)

func user(name string, roles ...string) policy.Principal {
	return policy.Principal{Kind: policy.KindUser, Environment: "ops", Path: name, Roles: roles, PersonID: name, AuthMethod: "mtls", SPIFFEID: "spiffe://ops.example/user/" + name}
}

func service(env, path string, roles ...string) policy.Principal {
	return policy.Principal{Kind: policy.KindService, Environment: env, Path: path, Roles: roles, AuthMethod: "mtls", SPIFFEID: "spiffe://" + env + ".example/service/" + path}
}

func keyNamed(name string, attributes ...string) policy.Object {
	o := policy.Object{Kind: policy.KindKey, Name: name, Attributes: map[string]string{}}
	for i := 0; i < len(attributes); i += 2 {
		o.Attributes[attributes[i]] = attributes[i+1]
	}
	return o
}

func ask(p policy.Principal, a policy.Action, o policy.Object) policy.Query {
	return policy.Query{Principal: p, Action: a, Object: o, Source: office, Now: monday}
}

func parse(t testing.TB, text string) *policy.Set {
	t.Helper()
	s, err := policy.Parse("test.cedar", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const house = `
@id("admins")
permit (principal in Role::"administrator", action, resource);

@id("payments")
permit (principal == Service::"dev/payments", action in Action::"kms:Use", resource in ServiceScope::"dev/payments");

@id("tenants")
permit (principal is Service, action == Action::"kms:Decrypt", resource in Environment::"dev")
when { context.encryption.hasTag("tenant") && context.encryption.getTag("tenant") == principal.path };

@id("no-secret-abroad")
forbid (principal, action, resource is Key)
when { resource.classification == "secret" && !context.source.isInRange(ip("10.0.0.0/8")) };

@id("disable-four-eyes") @approvals("2 of security")
permit (principal in Role::"operator", action == Action::"kms:DisableKey", resource);

@id("disable-own")
permit (principal in Role::"operator", action == Action::"kms:DisableKey", resource)
when { resource.owner == principal.person };

@id("rotate-in-hours") @window("mon-fri 08:00-18:00")
permit (principal in Role::"operator", action == Action::"kms:RotateKey", resource);
`

func TestDecide(t *testing.T) {
	s := parse(t, house)
	orders := keyNamed("dev/payments/orders")
	secret := keyNamed("dev/payments/cards", "classification", "secret")
	at := func(q policy.Query, change func(*policy.Query)) policy.Query { change(&q); return q }
	for _, c := range []struct {
		name    string
		q       policy.Query
		outcome policy.Outcome
		by      string
	}{
		{"administrator", ask(user("ada", "administrator"), policy.ApplyPolicy, policy.Object{Kind: policy.KindPolicySet, Name: "active"}), policy.Allow, "admins"},
		{"nobody", ask(user("bob"), policy.Encrypt, orders), policy.Deny, ""},
		{"own key", ask(service("dev", "payments"), policy.Encrypt, orders), policy.Allow, "payments"},
		{"not in its group", ask(service("dev", "payments"), policy.CreateKey, orders), policy.Deny, ""},
		{"other environment", ask(service("prod", "payments"), policy.Encrypt, orders), policy.Deny, ""},
		{"other service's key", ask(service("dev", "payments"), policy.Encrypt, keyNamed("dev/paymentsx/orders")), policy.Deny, ""},
		{"tenant's context", at(ask(service("prod", "shop"), policy.Decrypt, orders), func(q *policy.Query) { q.Context = map[string]string{"tenant": "shop"} }), policy.Allow, "tenants"},
		{"other tenant", at(ask(service("prod", "shop"), policy.Decrypt, orders), func(q *policy.Query) { q.Context = map[string]string{"tenant": "shopx"} }), policy.Deny, ""},
		{"no context", ask(service("prod", "shop"), policy.Decrypt, orders), policy.Deny, ""},
		{"two permits", at(ask(service("dev", "payments"), policy.Decrypt, orders), func(q *policy.Query) { q.Context = map[string]string{"tenant": "payments"} }), policy.Allow, "payments,tenants"},
		{"forbid wins over administrator", at(ask(user("ada", "administrator"), policy.Decrypt, secret), func(q *policy.Query) { q.Source = netip.MustParseAddr("192.0.2.1") }), policy.Deny, "no-secret-abroad"},
		{"forbid with unknown source", at(ask(user("ada", "administrator"), policy.Decrypt, secret), func(q *policy.Query) { q.Source = netip.Addr{} }), policy.Deny, "no-secret-abroad"},
		{"source as IPv4 in IPv6", at(ask(user("ada", "administrator"), policy.Decrypt, secret), func(q *policy.Query) { q.Source = netip.MustParseAddr("::ffff:10.9.9.9") }), policy.Allow, "admins"},
		{"needs approvals", ask(user("ola", "operator"), policy.DisableKey, orders), policy.NeedsApprovals, "disable-four-eyes"},
		{"unconditional permit beats approvals", ask(user("ola", "operator"), policy.DisableKey, keyNamed("dev/x/y", "owner", "ola")), policy.Allow, "disable-own"},
		{"inside the window", ask(user("ola", "operator"), policy.RotateKey, orders), policy.Allow, "rotate-in-hours"},
		{"outside the window", at(ask(user("ola", "operator"), policy.RotateKey, orders), func(q *policy.Query) { q.Now = sunday }), policy.Deny, ""},
		{"role twice", ask(user("ada", "administrator", "administrator"), policy.Encrypt, orders), policy.Allow, "admins"},
	} {
		d := s.Decide(c.q)
		if d.Outcome != c.outcome || strings.Join(d.Policies, ",") != c.by {
			t.Errorf("%s: %s by %v (%s), want %s by %q", c.name, d.Outcome, d.Policies, d.Reason, c.outcome, c.by)
		}
		if d.Reason == "" {
			t.Errorf("%s: no reason", c.name)
		}
		if (d.Approvals != "") != (d.Outcome == policy.NeedsApprovals) {
			t.Errorf("%s: approvals %q with %s", c.name, d.Approvals, d.Outcome)
		}
	}
}

func TestDecideRefusesWhatItDoesNotUnderstand(t *testing.T) {
	s := policy.Default()
	admin := user("ada", "administrator")
	orders := keyNamed("dev/payments/orders")
	good := ask(admin, policy.Encrypt, orders)
	if d := s.Decide(good); d.Outcome != policy.Allow {
		t.Fatalf("the good question: %+v", d)
	}
	for name, change := range map[string]func(*policy.Query){
		"unknown action":       func(q *policy.Query) { q.Action = "kms:Frobnicate" },
		"group as action":      func(q *policy.Query) { q.Action = "kms" },
		"action of a kind":     func(q *policy.Query) { q.Object.Kind = policy.KindLog },
		"unknown kind":         func(q *policy.Query) { q.Object.Kind = "Widget" },
		"no object":            func(q *policy.Query) { q.Object.Name = "" },
		"no time":              func(q *policy.Query) { q.Now = time.Time{} },
		"no principal":         func(q *policy.Query) { q.Principal = policy.Principal{} },
		"principal's kind":     func(q *policy.Query) { q.Principal.Kind = "robot" },
		"principal's path":     func(q *policy.Query) { q.Principal.Path = "" },
		"no environment":       func(q *policy.Query) { q.Principal.Environment = "" },
		"no roles":             func(q *policy.Query) { q.Principal.Roles = nil },
		"another role":         func(q *policy.Query) { q.Principal.Roles = []string{"administrators"} },
		"empty question":       func(q *policy.Query) { *q = policy.Query{} },
		"action in other case": func(q *policy.Query) { q.Action = "kms:encrypt" },
	} {
		q := good
		change(&q)
		if d := s.Decide(q); d.Outcome != policy.Deny || d.Reason == "" || len(d.Policies) != 0 {
			t.Errorf("%s: %+v, want a denial with a reason", name, d)
		}
	}
}

// A forbid that cannot be evaluated must not slip.
func TestForbidFailsClosed(t *testing.T) {
	s := parse(t, `permit (principal, action, resource);
@id("overflow") forbid (principal, action, resource) when { context.now.toDate().toTime().toMilliseconds() + 9223372036854775807 + 1 > 0 };`)
	d := s.Decide(ask(user("ada"), policy.Encrypt, keyNamed("dev/a/b")))
	if d.Outcome != policy.Deny || !slices.Equal(d.Policies, []string{"overflow"}) {
		t.Errorf("%+v, want a denial by overflow", d)
	}
}

func TestIDs(t *testing.T) {
	s := parse(t, "permit (principal, action == Action::\"kms:Sign\", resource); permit (principal, action == Action::\"kms:Sign\", resource);\n"+
		"@id(\"third\") permit (principal, action, resource);")
	d := s.Decide(ask(user("ada"), policy.Sign, keyNamed("dev/a/b")))
	if got := strings.Join(d.Policies, " "); got != "test.cedar:1 test.cedar:1:64 third" && !strings.HasPrefix(got, "test.cedar:1 test.cedar:1:") {
		t.Errorf("deciding policies %q", got)
	}
}

// A decision stays small enough for one audit entry however many policies made it.
func TestManyDeciding(t *testing.T) {
	s := parse(t, strings.Repeat("permit (principal, action, resource);\n", 1000))
	d := s.Decide(ask(user("ada"), policy.Sign, keyNamed("dev/a/b")))
	if d.Outcome != policy.Allow || len(d.Policies) != 16 || d.Policies[15] != "test.cedar:16" || !strings.Contains(d.Reason, "and 999 more") {
		t.Errorf("%s by %d policies: %s", d.Outcome, len(d.Policies), d.Reason)
	}
	for _, name := range []string{"", "a\nb", strings.Repeat("x", 101)} {
		if _, err := policy.Parse(name, nil); err == nil {
			t.Errorf("the name %q is accepted", name)
		}
	}
}
