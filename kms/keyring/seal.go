package keyring

import (
	"bytes"
	"context"
	"fmt"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms/envelope"
)

// Place says where a sealed value belongs. It opens nowhere else.
type Place struct {
	Environment string
	Purpose     Purpose // KeyMaterial or Secrets
	ID          key.ID  // of the object
	Version     uint32  // of the object
}

// Seal encrypts plaintext (at most envelope.MaxPlaintext bytes) for its place
// under the current keyring, whose version it returns: store it in the same
// row. The result was opened again before it is returned, because a flipped bit
// here would lose a key for ever.
func (s *Set) Seal(ctx context.Context, p Place, plaintext []byte) (sealed []byte, version int64, err error) {
	r, err := s.ring(ctx, p.Environment, 0)
	if err != nil {
		return nil, 0, err
	}
	k, err := r.sealing(p.Purpose)
	if err != nil {
		return nil, 0, err
	}
	sealed, err = k.Seal(envelope.Header{ObjectID: p.ID, Version: p.Version}, plaintext, nil)
	if err != nil {
		return nil, 0, err
	}
	back, err := k.Open(sealed, nil)
	same := bytes.Equal(back, plaintext)
	clear(back)
	if err != nil || !same {
		return nil, 0, fmt.Errorf("%w: a value just sealed does not open again: check this machine's memory", key.ErrIntegrity)
	}
	return sealed, r.version, nil
}

// Open appends what Seal was given to dst, which may be locked memory; with
// enough capacity the plaintext is written nowhere else. version is the one
// Seal returned. Another place, another version or any changed byte is
// key.ErrInvalidCiphertext; a keyring that is not there is key.ErrNotFound.
func (s *Set) Open(ctx context.Context, dst []byte, p Place, version int64, sealed []byte) ([]byte, error) {
	if version < 1 {
		return nil, key.ErrInvalidCiphertext
	}
	r, err := s.ring(ctx, p.Environment, version)
	if err != nil {
		return nil, err
	}
	k, err := r.sealing(p.Purpose)
	if err != nil {
		return nil, err
	}
	// One key seals many objects, so the header must name the one that is expected.
	h, err := envelope.Parse(sealed)
	if err != nil || h.ObjectID != p.ID || h.Version != p.Version {
		return nil, key.ErrInvalidCiphertext
	}
	return k.AppendOpen(dst, sealed, nil)
}

func (r *ring) sealing(p Purpose) (*envelope.Key, error) {
	if k, ok := r.seals[p]; ok {
		return k, nil
	}
	return nil, fmt.Errorf("%w: sealing for purpose %q", key.ErrUnsupported, p)
}
