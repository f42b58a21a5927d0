package devicetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/key"
)

func testGenerate(t *testing.T, s suite) {
	spec := signing("ca/issuing.1")
	ref := s.generate(t, spec)
	if ref.ID != spec.ID || ref.Label != spec.Label || ref.Algorithm != spec.Algorithm || ref.Usage != spec.Usage {
		t.Errorf("generated %+v, asked for %+v", ref, spec)
	}
	public, err := ref.PublicKey()
	if ec, ok := public.(*ecdsa.PublicKey); err != nil || !ok || ec.Curve != elliptic.P256() {
		t.Errorf("public half is %T, %v; want an ECDSA key on P-256", public, err)
	}
	root := s.generate(t, wrapping("root/"+strings.Repeat("a", 59)))
	if len(root.Public) != 0 {
		t.Error("a wrapping key came with a public half")
	}

	taken := signing(spec.Label)
	_, err = s.device.Generate(s.ctx, taken)
	want(t, "a label that a signing key has", err, key.ErrExists)
	_, err = s.device.Generate(s.ctx, wrapping(spec.Label))
	want(t, "a wrapping key under a signing key's label", err, key.ErrExists)
	_, err = s.device.Generate(s.ctx, signing(root.Label))
	want(t, "a signing key under a wrapping key's label", err, key.ErrExists)
	taken = signing("other")
	taken.ID = spec.ID
	_, err = s.device.Generate(s.ctx, taken)
	want(t, "an id that a key has", err, key.ErrExists)
	taken = wrapping("other")
	taken.ID = spec.ID
	_, err = s.device.Generate(s.ctx, taken)
	want(t, "a wrapping key under a signing key's id", err, key.ErrExists)
	s.sign(t, ref, "the refused generations did no harm")

	for _, bad := range []string{"", "UPPER", "with space", "ümlaut", "new\nline", "nul\x00", strings.Repeat("a", 65)} {
		_, err := s.device.Generate(s.ctx, signing(bad))
		want(t, "the label "+bad, err, key.ErrInvalid)
	}
	nameless := signing("nameless")
	nameless.ID = key.ID{}
	_, err = s.device.Generate(s.ctx, nameless)
	want(t, "a zero id", err, key.ErrInvalid)
	for _, bad := range []key.Spec{
		{Algorithm: key.AES256, Usage: key.UsageSign},
		{Algorithm: key.ECDSAP256, Usage: key.UsageWrap},
		{Algorithm: key.ECDSAP256},
		{Algorithm: "rot13", Usage: key.UsageWrap},
	} {
		bad.ID, bad.Label = key.NewID(), "unsupported"
		_, err := s.device.Generate(s.ctx, bad)
		want(t, string(bad.Algorithm)+" to "+string(bad.Usage), err, key.ErrUnsupported)
		_, err = s.device.Find(s.ctx, bad.ID)
		want(t, "what was never generated", err, key.ErrNotFound)
	}
}

func testFind(t *testing.T, s suite) {
	_, err := s.device.Find(s.ctx, key.NewID())
	want(t, "an id in an empty device", err, key.ErrNotFound)
	for _, spec := range []key.Spec{signing("ca/one"), signing("ca/two"), wrapping("root/one"), wrapping("root/two")} {
		ref := s.generate(t, spec)
		found, err := s.device.Find(s.ctx, spec.ID)
		if err != nil {
			t.Errorf("finding %s: %v", spec.Label, err)
			continue
		}
		equal(t, found, ref)
		// What the store keeps must be as good as what Generate returned.
		stored, err := key.DecodeRef(found.Encode())
		if err != nil {
			t.Errorf("decoding the reference of %s: %v", spec.Label, err)
		}
		if spec.Usage == key.UsageSign {
			s.sign(t, stored, "found")
		} else {
			s.roundTrip(t, stored, []byte("found"), nil)
		}
	}
	_, err = s.device.Find(s.ctx, key.NewID())
	want(t, "an id that nobody generated", err, key.ErrNotFound)
}

func testSign(t *testing.T, s suite) {
	ref, other := s.generate(t, signing("ca/a")), s.generate(t, signing("ca/b"))
	root := s.generate(t, wrapping("root"))
	for _, text := range []string{"", "a", "b", strings.Repeat("long", 1000)} {
		s.sign(t, ref, text)
		s.sign(t, other, text)
	}
	for _, digest := range [][]byte{make([]byte, 32), []byte(strings.Repeat("\xff", 32))} {
		sig, err := s.device.Sign(s.ctx, ref, digest, crypto.SHA256)
		if err != nil || ref.CheckSignature(digest, sig) != nil {
			t.Errorf("signing digest %x: %v", digest[:4], err)
		}
	}
	for _, n := range []int{0, 1, 20, 31, 33, 48, 64} {
		_, err := s.device.Sign(s.ctx, ref, make([]byte, n), crypto.SHA256)
		want(t, "a digest of the wrong length", err, key.ErrInvalid)
	}
	_, err := s.device.Sign(s.ctx, ref, make([]byte, 48), crypto.SHA384)
	want(t, "a SHA-384 digest", err, key.ErrInvalid)
	digest := sha256.Sum256(nil)
	_, err = s.device.Sign(s.ctx, root, digest[:], crypto.SHA256)
	want(t, "signing with a wrapping key", err, key.ErrUnsupported)

	signer, err := key.NewSigner(s.device, ref)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || ref.CheckSignature(digest[:], sig) != nil {
		t.Errorf("signing through crypto.Signer: %v", err)
	}
}

