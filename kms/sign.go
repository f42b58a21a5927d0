package kms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/pem"
	"fmt"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
)

// Signature is a signature over a SHA-256 digest; ECDSA's is ASN.1 DER.
type Signature struct {
	Signature []byte
	Key       string
	Version   int64
	Algorithm key.Algorithm
}

// PublicKey is the public half of one version.
type PublicKey struct {
	Key       string
	Version   int64
	Algorithm key.Algorithm
	PEM       string // PKIX
}

// Sign has the device sign a SHA-256 digest with the current version. Act: kms:Sign.
func (s *Service) Sign(ctx context.Context, g guard.Grant, name string, digest []byte) (Signature, error) {
	use, err := s.door.Redeem(g, policy.Sign, name)
	if err != nil {
		return Signature{}, err
	}
	v, r, err := s.signing(ctx, use, name, 0, digest)
	if err != nil {
		return Signature{}, err
	}
	signature, err := s.device.Sign(ctx, v.ref, digest, crypto.SHA256)
	if err != nil {
		return Signature{}, fmt.Errorf("signing with key %s: %w", name, err)
	}
	use.Touched(v.number)
	return Signature{signature, name, v.number, r.Algorithm}, nil
}

// Verify reports whether signature over a SHA-256 digest is by that version of
// the key, 0 for the current one, and which that was. Act: kms:Verify.
func (s *Service) Verify(ctx context.Context, g guard.Grant, name string, version int64, digest, signature []byte) (bool, int64, error) {
	use, err := s.door.Redeem(g, policy.Verify, name)
	if err != nil {
		return false, 0, err
	}
	v, _, err := s.signing(ctx, use, name, version, digest)
	if err != nil {
		return false, 0, err
	}
	use.Touched(v.number)
	return ecdsa.VerifyASN1(v.public, digest, signature), v.number, nil
}

// PublicKey returns the public half of a version, 0 for the current one. Act: kms:GetPublicKey.
func (s *Service) PublicKey(ctx context.Context, g guard.Grant, name string, version int64) (PublicKey, error) {
	use, err := s.door.Redeem(g, policy.GetPublicKey, name)
	if err != nil {
		return PublicKey{}, err
	}
	v, r, err := s.signing(ctx, use, name, version, make([]byte, sha256.Size))
	if err != nil {
		return PublicKey{}, err
	}
	use.Touched(v.number)
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: v.ref.Public})
	return PublicKey{name, v.number, r.Algorithm, string(text)}, nil
}

// signing opens a version of a signing key.
func (s *Service) signing(ctx context.Context, use guard.Use, name string, number int64, digest []byte) (*version, *record, error) {
	if len(digest) != sha256.Size {
		return nil, nil, fmt.Errorf("%w: a digest has the %d bytes of SHA-256, not %d", key.ErrInvalid, sha256.Size, len(digest))
	}
	r, err := s.byName(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if err := r.usable(use); err != nil {
		return nil, nil, err
	}
	if r.Tier != key.TierDevice || r.Algorithm != key.ECDSAP256 {
		return nil, nil, fmt.Errorf("%w: key %s is of tier %s and algorithm %s, which encrypts: sign with a key of tier %s", key.ErrUnsupported, name, r.Tier, r.Algorithm, key.TierDevice)
	}
	v, err := s.open(ctx, r, number)
	return v, r, err
}
