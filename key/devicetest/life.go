package devicetest

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
)

func testHealth(t *testing.T, s suite) {
	for range 3 {
		if err := s.device.Health(s.ctx); err != nil {
			t.Errorf("a fresh device is not healthy: %v", err)
		}
	}
	s.sign(t, s.generate(t, signing("ca")), "signing after the canary")
	if err := s.device.Health(s.ctx); err != nil {
		t.Errorf("a used device is not healthy: %v", err)
	}
}

// testConcurrent uses every method from 16 goroutines, two of them on each key.
func testConcurrent(t *testing.T, s suite) {
	var refs [8]key.Ref
	for i := range refs {
		refs[i] = s.generate(t, signing(fmt.Sprintf("ca/%d", i)))
	}
	root := s.generate(t, wrapping("root"))
	var running sync.WaitGroup
	for worker := range 16 {
		ref := refs[worker%len(refs)]
		running.Go(func() {
			for round := range s.options.rounds() {
				text := fmt.Sprintf("worker %d round %d", worker, round)
				s.sign(t, ref, text)
				s.roundTrip(t, root, []byte(text), []byte(text))
				if _, err := s.device.Random(s.ctx, 32); err != nil {
					t.Errorf("random: %v", err)
				}
				found, err := s.device.Find(s.ctx, ref.ID)
				if err != nil {
					t.Errorf("finding %s: %v", ref.Label, err)
				} else {
					equal(t, found, ref)
				}
			}
			own := s.generateLater(t, signing(fmt.Sprintf("own/%d", worker)))
			s.sign(t, own, "own")
			if err := s.device.Destroy(s.ctx, own); err != nil {
				t.Errorf("destroying %s: %v", own.Label, err)
			}
		})
	}
	running.Wait()

	// Of many that want one label, one gets it.
	var mu sync.Mutex
	made := 0
	for range 8 {
		running.Go(func() {
			_, err := s.device.Generate(s.ctx, signing("wanted"))
			if err != nil {
				want(t, "a label generated at the same time", err, key.ErrExists)
				return
			}
			mu.Lock()
			made++
			mu.Unlock()
		})
	}
	running.Wait()
	if made != 1 {
		t.Errorf("%d keys were made under one label", made)
	}
}

// generateLater is generate for other goroutines, where Fatal is not allowed.
func (s suite) generateLater(t testing.TB, spec key.Spec) key.Ref {
	t.Helper()
	ref, err := s.device.Generate(s.ctx, spec)
	if err != nil {
		t.Errorf("generating %s: %v", spec.Label, err)
	}
	return ref
}

// operations are all methods but Close, each as it is called with ctx.
func (s suite) operations(ca, root key.Ref, wrapped []byte) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Generate":   func(ctx context.Context) error { _, err := s.device.Generate(ctx, signing("late")); return err },
		"Find":       func(ctx context.Context) error { _, err := s.device.Find(ctx, ca.ID); return err },
		"Attributes": func(ctx context.Context) error { _, err := s.device.Attributes(ctx, ca); return err },
		"Sign": func(ctx context.Context) error {
			_, err := s.device.Sign(ctx, ca, make([]byte, 32), crypto.SHA256)
			return err
		},
		"Wrap":    func(ctx context.Context) error { _, err := s.device.Wrap(ctx, root, []byte("secret"), nil); return err },
		"Unwrap":  func(ctx context.Context) error { _, err := s.device.Unwrap(ctx, root, wrapped, nil); return err },
		"Random":  func(ctx context.Context) error { _, err := s.device.Random(ctx, 16); return err },
		"Destroy": func(ctx context.Context) error { return s.device.Destroy(ctx, ca) },
		"Health":  func(ctx context.Context) error { return s.device.Health(ctx) },
	}
}

// testDeadline calls everything with a ctx that is over: the answer is the
// ctx's error or ErrBusy (which is ErrUnavailable), and nothing was done.
func testDeadline(t *testing.T, s suite) {
	ca, root := s.generate(t, signing("ca")), s.generate(t, wrapping("root"))
	wrapped := s.roundTrip(t, root, []byte("secret"), nil)
	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	past, cancel := context.WithDeadline(s.ctx, time.Now().Add(-time.Second))
	defer cancel()
	for name, operation := range s.operations(ca, root, wrapped) {
		for _, ctx := range []context.Context{cancelled, past} {
			if err := operation(ctx); !errors.Is(err, ctx.Err()) && !errors.Is(err, key.ErrUnavailable) {
				t.Errorf("%s with a ctx that is over: %v", name, err)
			}
		}
	}
	s.sign(t, ca, "not destroyed")
	if _, err := s.device.Generate(s.ctx, signing("late")); err != nil {
		t.Errorf("the label of a generation that was over before it began: %v", err)
	}
}

func testClose(t *testing.T, s suite) {
	ca, root := s.generate(t, signing("ca")), s.generate(t, wrapping("root"))
	wrapped := s.roundTrip(t, root, []byte("secret"), nil)
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for {
				digest := make([]byte, 32)
				sig, err := s.device.Sign(s.ctx, ca, digest, crypto.SHA256)
				if err != nil {
					want(t, "signing while the device closes", err, key.ErrUnavailable)
					return
				}
				if err := ca.CheckSignature(digest, sig); err != nil {
					t.Errorf("while the device closes: %v", err)
				}
			}
		})
	}
	time.Sleep(10 * time.Millisecond)
	if err := s.device.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
	running.Wait()
	for name, operation := range s.operations(ca, root, wrapped) {
		want(t, name+" after Close", operation(s.ctx), key.ErrUnavailable)
	}
	if err := s.device.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func testReopen(t *testing.T, s suite) {
	if s.options.Reopen == nil {
		t.Skip("this device cannot be opened twice")
	}
	ca, root := s.generate(t, signing("ca")), s.generate(t, wrapping("root"))
	wrapped := s.roundTrip(t, root, []byte("secret"), []byte("aad"))
	if err := s.device.Close(); err != nil {
		t.Fatal(err)
	}
	s.device = s.options.Reopen(t, s.device)
	for _, ref := range []key.Ref{ca, root} {
		found, err := s.device.Find(s.ctx, ref.ID)
		if err != nil {
			t.Fatalf("finding %s after reopening: %v", ref.Label, err)
		}
		equal(t, found, ref)
	}
	s.sign(t, ca, "reopened")
	back, err := s.device.Unwrap(s.ctx, root, wrapped, []byte("aad"))
	if err != nil || string(back) != "secret" {
		t.Errorf("unwrapping after reopening: %q, %v", back, err)
	}
	_, err = s.device.Generate(s.ctx, signing("ca"))
	want(t, "a label taken before reopening", err, key.ErrExists)
}
