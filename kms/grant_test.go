package kms_test

import (
	"context"
	"testing"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/softhsm-test"
)

// method is one method of the service with good arguments.
type method struct {
	actions []policy.Action
	object  string // "" for the list
	call    func(context.Context, *kms.Service, guard.Grant) error
}

// methods lists every method that takes a grant.
func methods(ciphertext string) map[string]method {
	digest := make([]byte, 32)
	const receipts, fresh = "dev/payments/receipts", "dev/payments/fresh"
	manage := func(action policy.Action, do func(*kms.Service) func(context.Context, guard.Grant, string) (kms.Key, error)) method {
		return method{[]policy.Action{action}, orders, func(ctx context.Context, s *kms.Service, g guard.Grant) error {
			_, err := do(s)(ctx, g, orders)
			return err
		}}
	}
	dataKey := func(action policy.Action, plaintext bool) method {
		return method{[]policy.Action{action}, orders, func(ctx context.Context, s *kms.Service, g guard.Grant) error {
			_, err := s.DataKey(ctx, g, orders, plaintext)
			return err
		}}
	}
	return map[string]method{
		"Create": {[]policy.Action{policy.CreateKey}, fresh, func(ctx context.Context, s *kms.Service, g guard.Grant) error {
			_, err := s.Create(ctx, g, kms.NewKey{Name: fresh})
			return err
		}},
		"List": {[]policy.Action{policy.ListKeys}, "", func(ctx context.Context, s *kms.Service, g guard.Grant) error {
			_, _, err := s.List(ctx, g, "", "", 0)
			return err
		}},
		"Describe": manage(policy.DescribeKey, func(s *kms.Service) func(context.Context, guard.Grant, string) (kms.Key, error) { return s.Describe }),
		"Rotate":   manage(policy.RotateKey, func(s *kms.Service) func(context.Context, guard.Grant, string) (kms.Key, error) { return s.Rotate }),
		"Enable":   manage(policy.EnableKey, func(s *kms.Service) func(context.Context, guard.Grant, string) (kms.Key, error) { return s.Enable }),
		"Disable":  manage(policy.DisableKey, func(s *kms.Service) func(context.Context, guard.Grant, string) (kms.Key, error) { return s.Disable }),
		"Encrypt": {[]policy.Action{policy.Encrypt}, orders, func(ctx context.Context, s *kms.Service, g guard.Grant) error {
			_, err := s.Encrypt(ctx, g, orders, []byte("x"))
			return err
		}},
		"Decrypt": {[]policy.Action{policy.Decrypt}, orders, func(ctx context.Context, s *kms.Service, g guard.Grant) error {
			_, err := s.Decrypt(ctx, g, ciphertext)
			return err
		}},
		"Rewrap": {[]policy.Action{policy.RewrapFrom, policy.RewrapTo}, orders, func(ctx context.Context, s *kms.Service, g guard.Grant) error {
			_, err := s.Rewrap(ctx, g, ciphertext)
			return err
		}},
		"DataKey with plaintext":    dataKey(policy.GenerateDataKey, true),
		"DataKey without plaintext": dataKey(policy.GenerateDataKeyWithoutPlaintext, false),
		"Sign": {[]policy.Action{policy.Sign}, receipts, func(ctx context.Context, s *kms.Service, g guard.Grant) error {
			_, err := s.Sign(ctx, g, receipts, digest)
			return err
		}},
		"Verify": {[]policy.Action{policy.Verify}, receipts, func(ctx context.Context, s *kms.Service, g guard.Grant) error {
			_, _, err := s.Verify(ctx, g, receipts, 0, digest, nil)
			return err
		}},
		"PublicKey": {[]policy.Action{policy.GetPublicKey}, receipts, func(ctx context.Context, s *kms.Service, g guard.Grant) error {
			_, err := s.PublicKey(ctx, g, receipts, 0)
			return err
		}},
	}
}

