package kms_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/kms/envelope"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/softhsm-test"
)

const orders = "dev/payments/orders"

var tenant = map[string]string{"tenant": "42"}

func TestWrappedKeyLife(t *testing.T) {
	onEachGround(t, func(t *testing.T, h *house) {
		k := h.key(kms.NewKey{Name: orders, Owner: "team payments", Classification: "restricted"})
		if k.Tier != key.TierWrapped || k.Algorithm != key.AES256 || k.State != kms.Enabled || k.CurrentVersion != 1 || k.CreatedBy != h.Admin.SPIFFEID || k.ID.IsZero() || time.Since(k.CreatedAt) > time.Minute {
			t.Errorf("created %+v", k)
		}
		first, err := h.encrypt(orders, "card 4242", tenant)
		must(t, err)
		if first.Version != 1 || first.Key != orders || !strings.HasPrefix(first.Text, "sw1:") {
			t.Errorf("sealed %+v", first)
		}
		opened, err := h.decrypt(first.Text, tenant)
		if err != nil || string(opened.Plaintext) != "card 4242" || opened.Key != orders || opened.Version != 1 {
			t.Errorf("opened %q, %+v, %v", opened.Plaintext, opened, err)
		}
		_, err = h.decrypt(first.Text, map[string]string{"tenant": "43"})
		want(t, "another context", err, key.ErrInvalidCiphertext)

		rotated, err := h.manage(orders, policy.RotateKey)
		if err != nil || rotated.CurrentVersion != 2 || rotated.ID != k.ID {
			t.Errorf("rotated to %+v, %v", rotated, err)
		}
		if opened, err := h.decrypt(first.Text, tenant); err != nil || opened.Version != 1 {
			t.Errorf("a ciphertext of version 1 after rotation: %+v, %v", opened, err)
		}
		if second, err := h.encrypt(orders, "card 4242", tenant); err != nil || second.Version != 2 {
			t.Errorf("sealed after rotation with version %d, %v", second.Version, err)
		}
		moved, err := h.rewrap(first.Text, tenant)
		if err != nil || moved.From != 1 || moved.Version != 2 || moved.Key != orders || moved.Text == first.Text {
			t.Errorf("rewrapped %+v, %v", moved, err)
		}
		if opened, err := h.decrypt(moved.Text, tenant); err != nil || string(opened.Plaintext) != "card 4242" || opened.Version != 2 {
			t.Errorf("opened %q after rewrap, %v", opened.Plaintext, err)
		}
		_, err = h.rewrap(first.Text, nil)
		want(t, "rewrapping with another context", err, key.ErrInvalidCiphertext)

		described, err := h.manage(orders, policy.DescribeKey)
		if err != nil || len(described.Versions) != 2 || described.Versions[0].Version != 2 || described.Versions[1].State != kms.VersionEnabled || described.Owner != "team payments" {
			t.Errorf("described %+v, %v", described, err)
		}
	})
}

func TestDataKeys(t *testing.T) {
	onEachGround(t, func(t *testing.T, h *house) {
		h.key(kms.NewKey{Name: orders})
		with, err := h.dataKey(orders, tenant, true)
		if err != nil || len(with.Plaintext) != 32 || bytes.Equal(with.Plaintext, make([]byte, 32)) {
			t.Fatalf("a data key of %d bytes, %v", len(with.Plaintext), err)
		}
		if opened, err := h.decrypt(with.Wrapped, tenant); err != nil || !bytes.Equal(opened.Plaintext, with.Plaintext) {
			t.Errorf("the wrapped data key opens to something else, %v", err)
		}
		without, err := h.dataKey(orders, tenant, false)
		if err != nil || without.Plaintext != nil {
			t.Errorf("without plaintext: %d bytes, %v", len(without.Plaintext), err)
		}
		if opened, err := h.decrypt(without.Wrapped, tenant); err != nil || len(opened.Plaintext) != 32 || bytes.Equal(opened.Plaintext, make([]byte, 32)) || bytes.Equal(opened.Plaintext, with.Plaintext) {
			t.Errorf("the other data key: %v", err)
		}
		for _, v := range []any{with, kms.Opened{Plaintext: []byte("card 4242")}} {
			if printed := fmt.Sprintf("%v %+v %#v %s", v, v, v, v) + toJSON(t, v); strings.Count(printed, "[redacted]") != 5 {
				t.Errorf("%T prints as %s", v, printed)
			}
		}
	})
}

