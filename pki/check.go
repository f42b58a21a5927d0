package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki/lint"
)

// Order is what somebody asks an issuer for.
type Order struct {
	Profile  Profile
	CSR      *CSR
	SPIFFEID string // "" where the profile has none
	DNS      []string
	IPs      []netip.Addr
	TTL      time.Duration // 0: the profile's default
}

// Checked is a certificate that passed every lint and is not signed yet. Only
// a check makes one, and Sign accepts it once. The zero value is refused.
type Checked struct {
	by    *Issuer
	tbs   []byte
	twin  *x509.Certificate // the certificate but for its signature
	spent atomic.Bool
}

// shape is what zlint's verdict depends on. It holds nothing a caller writes
// freely, so an issuer meets few of them.
type shape struct {
	profile    string
	key        keyKind
	names      [5]uint8 // DNS, wildcard, A-label, IPv4, IPv6: 0, 1 or 2 for many
	uri        bool
	noSubject  bool
	noRevAvail bool
	after2049  bool
}

// placeholder stands where the signature will be: the DER of r = s = 1.
var placeholder = []byte{0x30, 6, 2, 1, 1, 2, 1, 1}

// Check prepares a leaf certificate, or says why there will be none
// (key.ErrInvalid, in words for whoever asked).
func (i *Issuer) Check(o Order, now time.Time) (*Checked, error) {
	if i.domain == "" {
		return nil, fmt.Errorf("%w: %s signs no leaves: take an issuer of an environment", key.ErrInvalid, i.certificate.Subject)
	}
	if o.CSR == nil {
		return nil, fmt.Errorf("%w: no certificate signing request", key.ErrInvalid)
	}
	if err := i.checkNames(o); err != nil {
		return nil, err
	}
	ttl, err := o.Profile.ttl(o.TTL)
	if err != nil {
		return nil, err
	}
	t := &body{
		serial: newSerial(), scheme: i.scheme, issuer: i.certificate.RawSubject, authorityID: i.certificate.SubjectKeyId,
		spki: o.CSR.spki, usages: o.Profile.Usages, dns: o.DNS, ips: o.IPs, uri: o.SPIFFEID,
	}
	t.setValidity(now, ttl)
	if err := i.within(t); err != nil {
		return nil, err
	}
	if ttl < NoRevAvailBelow {
		t.noRevAvail = true
	} else if t.crl = i.crlURL; t.crl == "" {
		return nil, fmt.Errorf("%w: a lifetime of %s needs a CRL that peers can fetch: configure where the CRLs are served, or ask for less than %s", key.ErrInvalid, ttl, NoRevAvailBelow)
	}
	if t.subject, err = subject(commonName(o)); err != nil {
		return nil, err
	}
	rules := lint.Rules{
		Kind: lint.Leaf, Parent: i.certificate, MaxValidity: o.Profile.MaxTTL + Backdate, Usages: o.Profile.Usages, NoRevAvail: t.noRevAvail,
	}
	if o.Profile.Identity != "" {
		rules.TrustDomain = i.domain
	}
	return i.check(t, rules, o.shape(t))
}

// checkNames holds the names of an order against profile, issuer and request.
func (i *Issuer) checkNames(o Order) error {
	p := o.Profile
	switch {
	case p.Identity == "" && o.SPIFFEID != "":
		return fmt.Errorf("%w: profile %s has no SPIFFE ID: use profile service", key.ErrInvalid, p.Name)
	case !p.DNS && len(o.DNS) > 0:
		return fmt.Errorf("%w: profile %s has no DNS names", key.ErrInvalid, p.Name)
	case !p.IP && len(o.IPs) > 0:
		return fmt.Errorf("%w: profile %s has no IP names", key.ErrInvalid, p.Name)
	case p.NeedsHost && len(o.DNS)+len(o.IPs) == 0:
		return fmt.Errorf("%w: profile %s needs a name: ask for a DNS name%s", key.ErrInvalid, p.Name, map[bool]string{true: " or an IP name"}[p.IP])
	case len(o.DNS)+len(o.IPs) > MaxNames:
		return fmt.Errorf("%w: %d names: at most %d in one certificate", key.ErrInvalid, len(o.DNS)+len(o.IPs), MaxNames)
	}
	if p.Identity != "" {
		id, err := ParseSPIFFEID(o.SPIFFEID)
		if err != nil {
			return err
		}
		if err := checkMinted(id, i.domain, p.Identity); err != nil {
			return err
		}
	}
	for n, name := range o.DNS {
		if err := CheckDNS(name, p.Wildcards); err != nil {
			return err
		}
		if slices.Contains(o.DNS[:n], name) {
			return fmt.Errorf("%w: DNS name %s stands twice", key.ErrInvalid, name)
		}
	}
	for n, ip := range o.IPs {
		if err := checkIP(ip); err != nil {
			return err
		}
		if slices.Contains(o.IPs[:n], ip) {
			return fmt.Errorf("%w: IP name %s stands twice", key.ErrInvalid, ip)
		}
	}
	return o.CSR.agrees(o)
}

// commonName chooses what people and old software see. Java, pyca and zlint
// want a subject or a critical alternative name; we give a subject when one
// fits and a critical alternative name when none does. An identity becomes
// service:payments, whose colon no verifier takes for a host name: OpenSSL
// compares a bare common name with the host it wanted.
func commonName(o Order) string {
	if o.SPIFFEID != "" {
		if id, err := ParseSPIFFEID(o.SPIFFEID); err == nil {
			return fits(strings.ReplaceAll(id.Path[1:], "/", ":"))
		}
		return ""
	}
	for _, name := range o.DNS {
		if !strings.HasPrefix(name, "*") && fits(name) != "" {
			return name
		}
	}
	if len(o.IPs) > 0 {
		return o.IPs[0].String()
	}
	return ""
}

