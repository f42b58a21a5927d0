package kms_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/softhsm-test"
)

// counting is a device that counts and may fail around Generate.
type counting struct {
	key.Device
	unwraps, destroys atomic.Int64
	before, after     error // instead of making a key; after having made it
	made              key.Ref
}

func (c *counting) Unwrap(ctx context.Context, ref key.Ref, wrapped, aad []byte) ([]byte, error) {
	c.unwraps.Add(1)
	return c.Device.Unwrap(ctx, ref, wrapped, aad)
}

func (c *counting) Generate(ctx context.Context, spec key.Spec) (key.Ref, error) {
	if c.before != nil {
		return key.Ref{}, c.before
	}
	ref, err := c.Device.Generate(ctx, spec)
	c.made = ref
	if err == nil && c.after != nil {
		return key.Ref{}, c.after
	}
	return ref, err
}

func (c *counting) Destroy(ctx context.Context, ref key.Ref) error {
	c.destroys.Add(1)
	return c.Device.Destroy(ctx, ref)
}

// TestReconcile loses the answer of the device before and after it made a key.
func TestReconcile(t *testing.T) {
	onEachGround(t, func(t *testing.T, h *house) {
		const name = "dev/payments/receipts"
		h.key(kms.NewKey{Name: name, Tier: key.TierDevice})
		lost := errors.New("the cable was pulled")
		for what, c := range map[string]*counting{"before": {Device: h.device, before: lost}, "after": {Device: h.device, after: lost}} {
			for act, do := range map[string]func() error{
				"creation": func() error {
					_, err := h.create(kms.NewKey{Name: "dev/payments/new", Tier: key.TierDevice})
					return err
				},
				"rotation": func() error { _, err := h.manage(name, policy.RotateKey); return err },
			} {
				h.keys = h.service(c)
				want(t, act, do(), lost)
				if open, err := h.Door.Intents(t.Context(), "kms.generate"); err != nil || len(open) != 1 {
					t.Fatalf("%s %s: %d open intents, %v", act, what, len(open), err)
				}
				h.keys = h.service(h.device)
				must(t, h.keys.Reconcile(t.Context()))
				if open, err := h.Door.Intents(t.Context(), "kms.generate"); err != nil || len(open) != 0 {
					t.Errorf("%s %s: %d open intents after reconciliation, %v", act, what, len(open), err)
				}
				if e := h.last(); e.Principal != "system" || !strings.Contains(e.Reason, "reconciling kms.generate") {
					t.Errorf("%s %s: reconciliation is recorded as %+v", act, what, e)
				}
				if what == "after" {
					_, err := h.device.Find(t.Context(), c.made.ID)
					want(t, "the orphan of "+act, err, key.ErrNotFound)
				}
				must(t, h.keys.Reconcile(t.Context()))
			}
		}
		// The key itself is as it was.
		digest := sha256.Sum256([]byte("x"))
		if s, err := h.sign(name, digest[:]); err != nil || s.Version != 1 {
			t.Errorf("signed with version %d, %v", s.Version, err)
		}
		h.key(kms.NewKey{Name: "dev/payments/new", Tier: key.TierDevice})
	})
}

// TestReconcileWaitsForTheDevice: a device that is away leaves the intent open.
func TestReconcileWaitsForTheDevice(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	c := &counting{Device: h.device, after: key.ErrUnavailable}
	h.keys = h.service(c)
	_, err := h.create(kms.NewKey{Name: "dev/payments/new", Tier: key.TierDevice})
	want(t, "creation", err, key.ErrUnavailable)
	want(t, "reconciliation without the device", h.service(away{h.device}).Reconcile(t.Context()), key.ErrUnavailable)
	if open, err := h.Door.Intents(t.Context(), "kms.generate"); err != nil || len(open) != 1 {
		t.Errorf("%d open intents, %v", len(open), err)
	}
	must(t, h.service(h.device).Reconcile(t.Context()))
}

// TestForgedIntents: who can write to the database cannot have keys destroyed.
func TestForgedIntents(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	h.key(kms.NewKey{Name: "dev/payments/receipts", Tier: key.TierDevice})
	c := &counting{Device: h.device}
	h.keys = h.service(c)

	h.tamper(`UPDATE intent SET resolved_at = 0, outcome = ''`)
	want(t, "an old intent opened again", h.keys.Reconcile(t.Context()), key.ErrIntegrity)
	h.tamper(`UPDATE intent SET object = 'dev/payments/other'`)
	want(t, "an intent of another name", h.keys.Reconcile(t.Context()), key.ErrIntegrity)
	h.tamper(`UPDATE intent SET data = $1`, []byte(`{"device_key":"`+h.ringsOf.Root.ID.String()+`","key":"`+key.NewID().String()+`","version":1}`))
	want(t, "an intent on the root key", h.keys.Reconcile(t.Context()), key.ErrIntegrity)
	h.tamper(`UPDATE intent SET data = $1`, []byte(`{`))
	want(t, "an intent that is not one", h.keys.Reconcile(t.Context()), key.ErrIntegrity)
	if n := c.destroys.Load(); n != 0 {
		t.Errorf("%d keys were destroyed", n)
	}
	digest := make([]byte, 32)
	_, err := h.sign("dev/payments/receipts", digest)
	must(t, err)
}

// TestOrphanOfARace: a name that was taken while the device worked leaves no key behind.
func TestOrphanOfARace(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	const name = "dev/payments/receipts"
	c := &racing{counting: counting{Device: h.device}, during: func() { h.keys = h.service(h.device); h.key(kms.NewKey{Name: name}) }}
	h.keys = h.service(c)
	_, err := h.create(kms.NewKey{Name: name, Tier: key.TierDevice})
	want(t, "creation", err, key.ErrExists)
	if n := c.destroys.Load(); n != 1 {
		t.Errorf("%d keys were destroyed, want the orphan", n)
	}
	_, err = h.device.Find(t.Context(), c.made.ID)
	want(t, "the orphan", err, key.ErrNotFound)
	must(t, h.keys.Reconcile(t.Context()))
}

type racing struct {
	counting
	during func()
}

func (r *racing) Generate(ctx context.Context, spec key.Spec) (key.Ref, error) {
	ref, err := r.counting.Generate(ctx, spec)
	if r.during != nil {
		r.during()
	}
	return ref, err
}

// away is a device that cannot be reached.
type away struct{ key.Device }

func (away) Find(context.Context, key.ID) (key.Ref, error) { return key.Ref{}, key.ErrUnavailable }
