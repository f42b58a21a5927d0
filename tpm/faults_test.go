package tpm_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/tpm"
)

// A TPM that says "not started" gets the identical bytes again, for a bounded time.
func TestRetryCodes(t *testing.T) {
	t.Parallel()
	r := newRelay(t)
	d := softhsmtest.OpenTPM(t, r.uri)
	ca := generate(t, d, "ca", key.UsageSign)
	codes := []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate}
	var sent [][]byte
	r.set(func(command []byte, forward func([]byte) []byte) []byte {
		if code(command) == tpm2.TPMCCSign {
			if sent = append(sent, command); len(sent) <= len(codes) {
				return refusal(codes[len(sent)-1])
			}
		}
		return forward(command)
	})
	mustSign(t, d, ca)
	for _, command := range sent {
		if len(sent) != len(codes)+1 || !bytes.Equal(command, sent[0]) {
			t.Fatalf("%d commands were sent, or not the same one", len(sent))
		}
	}
	r.set(func(command []byte, forward func([]byte) []byte) []byte {
		if code(command) == tpm2.TPMCCSign {
			return refusal(tpm2.TPMRCRetry)
		}
		return forward(command)
	})
	want(t, "a TPM that never starts", sign(t, d, ca), key.ErrBusy)
	r.set(nil)
	mustSign(t, d, ca)
}

// What the TPM certainly did not perform is tried once more, and only once.
func TestRetriedOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rc    tpm2.TPMRC
		kind  error
		tries int
	}{
		"reset":           {tpm2.TPMRCInitialize, key.ErrUnavailable, 2},
		"session gone":    {tpm2.TPMRCReferenceS0, key.ErrUnavailable, 2},
		"object gone":     {tpm2.TPMRCReferenceH0, key.ErrUnavailable, 2},
		"slots full":      {tpm2.TPMRCObjectMemory, key.ErrBusy, 2},
		"sessions full":   {tpm2.TPMRCSessionMemory, key.ErrBusy, 2},
		"bad handle":      {tpm2.TPMRCHandle + 0x100, key.ErrUnavailable, 2},
		"bad session":     {tpm2.TPMRCValue + 0x800 + 0x100, key.ErrUnavailable, 2},
		"wrong auth":      {tpm2.TPMRCBadAuth + 0x800 + 0x100, key.ErrAuth, 1},
		"wrong auth (DA)": {tpm2.TPMRCAuthFail + 0x800 + 0x100, key.ErrAuth, 1},
		"lockout":         {tpm2.TPMRCLockout, key.ErrLockedOut, 1},
		"failure mode":    {tpm2.TPMRCFailure, key.ErrUnavailable, 1},
		"no such command": {tpm2.TPMRCCommandCode, key.ErrUnsupported, 1},
		"nonsense":        {tpm2.TPMRC(0xfff), key.ErrIntegrity, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRelay(t)
			d := softhsmtest.OpenTPM(t, r.uri)
			ca := generate(t, d, "ca", key.UsageSign)
			var tries atomic.Int32
			answer := func(times int32) {
				tries.Store(0)
				r.set(func(command []byte, forward func([]byte) []byte) []byte {
					if code(command) == tpm2.TPMCCSign && tries.Add(1) <= times {
						return refusal(c.rc)
					}
					return forward(command)
				})
			}
			answer(100)
			want(t, name, sign(t, d, ca), c.kind)
			if n := int(tries.Load()); n != c.tries {
				t.Errorf("tried %d times, want %d", n, c.tries)
			}
			answer(1)
			if err := sign(t, d, ca); (err == nil) != (c.tries == 2) {
				t.Errorf("refused once: %v", err)
			}
			r.set(nil)
			mustSign(t, d, ca)

			// A generation is never tried twice, whatever the reason.
			tries.Store(0)
			r.set(func(command []byte, forward func([]byte) []byte) []byte {
				if code(command) == tpm2.TPMCCCreate {
					tries.Add(1)
					return refusal(c.rc)
				}
				return forward(command)
			})
			_, err := d.Generate(t.Context(), key.Spec{ID: key.NewID(), Label: "once", Algorithm: key.ECDSAP256, Usage: key.UsageSign})
			want(t, name, err, c.kind)
			if n := tries.Load(); n != 1 {
				t.Errorf("generated %d times", n)
			}
			r.set(nil)
			generate(t, d, "once", key.UsageSign)
		})
	}
}

