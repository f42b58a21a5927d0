package api

import "time"

// Certificate is one row of the inventory.
type Certificate struct {
	Serial    string    `json:"serial"` // hex, no leading zeros
	Issuer    string    `json:"issuer"`
	Profile   string    `json:"profile"`
	Identity  string    `json:"identity,omitempty"` // SPIFFE ID
	DNS       []string  `json:"dns,omitempty"`
	IP        []string  `json:"ip,omitempty"`
	SPKI      string    `json:"spki"` // SHA-256 of the public key, hex
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	IssuedBy  string    `json:"issued_by"` // SPIFFE ID of who asked
	RevokedAt time.Time `json:"revoked_at,omitzero"`
	Reason    string    `json:"reason,omitempty"` // of the revocation
}

// IssueRequest asks for a certificate over the public key of a CSR. Of the CSR
// only the key and the proof of its possession count; the names are those here.
type IssueRequest struct {
	CSR         string   `json:"csr"`                   // PEM
	Profile     string   `json:"profile,omitempty"`     // service by default
	Environment string   `json:"environment,omitempty"` // for a short spiffe; the caller's own by default
	SPIFFE      string   `json:"spiffe,omitempty"`      // as SPIFFEID takes it
	DNS         []string `json:"dns,omitempty"`
	IP          []string `json:"ip,omitempty"`
	TTL         Duration `json:"ttl,omitempty"` // the profile's default if zero
}

// IssueResponse is a certificate.
type IssueResponse struct {
	Certificate Certificate `json:"certificate"`
	PEM         string      `json:"pem"`   // the leaf
	Chain       string      `json:"chain"` // what to send after the leaf: issuers without the root, PEM
	CA          string      `json:"ca"`    // the root, PEM
}

// CertificateList is a page of the inventory, by expiry.
type CertificateList struct {
	Certificates []Certificate `json:"certificates"`
	Next         string        `json:"next,omitempty"`
}

// RevokeRequest says why.
type RevokeRequest struct {
	Reason string `json:"reason,omitempty"` // one of Reasons; unspecified by default
}

// Reason is one row of the table of revocation reasons.
type Reason struct {
	Name string
	Code int // RFC 5280, 5.3.1
}

// Reasons returns the reasons a revocation may have.
func Reasons() []Reason {
	return []Reason{
		{"unspecified", 0}, {"key-compromise", 1}, {"affiliation-changed", 3}, {"superseded", 4},
		{"cessation-of-operation", 5}, {"privilege-withdrawn", 9},
	}
}

// Issuer is a CA.
type Issuer struct {
	ID          string    `json:"id"`
	Environment string    `json:"environment,omitempty"` // none for a root
	Parent      string    `json:"parent,omitempty"`
	Subject     string    `json:"subject"`
	State       string    `json:"state"` // active, prepared, tainted or revoked
	Mode        string    `json:"mode"`  // direct or delegated
	NotAfter    time.Time `json:"not_after"`
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the certificate, hex
	PEM         string    `json:"pem"`
}

// IssuerList is every issuer, roots first.
type IssuerList struct {
	Issuers []Issuer `json:"issuers"`
}

// Bundle is what to trust.
type Bundle struct {
	Roots        string   `json:"roots"`        // PEM
	Issuers      string   `json:"issuers"`      // PEM, the CAs below the roots
	Fingerprints []string `json:"fingerprints"` // SHA-256 of the roots, hex, in order
}
