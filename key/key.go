// Package key holds the words every floor shares: the names of keys, their
// algorithms and tiers, the errors a device or a service may answer with, and
// the Device that keeps keys.
//
// It knows no hardware and no store. Packages hsm and tpm implement Device.
package key

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// ID is the random, immutable identifier of one object (a key, an issuer, a
// device key). A name may be reused after destruction; an ID never is.
type ID [16]byte

// NewID returns a fresh random ID.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // never fails since Go 1.24: the program ends instead
	return id
}

// String returns the ID as 32 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id was never set.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText writes the form of String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the form of String.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// ParseID reads the form of String.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) || strings.ToLower(s) != s {
		return ID{}, fmt.Errorf("%w: an id is 32 lower-case hex digits", ErrInvalid)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("%w: an id is 32 lower-case hex digits", ErrInvalid)
	}
	return id, nil
}

// Name is the full name of a key, environment/service/name.
type Name struct {
	Environment string
	Service     string
	Key         string
}

// ParseName reads environment/service/name; each segment obeys CheckSegment.
func ParseName(s string) (Name, error) {
	parts := strings.SplitN(s, "/", 4)
	if len(parts) != 3 {
		return Name{}, fmt.Errorf("%w: %.200q: a key is named environment/service/name, like dev/payments/orders", ErrInvalid, s)
	}
	for _, p := range parts {
		if err := CheckSegment(p); err != nil {
			return Name{}, err
		}
	}
	return Name{parts[0], parts[1], parts[2]}, nil
}

// String returns environment/service/name.
func (n Name) String() string { return n.Environment + "/" + n.Service + "/" + n.Key }

// CheckSegment accepts one segment of a name: ^[a-z0-9][a-z0-9-]{0,62}$.
func CheckSegment(s string) error {
	ok := len(s) >= 1 && len(s) <= 63 && s[0] != '-'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-'
	}
	if !ok {
		return fmt.Errorf("%w: %.80q: use 1 to 63 lower-case letters, digits and hyphens, not starting with a hyphen", ErrInvalid, s)
	}
	return nil
}

// Algorithm names what a key computes.
type Algorithm string

// The algorithms of this version.
const (
	AES256    Algorithm = "aes-256"    // XAES-256-GCM envelopes (tier wrapped), AES-256-GCM inside a device
	ECDSAP256 Algorithm = "ecdsa-p256" // signatures over SHA-256 digests
)

// Tier says where a key's operations happen.
type Tier string

// The tiers.
const (
	TierWrapped Tier = "wrapped" // material wrapped by its keyring, used in locked memory
	TierDevice  Tier = "device"  // inside the hardware, every time
)
