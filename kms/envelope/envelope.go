// Package envelope seals a value under a 256-bit key so that only that key, the
// same object, the same version and the same context open it again.
//
// Ciphertext v1, readable for ever:
//
//	0x53 0x01 | suite u8 | object id 16 B | version u32 | key commitment 32 B | nonce 24 B | ciphertext | tag 16 B
//
// Numbers are big-endian. Suite 1 is XAES-256-GCM (c2sp.org/XAES-256-GCM) with
// a random nonce; suite 2 is reserved for AES-GCM inside a device.
//
// Additional data: the tag "sealwright/envelope/v1\x00", then all 79 bytes of
// the header (commitment and nonce included), then the number of context pairs
// and, sorted by the bytes of the key, each key and value after its length; the
// number and the lengths are u32.
//
// Two keys are derived from the 32-byte secret with HKDF-Expand-SHA-256: the
// XAES key (info "sealwright/envelope/v1 encryption\x00" and the suite byte) and
// the commitment (info "sealwright/envelope/v1 commitment\x00" and the suite
// byte). GCM alone lets someone who chooses two keys make one ciphertext that
// opens under both; here that takes a collision of SHA-256. The commitment is
// the same for every message of a key, which tells an observer no more than
// object id and version do. It binds the key, not the context: whoever holds the
// key itself could make one ciphertext for two contexts.
//
// Whatever is wrong with a ciphertext, Parse, Open and ParseText answer exactly
// key.ErrInvalidCiphertext.
package envelope

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"github.com/sealwright/sealwright/internal/locked"
	"github.com/sealwright/sealwright/key"
)

// Suite is how a ciphertext was made.
type Suite byte

// The suites.
const (
	XAES256GCM Suite = 1 // in software, under a key of tier wrapped
	DeviceGCM  Suite = 2 // reserved: in hardware, with a counted 96-bit nonce
)

// Limits of one message.
const (
	MaxPlaintext = 64 << 10 // bytes
	MaxPairs     = 64       // of the context
	MaxContext   = 8 << 10  // bytes of all keys and values together
	Overhead     = headerSize + tagSize
)

// Where the parts of a ciphertext begin.
const (
	magic, format = 0x53, 0x01

	suiteAt      = 2
	idAt         = 3
	versionAt    = 19
	commitmentAt = 23
	nonceAt      = 55
	headerSize   = 79
	tagSize      = 16
)

// Header says what a ciphertext claims to be; only Open proves it.
type Header struct {
	Suite    Suite
	ObjectID key.ID
	Version  uint32
}

// Parse reads the header of a ciphertext, to find the key that opens it.
func Parse(ciphertext []byte) (Header, error) {
	n := len(ciphertext)
	if n < Overhead || n > Overhead+MaxPlaintext || ciphertext[0] != magic || ciphertext[1] != format || Suite(ciphertext[suiteAt]) != XAES256GCM {
		return Header{}, key.ErrInvalidCiphertext
	}
	return Header{
		Suite:    Suite(ciphertext[suiteAt]),
		ObjectID: key.ID(ciphertext[idAt:versionAt]),
		Version:  binary.BigEndian.Uint32(ciphertext[versionAt:commitmentAt]),
	}, nil
}

// Key is a secret prepared for sealing: the AES key schedule, the CMAC subkey
// and the commitment. It is safe for concurrent use and prints as [redacted].
// The schedule lives on the Go heap, because crypto/aes puts it there.
type Key struct {
	locked.Redacted
	*prepared
}

type prepared struct {
	xaes       xaes
	commitment [32]byte
}

// NewKey prepares a secret of 32 bytes; it does not keep the slice.
func NewKey(secret []byte) (*Key, error) {
	if len(secret) != 32 {
		return nil, fmt.Errorf("%w: an envelope key has 32 bytes, not %d", key.ErrInvalid, len(secret))
	}
	p := &prepared{}
	var err error
	locked.Do(func() { err = p.prepare(secret) })
	if err != nil {
		return nil, fmt.Errorf("preparing an envelope key: %w", err)
	}
	return &Key{prepared: p}, nil
}

// Seal encrypts plaintext for the object and version of h (its suite is set by
// the key) and binds it to context. It returns key.ErrInvalid beyond the limits,
// for an empty context key, and for a context that is not UTF-8: it has to be
// recorded exactly.
func (k *Key) Seal(h Header, plaintext []byte, context map[string]string) ([]byte, error) {
	return k.seal(nil, h, plaintext, context)
}

// seal is Seal with a chosen nonce, random if nil. Only the frozen vectors choose one.
func (k *Key) seal(nonce []byte, h Header, plaintext []byte, context map[string]string) ([]byte, error) {
	if h.Suite != 0 && h.Suite != XAES256GCM {
		return nil, fmt.Errorf("%w: sealing with suite %d in software", key.ErrUnsupported, h.Suite)
	}
	if len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("%w: a plaintext has at most %d bytes, not %d: encrypt it under a data key", key.ErrInvalid, MaxPlaintext, len(plaintext))
	}
	extra, err := contextSize(context)
	if err != nil {
		return nil, err
	}
	// One allocation holds the ciphertext and, behind it, the additional data.
	total := Overhead + len(plaintext)
	buf := make([]byte, total, total+len(domain)+headerSize+extra)
	buf[0], buf[1], buf[suiteAt] = magic, format, byte(XAES256GCM)
	copy(buf[idAt:], h.ObjectID[:])
	binary.BigEndian.PutUint32(buf[versionAt:], h.Version)
	copy(buf[commitmentAt:], k.commitment[:])
	if nonce == nil {
		_, _ = rand.Read(buf[nonceAt:headerSize]) // never fails since Go 1.24: the program ends instead
	} else {
		copy(buf[nonceAt:headerSize], nonce)
	}
	aad := appendAdditional(buf[total:], buf[:headerSize], context)
	locked.Do(func() {
		err = k.xaes.seal(buf[headerSize:headerSize:total], buf[nonceAt:headerSize], plaintext, aad)
	})
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return buf[:total:total], nil
}

// Open returns the plaintext of a ciphertext sealed by this key with the same
// context. The caller chose the key by the header, so it must compare the
// header with the object it expects whenever one key seals many objects.
func (k *Key) Open(ciphertext []byte, context map[string]string) ([]byte, error) {
	if len(ciphertext) < Overhead || len(ciphertext) > Overhead+MaxPlaintext {
		return nil, key.ErrInvalidCiphertext
	}
	return k.AppendOpen(make([]byte, 0, len(ciphertext)-Overhead), ciphertext, context)
}

// AppendOpen is Open that appends the plaintext to dst, which may be locked
// memory: with enough capacity the plaintext is written nowhere else.
func (k *Key) AppendOpen(dst, ciphertext []byte, context map[string]string) ([]byte, error) {
	if _, err := Parse(ciphertext); err != nil {
		return nil, err
	}
	extra, err := contextSize(context)
	if err != nil {
		return nil, key.ErrInvalidCiphertext
	}
	if subtle.ConstantTimeCompare(ciphertext[commitmentAt:nonceAt], k.commitment[:]) != 1 {
		return nil, key.ErrInvalidCiphertext
	}
	aad := appendAdditional(make([]byte, 0, len(domain)+headerSize+extra), ciphertext[:headerSize], context)
	var plaintext []byte
	locked.Do(func() {
		plaintext, err = k.xaes.open(dst, ciphertext[nonceAt:headerSize], ciphertext[headerSize:], aad)
	})
	if err != nil {
		return nil, key.ErrInvalidCiphertext
	}
	return plaintext, nil
}
