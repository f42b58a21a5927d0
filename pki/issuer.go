// Package pki builds certificates and CRLs: profiles, names, signing requests,
// and check-then-sign. It is pure: no store, no network, and the only thing it
// knows of keys is crypto.Signer. Package pki/ca remembers what was issued; the
// offline ceremony needs this package alone.
//
// # Check, then sign
//
// A signature cannot be taken back, so what is wrong must be found before it
// exists. [Issuer.Check] encodes the bytes to be signed, joins them with a
// placeholder that is no signature into a twin, reads the twin as any verifier
// would, and lints it. What passes is a [Checked], spent by one [Checked.Sign]:
// sign those very bytes, have the signature verified with the issuer's public key,
// read the certificate back and compare it byte for byte.
//
// The placeholder does what a throwaway key does elsewhere (Boulder): linters
// judge the content and never verify. It is the same signature for every twin,
// valid for none, so nothing that resembles a certificate ever exists before
// its lint, and it costs nothing where a throwaway signature costs 25 µs.
//
// Our own lints run on every certificate, in microseconds. zlint, which takes
// milliseconds, runs on each new shape an issuer makes: profile × kinds and counts of names × key × kind of
// revocation × time format. Content that a shape does not capture is covered by
// the grammar of names and by our own lints; the tests run zlint on everything.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki/lint"
)

var errUsage = errors.New("extended key usage other than server or client authentication")

const (
	maxCALifetime = 25 * 365 * day
	maxRDN        = 64 // ub-common-name and ub-organization-name of RFC 5280, in characters
)

// Issuer is a CA certificate with its key. It is safe for concurrent use.
type Issuer struct {
	certificate *x509.Certificate // nil while a root signs itself
	signer      crypto.Signer
	public      *ecdsa.PublicKey
	// verified: the signer is a key.Signer, whose devices release no signature
	// that does not verify with this very public key (key.Device.Sign; package
	// devicetest holds each device to it). A second look would cost a fifth of
	// an issuance.
	verified bool
	scheme   scheme
	domain   string // "" for a root, which signs no leaves
	crlURL   string
	zlint    *lint.Zlint

	mu        sync.Mutex // guards the fields below
	seen      map[shape]bool
	throwaway *ecdsa.PrivateKey // signs twins of CRLs; made when first needed
}

// Plan is what a person decides about a CA certificate.
type Plan struct {
	CommonName   string // must differ from every other CA's of the house: verifiers pick CRLs by name
	Organization string // "" leaves it out
	Lifetime     time.Duration
}

// NewIssuer joins a CA certificate with its key. The trust domain it may name is
// read from the certificate's own name constraint. crlURL is where its CRL is
// served, for leaves of seven days and more; "" refuses such leaves.
func NewIssuer(certificate *x509.Certificate, signer crypto.Signer, crlURL string) (*Issuer, error) {
	i, err := newIssuer(signer)
	if err != nil {
		return nil, err
	}
	switch {
	case !certificate.IsCA || certificate.KeyUsage&x509.KeyUsageCertSign == 0 || len(certificate.SubjectKeyId) == 0:
		return nil, fmt.Errorf("%w: %s is not a CA certificate", key.ErrInvalid, certificate.Subject)
	case !i.public.Equal(certificate.PublicKey):
		return nil, fmt.Errorf("%w: the key does not belong to the certificate of %s", key.ErrIntegrity, certificate.Subject)
	case len(certificate.PermittedURIDomains) > 1:
		return nil, fmt.Errorf("%w: %s is constrained to several trust domains", key.ErrUnsupported, certificate.Subject)
	case len(certificate.PermittedURIDomains) == 1:
		i.domain = certificate.PermittedURIDomains[0]
	}
	i.certificate, i.crlURL = certificate, crlURL
	return i, nil
}

func newIssuer(signer crypto.Signer) (*Issuer, error) {
	s, err := schemeOf(signer.Public())
	if err != nil {
		return nil, err
	}
	public, ok := signer.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: an issuer with a key of type %T", key.ErrUnsupported, signer.Public())
	}
	_, verified := signer.(*key.Signer)
	return &Issuer{signer: signer, public: public, verified: verified, scheme: s, zlint: lint.NewZlint(), seen: map[shape]bool{}}, nil
}

// Certificate returns the issuer's own certificate. Do not change it.
func (i *Issuer) Certificate() *x509.Certificate { return i.certificate }

// TrustDomain returns the trust domain the issuer signs for; "" for a root.
func (i *Issuer) TrustDomain() string { return i.domain }

