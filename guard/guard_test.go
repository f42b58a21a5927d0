package guard_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/guard/guardtest"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

var (
	orders  = policy.Object{Kind: policy.KindKey, Name: "dev/payments/orders", Attributes: map[string]string{"environment": "dev", "service": "payments"}}
	encrypt = guard.Act{Action: policy.Encrypt, Object: orders}
)

// use redeems the one act and does nothing else, like a computation.
func use(d *guard.Door, a guard.Act) func(context.Context, guard.Grant) error {
	return func(_ context.Context, g guard.Grant) error {
		_, err := d.Redeem(g, a.Action, a.Object.Name)
		return err
	}
}

func last(t *testing.T, k *guardtest.Kit) audit.Entry {
	t.Helper()
	list, _, err := k.Log.List(t.Context(), audit.Filter{Limit: 1})
	if err != nil || len(list) != 1 {
		t.Fatalf("reading the newest entry: %d, %v", len(list), err)
	}
	return list[0].Entry
}

func TestAllowedActsAreRecordedAndReleased(t *testing.T) {
	k := guardtest.New(t)
	index, err := k.Enter(t.Context(), k.Admin, use(k.Door, encrypt), encrypt)
	if err != nil || index < 0 {
		t.Fatalf("index %d, %v", index, err)
	}
	e := last(t, k)
	if e.Outcome != audit.OK || e.Principal != k.Admin.SPIFFEID || e.Action != "kms:Encrypt" || e.Objects[0].Name != orders.Name || e.Credential != "a1" || len(e.Decision.Policies) == 0 {
		t.Errorf("entry %+v", e)
	}
}

func TestDeniedActsAreRecordedThenRefused(t *testing.T) {
	k := guardtest.New(t)
	_, err := k.Enter(t.Context(), k.Plain, func(context.Context, guard.Grant) error {
		t.Error("the act ran")
		return nil
	}, encrypt)
	if !errors.Is(err, key.ErrDenied) {
		t.Fatalf("%v, want ErrDenied", err)
	}
	if e := last(t, k); e.Outcome != audit.Denied || e.Principal != k.Plain.SPIFFEID || e.Failure != "denied" {
		t.Errorf("entry %+v", e)
	}
}

// Hanging up before the answer hides no attempt.
func TestDenialOfACallerWhoIsGoneIsRecorded(t *testing.T) {
	k := guardtest.New(t)
	_, _ = k.Enter(t.Context(), k.Plain, use(k.Door, encrypt), encrypt) // now everything that decides is in memory
	before := last(t, k)
	ctx, hangUp := context.WithCancel(t.Context())
	r := guardtest.Request(k.Plain, encrypt)
	resolve := r.Resolve
	r.Resolve = func(ctx context.Context) ([]guard.Act, error) {
		defer hangUp()
		return resolve(ctx)
	}
	if _, err := k.Door.Enter(ctx, r, use(k.Door, encrypt)); !errors.Is(err, key.ErrDenied) {
		t.Errorf("%v, want ErrDenied", err)
	}
	if e := last(t, k); e.Outcome != audit.Denied || !e.Time.After(before.Time) {
		t.Errorf("the newest entry is %+v", e)
	}
}

func TestFailedActsAreRecorded(t *testing.T) {
	k := guardtest.New(t)
	_, err := k.Enter(t.Context(), k.Admin, func(_ context.Context, g guard.Grant) error {
		if _, err := k.Door.Redeem(g, policy.Encrypt, orders.Name); err != nil {
			return err
		}
		return fmt.Errorf("opening 'very private words': %w", key.ErrInvalidCiphertext)
	}, encrypt)
	if !errors.Is(err, key.ErrInvalidCiphertext) {
		t.Fatal(err)
	}
	e := last(t, k)
	data, _ := e.Append(nil)
	if e.Outcome != audit.Failed || e.Failure != "invalid-ciphertext" || strings.Contains(string(data), "private words") {
		t.Errorf("entry %s", data)
	}
}