func TestDeviceKeyLife(t *testing.T) {
	onEachGround(t, func(t *testing.T, h *house) {
		const name = "dev/payments/receipts"
		k := h.key(kms.NewKey{Name: name, Tier: key.TierDevice})
		if k.Tier != key.TierDevice || k.Algorithm != key.ECDSAP256 {
			t.Errorf("created %+v", k)
		}
		digest := sha256.Sum256([]byte("receipt 1"))
		signature, err := h.sign(name, digest[:])
		if err != nil || signature.Version != 1 || signature.Algorithm != key.ECDSAP256 {
			t.Fatalf("signed %+v, %v", signature, err)
		}
		public, err := h.publicKey(name, 0)
		must(t, err)
		if !ecdsa.VerifyASN1(parsePublic(t, public.PEM), digest[:], signature.Signature) {
			t.Error("the signature does not verify with the public key")
		}
		if valid, version, err := h.verify(name, 0, digest[:], signature.Signature); err != nil || !valid || version != 1 {
			t.Errorf("verified %v with version %d, %v", valid, version, err)
		}
		other := sha256.Sum256([]byte("receipt 2"))
		for what, try := range map[string][2][]byte{"another digest": {other[:], signature.Signature}, "no signature": {digest[:], nil}, "a cut signature": {digest[:], signature.Signature[:10]}} {
			if valid, _, err := h.verify(name, 0, try[0], try[1]); err != nil || valid {
				t.Errorf("%s: %v, %v", what, valid, err)
			}
		}

		if rotated, err := h.manage(name, policy.RotateKey); err != nil || rotated.CurrentVersion != 2 {
			t.Fatalf("rotated to %+v, %v", rotated, err)
		}
		if valid, version, err := h.verify(name, 0, digest[:], signature.Signature); err != nil || valid || version != 2 {
			t.Errorf("version 1's signature with version %d: %v, %v", version, valid, err)
		}
		if valid, version, err := h.verify(name, 1, digest[:], signature.Signature); err != nil || !valid || version != 1 {
			t.Errorf("version 1's signature with version %d: %v, %v", version, valid, err)
		}
		newer, err := h.publicKey(name, 0)
		if err != nil || newer.Version != 2 || newer.PEM == public.PEM {
			t.Errorf("after rotation: version %d, %v", newer.Version, err)
		}
		_, err = h.publicKey(name, 3)
		want(t, "a version that is not there", err, key.ErrNotFound)
		_, err = h.publicKey(name, -1)
		want(t, "a version below the first", err, key.ErrNotFound)
		for _, n := range []int{0, 20, 33} {
			_, err = h.sign(name, make([]byte, n))
			want(t, fmt.Sprintf("a digest of %d bytes", n), err, key.ErrInvalid)
		}

		_, err = h.encrypt(name, "x", nil)
		want(t, "encrypting under a signing key", err, key.ErrUnsupported)
		_, err = h.dataKey(name, nil, true)
		want(t, "a data key of a signing key", err, key.ErrUnsupported)
		h.key(kms.NewKey{Name: orders})
		_, err = h.sign(orders, digest[:])
		want(t, "signing with an encrypting key", err, key.ErrUnsupported)
		_, err = h.publicKey(orders, 0)
		want(t, "the public half of an encrypting key", err, key.ErrUnsupported)
	})
}

