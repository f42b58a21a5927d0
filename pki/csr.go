package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sealwright/sealwright/key"
)

// MaxCSR bounds a certificate signing request, in bytes, PEM or DER.
const MaxCSR = 16 << 10

// CSR is a signing request that was checked: whoever made it holds the private
// key, and the key is good. Nothing else of a request is trusted or copied.
type CSR struct {
	spki []byte // SubjectPublicKeyInfo, DER
	dns  []string
	ips  []netip.Addr
	uris []string
	kind keyKind
}

// keyKind is the part of a certificate's shape that comes from the key.
type keyKind struct {
	algorithm x509.PublicKeyAlgorithm
	bits      int
}

// PublicKeyInfo returns the SubjectPublicKeyInfo as DER.
func (c *CSR) PublicKeyInfo() []byte { return bytes.Clone(c.spki) }

// ParseCSR reads and checks one PKCS #10 request, PEM or DER.
func ParseCSR(text []byte) (*CSR, error) {
	der, err := csrDER(text)
	if err != nil {
		return nil, err
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		// The parser's own words are about ASN.1 and help nobody.
		return nil, fmt.Errorf("%w: certificate signing request: it is not PKCS #10: make one with 'openssl req -new'", key.ErrInvalid)
	}
	if !soundHash(request.SignatureAlgorithm) {
		return nil, fmt.Errorf("%w: certificate signing request: signed with %s: use SHA-256 or better", key.ErrInvalid, request.SignatureAlgorithm)
	}
	// The key before the signature: an enormous key makes verification the attack.
	if err := checkKey(request.PublicKey); err != nil {
		return nil, fmt.Errorf("certificate signing request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: certificate signing request: its signature does not verify: sign it with the key it is for", key.ErrInvalid)
	}
	c := &CSR{spki: request.RawSubjectPublicKeyInfo, dns: request.DNSNames, kind: kindOf(request.PublicKey)}
	return c, c.readNames(request)
}

func csrDER(text []byte) ([]byte, error) {
	if len(text) > MaxCSR {
		return nil, fmt.Errorf("%w: certificate signing request of %d bytes: at most %d", key.ErrInvalid, len(text), MaxCSR)
	}
	if !bytes.Contains(text, []byte("-----BEGIN ")) {
		return text, nil
	}
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, fmt.Errorf("%w: certificate signing request: malformed PEM", key.ErrInvalid)
	case strings.Contains(block.Type, "PRIVATE KEY"), bytes.Contains(rest, []byte("PRIVATE KEY")):
		return nil, fmt.Errorf("%w: this is a private key, which nobody but its owner may have: send a certificate signing request, and replace the key if it went over a network", key.ErrInvalid)
	case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
		return nil, fmt.Errorf("%w: PEM of type %.60q: send a CERTIFICATE REQUEST", key.ErrInvalid, block.Type)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, fmt.Errorf("%w: certificate signing request: text after the PEM block: send exactly one request", key.ErrInvalid)
	}
	return block.Bytes, nil
}

// soundHash refuses MD5 and SHA-1, which x509 still verifies in requests.
func soundHash(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
		return true
	}
	return false
}

// readNames takes the request's alternative names, and refuses kinds that
// x509 would silently skip: who asks for a name must get it or an error.
func (c *CSR) readNames(request *x509.CertificateRequest) error {
	if len(request.EmailAddresses) > 0 {
		return fmt.Errorf("%w: certificate signing request: asks for an e-mail address: only DNS, IP and SPIFFE names are issued", key.ErrInvalid)
	}
	for _, ip := range request.IPAddresses {
		addr, ok := netip.AddrFromSlice(ip)
		if !ok {
			return fmt.Errorf("%w: certificate signing request: malformed IP name", key.ErrInvalid)
		}
		c.ips = append(c.ips, addr)
	}
	for _, u := range request.URIs {
		c.uris = append(c.uris, u.String())
	}
	for _, e := range request.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) && countNames(e.Value) != len(c.dns)+len(c.ips)+len(c.uris) {
			return fmt.Errorf("%w: certificate signing request: asks for a kind of name that is not issued: only DNS, IP and SPIFFE names are", key.ErrInvalid)
		}
	}
	return nil
}

func countNames(san []byte) int {
	s := cryptobyte.String(san)
	var names, name cryptobyte.String
	if !s.ReadASN1(&names, cbasn1.SEQUENCE) {
		return -1
	}
	n := 0
	for !names.Empty() {
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return -1
		}
		n++
	}
	return n
}

// agrees compares the names of an order with the request's, if it has any. The
// key's holder signed the latter, so a difference in either direction is a
// mistake or an attack.
func (c *CSR) agrees(o Order) error {
	if len(c.dns)+len(c.ips)+len(c.uris) == 0 {
		return nil
	}
	var uris []string
	if o.SPIFFEID != "" {
		uris = []string{o.SPIFFEID}
	}
	if same(c.dns, o.DNS, strings.Compare) && same(c.ips, o.IPs, netip.Addr.Compare) && same(c.uris, uris, strings.Compare) {
		return nil
	}
	return fmt.Errorf("%w: the names in the certificate signing request (%.300s) differ from the names asked for: make them equal, or send a request without names",
		key.ErrInvalid, fmt.Sprintf("%q %q %q", c.dns, c.ips, c.uris))
}

func same[T any](a, b []T, compare func(T, T) int) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, compare)
	slices.SortFunc(b, compare)
	return slices.EqualFunc(a, b, func(x, y T) bool { return compare(x, y) == 0 })
}