func TestConnectionLost(t *testing.T) {
	t.Parallel()
	r := newRelay(t)
	d := softhsmtest.OpenTPM(t, r.uri)
	ca := generate(t, d, "ca", key.UsageSign)
	for range 3 {
		r.hangUp() // between two operations: nobody need notice
		mustSign(t, d, ca)
	}
	r.hangUp()
	generate(t, d, "after", key.UsageSign)

	// In the middle: whether the TPM signed is not known, so it is not asked again.
	var tries atomic.Int32
	r.set(func(command []byte, forward func([]byte) []byte) []byte {
		response := forward(command)
		if code(command) == tpm2.TPMCCSign {
			tries.Add(1)
			return nil
		}
		return response
	})
	want(t, "an answer that never came", sign(t, d, ca), key.ErrUnavailable)
	if tries.Load() != 1 {
		t.Errorf("signed %d times", tries.Load())
	}
	r.set(nil)
	mustSign(t, d, ca)
}

// A session that the TPM forgot is replaced: another client flushes it between two commands.
func TestSessionFlushedByAnother(t *testing.T) {
	t.Parallel()
	r := newRelay(t)
	d := softhsmtest.OpenTPM(t, r.uri)
	ca := generate(t, d, "ca", key.UsageSign)
	for _, victim := range []tpm2.TPMHandle{0x02000000, 0x80000000, 0x80000001} {
		done := false
		r.set(func(command []byte, forward func([]byte) []byte) []byte {
			if code(command) == tpm2.TPMCCSign && !done {
				done = true
				flush := []byte{0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65, byte(victim >> 24), 0, 0, byte(victim)}
				if rsp := forward(flush); !bytes.Equal(rsp, refusal(tpm2.TPMRCSuccess)) {
					t.Errorf("flushing %#x: %x", victim, rsp)
				}
			}
			return forward(command)
		})
		mustSign(t, d, ca)
		mustSign(t, d, ca) // the loss of the storage root shows here
	}
}

// A hanging TPM costs its caller a bounded time, and those who wait only their own patience.
func TestHang(t *testing.T) {
	t.Parallel()
	r := newRelay(t)
	d := softhsmtest.OpenTPM(t, r.uri)
	ca := generate(t, d, "ca", key.UsageSign)
	release := make(chan struct{})
	r.set(func(command []byte, forward func([]byte) []byte) []byte {
		if code(command) == tpm2.TPMCCSign {
			<-release
		}
		return forward(command)
	})
	short := func(wait time.Duration) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		start := time.Now()
		_, err := d.Sign(ctx, ca, make([]byte, 32), nil)
		return time.Since(start), err
	}
	var running sync.WaitGroup
	running.Go(func() {
		took, err := short(100 * time.Millisecond)
		want(t, "the caller of a hanging TPM", err, key.ErrUnavailable)
		if errors.Is(err, key.ErrBusy) || took > 10*time.Second {
			t.Errorf("%v after %s", err, took)
		}
	})
	time.Sleep(50 * time.Millisecond)
	took, err := short(50 * time.Millisecond)
	want(t, "who waits behind it", err, key.ErrBusy)
	if took > time.Second {
		t.Errorf("waited %s", took)
	}
	running.Wait()
	close(release)
	r.set(nil)
	mustSign(t, d, ca)
}

