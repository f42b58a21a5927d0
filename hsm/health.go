package hsm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/key"
)

// remember makes ref the key that Health tries.
func (t *token) remember(ref key.Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.canary.ID != ref.ID {
		t.canary = ref
	}
}

// Health implements key.Device. It looks up the key that served last and lets
// it sign or compute its key-check value; a token that served no key yet
// encrypts with a key that lives as long as the call.
func (d *Device) Health(ctx context.Context) error {
	t := d.token
	t.mu.Lock()
	ref := t.canary
	t.mu.Unlock()
	return d.do(ctx, "checking the token's health", func(s *session) error {
		if err := t.loggedIn(s.handle); err != nil {
			return err
		}
		if ref.ID.IsZero() {
			return s.passingKey()
		}
		err := s.tryKey(ref)
		if errors.Is(err, key.ErrNotFound) { // destroyed meanwhile, and the token is well enough to know
			return s.passingKey()
		}
		return err
	})
}

// tryKey uses a stored key, found afresh: a remembered handle would not show
// that the token lost its objects.
func (s *session) tryKey(ref key.Ref) error {
	handle, err := s.one(ref.ID, classOf(ref.Usage))
	if err != nil {
		return err
	}
	if ref.Usage == key.UsageWrap {
		check, err := s.keyCheck(handle)
		if err == nil && !bytes.Equal(check, ref.Check) {
			err = fmt.Errorf("%w: the key-check value of %s is not the recorded one", key.ErrIntegrity, ref.Label)
		}
		return err
	}
	digest := sha256.Sum256([]byte("sealwright/hsm canary v1"))
	sig, err := s.sign(handle, digest[:])
	if err != nil {
		return err
	}
	return ref.CheckSignature(digest[:], sig)
}

// passingKey makes a session key, encrypts, decrypts and destroys it.
func (s *session) passingKey() error {
	handle, err := s.lib.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
	})
	if err != nil {
		return err
	}
	text := []byte("canary")
	iv, err := s.freshIV()
	var sealed, back []byte
	if err == nil {
		sealed, iv, err = s.gcm(handle, iv, checkDomain, nil, text, true)
	}
	if err == nil {
		back, _, err = s.gcm(handle, iv, checkDomain, nil, sealed, false)
	}
	if err == nil && !bytes.Equal(back, text) {
		err = fmt.Errorf("%w: the token decrypts to something else than was encrypted", key.ErrIntegrity)
	}
	if gone := s.lib.DestroyObject(s.handle, handle); err == nil {
		err = gone
	}
	return err
}
