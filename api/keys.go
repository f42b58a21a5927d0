package api

import "time"

// Key is a named key.
type Key struct {
	ID             string       `json:"id"`              // random and immutable; a reused name is another key
	Name           string       `json:"name"`            // environment/service/name
	Tier           string       `json:"tier"`            // device: every operation inside the hardware; wrapped: in locked memory
	Algorithm      string       `json:"algorithm"`       // aes-256 or ecdsa-p256
	State          string       `json:"state"`           // enabled, disabled, pending-destruction or destroyed
	CurrentVersion int64        `json:"current_version"` // the version new ciphertexts and signatures are made with
	Owner          string       `json:"owner,omitempty"`
	Classification string       `json:"classification,omitempty"`
	CreatedBy      string       `json:"created_by"` // a SPIFFE ID
	CreatedAt      time.Time    `json:"created_at"`
	ExpiresAt      time.Time    `json:"expires_at,omitzero"`
	DisabledAt     time.Time    `json:"disabled_at,omitzero"`
	Versions       []KeyVersion `json:"versions,omitempty"` // newest first; not in lists
}

// KeyVersion is one version of a key.
type KeyVersion struct {
	Version   int64     `json:"version"`
	State     string    `json:"state"` // enabled, retired or destroyed
	CreatedAt time.Time `json:"created_at"`
}

// CreateKeyRequest asks for a new key.
type CreateKeyRequest struct {
	Name           string `json:"name"`                // environment/service/name
	Tier           string `json:"tier,omitempty"`      // wrapped by default
	Algorithm      string `json:"algorithm,omitempty"` // aes-256 by default for wrapped, ecdsa-p256 for device
	Owner          string `json:"owner,omitempty"`
	Classification string `json:"classification,omitempty"`
}

// KeyList is a page of keys, by name; only those the caller may describe.
type KeyList struct {
	Keys []Key  `json:"keys"`
	Next string `json:"next,omitempty"` // give it as after for the next page; empty at the end
}

// EncryptRequest asks for a ciphertext.
type EncryptRequest struct {
	Plaintext []byte            `json:"plaintext"`
	Context   map[string]string `json:"context,omitempty"` // the encryption context: needed again to decrypt, logged, never secret
}

// EncryptResponse is a ciphertext.
type EncryptResponse struct {
	Ciphertext string `json:"ciphertext"` // sw1: and base64url
	Key        string `json:"key"`
	Version    int64  `json:"version"`
}

// DecryptRequest asks for a plaintext. The ciphertext names its key.
type DecryptRequest struct {
	Ciphertext string            `json:"ciphertext"`
	Context    map[string]string `json:"context,omitempty"`
}

// DecryptResponse is a plaintext.
type DecryptResponse struct {
	Plaintext []byte `json:"plaintext"`
	Key       string `json:"key"`
	Version   int64  `json:"version"`
}

// RewrapRequest asks for the same plaintext under the newest version of its key.
type RewrapRequest struct {
	Ciphertext string            `json:"ciphertext"`
	Context    map[string]string `json:"context,omitempty"`
}

// RewrapResponse is the new ciphertext.
type RewrapResponse struct {
	Ciphertext  string `json:"ciphertext"`
	Key         string `json:"key"`
	FromVersion int64  `json:"from_version"`
	Version     int64  `json:"version"`
}

// DataKeyRequest asks for a new 256-bit data key.
type DataKeyRequest struct {
	Context   map[string]string `json:"context,omitempty"`
	Plaintext bool              `json:"plaintext"` // false: wrapped only, for somebody else to unwrap
}

// DataKeyResponse is a data key. Wrapped is given to Decrypt to get it back.
type DataKeyResponse struct {
	Plaintext []byte `json:"plaintext,omitempty"`
	Wrapped   string `json:"wrapped"` // sw1: and base64url
	Key       string `json:"key"`
	Version   int64  `json:"version"`
}

// SignRequest asks for a signature over one of digest (SHA-256) and message.
type SignRequest struct {
	Digest  []byte `json:"digest,omitempty"`
	Message []byte `json:"message,omitempty"`
}

// SignResponse is a signature; ECDSA's is ASN.1 DER.
type SignResponse struct {
	Signature []byte `json:"signature"`
	Key       string `json:"key"`
	Version   int64  `json:"version"`
	Algorithm string `json:"algorithm"`
}

// VerifyRequest asks whether a signature is by the key.
type VerifyRequest struct {
	Digest    []byte `json:"digest,omitempty"`
	Message   []byte `json:"message,omitempty"`
	Signature []byte `json:"signature"`
	Version   int64  `json:"version,omitempty"` // 0: the current version
}

// VerifyResponse answers a VerifyRequest.
type VerifyResponse struct {
	Valid   bool   `json:"valid"`
	Key     string `json:"key"`
	Version int64  `json:"version"`
}

// PublicKey is the public half of one version of a key.
type PublicKey struct {
	Key       string `json:"key"`
	Version   int64  `json:"version"`
	Algorithm string `json:"algorithm"`
	PEM       string `json:"pem"` // PKIX
}
