package kms_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/kms/keyring"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/softhsm-test"
)

func TestNamesDoNotShow(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	h.key(kms.NewKey{Name: orders})
	refusal := func(name string) string {
		t.Helper()
		err := h.enter(h.Plain, nil, func(ctx context.Context) (policy.Object, error) { return h.keys.Lookup(ctx, name) }, func(context.Context, guard.Grant) error {
			t.Error("the act ran")
			return nil
		}, policy.Encrypt)
		want(t, name, err, key.ErrDenied)
		return strings.ReplaceAll(err.Error(), name, "NAME")
	}
	if a, b := refusal(orders), refusal("dev/payments/nothing"); a != b {
		t.Errorf("the refusals differ:\n%s\n%s", a, b)
	}
	_, err := h.encrypt("dev/payments/nothing", "x", nil)
	want(t, "a name that no key has", err, key.ErrNotFound)
	_, err = h.manage("dev/payments/nothing", policy.DescribeKey)
	want(t, "describing a name that no key has", err, key.ErrNotFound)
	if _, err := h.keys.Lookup(t.Context(), "not a name"); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("looking up no name: %v", err)
	}
	object, err := h.keys.Lookup(t.Context(), orders)
	if err != nil || object.Kind != policy.KindKey || object.ID == "" || object.Attributes["tier"] != "wrapped" || object.Attributes["service"] != "payments" {
		t.Errorf("looked up %+v, %v", object, err)
	}
}

func TestEntriesTellWhatWasDone(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	k := h.key(kms.NewKey{Name: orders})
	check := func(what string, action string, versions ...int64) {
		t.Helper()
		e := h.last()
		if e.Outcome != audit.OK || e.Action != action || e.Principal != h.Admin.SPIFFEID || len(e.Objects) != len(versions) {
			t.Errorf("%s is recorded as %+v", what, e)
			return
		}
		for i, v := range versions {
			if e.Objects[i].ID != k.ID.String() || e.Objects[i].Name != orders || e.Objects[i].Version != v {
				t.Errorf("%s is recorded on %+v, want version %d", what, e.Objects[i], v)
			}
		}
	}
	check("creation", "kms:CreateKey", 1)
	sealed, err := h.encrypt(orders, "x", tenant)
	must(t, err)
	check("encryption", "kms:Encrypt", 1)
	if e := h.last(); e.Context["tenant"] != "42" {
		t.Errorf("the context is recorded as %v", e.Context)
	}
	_, err = h.manage(orders, policy.RotateKey)
	must(t, err)
	check("rotation", "kms:RotateKey", 2)
	_, err = h.decrypt(sealed.Text, tenant)
	must(t, err)
	check("decryption", "kms:Decrypt", 1)
	_, err = h.rewrap(sealed.Text, tenant)
	must(t, err)
	check("rewrap", "kms:RewrapFrom", 1, 2)
	_, err = h.dataKey(orders, tenant, false)
	must(t, err)
	check("a data key", "kms:GenerateDataKeyWithoutPlaintext", 2)
}

func TestList(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	for _, n := range []string{"dev/payments/a", "dev/payments/b", "dev/billing/c", "prod/payments/d"} {
		h.key(kms.NewKey{Name: n})
	}
	names := func(list []kms.Key, next string, err error) string {
		t.Helper()
		must(t, err)
		var all []string
		for _, k := range list {
			all = append(all, k.Name.String())
		}
		return strings.Join(all, " ") + " > " + next
	}
	for _, c := range []struct {
		environment, after string
		limit              int
		want               string
	}{
		{"", "", 0, "dev/billing/c dev/payments/a dev/payments/b prod/payments/d > "},
		{"", "", 4, "dev/billing/c dev/payments/a dev/payments/b prod/payments/d > "},
		{"dev", "", 2, "dev/billing/c dev/payments/a > dev/payments/a"},
		{"dev", "dev/payments/a", 2, "dev/payments/b > "},
		{"nowhere", "", 2, " > "},
	} {
		if got := names(h.list(h.Admin, c.environment, c.after, c.limit)); got != c.want {
			t.Errorf("listing %q after %q: %s, want %s", c.environment, c.after, got, c.want)
		}
	}
	_, _, err := h.list(h.Plain, "dev", "", 0)
	want(t, "listing without a permission", err, key.ErrDenied)
	h.rules(`@id("own") permit (principal == Service::"dev/payments", action in [Action::"kms:ListKeys", Action::"kms:DescribeKey"], resource) when { !(resource is Key) || resource.service == "payments" };`)
	if got := names(h.list(h.Plain, "dev", "", 1)); got != "dev/payments/a > dev/payments/a" {
		t.Errorf("a list with keys that may not be described: %s", got)
	}
	if got := names(h.list(h.Plain, "", "dev/payments/a", 0)); got != "dev/payments/b prod/payments/d > " {
		t.Errorf("the rest: %s", got)
	}
}