func TestDisabledAtOnce(t *testing.T) {
	onEachGround(t, func(t *testing.T, h *house) {
		const name = "dev/payments/receipts"
		h.key(kms.NewKey{Name: orders})
		h.key(kms.NewKey{Name: name, Tier: key.TierDevice})
		sealed, err := h.encrypt(orders, "x", nil)
		must(t, err)
		digest := make([]byte, 32)
		_, err = h.sign(name, digest)
		must(t, err)
		second := h.service(h.device)
		_, err = h.decryptWith(second, sealed.Text, nil)
		must(t, err)

		for _, n := range []string{orders, name} {
			for range 2 {
				k, err := h.manage(n, policy.DisableKey)
				if err != nil || k.State != kms.Disabled || k.DisabledAt.IsZero() {
					t.Errorf("disabled %+v, %v", k, err)
				}
			}
		}
		_, err = h.encrypt(orders, "x", nil)
		want(t, "encrypting", err, key.ErrDisabled)
		_, err = h.decrypt(sealed.Text, nil)
		want(t, "decrypting", err, key.ErrDisabled)
		_, err = h.decryptWith(second, sealed.Text, nil)
		want(t, "decrypting with a service that had it in its cache", err, key.ErrDisabled)
		_, err = h.rewrap(sealed.Text, nil)
		want(t, "rewrapping", err, key.ErrDisabled)
		_, err = h.dataKey(orders, nil, false)
		want(t, "a data key", err, key.ErrDisabled)
		_, err = h.manage(orders, policy.RotateKey)
		want(t, "rotating", err, key.ErrDisabled)
		_, err = h.sign(name, digest)
		want(t, "signing", err, key.ErrDisabled)
		_, _, err = h.verify(name, 0, digest, nil)
		want(t, "verifying", err, key.ErrDisabled)
		if k, err := h.manage(orders, policy.DescribeKey); err != nil || k.State != kms.Disabled {
			t.Errorf("described %+v, %v", k, err)
		}
		for range 2 {
			k, err := h.manage(orders, policy.EnableKey)
			if err != nil || k.State != kms.Enabled || !k.DisabledAt.IsZero() {
				t.Errorf("enabled %+v, %v", k, err)
			}
		}
		if opened, err := h.decrypt(sealed.Text, nil); err != nil || string(opened.Plaintext) != "x" {
			t.Errorf("after enabling: %v", err)
		}
		if _, err = h.decryptWith(second, sealed.Text, nil); err != nil {
			t.Errorf("after enabling, with the other service: %v", err)
		}
	})
}

// TestDisabledWhileInFlight disables a key between the decision of a request and
// its record: nothing may be released.
func TestDisabledWhileInFlight(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	h.key(kms.NewKey{Name: orders})
	runs := 0
	err := h.on(orders, policy.Encrypt, func(ctx context.Context, g guard.Grant) error {
		runs++
		if _, err := h.keys.Encrypt(ctx, g, orders, []byte("x")); err != nil {
			return err
		}
		_, err := h.manage(orders, policy.DisableKey)
		return err
	})
	want(t, "a key disabled while it was used", err, key.ErrDisabled)
	if runs != 2 {
		t.Errorf("the act ran %d times, want twice: once before, once after", runs)
	}
}

func TestCreateRefuses(t *testing.T) {
	onEachGround(t, func(t *testing.T, h *house) {
		h.key(kms.NewKey{Name: orders})
		h.key(kms.NewKey{Name: "dev/payments/receipts", Tier: key.TierDevice})
		for what, c := range map[string]struct {
			n    kms.NewKey
			want error
		}{
			"a taken name":             {kms.NewKey{Name: orders}, key.ErrExists},
			"a taken name, in device":  {kms.NewKey{Name: "dev/payments/receipts", Tier: key.TierDevice}, key.ErrExists},
			"a name outside grammar":   {kms.NewKey{Name: "dev/payments/Orders"}, key.ErrInvalid},
			"no name":                  {kms.NewKey{}, key.ErrInvalid},
			"an unknown environment":   {kms.NewKey{Name: "nowhere/payments/orders"}, key.ErrNotFound},
			"... for a device key":     {kms.NewKey{Name: "nowhere/payments/orders", Tier: key.TierDevice}, key.ErrNotFound},
			"an unknown tier":          {kms.NewKey{Name: "dev/a/b", Tier: "cloud"}, key.ErrInvalid},
			"an unknown algorithm":     {kms.NewKey{Name: "dev/a/b", Algorithm: "rot13"}, key.ErrInvalid},
			"AES in the device":        {kms.NewKey{Name: "dev/a/b", Tier: key.TierDevice, Algorithm: key.AES256}, key.ErrUnsupported},
			"ECDSA outside the device": {kms.NewKey{Name: "dev/a/b", Algorithm: key.ECDSAP256}, key.ErrUnsupported},
			"an owner of two lines":    {kms.NewKey{Name: "dev/a/b", Owner: "a\nb"}, key.ErrInvalid},
			"a long owner":             {kms.NewKey{Name: "dev/a/b", Owner: strings.Repeat("a", 257)}, key.ErrInvalid},
			"a class not UTF-8":        {kms.NewKey{Name: "dev/a/b", Classification: "\xff"}, key.ErrInvalid},
		} {
			_, err := h.create(c.n)
			want(t, what, err, c.want)
		}
		_, err := h.create(kms.NewKey{Name: "nowhere/payments/orders"})
		if err == nil || !strings.Contains(err.Error(), "dev, ops, prod") {
			t.Errorf("the error for an unknown environment does not say how: %v", err)
		}
		if list, _, err := h.list(h.Admin, "", "", 0); err != nil || len(list) != 2 {
			t.Errorf("refusals left %d keys, %v", len(list), err)
		}
		if open, err := h.Door.Intents(t.Context(), "kms.generate"); err != nil || len(open) != 0 {
			t.Errorf("refusals left %d intents, %v", len(open), err)
		}
	})
}