func TestGrantsAreRefused(t *testing.T) {
	k, other := guardtest.New(t), guardtest.New(t)
	var kept guard.Grant
	check := func(name string, g guard.Grant, action policy.Action, object string) {
		t.Helper()
		if _, err := k.Door.Redeem(g, action, object); !errors.Is(err, guard.ErrGrant) {
			t.Errorf("%s grant: %v, want ErrGrant", name, err)
		}
	}
	check("zero", guard.Grant{}, policy.Encrypt, orders.Name)
	_, err := k.Enter(t.Context(), k.Admin, func(_ context.Context, g guard.Grant) error {
		kept = g
		check("another action's", g, policy.Decrypt, orders.Name)
		check("another object's", g, policy.Encrypt, "dev/payments/other")
		if _, err := other.Door.Redeem(g, policy.Encrypt, orders.Name); !errors.Is(err, guard.ErrGrant) {
			t.Errorf("foreign grant: %v", err)
		}
		if err := g.Update(t.Context(), nil); !errors.Is(err, guard.ErrGrant) {
			t.Errorf("a change before redemption: %v", err)
		}
		if _, err := k.Door.Redeem(g, policy.Encrypt, orders.Name); err != nil {
			t.Error(err)
		}
		check("used", g, policy.Encrypt, orders.Name)
		return nil
	}, encrypt)
	if err != nil {
		t.Fatal(err)
	}
	check("stale", kept, policy.Encrypt, orders.Name)
	if err := kept.Update(t.Context(), func(*storage.Tx) error { return nil }); !errors.Is(err, guard.ErrGrant) {
		t.Errorf("a change after the request: %v", err)
	}
	if err := (guard.Grant{}).Intent(t.Context(), "x", "y", nil); !errors.Is(err, guard.ErrGrant) {
		t.Errorf("an intent without a grant: %v", err)
	}
	if _, err := k.Enter(t.Context(), k.Admin, func(context.Context, guard.Grant) error { return nil }, encrypt); !errors.Is(err, guard.ErrGrant) {
		t.Errorf("an act that redeemed nothing: %v", err)
	}
}

func TestUnauthenticated(t *testing.T) {
	k := guardtest.New(t)
	expired, unknown, liar := k.Admin, k.Admin, k.Admin
	expired.NotAfter = time.Now().Add(-time.Second)
	unknown.Serial = "ff"
	liar.SPIFFEID = k.Plain.SPIFFEID
	for name, c := range map[string]guard.Credential{"none": {}, "expired": expired, "not in the inventory": unknown, "another identity": liar} {
		if _, err := k.Enter(t.Context(), c, use(k.Door, encrypt), encrypt); !errors.Is(err, key.ErrUnauthenticated) {
			t.Errorf("%s: %v, want ErrUnauthenticated", name, err)
		}
	}
	before := last(t, k)
	for range 1000 {
		_, _ = k.Enter(t.Context(), unknown, use(k.Door, encrypt), encrypt)
	}
	if after := last(t, k); !after.Time.Equal(before.Time) {
		t.Errorf("refusals of the unknown filled the log: %+v", after)
	}
}

func TestRefusalsAreCountedPerSource(t *testing.T) {
	k := guardtest.New(t)
	for i := range 2000 {
		r := guardtest.Request(guard.Credential{}, encrypt)
		r.Source = netip.AddrFrom4([4]byte{10, 0, byte(i / 256), byte(i)})
		_, _ = k.Door.Enter(t.Context(), r, use(k.Door, encrypt))
	}
	if err := k.Door.Close(); err != nil {
		t.Fatal(err)
	}
	list, _, err := k.Log.List(t.Context(), audit.Filter{Action: "authenticate", Limit: 1000})
	if err != nil || len(list) == 0 || len(list) > 300 {
		t.Fatalf("%d entries for 2000 sources, %v", len(list), err)
	}
}

