package kms_test

import (
	"testing"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/softhsm-test"
)

// TestReviewFindsKeysSetBack: who can write to the database cannot enable a
// disabled key or bring back an older version with former copies of the rows,
// whose MACs are good.
func TestReviewFindsKeysSetBack(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	review := func() error { return h.Door.Review(t.Context(), h.keys.Review()) }
	const off, on, rotated = "dev/payments/off", "dev/payments/on", "dev/payments/rotated"
	for _, name := range []string{off, on, rotated} {
		h.key(kms.NewKey{Name: name})
	}
	h.tamper(`CREATE TABLE kept AS SELECT * FROM kms_key`)
	for _, do := range []struct {
		name   string
		action policy.Action
	}{{off, policy.DisableKey}, {on, policy.DisableKey}, {on, policy.EnableKey}, {on, policy.EnableKey}, {rotated, policy.RotateKey}, {rotated, policy.RotateKey}} {
		_, err := h.manage(do.name, do.action)
		must(t, err)
	}
	must(t, review())
	h.tamper(`CREATE TABLE now AS SELECT * FROM kms_key`)
	for _, name := range []string{off, rotated} {
		h.tamper(`DELETE FROM kms_key WHERE name = $1`, name)
		want(t, name+" deleted", review(), key.ErrIntegrity)
		h.tamper(`INSERT INTO kms_key SELECT * FROM kept WHERE name = $1`, name)
		want(t, name+" set back", review(), key.ErrIntegrity)
		h.tamper(`DELETE FROM kms_key WHERE name = $1`, name)
		h.tamper(`INSERT INTO kms_key SELECT * FROM now WHERE name = $1`, name)
		must(t, review())
	}
}
