package kms

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/internal/locked"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms/envelope"
	"github.com/sealwright/sealwright/policy"
)

// materialSize is the length of a key of tier wrapped, and of a data key.
const materialSize = 32

// Sealed is a ciphertext.
type Sealed struct {
	Text    string // as envelope.Text writes it
	Key     string
	Version int64
}

// Opened is a plaintext. It prints as [redacted].
type Opened struct {
	locked.Redacted
	Plaintext []byte
	Key       string
	Version   int64
}

// Rewrapped is a ciphertext that was under another version before.
type Rewrapped struct {
	Sealed
	From int64
}

// DataKey is a new 256-bit key and its ciphertext, which Decrypt opens. It
// prints as [redacted].
type DataKey struct {
	locked.Redacted
	Plaintext []byte // nil when it was not asked for
	Wrapped   string
	Key       string
	Version   int64
}

// Encrypt seals plaintext under the current version of the key and binds it to
// the encryption context of the request. Act: kms:Encrypt.
func (s *Service) Encrypt(ctx context.Context, g guard.Grant, name string, plaintext []byte) (Sealed, error) {
	use, err := s.door.Redeem(g, policy.Encrypt, name)
	if err != nil {
		return Sealed{}, err
	}
	r, err := s.byName(ctx, name)
	if err != nil {
		return Sealed{}, err
	}
	return s.seal(ctx, use, r, plaintext)
}

// Decrypt opens a ciphertext in text form, under the encryption context of the request.
// Act: kms:Decrypt on what LookupCiphertext returned. Whatever is wrong with
// the ciphertext or the context is exactly key.ErrInvalidCiphertext.
func (s *Service) Decrypt(ctx context.Context, g guard.Grant, text string) (Opened, error) {
	ciphertext, r, object, err := s.parse(ctx, text)
	if err != nil {
		return Opened{}, err
	}
	use, err := s.door.Redeem(g, policy.Decrypt, object.Name)
	if err != nil {
		return Opened{}, err
	}
	plaintext, version, err := s.unsealCiphertext(ctx, use, r, ciphertext)
	if err != nil {
		return Opened{}, err
	}
	return Opened{Plaintext: plaintext, Key: object.Name, Version: version}, nil
}

// Rewrap moves a ciphertext to the current version of its key; the plaintext
// does not leave. Acts: kms:RewrapFrom and kms:RewrapTo, both on what
// LookupCiphertext returned.
func (s *Service) Rewrap(ctx context.Context, g guard.Grant, text string) (Rewrapped, error) {
	ciphertext, r, object, err := s.parse(ctx, text)
	if err != nil {
		return Rewrapped{}, err
	}
	from, err := s.door.Redeem(g, policy.RewrapFrom, object.Name)
	if err != nil {
		return Rewrapped{}, err
	}
	to, err := s.door.Redeem(g, policy.RewrapTo, object.Name)
	if err != nil {
		return Rewrapped{}, err
	}
	plaintext, version, err := s.unsealCiphertext(ctx, from, r, ciphertext)
	if err != nil {
		return Rewrapped{}, err
	}
	defer clear(plaintext)
	sealed, err := s.seal(ctx, to, r, plaintext)
	return Rewrapped{sealed, version}, err
}

// DataKey makes a data key, with its plaintext or without. Act:
// kms:GenerateDataKey or kms:GenerateDataKeyWithoutPlaintext.
func (s *Service) DataKey(ctx context.Context, g guard.Grant, name string, plaintext bool) (DataKey, error) {
	action := policy.GenerateDataKeyWithoutPlaintext
	if plaintext {
		action = policy.GenerateDataKey
	}
	use, err := s.door.Redeem(g, action, name)
	if err != nil {
		return DataKey{}, err
	}
	r, err := s.byName(ctx, name)
	if err != nil {
		return DataKey{}, err
	}
	made := make([]byte, materialSize)
	_, _ = rand.Read(made) // never fails since Go 1.24: the program ends instead
	sealed, err := s.seal(ctx, use, r, made)
	if err != nil || !plaintext {
		clear(made)
		made = nil
	}
	if err != nil {
		return DataKey{}, err
	}
	return DataKey{Plaintext: made, Wrapped: sealed.Text, Key: name, Version: sealed.Version}, nil
}

func (s *Service) seal(ctx context.Context, use guard.Use, r *record, plaintext []byte) (Sealed, error) {
	if err := r.usable(use); err != nil {
		return Sealed{}, err
	}
	if err := r.encrypts(); err != nil {
		return Sealed{}, err
	}
	v, err := s.open(ctx, r, 0)
	if err != nil {
		return Sealed{}, err
	}
	ciphertext, err := v.envelope.Seal(envelope.Header{ObjectID: r.ID, Version: uint32(v.number)}, plaintext, use.Context())
	if err != nil {
		return Sealed{}, err
	}
	use.Touched(v.number)
	return Sealed{envelope.Text(ciphertext), r.object.Name, v.number}, nil
}

// unsealCiphertext opens a ciphertext that names r, or no key if r is nil.
func (s *Service) unsealCiphertext(ctx context.Context, use guard.Use, r *record, ciphertext []byte) ([]byte, int64, error) {
	if r == nil {
		return nil, 0, key.ErrInvalidCiphertext
	}
	if err := r.usable(use); err != nil {
		return nil, 0, err
	}
	if r.Tier != key.TierWrapped {
		return nil, 0, key.ErrInvalidCiphertext // such a key never sealed anything
	}
	h, err := envelope.Parse(ciphertext)
	if err != nil || h.Version == 0 {
		return nil, 0, key.ErrInvalidCiphertext
	}
	v, err := s.open(ctx, r, int64(h.Version))
	if errors.Is(err, key.ErrNotFound) {
		return nil, 0, key.ErrInvalidCiphertext
	}
	if err != nil {
		return nil, 0, err
	}
	plaintext, err := v.envelope.Open(ciphertext, use.Context())
	if err != nil {
		return nil, 0, err
	}
	use.Touched(v.number)
	return plaintext, v.number, nil
}

func (r *record) encrypts() error {
	if r.Tier == key.TierWrapped && r.Algorithm == key.AES256 {
		return nil
	}
	return fmt.Errorf("%w: key %s is of tier %s and algorithm %s, which signs: encrypt under a key of tier %s", key.ErrUnsupported, r.object.Name, r.Tier, r.Algorithm, key.TierWrapped)
}
