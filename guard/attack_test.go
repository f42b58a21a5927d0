package guard_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/guard/guardtest"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

func user(name string) string { return "spiffe://ops." + guardtest.Domain + "/user/" + name }

func register(t *testing.T, k *guardtest.Kit, p guard.Principal) error {
	t.Helper()
	_, err := k.Enter(t.Context(), k.Admin, func(ctx context.Context, g guard.Grant) error {
		_, err := k.Door.Register(ctx, g, p)
		return err
	}, guard.Act{Action: policy.RegisterPrincipal, Object: p.Object()})
	return err
}

func disable(t *testing.T, k *guardtest.Kit, who guard.Credential, id string) error {
	t.Helper()
	_, err := k.Enter(t.Context(), who, func(ctx context.Context, g guard.Grant) error {
		_, err := k.Door.Disable(ctx, g, id)
		return err
	}, guard.Act{Action: policy.DisablePrincipal, Object: guard.PrincipalObject(id)})
	return err
}

// Two registrations of one person are one person.
func TestRolesOfAPersonMustNotMeet(t *testing.T) {
	k := guardtest.New(t)
	if err := register(t, k, guard.Principal{SPIFFEID: user("eve"), PersonID: "eve", Roles: []string{"operator"}}); err != nil {
		t.Fatal(err)
	}
	second := guard.Principal{SPIFFEID: user("eve-laptop"), PersonID: "eve", Roles: []string{"security"}}
	if err := register(t, k, second); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("operator and security in one person: %v, want ErrInvalid", err)
	}
	second.Roles = []string{"operator", "auditor"}
	if err := register(t, k, second); err != nil {
		t.Error(err)
	}
}

// The last administrator cannot be switched off, by itself least of all.
func TestLastAdministratorStays(t *testing.T) {
	k := guardtest.New(t)
	if err := disable(t, k, k.Admin, k.Admin.SPIFFEID); !errors.Is(err, key.ErrConflict) {
		t.Fatalf("%v, want ErrConflict", err)
	}
	if err := register(t, k, guard.Principal{SPIFFEID: user("second"), Roles: []string{policy.Administrator}}); err != nil {
		t.Fatal(err)
	}
	if err := disable(t, k, k.Admin, k.Admin.SPIFFEID); err != nil {
		t.Error(err)
	}
}

// What a caller writes cannot keep its refusal or its failure out of the log.
func TestRefusalsOfUnrecordableRequestsAreRecorded(t *testing.T) {
	k := guardtest.New(t)
	for name, r := range map[string]guard.Request{
		"reason": {Reason: "\xff"}, "host": {Host: "\xff"}, "context": {Context: map[string]string{"a": "\xff"}}, "long": {Reason: strings.Repeat("x", 1<<17)},
		"object": {Resolve: func(context.Context) ([]guard.Act, error) {
			return []guard.Act{{Action: policy.Encrypt, Object: policy.Object{Kind: policy.KindKey, Name: strings.Repeat("\xff", 70_000)}}}, nil
		}},
	} {
		whole := guardtest.Request(k.Plain, encrypt)
		whole.Reason, whole.Host, whole.Context = r.Reason, r.Host, r.Context
		if r.Resolve != nil {
			whole.Resolve = r.Resolve
		}
		index, err := k.Door.Enter(t.Context(), whole, func(context.Context, guard.Grant) error { return nil })
		if !errors.Is(err, key.ErrDenied) || index < 0 {
			t.Errorf("%s: %d, %.200v, want ErrDenied and an entry", name, index, err)
		}
		if e := last(t, k); e.Outcome != audit.Denied || e.Principal != k.Plain.SPIFFEID {
			t.Errorf("%s: entry %+v", name, e)
		}
	}
}

// Every act of a batch says what it touched.
func TestVersionsOfManyActs(t *testing.T) {
	k := guardtest.New(t)
	acts := slices.Repeat([]guard.Act{encrypt}, 5)
	_, err := k.Enter(t.Context(), k.Admin, func(_ context.Context, g guard.Grant) error {
		for n := range acts {
			use, err := k.Door.Redeem(g, policy.Encrypt, orders.Name)
			if err != nil {
				return err
			}
			use.Touched(int64(n + 1))
		}
		_, err := k.Door.Redeem(g, policy.Encrypt, orders.Name)
		if !errors.Is(err, guard.ErrGrant) {
			t.Errorf("a sixth of five acts: %v", err)
		}
		return nil
	}, acts...)
	if err != nil {
		t.Fatal(err)
	}
	for n, o := range last(t, k).Objects {
		if o.Version != int64(n+1) {
			t.Errorf("object %d has version %d", n, o.Version)
		}
	}
}

// Who writes to the database cannot choose what a repeat is answered.
func TestRememberedAnswersAreAuthenticated(t *testing.T) {
	k := guardtest.New(t)
	do := func(once string) error {
		r := guardtest.Request(k.Admin, encrypt)
		r.IdempotencyKey, r.Digest = once, func() string { return "d" }
		_, err := k.Door.Enter(t.Context(), r, func(ctx context.Context, g guard.Grant) error {
			if _, err := k.Door.Redeem(g, policy.Encrypt, orders.Name); err != nil {
				return err
			}
			return g.Update(ctx, func(*storage.Tx) error { return nil })
		})
		return err
	}
	for _, once := range []string{"a", "b"} {
		if err := errors.Join(do(once), k.Door.Remember(t.Context(), k.Admin, once, 200, []byte("answer "+once))); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]string{
		"made up": `response = x'61'`, "empty": `response = x''`, "another's": `response = (SELECT response FROM idempotency WHERE idem_key = 'b')`, "status": `status = 201`,
	} {
		exec(t, k, `CREATE TABLE kept AS SELECT * FROM idempotency`)
		exec(t, k, `UPDATE idempotency SET `+change+` WHERE idem_key = 'a'`)
		if err := do("a"); !errors.Is(err, key.ErrIntegrity) {
			t.Errorf("%s: %v, want ErrIntegrity", name, err)
		}
		exec(t, k, `DELETE FROM idempotency`)
		exec(t, k, `INSERT INTO idempotency SELECT * FROM kept`)
		exec(t, k, `DROP TABLE kept`)
	}
	var again *guard.Repeated
	if err := do("a"); !errors.As(err, &again) || string(again.Body) != "answer a" {
		t.Error(err)
	}
}

