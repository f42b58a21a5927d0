package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/key"
)

const (
	maxBundle       = 1 << 20
	maxCertificates = 100
)

// EncodePEM writes certificates one after the other, in the order given:
// leaf first for a chain.
func EncodePEM(certificates ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certificates {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// EncodeCRL writes a CRL as PEM. nginx reads several of them from one file.
func EncodeCRL(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// ParseBundle reads one or more PEM certificates; anything else in the text is refused.
func ParseBundle(text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxBundle {
		return nil, fmt.Errorf("%w: certificate bundle of %d bytes: at most %d", key.ErrInvalid, len(text), maxBundle)
	}
	var list []*x509.Certificate
	for rest := text; len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(list) == maxCertificates {
			return nil, fmt.Errorf("%w: certificate bundle: hold 1 to %d PEM certificates and nothing else", key.ErrInvalid, maxCertificates)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: certificate %d of the bundle: %w", key.ErrInvalid, len(list)+1, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: certificate bundle: empty", key.ErrInvalid)
	}
	return list, nil
}

// Fingerprint returns the SHA-256 of the encoded certificate in hex: what
// clients pin and people compare.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Verify checks chain (leaf first, then the CAs below the root) against roots,
// for the usage and the time. Revocation is not its business.
func Verify(chain, roots []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: an empty certificate chain", key.ErrInvalid)
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, c := range roots {
		o.Roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(o); err != nil {
		return fmt.Errorf("%w: verifying the certificate of %s: %w", key.ErrInvalid, chain[0].Subject, err)
	}
	return nil
}

// errNoIdentity is part of the answer for certificates without a usable SPIFFE ID.
var errNoIdentity = errors.New("an X509-SVID has exactly one URI name, a SPIFFE ID, and is no CA")

// Identity reads the SPIFFE ID of an already verified leaf. issuer is the
// certificate that signed it: Go's verifier also takes hosts below a URI name
// constraint for permitted, so the trust domain is compared here, exactly.
func Identity(leaf, issuer *x509.Certificate) (SPIFFEID, error) {
	if leaf.IsCA || len(leaf.URIs) != 1 {
		return SPIFFEID{}, fmt.Errorf("%w: %w", key.ErrInvalid, errNoIdentity)
	}
	id, err := ParseSPIFFEID(leaf.URIs[0].String())
	if err != nil {
		return SPIFFEID{}, err
	}
	if len(issuer.PermittedURIDomains) != 1 || issuer.PermittedURIDomains[0] != id.TrustDomain {
		return SPIFFEID{}, fmt.Errorf("%w: %s is not in the trust domain of its issuer", key.ErrInvalid, id)
	}
	return id, nil
}
