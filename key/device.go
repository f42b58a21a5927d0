package key

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Usage is what a device key may do; a device key does exactly one thing.
type Usage string

// The usages.
const (
	UsageSign Usage = "sign" // Sign; ECDSAP256
	UsageWrap Usage = "wrap" // Wrap and Unwrap; AES256: the wrapping root
)

// Spec says what to generate.
type Spec struct {
	// ID is chosen by the caller and recorded before Generate, so that a
	// generation whose outcome was lost can be found again. It becomes the CKA_ID.
	ID        ID
	Label     string // for people; 1 to 64 bytes of [a-z0-9./-]; unique in the device
	Algorithm Algorithm
	Usage     Usage
}

// Ref names a key in a device and says how to know it again. It holds nothing
// secret: for a TPM, Blob is the public area and the private area, encrypted
// by the TPM itself.
type Ref struct {
	ID        ID        `json:"id"`
	Label     string    `json:"label"`
	Algorithm Algorithm `json:"algorithm"`
	Usage     Usage     `json:"usage"`
	Public    []byte    `json:"public,omitempty"` // PKIX DER of a signing key: every signature is checked against it
	Check     []byte    `json:"check,omitempty"`  // key-check value of a wrapping key: compared once per session generation
	Blob      []byte    `json:"blob,omitempty"`   // the device's own form of the key, where it does not keep keys itself
}

// Encode returns the form of r that the store keeps.
func (r Ref) Encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic("key: a Ref always encodes: " + err.Error())
	}
	return b
}

// DecodeRef reads the form of Encode.
func DecodeRef(b []byte) (Ref, error) {
	var r Ref
	if err := json.Unmarshal(b, &r); err != nil {
		return Ref{}, fmt.Errorf("decoding device key reference: %w", err)
	}
	return r, nil
}

// PublicKey returns the public half of a signing key.
func (r Ref) PublicKey() (crypto.PublicKey, error) {
	if len(r.Public) == 0 {
		return nil, fmt.Errorf("%w: device key %s has no public half", ErrUnsupported, r.Label)
	}
	return x509.ParsePKIXPublicKey(r.Public)
}

// CheckSignature reports whether sig over digest is by the key r names. Every
// device calls it before it releases a signature: after a device restart a
// handle may denote another key.
func (r Ref) CheckSignature(digest, sig []byte) error {
	pub, err := r.PublicKey()
	if err != nil {
		return err
	}
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("%w: public key of type %T", ErrUnsupported, pub)
	}
	if !ecdsa.VerifyASN1(ec, digest, sig) {
		return fmt.Errorf("%w: the device's signature by %s does not verify", ErrIntegrity, r.Label)
	}
	return nil
}

// Attributes is what the device itself says about a key, read back after
// creation and never assumed.
type Attributes struct {
	Extractable      bool // ever readable outside in any form: must be false
	Sensitive        bool // never readable in the clear: must be true
	GeneratedInside  bool // made by this device, not imported
	DeviceDescriptor string
}

// Device keeps keys that never leave it. All methods are safe for concurrent
// use, respect ctx while waiting for a session, and answer with the error
// kinds of this package. A device retries once, on fresh sessions, what it
// knows was not performed; it never retries Generate or a refused PIN. What
// only some devices can do will be further interfaces, found by assertion.
type Device interface {
	// Generate makes a key. ErrExists if the label or the ID is taken,
	// ErrUnsupported if the device cannot do the algorithm and usage. The
	// attributes are read back; a key that could leave is destroyed and is ErrIntegrity.
	Generate(ctx context.Context, spec Spec) (Ref, error)
	// Find returns the reference of the key generated under id, or ErrNotFound.
	Find(ctx context.Context, id ID) (Ref, error)
	// Attributes asks the device about the key.
	Attributes(ctx context.Context, ref Ref) (Attributes, error)
	// Sign signs a SHA-256 digest; ECDSA signatures are ASN.1 DER. The signature
	// was verified with ref.Public (ErrIntegrity otherwise).
	Sign(ctx context.Context, ref Ref, digest []byte, opts crypto.SignerOpts) ([]byte, error)
	// Wrap encrypts a secret of at most 64 bytes, bound to aad (at most 1 KiB).
	Wrap(ctx context.Context, ref Ref, secret, aad []byte) ([]byte, error)
	// Unwrap returns what Wrap was given. Altered, foreign, or with another aad: ErrInvalidCiphertext.
	Unwrap(ctx context.Context, ref Ref, wrapped, aad []byte) ([]byte, error)
	// Random returns n (1 to 1024) random bytes made in the device.
	Random(ctx context.Context, n int) ([]byte, error)
	// Destroy removes the key for ever; ErrNotFound if it is not there.
	Destroy(ctx context.Context, ref Ref) error
	// Health performs a canary operation in the device, not a ping.
	Health(ctx context.Context) error
	// Close waits for operations in flight, then lets the device go.
	Close() error
}

// Signer makes a device key a crypto.Signer. SignTimeout bounds each signature, because
// crypto.Signer carries no context.
type Signer struct {
	device Device
	ref    Ref
	public crypto.PublicKey
}

// SignTimeout bounds one signature made through a Signer.
const SignTimeout = 30 * time.Second

// NewSigner returns a signer for the key ref names.
func NewSigner(device Device, ref Ref) (*Signer, error) {
	public, err := ref.PublicKey()
	if err != nil {
		return nil, err
	}
	return &Signer{device, ref, public}, nil
}

// Public returns the public key of the reference, not what the device says now.
func (s *Signer) Public() crypto.PublicKey { return s.public }

// Ref returns the reference of the key.
func (s *Signer) Ref() Ref { return s.ref }

// Sign implements crypto.Signer; the device brings its own randomness.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), SignTimeout)
	defer cancel()
	return s.device.Sign(ctx, s.ref, digest, opts)
}
