package kms_test

import (
	"context"
	"testing"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/softhsm-test"
)

// granted runs act n times under grants for action on the key of that name.
func (h *house) granted(n int, name string, action policy.Action, act func(context.Context, guard.Grant) error) {
	h.t.Helper()
	object, err := h.keys.Lookup(h.t.Context(), name)
	must(h.t, err)
	for n > 0 {
		acts := make([]guard.Act, min(n, 64))
		for i := range acts {
			acts[i] = guard.Act{Action: action, Object: object}
		}
		n -= len(acts)
		_, err := h.Door.System(h.t.Context(), "benchmark", acts, func(ctx context.Context, g guard.Grant) error {
			for range acts {
				if err := act(ctx, g); err != nil {
					return err
				}
			}
			return nil
		})
		must(h.t, err)
	}
}

// TestEncryptIsCheap bounds what one encryption allocates, the grant apart.
func TestEncryptIsCheap(t *testing.T) {
	h := newHouse(t, softhsmtest.Device(t))
	h.key(kms.NewKey{Name: orders})
	plaintext := make([]byte, 32)
	object, err := h.keys.Lookup(t.Context(), orders)
	must(t, err)
	acts := make([]guard.Act, 52)
	for i := range acts {
		acts[i] = guard.Act{Action: policy.Encrypt, Object: object}
	}
	_, err = h.Door.System(t.Context(), "test", acts, func(ctx context.Context, g guard.Grant) error {
		once := func() {
			if _, err := h.keys.Encrypt(ctx, g, orders, plaintext); err != nil {
				t.Error(err)
			}
		}
		once()
		if n := testing.AllocsPerRun(50, once); n > 6 {
			t.Errorf("an encryption of 32 bytes makes %v allocations, want at most 6", n)
		} else {
			t.Logf("an encryption of 32 bytes makes %v allocations", n)
		}
		return nil
	})
	must(t, err)
}

// BenchmarkService measures the service alone: no door, no log. "through the
// door" has both, one caller after another, so each waits for its own fsync.
func BenchmarkService(b *testing.B) {
	h := newHouse(b, softhsmtest.Device(b))
	h.key(kms.NewKey{Name: orders})
	plaintext := make([]byte, 32)
	sealed, err := h.encrypt(orders, string(plaintext), nil) // granted has no context
	must(b, err)
	alone := func(name string, action policy.Action, act func(context.Context, guard.Grant) error) {
		b.Run(name, func(b *testing.B) {
			var spent time.Duration
			h.granted(b.N, orders, action, func(ctx context.Context, g guard.Grant) error {
				start := time.Now()
				err := act(ctx, g)
				spent += time.Since(start)
				return err
			})
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/op")
		})
	}
	alone("encrypt 32 B", policy.Encrypt, func(ctx context.Context, g guard.Grant) error {
		_, err := h.keys.Encrypt(ctx, g, orders, plaintext)
		return err
	})
	alone("decrypt 32 B", policy.Decrypt, func(ctx context.Context, g guard.Grant) error {
		_, err := h.keys.Decrypt(ctx, g, sealed.Text)
		return err
	})
	alone("data key", policy.GenerateDataKey, func(ctx context.Context, g guard.Grant) error {
		_, err := h.keys.DataKey(ctx, g, orders, true)
		return err
	})
	b.Run("encrypt 32 B through the door", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.encrypt(orders, string(plaintext), tenant); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encrypt 32 B through the door, in parallel", func(b *testing.B) {
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := h.encrypt(orders, string(plaintext), tenant); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("load a key that is not in memory", func(b *testing.B) {
		for b.Loop() {
			s, err := kms.New(kms.Config{DB: h.DB, Door: h.Door, Rings: h.rings, Device: h.device})
			must(b, err)
			h.granted(1, orders, policy.Encrypt, func(ctx context.Context, g guard.Grant) error {
				_, err := s.Encrypt(ctx, g, orders, plaintext)
				return err
			})
			must(b, s.Close())
		}
	})
}