func TestDisabledPrincipalIsOutAtOnce(t *testing.T) {
	k := guardtest.New(t)
	k.Register(t, guard.Principal{SPIFFEID: "spiffe://dev." + guardtest.Domain + "/service/x"})
	target := guard.PrincipalObject(k.Plain.SPIFFEID)
	if _, err := k.Enter(t.Context(), k.Plain, use(k.Door, encrypt), encrypt); !errors.Is(err, key.ErrDenied) {
		t.Fatal(err)
	}
	k.System(t, guard.Act{Action: policy.DisablePrincipal, Object: target}, func(ctx context.Context, g guard.Grant) error {
		_, err := k.Door.Disable(ctx, g, k.Plain.SPIFFEID)
		return err
	})
	if _, err := k.Enter(t.Context(), k.Plain, use(k.Door, encrypt), encrypt); !errors.Is(err, key.ErrUnauthenticated) {
		t.Errorf("after Disable: %v, want ErrUnauthenticated", err)
	}
}

// An act that is under way when its principal is disabled is not released.
func TestRevocationInTheMiddleOfAnAct(t *testing.T) {
	k := guardtest.New(t)
	runs := 0
	_, err := k.Enter(t.Context(), k.Admin, func(_ context.Context, g guard.Grant) error {
		if _, err := k.Door.Redeem(g, policy.Encrypt, orders.Name); err != nil {
			return err
		}
		if runs++; runs == 1 {
			k.System(t, guard.Act{Action: policy.DisablePrincipal, Object: guard.PrincipalObject(k.Admin.SPIFFEID)}, func(ctx context.Context, g guard.Grant) error {
				_, err := k.Door.Disable(ctx, g, k.Admin.SPIFFEID)
				return err
			})
		}
		return nil
	}, encrypt)
	if !errors.Is(err, key.ErrUnauthenticated) || runs != 1 {
		t.Errorf("after %d runs: %v, want ErrUnauthenticated after one", runs, err)
	}
}