func testRandom(t *testing.T, s suite) {
	seen := map[string]bool{}
	for _, n := range []int{1, 16, 32, 32, 33, 64, 65, 1000, 1024} {
		b, err := s.device.Random(s.ctx, n)
		if err != nil || len(b) != n {
			t.Errorf("%d random bytes: got %d, %v", n, len(b), err)
			continue
		}
		if n >= 16 && (seen[string(b[:16])] || strings.Count(string(b), "\x00") > n/4) {
			t.Errorf("%d bytes that are not random", n)
		}
		if n >= 16 {
			seen[string(b[:16])] = true
		}
	}
	for _, n := range []int{-1, 0, 1025} {
		_, err := s.device.Random(s.ctx, n)
		want(t, "a number of random bytes outside 1 to 1024", err, key.ErrInvalid)
	}
}

func testAttributes(t *testing.T, s suite) {
	for _, spec := range []key.Spec{signing("ca"), wrapping("root")} {
		ref := s.generate(t, spec)
		a, err := s.device.Attributes(s.ctx, ref)
		if err != nil || a.Extractable || !a.Sensitive || !a.GeneratedInside || a.DeviceDescriptor == "" {
			t.Errorf("attributes of %s: %+v, %v", spec.Label, a, err)
		}
	}
}

func testDestroy(t *testing.T, s suite) {
	ca, root := s.generate(t, signing("ca")), s.generate(t, wrapping("root"))
	kept := s.generate(t, signing("kept"))
	wrapped := s.roundTrip(t, root, []byte("secret"), nil)
	for _, ref := range []key.Ref{ca, root} {
		if err := s.device.Destroy(s.ctx, ref); err != nil {
			t.Fatalf("destroying %s: %v", ref.Label, err)
		}
		_, err := s.device.Find(s.ctx, ref.ID)
		want(t, "finding a destroyed key", err, key.ErrNotFound)
		_, err = s.device.Attributes(s.ctx, ref)
		want(t, "attributes of a destroyed key", err, key.ErrNotFound)
		want(t, "destroying twice", s.device.Destroy(s.ctx, ref), key.ErrNotFound)
	}
	_, err := s.device.Sign(s.ctx, ca, make([]byte, 32), crypto.SHA256)
	want(t, "signing with a destroyed key", err, key.ErrNotFound)
	_, err = s.device.Wrap(s.ctx, root, []byte("secret"), nil)
	want(t, "wrapping with a destroyed key", err, key.ErrNotFound)
	_, err = s.device.Unwrap(s.ctx, root, wrapped, nil)
	want(t, "unwrapping with a destroyed key", err, key.ErrNotFound)

	s.sign(t, kept, "the other key is untouched")
	again := s.generate(t, signing("ca"))
	if string(again.Public) == string(ca.Public) {
		t.Error("the label's new key is the destroyed one")
	}
	s.sign(t, again, "a freed label")
}

// testForged gives references that do not tell the truth about their key.
func testForged(t *testing.T, s suite) {
	one, two := s.generate(t, signing("ca/one")), s.generate(t, signing("ca/two"))
	forged := one
	forged.Public = two.Public
	sig, err := s.device.Sign(s.ctx, forged, make([]byte, 32), crypto.SHA256)
	want(t, "a reference with another key's public half", err, key.ErrIntegrity)
	if sig != nil {
		t.Error("a signature that failed its check was released")
	}
	s.sign(t, one, "the true reference still serves")

	root, other := s.generate(t, wrapping("root/one")), s.generate(t, wrapping("root/two"))
	if len(root.Check) == 0 {
		return // the device has another way to know its wrapping keys again
	}
	if string(root.Check) == string(other.Check) {
		t.Error("two wrapping keys have one key-check value")
	}
	for _, check := range [][]byte{other.Check, root.Check[1:], nil} {
		forged = root
		forged.Check = check
		_, err = s.device.Wrap(s.ctx, forged, []byte("secret"), nil)
		want(t, "wrapping under a false key-check value", err, key.ErrIntegrity)
	}
	s.roundTrip(t, root, []byte("secret"), nil)
}
