package devicetest

import (
	"bytes"
	"crypto"
	"testing"

	"github.com/sealwright/sealwright/key"
)

func testWrap(t *testing.T, s suite) {
	root, ca := s.generate(t, wrapping("root")), s.generate(t, signing("ca"))
	secret := []byte("0123456789abcdef0123456789abcdef")
	for _, n := range []int{1, 16, 31, 32, 33, 48, 64} {
		for _, aad := range [][]byte{nil, []byte("keyring prod 1"), bytes.Repeat([]byte("a"), 1024)} {
			s.roundTrip(t, root, bytes.Repeat([]byte{byte(n)}, n), aad)
		}
	}
	one, two := s.roundTrip(t, root, secret, nil), s.roundTrip(t, root, secret, nil)
	if bytes.Equal(one, two) {
		t.Error("wrapping twice gave the same bytes: the IV is not fresh")
	}
	if bytes.Contains(one, secret[:8]) {
		t.Error("the wrapped form shows the secret")
	}
	if back, err := s.device.Unwrap(s.ctx, root, one, []byte{}); err != nil || !bytes.Equal(back, secret) {
		t.Errorf("no aad and empty aad must be the same: %v", err)
	}

	for _, n := range []int{0, 65, 4096} {
		_, err := s.device.Wrap(s.ctx, root, make([]byte, n), nil)
		want(t, "a secret outside 1 to 64 bytes", err, key.ErrInvalid)
	}
	_, err := s.device.Wrap(s.ctx, root, secret, make([]byte, 1025))
	want(t, "an aad over 1 KiB", err, key.ErrInvalid)
	_, err = s.device.Wrap(s.ctx, ca, secret, nil)
	want(t, "wrapping with a signing key", err, key.ErrUnsupported)
	_, err = s.device.Unwrap(s.ctx, ca, one, nil)
	want(t, "unwrapping with a signing key", err, key.ErrUnsupported)
}

// testAltered changes a wrapped secret in every way an attacker with the store could.
func testAltered(t *testing.T, s suite) {
	root, other := s.generate(t, wrapping("root/one")), s.generate(t, wrapping("root/two"))
	ca := s.generate(t, signing("ca"))
	secret, aad := []byte("0123456789abcdef0123456789abcdef"), []byte("keyring prod 1")
	wrapped := s.roundTrip(t, root, secret, aad)
	if len(wrapped) == 0 {
		t.Fatal("nothing was wrapped")
	}
	refuse := func(what string, ref key.Ref, wrapped, aad []byte) {
		t.Helper()
		back, err := s.device.Unwrap(s.ctx, ref, wrapped, aad)
		want(t, what, err, key.ErrInvalidCiphertext)
		if back != nil {
			t.Errorf("%s: bytes were released", what)
		}
	}
	refuse("another aad", root, wrapped, []byte("keyring prod 2"))
	refuse("a longer aad", root, wrapped, append(bytes.Clone(aad), 0))
	refuse("no aad", root, wrapped, nil)
	refuse("another key", other, wrapped, aad)
	refuse("nothing", root, nil, aad)
	refuse("an empty slice", root, []byte{}, aad)
	refuse("a longer text", root, append(bytes.Clone(wrapped), 0), aad)
	refuse("an endless text", root, append(bytes.Clone(wrapped), make([]byte, 1<<16)...), aad)
	for i := range wrapped {
		flipped := bytes.Clone(wrapped)
		flipped[i] ^= 1 << (i % 8)
		refuse("a flipped bit", root, flipped, aad)
		refuse("a truncated text", root, wrapped[:i], aad)
		if t.Failed() {
			t.Fatalf("at byte %d of %d", i, len(wrapped))
		}
	}
	if back, err := s.device.Unwrap(s.ctx, root, wrapped, aad); err != nil || !bytes.Equal(back, secret) {
		t.Errorf("after all refusals the true text no longer unwraps: %v", err)
	}
	sig, err := s.device.Sign(s.ctx, ca, make([]byte, 32), crypto.SHA256)
	if err != nil || ca.CheckSignature(make([]byte, 32), sig) != nil {
		t.Errorf("after all refusals the device no longer signs: %v", err)
	}
}