// Who writes to the database cannot have an effect settled that was never begun.
func TestIntentsAreAuthenticated(t *testing.T) {
	k := guardtest.New(t)
	failed := fmt.Errorf("generating: %w", key.ErrUnavailable)
	_, err := k.Enter(t.Context(), k.Admin, func(ctx context.Context, g guard.Grant) error {
		if _, err := k.Door.Redeem(g, policy.Encrypt, orders.Name); err != nil {
			return err
		}
		return errors.Join(g.Intent(ctx, "test.generate", orders.Name, []byte("key 1")), failed)
	}, encrypt)
	if !errors.Is(err, key.ErrUnavailable) {
		t.Fatal(err)
	}
	if open, err := k.Door.Intents(t.Context(), "test.generate"); err != nil || len(open) != 1 || string(open[0].Data) != "key 1" {
		t.Fatalf("%+v, %v", open, err)
	}
	for _, change := range []string{`data = x'6b65792032'`, `data = x''`, `data = x'00'`, `kind = 'test.other'`, `object = 'x'`, `id = 'x'`, `created_at = 1`, `principal = 'x'`} {
		exec(t, k, `CREATE TABLE kept AS SELECT * FROM intent`)
		exec(t, k, `UPDATE intent SET `+change)
		kind := "test.generate"
		if strings.HasPrefix(change, "kind") {
			kind = "test.other"
		}
		if _, err := k.Door.Intents(t.Context(), kind); !errors.Is(err, key.ErrIntegrity) {
			t.Errorf("%s: %v, want ErrIntegrity", change, err)
		}
		exec(t, k, `DELETE FROM intent`)
		exec(t, k, `INSERT INTO intent SELECT * FROM kept`)
		exec(t, k, `DROP TABLE kept`)
	}
}

// An intent that was settled cannot be opened again to have its effect undone,
// although its row is authentic: the log has its outcome.
func TestSettledIntentsStaySettled(t *testing.T) {
	k := guardtest.New(t)
	do := func(fail error) error {
		_, err := k.Enter(t.Context(), k.Admin, func(ctx context.Context, g guard.Grant) error {
			if _, err := k.Door.Redeem(g, policy.Encrypt, orders.Name); err != nil {
				return err
			}
			if err := g.Intent(ctx, "test.generate", orders.Name, []byte("key")); err != nil {
				return err
			}
			if fail != nil {
				return fail
			}
			return g.Update(ctx, func(*storage.Tx) error { return nil })
		}, encrypt)
		return err
	}
	settle := func(want error, runs int) {
		t.Helper()
		open, err := k.Door.Intents(t.Context(), "test.generate")
		if err != nil || len(open) != 1 {
			t.Fatalf("%d open intents, %v", len(open), err)
		}
		ran := 0
		err = k.Door.Reconcile(t.Context(), open[0], encrypt, func(context.Context) (string, error) { ran++; return "destroyed", nil })
		if !errors.Is(err, want) || ran != runs {
			t.Errorf("%v after %d runs, want %v after %d", err, ran, want, runs)
		}
	}
	if err := do(nil); err != nil {
		t.Fatal(err)
	}
	exec(t, k, `UPDATE intent SET resolved_at = 0, outcome = ''`)
	settle(key.ErrIntegrity, 0)
	exec(t, k, `DELETE FROM intent`)
	if err := do(key.ErrUnavailable); !errors.Is(err, key.ErrUnavailable) {
		t.Fatal(err)
	}
	settle(nil, 1)
	exec(t, k, `UPDATE intent SET resolved_at = 0, outcome = ''`)
	settle(key.ErrIntegrity, 0)
}

// How an act fails is an answer: who was disabled while it ran, on another
// server, does not get it.
func TestFailuresAreNotReleasedToTheDisabled(t *testing.T) {
	k := guardtest.New(t)
	everybody := `permit (principal, action, resource);` + "\n"
	_, err := k.Enter(t.Context(), k.Admin, func(ctx context.Context, g guard.Grant) error {
		_, err := k.Door.Apply(ctx, g, guard.NewRules{Text: everybody})
		return err
	}, guard.Act{Action: policy.ApplyPolicy, Object: guard.RulesObject()})
	if err != nil {
		t.Fatal(err)
	}
	runs := 0
	_, err = k.Enter(t.Context(), k.Plain, func(context.Context, guard.Grant) error {
		if runs++; runs == 1 {
			if err := disable(t, k, k.Admin, k.Plain.SPIFFEID); err != nil {
				t.Fatal(err)
			}
		}
		return key.ErrInvalidCiphertext
	}, encrypt)
	if !errors.Is(err, key.ErrUnauthenticated) || runs != 1 {
		t.Errorf("%v after %d runs, want ErrUnauthenticated after 1", err, runs)
	}
}