func fits(name string) string {
	if len(name) > maxRDN {
		return ""
	}
	return name
}

// subject encodes CN=cn, or the empty name. Our names are PrintableString.
func subject(cn string) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, 96))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if cn == "" {
			return
		}
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{2, 5, 4, 3})
				addBytes(b, cbasn1.PrintableString, []byte(cn))
			})
		})
	})
	return b.Bytes()
}

func (o Order) shape(t *body) *shape {
	s := &shape{profile: o.Profile.Name, key: o.CSR.kind, uri: o.SPIFFEID != "", noSubject: len(t.subject) == 2, noRevAvail: t.noRevAvail, after2049: t.notAfter.Year() > 2049}
	count := func(n int) {
		s.names[n] = min(s.names[n]+1, 2)
	}
	for _, name := range o.DNS {
		switch {
		case strings.HasPrefix(name, "*"):
			count(1)
		case strings.Contains(name, "xn--"):
			count(2)
		default:
			count(0)
		}
	}
	for _, ip := range o.IPs {
		if ip.Is4() {
			count(3)
		} else {
			count(4)
		}
	}
	return s
}

// check encodes t, lints its twin, and asks zlint where the shape is new; nil is always new.
func (i *Issuer) check(t *body, rules lint.Rules, s *shape) (*Checked, error) {
	tbs, err := t.encode()
	if err != nil {
		return nil, fmt.Errorf("encoding the certificate: %w", err)
	}
	twin, err := i.scheme.seal(tbs, placeholder)
	if err != nil {
		return nil, fmt.Errorf("encoding the certificate's twin: %w", err)
	}
	parsed, err := x509.ParseCertificate(twin)
	if err != nil {
		return nil, fmt.Errorf("%w: the certificate would not be readable: %w", key.ErrInvalid, err)
	}
	if err := lint.Certificate(parsed, rules); err != nil {
		return nil, fmt.Errorf("%w: the certificate would break the rules: %w", key.ErrInvalid, err)
	}
	if s == nil || i.isNew(*s) {
		if err := i.zlint.Certificate(twin); err != nil {
			return nil, fmt.Errorf("%w: the certificate would break the rules: %w", key.ErrInvalid, err)
		}
		i.remember(s)
	}
	return &Checked{by: i, tbs: tbs, twin: parsed}, nil
}

func (i *Issuer) isNew(s shape) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.seen[s]
}

func (i *Issuer) remember(s *shape) {
	if s == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.seen[*s] = true
}

// Sign signs what was checked, once, and returns the certificate. After any
// error the Checked is spent: check again. key.ErrIntegrity means that the
// device signed something else or with another key; nothing was released.
func (c *Checked) Sign() (*x509.Certificate, error) {
	if c == nil || c.by == nil {
		return nil, fmt.Errorf("%w: nothing was checked", key.ErrInvalid)
	}
	if c.spent.Swap(true) {
		return nil, fmt.Errorf("%w: this certificate was signed already: check a new one", key.ErrInvalid)
	}
	i := c.by
	h := i.scheme.hash.New()
	h.Write(c.tbs)
	digest := h.Sum(nil)
	signature, err := i.signer.Sign(rand.Reader, digest, i.scheme.hash)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	if !i.verified && !ecdsa.VerifyASN1(i.public, digest, signature) {
		return nil, fmt.Errorf("%w: signing a certificate: the signature does not verify with the issuer's public key", key.ErrIntegrity)
	}
	der, err := i.scheme.seal(c.tbs, signature)
	if err != nil {
		return nil, fmt.Errorf("encoding the certificate: %w", err)
	}
	return c.readBack(der, signature)
}

// readBack takes the encoded certificate apart and compares it with what was
// checked, byte for byte. As everything but the signature is the twin's, the
// parsed form is the twin's too: parsing again would find the same at the price
// of a tenth of an issuance. A test compares.
func (c *Checked) readBack(der, signature []byte) (*x509.Certificate, error) {
	whole := cryptobyte.String(der)
	var certificate, tbs, algorithm cryptobyte.String
	var bits []byte
	ok := whole.ReadASN1(&certificate, cbasn1.SEQUENCE) && whole.Empty() &&
		certificate.ReadASN1Element(&tbs, cbasn1.SEQUENCE) && certificate.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) &&
		certificate.ReadASN1BitStringAsBytes(&bits) && certificate.Empty()
	twin := cryptobyte.String(c.twin.Raw)
	var sameAlgorithm cryptobyte.String
	ok = ok && twin.ReadASN1(&twin, cbasn1.SEQUENCE) && twin.SkipASN1(cbasn1.SEQUENCE) && twin.ReadASN1Element(&sameAlgorithm, cbasn1.SEQUENCE)
	if !ok || !bytes.Equal(tbs, c.tbs) || !bytes.Equal(tbs, c.twin.RawTBSCertificate) || !bytes.Equal(algorithm, sameAlgorithm) || !bytes.Equal(bits, signature) {
		return nil, fmt.Errorf("%w: the signed certificate is not the one that was checked", key.ErrIntegrity)
	}
	signed := *c.twin
	signed.Raw, signed.RawTBSCertificate, signed.Signature = der, tbs, bits
	return &signed, nil
}
