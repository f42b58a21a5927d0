package guard_test

import (
	"context"
	"errors"
	"testing"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/guard/guardtest"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
)

// Who writes to the database cannot bring back a former policy or a disabled
// principal unseen, although every row has a good MAC.
func TestReviewFindsRowsSetBack(t *testing.T) {
	k := guardtest.New(t)
	review := func() error {
		err := k.Door.Review(t.Context())
		if again := k.Door.Check(); !errors.Is(again, err) && (err == nil) != (again == nil) {
			t.Errorf("review says %v, readiness %v", err, again)
		}
		return err
	}
	apply := func(text string) {
		t.Helper()
		_, err := k.Enter(t.Context(), k.Admin, func(ctx context.Context, g guard.Grant) error {
			_, err := k.Door.Apply(ctx, g, guard.NewRules{Text: text})
			return err
		}, guard.Act{Action: policy.ApplyPolicy, Object: guard.RulesObject()})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := review(); err != nil {
		t.Fatal(err)
	}
	exec(t, k, `CREATE TABLE kept AS SELECT * FROM principal`)
	apply(policy.Default().Text() + "// stricter\n")
	if err := disable(t, k, k.Admin, k.Plain.SPIFFEID); err != nil {
		t.Fatal(err)
	}
	if err := review(); err != nil {
		t.Fatal(err)
	}
	exec(t, k, `CREATE TABLE now AS SELECT * FROM principal`)
	for name, change := range map[string]string{
		"an enabled copy of a disabled principal": `INSERT INTO principal SELECT * FROM kept`, "no principals": `SELECT 1`,
	} {
		exec(t, k, `DELETE FROM principal`)
		exec(t, k, change)
		if err := review(); !errors.Is(err, key.ErrIntegrity) {
			t.Errorf("%s: %v, want ErrIntegrity", name, err)
		}
	}
	exec(t, k, `DELETE FROM principal`)
	exec(t, k, `INSERT INTO principal SELECT * FROM now`)
	if err := review(); err != nil {
		t.Fatal(err)
	}
	exec(t, k, `CREATE TABLE rules AS SELECT * FROM policy`)
	exec(t, k, `DELETE FROM policy WHERE version = 2`)
	if err := review(); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("the newest policy deleted: %v, want ErrIntegrity", err)
	}
	exec(t, k, `DELETE FROM policy`)
	if err := review(); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("no policy: %v, want ErrIntegrity", err)
	}
	exec(t, k, `INSERT INTO policy SELECT * FROM rules`)
	if err := review(); err != nil {
		t.Fatal(err)
	}
}

// The start compares the policy in force with its entry.
func TestCheckRules(t *testing.T) {
	k := guardtest.New(t)
	if err := k.Door.CheckRules(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, k, `UPDATE policy SET entry = entry + 1`)
	if err := k.Door.CheckRules(t.Context()); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("%v, want ErrIntegrity", err)
	}
}
