// Package devicetest is the conformance suite of key.Device. Every device
// passes it unchanged: what differs between devices is an optional interface,
// never another meaning of the same method.
package devicetest

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
)

// Options adapts the suite to a device. The zero value is right for a fast one.
type Options struct {
	// Reopen opens once more the device that Run got from open and has closed.
	// Without it the test that keys outlive Close is skipped.
	Reopen func(t testing.TB, closed key.Device) key.Device
	// Rounds is how often each of the 16 concurrent goroutines uses its keys; zero means 5.
	Rounds int
}

func (o Options) rounds() int {
	if o.Rounds == 0 {
		return 5
	}
	return o.Rounds
}

// patience bounds every single operation of the suite: a device that hangs fails, it does not block.
const patience = 60 * time.Second

// Run runs the suite. open returns a device that holds no keys yet and is
// closed by open's own cleanup; Run calls it once per group of tests and may
// close the device before that, so a second Close must do no harm.
func Run(t *testing.T, open func(t testing.TB) key.Device, options Options) {
	for _, group := range []struct {
		name string
		test func(*testing.T, suite)
	}{
		{"Generate", testGenerate},
		{"Find", testFind},
		{"Sign", testSign},
		{"Wrap", testWrap},
		{"Altered", testAltered},
		{"Random", testRandom},
		{"Attributes", testAttributes},
		{"Destroy", testDestroy},
		{"Forged", testForged},
		{"Health", testHealth},
		{"Concurrent", testConcurrent},
		{"Deadline", testDeadline},
		{"Close", testClose},
		{"Reopen", testReopen},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			group.test(t, suite{ctx, open(t), options})
		})
	}
}

// suite is one device under one group of tests.
type suite struct {
	ctx     context.Context
	device  key.Device
	options Options
}

func signing(label string) key.Spec {
	return key.Spec{ID: key.NewID(), Label: label, Algorithm: key.ECDSAP256, Usage: key.UsageSign}
}

func wrapping(label string) key.Spec {
	return key.Spec{ID: key.NewID(), Label: label, Algorithm: key.AES256, Usage: key.UsageWrap}
}

func (s suite) generate(t testing.TB, spec key.Spec) key.Ref {
	t.Helper()
	ref, err := s.device.Generate(s.ctx, spec)
	if err != nil {
		t.Fatalf("generating %s: %v", spec.Label, err)
	}
	return ref
}

// sign signs a digest of text and verifies it once more, independently of the device.
func (s suite) sign(t testing.TB, ref key.Ref, text string) {
	t.Helper()
	digest := sha256.Sum256([]byte(text))
	sig, err := s.device.Sign(s.ctx, ref, digest[:], crypto.SHA256)
	if err != nil {
		t.Errorf("signing with %s: %v", ref.Label, err)
		return
	}
	if err := ref.CheckSignature(digest[:], sig); err != nil {
		t.Errorf("signature released by the device: %v", err)
	}
}

// roundTrip wraps secret and unwraps it again.
func (s suite) roundTrip(t testing.TB, ref key.Ref, secret, aad []byte) []byte {
	t.Helper()
	wrapped, err := s.device.Wrap(s.ctx, ref, secret, aad)
	if err != nil {
		t.Errorf("wrapping %d bytes with %s: %v", len(secret), ref.Label, err)
		return nil
	}
	back, err := s.device.Unwrap(s.ctx, ref, wrapped, aad)
	if err != nil || string(back) != string(secret) {
		t.Errorf("unwrapping %d bytes with %s: not what was wrapped, %v", len(secret), ref.Label, err)
	}
	return wrapped
}

// want fails unless err is of the kind.
func want(t testing.TB, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: got error %v, want %v", what, err, kind)
	}
}

// equal compares two references field by field that every device must keep.
func equal(t testing.TB, got, want key.Ref) {
	t.Helper()
	if got.ID != want.ID || got.Label != want.Label || got.Algorithm != want.Algorithm || got.Usage != want.Usage ||
		string(got.Public) != string(want.Public) || string(got.Check) != string(want.Check) {
		t.Errorf("found %+v, want %+v", got, want)
	}
}