// TestEveryMethodNeedsItsGrant: zero, used, stale and foreign grants, and grants
// for something else, are refused by every method.
func TestEveryMethodNeedsItsGrant(t *testing.T) {
	device := softhsmtest.Device(t)
	h := newHouse(t, device)
	h.key(kms.NewKey{Name: orders})
	h.key(kms.NewKey{Name: "dev/payments/other"})
	h.key(kms.NewKey{Name: "dev/payments/receipts", Tier: key.TierDevice})
	sealed, err := h.encrypt(orders, "x", nil)
	must(t, err)
	foreign := newHouse(t, softhsmtest.Device(t))

	// with runs act under a grant of a house for the actions on the object of that name.
	with := func(from *house, name string, actions []policy.Action, act func(context.Context, guard.Grant)) {
		t.Helper()
		resolve := func(ctx context.Context) (policy.Object, error) {
			if name == "" {
				return kms.ListObject(""), nil
			}
			return h.keys.Lookup(ctx, name)
		}
		_ = from.enter(from.Admin, nil, resolve, func(ctx context.Context, g guard.Grant) error {
			act(ctx, g)
			return nil
		}, actions...)
	}
	refused := func(what string, m method, ctx context.Context, g guard.Grant) {
		t.Helper()
		want(t, what, m.call(ctx, h.keys, g), guard.ErrGrant)
	}
	for name, m := range methods(sealed.Text) {
		refused(name+" with a zero grant", m, t.Context(), guard.Grant{})
		with(foreign, m.object, m.actions, func(ctx context.Context, g guard.Grant) { refused(name+" with a foreign grant", m, ctx, g) })
		if m.object != "" {
			with(h, "dev/payments/other", m.actions, func(ctx context.Context, g guard.Grant) { refused(name+" with another object's grant", m, ctx, g) })
			another := policy.DescribeKey
			if m.actions[0] == another {
				another = policy.Encrypt
			}
			with(h, m.object, []policy.Action{another}, func(ctx context.Context, g guard.Grant) { refused(name+" with another action's grant", m, ctx, g) })
		} else {
			_ = h.enter(h.Admin, nil, func(context.Context) (policy.Object, error) { return kms.ListObject("dev"), nil }, func(ctx context.Context, g guard.Grant) error {
				refused(name+" with another object's grant", m, ctx, g)
				return nil
			}, m.actions...)
		}
		if len(m.actions) == 2 {
			with(h, m.object, m.actions[:1], func(ctx context.Context, g guard.Grant) { refused(name+" with half a grant", m, ctx, g) })
		}
		var kept guard.Grant
		with(h, m.object, m.actions, func(ctx context.Context, g guard.Grant) {
			kept = g
			if err := m.call(ctx, h.keys, g); err != nil {
				t.Errorf("%s with its grant: %v", name, err)
			}
			refused(name+" with a used grant", m, ctx, g)
		})
		refused(name+" with a stale grant", m, t.Context(), kept)
		if name == "Disable" {
			_, err := h.manage(orders, policy.EnableKey)
			must(t, err)
		}
	}
}

// TestAnotherKeyUnderTheName: what the door decided about is what is used.
func TestAnotherKeyUnderTheName(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	h.key(kms.NewKey{Name: orders})
	h.key(kms.NewKey{Name: "dev/payments/receipts", Tier: key.TierDevice})
	sealed, err := h.encrypt(orders, "x", nil)
	must(t, err)
	for name, m := range methods(sealed.Text) {
		if m.object == "" || name == "Create" {
			continue
		}
		for id, kind := range map[string]error{"": key.ErrNotFound, key.NewID().String(): key.ErrConflict} {
			object := policy.Object{Kind: policy.KindKey, Name: m.object, ID: id}
			err := h.enter(h.Admin, nil, func(context.Context) (policy.Object, error) { return object, nil }, func(ctx context.Context, g guard.Grant) error {
				return m.call(ctx, h.keys, g)
			}, m.actions...)
			want(t, name+" of id "+id, err, kind)
		}
	}
}