// Revocation in the middle of a batch: many callers, one Disable. The log is
// the judge: nothing of the principal stands after the entry that disabled it.
func TestRevocationInTheMiddleOfABatch(t *testing.T) {
	k := guardtest.New(t)
	k.System(t, guard.Act{Action: policy.ApplyPolicy, Object: guard.RulesObject()}, func(ctx context.Context, g guard.Grant) error {
		_, err := k.Door.Apply(ctx, g, guard.NewRules{Text: policy.Default().Text() + `
			permit (principal == Service::"dev/payments", action == Action::"kms:Encrypt", resource);`})
		return err
	})
	var wg sync.WaitGroup
	released := make([]int64, 16)
	for i := range released {
		wg.Go(func() {
			for {
				index, err := k.Enter(context.Background(), k.Plain, use(k.Door, encrypt), encrypt)
				if err != nil {
					if !errors.Is(err, key.ErrUnauthenticated) {
						t.Error(err)
					}
					return
				}
				released[i] = max(released[i], index)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	var disabled int64
	index, err := k.Door.System(context.Background(), "test", []guard.Act{{Action: policy.DisablePrincipal, Object: guard.PrincipalObject(k.Plain.SPIFFEID)}}, func(ctx context.Context, g guard.Grant) error {
		_, err := k.Door.Disable(ctx, g, k.Plain.SPIFFEID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	disabled = index
	wg.Wait()
	for i, at := range released {
		if at == 0 {
			t.Errorf("caller %d never got through", i)
		}
		if at > disabled {
			t.Errorf("entry %d was released after entry %d revoked it", at, disabled)
		}
	}
}

func TestApprovalsAreAsked(t *testing.T) {
	k := guardtest.New(t)
	k.System(t, guard.Act{Action: policy.ApplyPolicy, Object: guard.RulesObject()}, func(ctx context.Context, g guard.Grant) error {
		_, err := k.Door.Apply(ctx, g, guard.NewRules{Text: policy.Default().Text() + `
			@approvals("2 of security") permit (principal == Service::"dev/payments", action == Action::"kms:Decrypt", resource);`})
		return err
	})
	decrypt := guard.Act{Action: policy.Decrypt, Object: orders}
	r := guardtest.Request(k.Plain, decrypt)
	digest := guard.RequestDigest([]byte("POST"), []byte("/v1/decrypt"))
	r.Digest = func() string { return digest }
	_, err := k.Door.Enter(t.Context(), r, func(context.Context, guard.Grant) error {
		t.Error("the act ran without approvals")
		return nil
	})
	var need *guard.ApprovalError
	if !errors.As(err, &need) || !errors.Is(err, key.ErrNeedsApproval) || need.Need != "2 of security" || need.Digest != digest {
		t.Errorf("%v", err)
	}
	if e := last(t, k); e.Outcome != audit.Denied || e.Decision.Result != "needs-approvals" {
		t.Errorf("entry %+v", e)
	}
}

func TestPolicyWithoutAWayBackIsRefused(t *testing.T) {
	k := guardtest.New(t)
	apply := guard.Act{Action: policy.ApplyPolicy, Object: guard.RulesObject()}
	before, err := k.Door.Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nobody":     `permit (principal in Role::"reader", action == Action::"policy:Read", resource);`,
		"not Cedar":  `permit everything`,
		"no action":  `permit (principal, action == Action::"kms:Dcrypt", resource);`,
		"empty text": ``,
	} {
		_, err := k.Enter(t.Context(), k.Admin, func(ctx context.Context, g guard.Grant) error {
			_, err := k.Door.Apply(ctx, g, guard.NewRules{Text: text})
			return err
		}, apply)
		if !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if after, err := k.Door.Rules(t.Context()); err != nil || after.Version != before.Version {
		t.Errorf("version %d became %d, %v", before.Version, after.Version, err)
	}
}

// A database writer does not become an administrator.
func TestRowsThatDecideAreAuthenticated(t *testing.T) {
	for name, statement := range map[string]string{
		"roles":       `UPDATE principal SET roles = 'administrator' WHERE spiffe_id LIKE '%payments'`,
		"enabled":     `UPDATE principal SET disabled_at = 0, expires_at = 1 WHERE spiffe_id LIKE '%payments'`,
		"copied mac":  `UPDATE principal SET mac = (SELECT mac FROM principal WHERE spiffe_id LIKE '%admin') WHERE spiffe_id LIKE '%payments'`,
		"renamed row": `UPDATE principal SET spiffe_id = 'spiffe://dev.sealwright.test/service/payments' WHERE spiffe_id LIKE '%admin'`,
		"policy":      `UPDATE policy SET text = 'permit (principal, action, resource);'`,
	} {
		t.Run(name, func(t *testing.T) {
			k := guardtest.New(t)
			if name == "renamed row" {
				exec(t, k, `DELETE FROM principal WHERE spiffe_id LIKE '%payments'`)
			}
			exec(t, k, statement)
			_, err := k.Enter(t.Context(), k.Plain, use(k.Door, encrypt), encrypt)
			if name == "policy" {
				// The set in memory stays in force until the epoch moves; then the change is seen.
				if err := k.DB.Update(t.Context(), func(tx *storage.Tx) error { tx.BumpEpoch(); return nil }); err != nil {
					t.Fatal(err)
				}
				k2, err2 := guard.Open(t.Context(), guard.Config{DB: k.DB, Rows: k.Rows})
				if err = err2; err == nil {
					k2.Close()
				}
			}
			if !errors.Is(err, key.ErrIntegrity) {
				t.Errorf("%v, want ErrIntegrity", err)
			}
		})
	}
}

func exec(t *testing.T, k *guardtest.Kit, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite3", k.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

func TestRolesThatMustNotMeet(t *testing.T) {
	k := guardtest.New(t)
	p := guard.Principal{SPIFFEID: "spiffe://ops." + guardtest.Domain + "/user/eve", Roles: []string{"operator", "security"}}
	_, err := k.Enter(t.Context(), k.Admin, func(ctx context.Context, g guard.Grant) error {
		_, err := k.Door.Register(ctx, g, p)
		return err
	}, guard.Act{Action: policy.RegisterPrincipal, Object: p.Object()})
	if !errors.Is(err, key.ErrInvalid) {
		t.Errorf("%v, want ErrInvalid", err)
	}
}

func TestIdempotency(t *testing.T) {
	k := guardtest.New(t)
	changes := 0
	do := func(digest string) error {
		r := guardtest.Request(k.Admin, encrypt)
		r.IdempotencyKey, r.Digest = "once", func() string { return digest }
		_, err := k.Door.Enter(t.Context(), r, func(ctx context.Context, g guard.Grant) error {
			if _, err := k.Door.Redeem(g, policy.Encrypt, orders.Name); err != nil {
				return err
			}
			return g.Update(ctx, func(*storage.Tx) error { changes++; return nil })
		})
		return err
	}
	if err := do("d1"); err != nil {
		t.Fatal(err)
	}
	if err := do("d1"); !errors.Is(err, key.ErrConflict) {
		t.Errorf("a repeat before the answer is known: %v, want ErrConflict", err)
	}
	if err := k.Door.Remember(t.Context(), k.Admin, "once", 201, []byte("answer")); err != nil {
		t.Fatal(err)
	}
	var again *guard.Repeated
	if err := do("d1"); !errors.As(err, &again) || again.Status != 201 || string(again.Body) != "answer" {
		t.Errorf("a repeat: %v", err)
	}
	if err := do("d2"); !errors.Is(err, key.ErrConflict) {
		t.Errorf("another body under the same key: %v, want ErrConflict", err)
	}
	if changes != 1 {
		t.Errorf("%d changes, want 1", changes)
	}
}

func TestIntents(t *testing.T) {
	k := guardtest.New(t)
	act := guard.Act{Action: policy.CreateKey, Object: orders}
	_, err := k.Enter(t.Context(), k.Admin, func(ctx context.Context, g guard.Grant) error {
		if _, err := k.Door.Redeem(g, policy.CreateKey, orders.Name); err != nil {
			return err
		}
		if err := g.Intent(ctx, "test.generate", orders.Name, []byte("id")); err != nil {
			return err
		}
		return fmt.Errorf("generating: %w", key.ErrUnavailable) // who knows whether it happened
	}, act)
	if !errors.Is(err, key.ErrUnavailable) {
		t.Fatal(err)
	}
	open, err := k.Door.Intents(t.Context(), "test.generate")
	if err != nil || len(open) != 1 || string(open[0].Data) != "id" {
		t.Fatalf("%+v, %v", open, err)
	}
	if err := k.Door.Reconcile(t.Context(), open[0], act, func(context.Context) (string, error) { return "nothing was made", nil }); err != nil {
		t.Fatal(err)
	}
	if open, err = k.Door.Intents(t.Context(), "test.generate"); err != nil || len(open) != 0 {
		t.Errorf("%d intents are open after reconciliation, %v", len(open), err)
	}
}

func FuzzParseSPIFFE(f *testing.F) {
	f.Add("spiffe://dev.example.internal/service/payments")
	f.Add("spiffe://ops.x/user/../admin")
	f.Fuzz(func(t *testing.T, id string) {
		environment, kind, path, err := guard.ParseSPIFFE(id)
		if err == nil && (strings.Contains(path, "..") || !strings.HasPrefix(id, "spiffe://"+environment+".") || !strings.HasSuffix(id, "/"+kind+"/"+path)) {
			t.Errorf("%q reads as %q %q %q", id, environment, kind, path)
		}
	})
}