// TestTamperedRows changes every column of every row behind the service's back.
func TestTamperedRows(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	device := h.service(h.device)
	for table, columns := range map[string][]string{
		"kms_key":         {"id", "name", "environment", "algorithm", "tier", "state", "current_version", "owner", "classification", "consumers", "created_by", "created_at", "expires_at", "disabled_at", "mac"},
		"kms_key_version": {"state", "keyring_version", "sealed", "ref", "public", "uses", "created_at", "mac"},
	} {
		for i, column := range columns {
			name := fmt.Sprintf("dev/tamper/%s-%d", strings.ReplaceAll(table, "_", "-"), i)
			k := h.key(kms.NewKey{Name: name})
			sealed, err := h.encrypt(name, "x", nil)
			must(t, err)
			value := map[string]string{"name": "'dev/tamper/stolen-" + fmt.Sprint(i) + "'", "id": "'" + key.NewID().String() + "'", "sealed": "mac", "ref": "mac", "public": "mac", "mac": "''",
				"current_version": "9", "keyring_version": "9", "uses": "9", "created_at": "9", "expires_at": "9", "disabled_at": "9"}[column]
			if value == "" {
				value = "'tampered'"
			}
			where := " WHERE id = $1"
			if table == "kms_key_version" {
				where = " WHERE key_id = $1"
			}
			h.tamper("UPDATE "+table+" SET "+column+" = "+value+where, k.ID.String())
			fresh := h.service(h.device)
			_, err = h.decryptWith(fresh, sealed.Text, nil)
			if column == "id" {
				want(t, "decrypting with a changed id", err, key.ErrInvalidCiphertext)
				_, err = fresh.Lookup(t.Context(), name)
			}
			want(t, table+"."+column, err, key.ErrIntegrity)
			if err != nil && !strings.Contains(err.Error(), "row") {
				t.Errorf("%s.%s: the error names no row: %v", table, column, err)
			}
		}
	}
	// Two versions exchanged, and one gone.
	k := h.key(kms.NewKey{Name: orders})
	sealed, err := h.encrypt(orders, "x", nil)
	must(t, err)
	_, err = h.manage(orders, policy.RotateKey)
	must(t, err)
	h.tamper("UPDATE kms_key_version SET version = 3 - version + 10 WHERE key_id = $1", k.ID.String())
	h.tamper("UPDATE kms_key_version SET version = version - 10 WHERE key_id = $1", k.ID.String())
	_, err = h.decryptWith(device, sealed.Text, nil)
	want(t, "versions exchanged", err, key.ErrIntegrity)
	h.tamper("DELETE FROM kms_key_version WHERE key_id = $1", k.ID.String())
	_, err = h.decryptWith(h.service(h.device), sealed.Text, nil)
	want(t, "a version deleted", err, key.ErrIntegrity)
	_, _, err = h.list(h.Admin, "", "", 0)
	want(t, "listing changed rows", err, key.ErrIntegrity)
}

// TestOneUnwrapPerKeyring: a fresh process opens its keyrings, then any number
// of keys without the device.
func TestOneUnwrapPerKeyring(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	var sealed []string
	for i := range 20 {
		name := fmt.Sprintf("dev/payments/k%d", i)
		h.key(kms.NewKey{Name: name})
		s, err := h.encrypt(name, "x", nil)
		must(t, err)
		sealed = append(sealed, s.Text)
	}
	counter := &counting{Device: h.device}
	config := h.ringsOf
	config.Device = counter
	rings, err := keyring.Open(t.Context(), config)
	must(t, err)
	defer rings.Close()
	fresh, err := kms.New(kms.Config{DB: h.DB, Door: h.Door, Rings: rings, Device: counter})
	must(t, err)
	defer fresh.Close()
	for range 2 {
		for _, text := range sealed {
			if _, err := h.decryptWith(fresh, text, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := counter.unwraps.Load(); n != 3 {
		t.Errorf("three keyrings and twenty keys took %d unwraps", n)
	}
}

// TestAnotherServerRotates: what another server of the store did is seen when it matters.
func TestAnotherServerRotates(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	h.key(kms.NewKey{Name: orders})
	second := h.service(h.device)
	first, err := h.encrypt(orders, "x", nil)
	must(t, err)
	_, err = h.decryptWith(second, first.Text, nil)
	must(t, err)
	_, err = h.manage(orders, policy.RotateKey)
	must(t, err)
	newer, err := h.encrypt(orders, "y", nil)
	must(t, err)
	if opened, err := h.decryptWith(second, newer.Text, nil); err != nil || opened.Version != 2 {
		t.Errorf("the other server opens version %d, %v", opened.Version, err)
	}
}

func TestConcurrentUse(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	h.key(kms.NewKey{Name: orders})
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for i := range 20 {
				text := fmt.Sprint(i)
				s, err := h.encrypt(orders, text, tenant)
				if errors.Is(err, key.ErrDisabled) {
					continue
				}
				if err != nil {
					t.Error(err)
					continue
				}
				o, err := h.decrypt(s.Text, tenant)
				if err != nil && !errors.Is(err, key.ErrDisabled) || err == nil && string(o.Plaintext) != text {
					t.Errorf("opened %q, %v", o.Plaintext, err)
				}
			}
		})
	}
	for range 2 {
		running.Go(func() {
			for range 5 {
				if _, err := h.manage(orders, policy.RotateKey); err != nil && !errors.Is(err, key.ErrConflict) && !errors.Is(err, key.ErrDisabled) {
					t.Error(err)
				}
			}
		})
	}
	running.Go(func() {
		for range 5 {
			for _, action := range []policy.Action{policy.DisableKey, policy.EnableKey} {
				if _, err := h.manage(orders, action); err != nil && !errors.Is(err, key.ErrConflict) {
					t.Error(err)
				}
			}
		}
	})
	running.Wait()
	_, err := h.encrypt(orders, "x", nil)
	must(t, err)
}
