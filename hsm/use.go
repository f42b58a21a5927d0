package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sealwright/sealwright/key"
)

// The bounds of key.Device.
const (
	maxSecret = 64
	maxAAD    = 1024
	maxRandom = 1024
)

// The wrapped form is version, IV, ciphertext and tag.
const (
	wrapVersion  = 1
	ivSize       = 12 // 96 bit, the size for which GCM uses the IV as it is
	tagSize      = 16
	wrapOverhead = 1 + ivSize + tagSize
)

// Separate domains under one key: neither can be taken for the other.
const (
	wrapDomain  = "sealwright/hsm wrap v1\x00"
	checkDomain = "sealwright/hsm key check v1\x00"
	checkIV     = "key check v1" // 12 bytes; no wrapping ever uses this IV
)

// Sign implements key.Device.
func (d *Device) Sign(ctx context.Context, ref key.Ref, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if ref.Usage != key.UsageSign || ref.Algorithm != key.ECDSAP256 {
		return nil, fmt.Errorf("%w: signing with %s, a key of algorithm %q to %q", key.ErrUnsupported, ref.Label, ref.Algorithm, ref.Usage)
	}
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, fmt.Errorf("%w: signing with %s: only SHA-256 digests of %d bytes are signed", key.ErrInvalid, ref.Label, sha256.Size)
	}
	var sig []byte
	err := d.do(ctx, "signing with "+ref.Label, func(s *session) error {
		o, err := s.resolve(ref.ID, ref.Usage)
		if err != nil {
			return err
		}
		sig, err = s.sign(o.handle, digest)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := ref.CheckSignature(digest, sig); err != nil {
		// The handle may denote another key since the device restarted unseen: never trust it again.
		d.token.integrityFailure.Add(1)
		d.token.forget(ref.ID, ref.Usage)
		return nil, fmt.Errorf("signing with %s: %w", ref.Label, err)
	}
	d.token.remember(ref)
	return sig, nil
}

// sign returns the ASN.1 form of the r‖s that tokens give.
func (s *session) sign(handle pkcs11.ObjectHandle, digest []byte) ([]byte, error) {
	if err := s.lib.SignInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, handle); err != nil {
		return nil, err
	}
	raw, err := s.lib.Sign(s.handle, digest)
	if err != nil {
		return nil, err
	}
	if len(raw) != 64 {
		return nil, fmt.Errorf("%w: the token's signature has %d bytes, want 64", key.ErrIntegrity, len(raw))
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[:32]))
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[32:]))
	})
	return b.Bytes()
}

func checkWrapping(doing string, ref key.Ref) error {
	if ref.Usage != key.UsageWrap || ref.Algorithm != key.AES256 {
		return fmt.Errorf("%w: %s %s, a key of algorithm %q to %q", key.ErrUnsupported, doing, ref.Label, ref.Algorithm, ref.Usage)
	}
	return nil
}

// Wrap implements key.Device. The IV is random, so one key may wrap 2^32
// secrets; a root key wraps one per keyring.
func (d *Device) Wrap(ctx context.Context, ref key.Ref, secret, aad []byte) ([]byte, error) {
	if err := checkWrapping("wrapping with", ref); err != nil {
		return nil, err
	}
	if len(secret) == 0 || len(secret) > maxSecret || len(aad) > maxAAD {
		return nil, fmt.Errorf("%w: wrapping with %s: a secret has 1 to %d bytes and its associated data at most %d", key.ErrInvalid, ref.Label, maxSecret, maxAAD)
	}
	var wrapped []byte
	err := d.do(ctx, "wrapping with "+ref.Label, func(s *session) error {
		o, err := s.wrapping(ref)
		if err != nil {
			return err
		}
		wrapped, err = s.wrap(o, secret, aad)
		return err
	})
	if err != nil {
		return nil, err
	}
	d.token.remember(ref)
	return wrapped, nil
}

// wrap encrypts and looks at the product: a secret sealed by the wrong key, or
// with a bit flipped on its way, would be lost with everything under it.
func (s *session) wrap(o object, secret, aad []byte) ([]byte, error) {
	iv, err := s.freshIV()
	if err != nil {
		return nil, err
	}
	sealed, iv, err := s.gcm(o.handle, iv, wrapDomain, aad, secret, true)
	if err != nil {
		return nil, err
	}
	check, err := s.keyCheck(o.handle)
	if err != nil {
		return nil, err
	}
	back, _, err := s.gcm(o.handle, iv, wrapDomain, aad, sealed, false)
	if err != nil {
		return nil, err
	}
	defer clear(back)
	if len(sealed) != len(secret)+tagSize || len(iv) != ivSize || !bytes.Equal(check, o.check) || subtle.ConstantTimeCompare(back, secret) != 1 {
		s.token.integrityFailure.Add(1)
		return nil, fmt.Errorf("%w: what the token wrapped does not unwrap to the same secret under the same key", key.ErrIntegrity)
	}
	return append(append([]byte{wrapVersion}, iv...), sealed...), nil
}

// freshIV mixes the token's randomness with ours: an IV used twice would
// betray the key, so neither source alone is trusted.
func (s *session) freshIV() ([]byte, error) {
	for {
		iv, err := s.lib.GenerateRandom(s.handle, ivSize)
		if err != nil {
			return nil, err
		}
		if len(iv) != ivSize {
			return nil, fmt.Errorf("%w: the token gave %d random bytes, want %d", key.ErrIntegrity, len(iv), ivSize)
		}
		var ours [ivSize]byte
		_, _ = rand.Read(ours[:]) // never fails since Go 1.24: the program ends instead
		subtle.XORBytes(iv, iv, ours[:])
		if string(iv) != checkIV {
			return iv, nil
		}
	}
}