// CheckRoot prepares a self-signed root for the signer's own key.
func CheckRoot(signer crypto.Signer, p Plan, now time.Time) (*Checked, error) {
	i, err := newIssuer(signer)
	if err != nil {
		return nil, err
	}
	t, err := i.caBody(signer.Public(), p, now)
	if err != nil {
		return nil, err
	}
	// No pathlen: an issuer that delegates has one CA below itself.
	t.issuer, t.pathLen = t.subject, -1
	return i.check(t, lint.Rules{Kind: lint.Root, MaxValidity: t.whole()}, nil)
}

// CheckIssuer prepares the certificate of an issuer below this root: pathlen 0,
// and constrained to the URIs of one trust domain.
func (i *Issuer) CheckIssuer(public crypto.PublicKey, trustDomain string, p Plan, now time.Time) (*Checked, error) {
	if i.domain != "" {
		return nil, fmt.Errorf("%w: %s signs leaves only: take a root", key.ErrInvalid, i.certificate.Subject)
	}
	if err := CheckDNS(trustDomain, false); err != nil {
		return nil, fmt.Errorf("trust domain: %w", err)
	}
	if _, err := schemeOf(public); err != nil {
		return nil, err
	}
	t, err := i.caBody(public, p, now)
	if err != nil {
		return nil, err
	}
	if err := i.within(t); err != nil {
		return nil, err
	}
	t.issuer, t.authorityID, t.permitted, t.crl = i.certificate.RawSubject, i.certificate.SubjectKeyId, trustDomain, i.crlURL
	return i.check(t, lint.Rules{Kind: lint.Issuer, Parent: i.certificate, MaxValidity: t.whole(), TrustDomain: trustDomain}, nil)
}

// caBody is what a root and an issuer have in common.
func (i *Issuer) caBody(public crypto.PublicKey, p Plan, now time.Time) (*body, error) {
	if p.CommonName == "" || len(p.CommonName) > maxRDN || len(p.Organization) > maxRDN {
		return nil, fmt.Errorf("%w: a CA needs a common name, and it and the organization have at most %d bytes", key.ErrInvalid, maxRDN)
	}
	if p.Lifetime < time.Hour || p.Lifetime > maxCALifetime {
		return nil, fmt.Errorf("%w: a CA lifetime of %s: use an hour to 25 years", key.ErrInvalid, p.Lifetime)
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encoding the CA's public key: %w", err)
	}
	name := pkix.Name{CommonName: p.CommonName}
	if p.Organization != "" {
		name.Organization = []string{p.Organization}
	}
	subject, err := asn1.Marshal(name.ToRDNSequence())
	if err != nil {
		return nil, fmt.Errorf("%w: name of the CA: %w", key.ErrInvalid, err)
	}
	t := &body{serial: newSerial(), scheme: i.scheme, subject: subject, spki: spki, ca: true}
	t.setValidity(now, p.Lifetime)
	return t, nil
}

// setValidity counts the lifetime from now; the backdate comes on top. Both ends
// are part of the validity period, hence the second less.
func (t *body) setValidity(now time.Time, lifetime time.Duration) {
	now = now.UTC().Truncate(time.Second)
	t.notBefore, t.notAfter = now.Add(-Backdate), now.Add(lifetime-time.Second)
}

func (t *body) whole() time.Duration { return t.notAfter.Sub(t.notBefore) + time.Second }

// within fits t into the issuer's own validity: it begins no earlier, and what
// would end later is refused rather than cut short unasked.
func (i *Issuer) within(t *body) error {
	if t.notBefore.Before(i.certificate.NotBefore) {
		t.notBefore = i.certificate.NotBefore
	}
	if t.notAfter.After(i.certificate.NotAfter) {
		return fmt.Errorf("%w: the lifetime ends after the issuer's own certificate does, at %s: ask for less, or renew the issuer",
			key.ErrInvalid, i.certificate.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// newSerial draws 126 random bits in 16 octets. The top bits are 01: positive
// without a padding octet, and always 32 hex digits.
func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// ParseIssuer reads one CA certificate and says whether parent signed it. A nil
// parent means a root that signed itself.
func ParseIssuer(der []byte, parent *x509.Certificate) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: reading a CA certificate: %w", key.ErrIntegrity, err)
	}
	if parent == nil {
		parent = c
	}
	if !c.IsCA || !bytes.Equal(c.RawIssuer, parent.RawSubject) {
		return nil, fmt.Errorf("%w: %s is not a CA certificate by %s", key.ErrIntegrity, c.Subject, parent.Subject)
	}
	if err := c.CheckSignatureFrom(parent); err != nil {
		return nil, fmt.Errorf("%w: CA certificate of %s: %w", key.ErrIntegrity, c.Subject, err)
	}
	return c, nil
}