// A lying or broken TPM is an error, never a panic and never a false result.
func TestLies(t *testing.T) {
	t.Parallel()
	r := newRelay(t)
	d := softhsmtest.OpenTPM(t, r.uri)
	ca, root := generate(t, d, "ca", key.UsageSign), generate(t, d, "root", key.UsageWrap)
	secret := []byte("0123456789abcdef0123456789abcdef")
	wrapped, err := d.Wrap(t.Context(), root, secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	lies := map[string]func([]byte) []byte{
		"flipped bit": func(b []byte) []byte { b[rng.IntN(len(b))] ^= 1 << rng.IntN(8); return b },
		"zeroed":      func(b []byte) []byte { clear(b[10:]); return b },
		"random": func(b []byte) []byte {
			for i := range b[10:] {
				b[10+i] = byte(rng.Uint32())
			}
			return b
		},
		"cut": func(b []byte) []byte {
			b = b[:10+rng.IntN(len(b)-9)]
			b[4], b[5] = byte(len(b)>>8), byte(len(b))
			return b
		},
		"short":        func(b []byte) []byte { return b[:rng.IntN(len(b))] },
		"longer":       func(b []byte) []byte { return append(b, 0) },
		"huge":         func(b []byte) []byte { b[2] = 0x7f; return b },
		"tiny":         func(b []byte) []byte { b[4], b[5] = 0, 9; return b },
		"only success": func([]byte) []byte { return refusal(tpm2.TPMRCSuccess) },
		"no success":   func([]byte) []byte { return refusal(tpm2.TPMRC(rng.Uint32N(0x8ff) + 1)) }, // below the codes that mean "send it again"
	}
	for name, lie := range lies {
		for round := range 30 {
			victim, n := round%12, 0
			r.set(func(command []byte, forward func([]byte) []byte) []byte {
				response := forward(command)
				if n++; n-1 != victim || len(response) <= 10 {
					return response
				}
				response = lie(bytes.Clone(response))
				if name == "short" || name == "huge" {
					defer r.hangUpSoon() // or the device would wait for the rest
				}
				return response
			})
			if err := sign(t, d, ca); err != nil && errors.Is(err, key.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
			if back, err := d.Unwrap(t.Context(), root, wrapped, nil); err == nil && !bytes.Equal(back, secret) {
				t.Errorf("%s: unwrapped something else", name)
			}
			_, _ = d.Wrap(t.Context(), root, secret, nil)
			_ = d.Health(t.Context())
			r.set(nil)
			if sign(t, d, ca) != nil { // a lie may be noticed one operation later
				mustSign(t, d, ca)
			}
			if t.Failed() {
				t.Fatalf("%s, round %d", name, round)
			}
		}
	}
	if back, err := d.Unwrap(t.Context(), root, wrapped, nil); err != nil || !bytes.Equal(back, secret) {
		t.Errorf("after all lies: %v", err)
	}
}

// Neither secrets nor random bytes nor the authorisation value cross the bus in the clear.
func TestBus(t *testing.T) {
	t.Parallel()
	r := newRelay(t)
	d := softhsmtest.OpenTPM(t, r.uri)
	root := generate(t, d, "root", key.UsageWrap)
	secret := []byte("a secret that a logic analyser must not see")
	wrapped, err := d.Wrap(t.Context(), root, secret, []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := d.Unwrap(t.Context(), root, wrapped, []byte("aad")); err != nil || !bytes.Equal(back, secret) {
		t.Fatal(err)
	}
	random, err := d.Random(t.Context(), 64)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := tpm.ParseURI(r.uri)
	auth, err := tpm.AuthOf(u.Auth)
	if err != nil || len(auth) < 16 {
		t.Fatal("no authorisation value", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) < 20 {
		t.Fatalf("only %d messages were seen", len(r.seen))
	}
	for what, clear := range map[string][]byte{"the secret": secret[:12], "random bytes": random[:12], "the authorisation value": auth[:12]} {
		for _, message := range r.seen {
			if bytes.Contains(message, clear) {
				t.Errorf("%s crossed the bus", what)
			}
		}
	}
}