// Unwrap implements key.Device.
func (d *Device) Unwrap(ctx context.Context, ref key.Ref, wrapped, aad []byte) ([]byte, error) {
	if err := checkWrapping("unwrapping with", ref); err != nil {
		return nil, err
	}
	if len(wrapped) <= wrapOverhead || len(wrapped) > wrapOverhead+maxSecret || wrapped[0] != wrapVersion || len(aad) > maxAAD ||
		string(wrapped[1:1+ivSize]) == checkIV {
		return nil, fmt.Errorf("unwrapping with %s: %w", ref.Label, key.ErrInvalidCiphertext)
	}
	var secret []byte
	err := d.do(ctx, "unwrapping with "+ref.Label, func(s *session) error {
		o, err := s.wrapping(ref)
		if err != nil {
			return err
		}
		secret, err = s.unwrap(o, wrapped, aad)
		return err
	})
	if err != nil {
		return nil, err
	}
	d.token.remember(ref)
	return secret, nil
}

// unwrap decrypts. SoftHSM2 answers a wrong tag with CKR_GENERAL_ERROR, as it
// answers when it is broken. The key itself tells which it was: if it computes
// its key-check value now, and still refuses, the token is well and the text is not.
func (s *session) unwrap(o object, wrapped, aad []byte) ([]byte, error) {
	decrypt := func() ([]byte, error) {
		secret, _, err := s.gcm(o.handle, wrapped[1:1+ivSize], wrapDomain, aad, wrapped[1+ivSize:], false)
		if err == nil && len(secret) != len(wrapped)-wrapOverhead {
			return nil, fmt.Errorf("%w: the token unwrapped %d bytes, want %d", key.ErrIntegrity, len(secret), len(wrapped)-wrapOverhead)
		}
		return secret, err
	}
	secret, err := decrypt()
	if err == nil || !refusesText(err) {
		return secret, err
	}
	probe := s.renew()
	var check []byte
	if probe == nil {
		check, probe = s.keyCheck(o.handle)
	}
	switch {
	case probe != nil:
		return nil, probe
	case !bytes.Equal(check, o.check):
		return nil, pkcs11.Error(pkcs11.CKR_KEY_HANDLE_INVALID) // the handle denotes another key since: look it up again
	}
	secret, err = decrypt()
	if refusesText(err) {
		s.spoiled = true
		return nil, key.ErrInvalidCiphertext
	}
	return secret, err
}

// refusesText reports an error that modules give for a wrong tag.
func refusesText(err error) bool {
	switch code(err) {
	case pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, pkcs11.CKR_DATA_INVALID, pkcs11.CKR_DATA_LEN_RANGE,
		pkcs11.CKR_SIGNATURE_INVALID, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_DEVICE_ERROR,
		aeadDecryptFailed:
		return true
	}
	return false
}

// aeadDecryptFailed is CKR_AEAD_DECRYPT_FAILED of PKCS#11 v3.0.
const aeadDecryptFailed = 0x42

// wrapping returns the handle of a wrapping key whose key-check value is the
// recorded one.
func (s *session) wrapping(ref key.Ref) (object, error) {
	o, err := s.resolve(ref.ID, ref.Usage)
	if err != nil {
		return o, err
	}
	if subtle.ConstantTimeCompare(o.check, ref.Check) != 1 {
		s.token.integrityFailure.Add(1)
		s.token.forget(ref.ID, ref.Usage)
		return o, fmt.Errorf("%w: the key-check value of %s is not the recorded one: this is another key", key.ErrIntegrity, ref.Label)
	}
	return o, nil
}

// keyCheck computes the key-check value with the key: 16 bytes of SHA-256 over
// a GCM encryption of a constant under an IV that no wrapping uses.
//
// The usual CKA_CHECK_VALUE would not do. It is an attribute, which a token may
// answer from its memory without touching the key, and it is the start of the
// encrypted zero block, which is GCM's secret hash key.
func (s *session) keyCheck(handle pkcs11.ObjectHandle) ([]byte, error) {
	sealed, iv, err := s.gcm(handle, []byte(checkIV), checkDomain, nil, make([]byte, 16), true)
	if err != nil {
		return nil, err
	}
	if string(iv) != checkIV {
		return nil, fmt.Errorf("%w: this token chooses the IV of AES-GCM itself", key.ErrUnsupported)
	}
	sum := sha256.Sum256(append([]byte(checkDomain), sealed...))
	return sum[:16], nil
}

// gcm runs AES-256-GCM in the token and returns the IV it really used: some
// tokens write their own into the parameters.
func (s *session) gcm(handle pkcs11.ObjectHandle, iv []byte, domain string, aad, in []byte, encrypt bool) (out, used []byte, err error) {
	parameters := pkcs11.NewGCMParams(iv, append([]byte(domain), aad...), 8*tagSize)
	defer parameters.Free()
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, parameters)}
	if encrypt {
		if err = s.lib.EncryptInit(s.handle, mechanism, handle); err == nil {
			out, err = s.lib.Encrypt(s.handle, in)
		}
	} else {
		if err = s.lib.DecryptInit(s.handle, mechanism, handle); err == nil {
			out, err = s.lib.Decrypt(s.handle, in)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return out, parameters.IV(), nil
}

// Random implements key.Device.
func (d *Device) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 1 || n > maxRandom {
		return nil, fmt.Errorf("%w: %d random bytes: ask for 1 to %d", key.ErrInvalid, n, maxRandom)
	}
	var b []byte
	err := d.do(ctx, "drawing random bytes", func(s *session) (err error) {
		b, err = s.lib.GenerateRandom(s.handle, n)
		if err == nil && len(b) != n {
			err = fmt.Errorf("%w: the token gave %d random bytes, want %d", key.ErrIntegrity, len(b), n)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}