// TestCreateAsDescribed: a policy on attributes holds for keys that do not exist yet.
func TestCreateAsDescribed(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	h.rules(`@id("hardware-only") forbid (principal, action == Action::"kms:CreateKey", resource) when { resource.classification == "secret" && resource.tier != "device" };`)
	_, err := h.create(kms.NewKey{Name: "dev/a/wrapped", Classification: "secret"})
	want(t, "a secret key outside the device", err, key.ErrDenied)
	h.key(kms.NewKey{Name: "dev/a/device", Classification: "secret", Tier: key.TierDevice})
	h.key(kms.NewKey{Name: "dev/a/public"})
}

func TestForeignCiphertexts(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	k := h.key(kms.NewKey{Name: orders})
	sealed, err := h.encrypt(orders, "x", nil)
	must(t, err)
	for _, text := range []string{"", "x", sealed.Text[4:], sealed.Text[:60], sealed.Text + "A", sealed.Text + "\n"} {
		if _, err := h.keys.LookupCiphertext(t.Context(), text); !errors.Is(err, key.ErrInvalidCiphertext) {
			t.Errorf("looking up %.30q: %v", text, err)
		}
		_, err := h.decrypt(text, nil)
		want(t, "a malformed ciphertext", err, key.ErrInvalidCiphertext)
	}

	foreign, err := envelope.NewKey(bytes.Repeat([]byte{1}, 32))
	must(t, err)
	forge := func(id key.ID, version uint32) string {
		b, err := foreign.Seal(envelope.Header{ObjectID: id, Version: version}, []byte("x"), nil)
		must(t, err)
		return envelope.Text(b)
	}
	receipts := h.key(kms.NewKey{Name: "dev/payments/receipts", Tier: key.TierDevice})
	for what, text := range map[string]string{
		"of a key we do not have": forge(key.NewID(), 1), "of another key": forge(k.ID, 1), "of version 0": forge(k.ID, 0), "of a version to come": forge(k.ID, 2),
		"of the last version there can be": forge(k.ID, 1<<32-1), "of a key in the device": forge(receipts.ID, 1),
	} {
		_, err := h.decrypt(text, nil)
		want(t, what, err, key.ErrInvalidCiphertext)
		if err.Error() != key.ErrInvalidCiphertext.Error() {
			t.Errorf("%s: the error says more: %v", what, err)
		}
		if e := h.last(); e.Outcome != audit.Failed || e.Failure != "invalid-ciphertext" || e.Action != "kms:Decrypt" {
			t.Errorf("%s is recorded as %+v", what, e)
		}
		err = h.enter(h.Plain, nil, func(ctx context.Context) (policy.Object, error) { return h.keys.LookupCiphertext(ctx, text) }, nil, policy.Decrypt)
		want(t, what+", by somebody who may not", err, key.ErrDenied)
	}
}

func TestNewNeedsAll(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	full := kms.Config{DB: h.DB, Door: h.Door, Rings: h.rings, Device: h.device}
	for what, strip := range map[string]func(*kms.Config){
		"store": func(c *kms.Config) { c.DB = nil }, "door": func(c *kms.Config) { c.Door = nil }, "keyrings": func(c *kms.Config) { c.Rings = nil }, "device": func(c *kms.Config) { c.Device = nil },
	} {
		c := full
		strip(&c)
		_, err := kms.New(c)
		want(t, "without "+what, err, key.ErrInvalid)
	}
}

func parsePublic(t *testing.T, text string) *ecdsa.PublicKey {
	t.Helper()
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(rest) > 0 {
		t.Fatalf("no PEM: %q", text)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	must(t, err)
	return public.(*ecdsa.PublicKey)
}
