package kms_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/storage"
)

// rewrite sets a column of a row with its right MAC, as a later version of the
// service would, and moves the epoch on.
func (h *house) rewrite(table, where, column string, value any, columns ...string) {
	h.t.Helper()
	must(h.t, h.DB.Update(h.t.Context(), func(tx *storage.Tx) error {
		tx.BumpEpoch()
		row, targets := make([]any, len(columns)), make([]any, len(columns))
		list := ""
		for i, c := range columns {
			targets[i] = &row[i]
			list += ", " + c
		}
		if err := tx.QueryRow("SELECT " + list[2:] + " FROM " + table + " WHERE " + where).Scan(targets...); err != nil {
			return err
		}
		for i, c := range columns {
			if c == column {
				row[i] = value
			}
		}
		_, err := tx.Exec(fmt.Sprintf("UPDATE %s SET %s = $1, mac = $2 WHERE %s", table, column, where), value, h.rings.RowMAC(table, row...))
		return err
	}))
}

func (h *house) rewriteKey(id key.ID, column string, value any) {
	h.t.Helper()
	h.rewrite("kms_key", "id = '"+id.String()+"'", column, value, "id", "name", "environment", "algorithm", "tier", "state", "current_version", "owner", "classification", "consumers", "created_by", "created_at", "expires_at", "disabled_at")
}

func (h *house) rewriteVersion(id key.ID, version int64, column string, value any) {
	h.t.Helper()
	h.rewrite("kms_key_version", fmt.Sprintf("key_id = '%s' AND version = %d", id, version), column, value, "key_id", "version", "state", "keyring_version", "sealed", "ref", "public", "uses", "created_at")
}

// TestStatesToCome: states that later versions of the service will set are obeyed by this one.
func TestStatesToCome(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	k := h.key(kms.NewKey{Name: orders})
	first, err := h.encrypt(orders, "x", nil)
	must(t, err)
	_, err = h.manage(orders, policy.RotateKey)
	must(t, err)
	_, err = h.decrypt(first.Text, nil)
	must(t, err)

	h.rewriteVersion(k.ID, 1, "state", "retired")
	_, err = h.decrypt(first.Text, nil)
	want(t, "a retired version", err, key.ErrDisabled)
	h.rewriteVersion(k.ID, 1, "state", "destroyed")
	_, err = h.decrypt(first.Text, nil)
	want(t, "a destroyed version", err, key.ErrInvalidCiphertext)
	if _, err = h.encrypt(orders, "x", nil); err != nil {
		t.Errorf("the other version: %v", err)
	}
	h.rewriteVersion(k.ID, 1, "state", "enabled")
	_, err = h.decrypt(first.Text, nil)
	must(t, err)

	h.rewriteKey(k.ID, "expires_at", time.Now().Add(-time.Second).UnixMicro())
	_, err = h.encrypt(orders, "x", nil)
	want(t, "an expired key", err, key.ErrDisabled)
	h.rewriteKey(k.ID, "expires_at", time.Now().Add(time.Hour).UnixMicro())
	_, err = h.encrypt(orders, "x", nil)
	must(t, err)
	for _, state := range []string{"pending-destruction", "destroyed"} {
		h.rewriteKey(k.ID, "state", state)
		_, err = h.encrypt(orders, "x", nil)
		want(t, state, err, key.ErrDisabled)
		_, err = h.manage(orders, policy.EnableKey)
		want(t, "enabling a key that is "+state, err, key.ErrConflict)
		_, err = h.manage(orders, policy.DisableKey)
		want(t, "disabling a key that is "+state, err, key.ErrConflict)
	}
	h.rewriteKey(k.ID, "state", "enabled")
	h.rewriteKey(k.ID, "current_version", int64(1)<<32-1)
	_, err = h.manage(orders, policy.RotateKey)
	want(t, "rotating past the last version", err, key.ErrUnsupported)
}

// TestRowsThatContradict: rows with right MACs and wrong content are not believed either.
func TestRowsThatContradict(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	k := h.key(kms.NewKey{Name: orders})
	other := h.key(kms.NewKey{Name: "dev/payments/other"})
	sealed, err := h.encrypt(orders, "x", nil)
	must(t, err)
	var material []byte
	must(t, h.DB.QueryRow(t.Context(), "SELECT sealed FROM kms_key_version WHERE key_id = $1", other.ID.String()).Scan(&material))
	h.rewriteVersion(k.ID, 1, "sealed", material)
	_, err = h.decrypt(sealed.Text, nil)
	want(t, "another key's material", err, key.ErrIntegrity)
	h.rewriteVersion(k.ID, 1, "keyring_version", int64(7))
	_, err = h.decrypt(sealed.Text, nil)
	want(t, "a keyring version that is not there", err, key.ErrIntegrity)

	const receipts = "dev/payments/receipts"
	r := h.key(kms.NewKey{Name: receipts, Tier: key.TierDevice})
	_, err = h.sign(receipts, make([]byte, 32))
	must(t, err)
	h.rewriteVersion(r.ID, 1, "public", []byte{1})
	_, err = h.sign(receipts, make([]byte, 32))
	want(t, "another public key", err, key.ErrIntegrity)
	h.rewriteVersion(r.ID, 1, "ref", []byte("{"))
	_, err = h.sign(receipts, make([]byte, 32))
	want(t, "a reference that is none", err, key.ErrIntegrity)
}
