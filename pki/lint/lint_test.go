package lint_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/pki/lint"
)

const domain = "dev.example.org"

var (
	serial = new(big.Int).Lsh(big.NewInt(1), 126)
	start  = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	noRev  = pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 56}, Value: []byte{5, 0}}
)

// ca makes a self-signed CA certificate and its key from a template.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func skid(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	point, err := public.(*ecdsa.PublicKey).ECDH()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(point.Bytes())
	return sum[:20]
}

func caTemplate(t testing.TB, cn string, k *ecdsa.PrivateKey) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: cn}, NotBefore: start, NotAfter: start.AddDate(5, 0, 0).Add(-time.Second),
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: skid(t, k.Public()), AuthorityKeyId: skid(t, k.Public()),
	}
}

func create(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func hierarchy(t testing.TB) (root, issuer ca) {
	t.Helper()
	root.key, issuer.key = newKey(t), newKey(t)
	template := caTemplate(t, "root", root.key)
	root.cert = create(t, template, template, root.key.Public(), root.key)
	issuer.cert = create(t, issuerTemplate(t, issuer.key), root.cert, issuer.key.Public(), root.key)
	return root, issuer
}

func issuerTemplate(t testing.TB, k *ecdsa.PrivateKey) *x509.Certificate {
	c := caTemplate(t, "issuer", k)
	c.MaxPathLen, c.MaxPathLenZero, c.PermittedURIDomains, c.PermittedDNSDomainsCritical = 0, true, []string{domain}, true
	return c
}

func parseURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

func leafTemplate(t testing.TB, k *ecdsa.PrivateKey) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "service:payments"}, NotBefore: start, NotAfter: start.Add(24*time.Hour - time.Second),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		SubjectKeyId: skid(t, k.Public()), URIs: []*url.URL{parseURL("spiffe://dev.example.org/service/payments")}, DNSNames: []string{"pay.example.org"},
		ExtraExtensions: []pkix.Extension{noRev},
	}
}

// broken is one rule broken: change makes the template bad, want is the rule that must say so.
type broken struct {
	name, want string
	change     func(c *x509.Certificate, r *lint.Rules)
}

// TestLeaf breaks one rule at a time.
func TestLeaf(t *testing.T) {
	_, issuer := hierarchy(t)
	k := newKey(t)
	rules := lint.Rules{Kind: lint.Leaf, Parent: issuer.cert, MaxValidity: 24 * time.Hour, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, TrustDomain: domain, NoRevAvail: true}
	pointer := func(c *x509.Certificate, r *lint.Rules, list ...string) {
		r.NoRevAvail, c.ExtraExtensions, c.CRLDistributionPoints = false, nil, list
	}
	for _, b := range []broken{
		{"nothing", "", func(c *x509.Certificate, r *lint.Rules) {}},
		{"no common name", "", func(c *x509.Certificate, r *lint.Rules) { c.Subject.CommonName = "" }},
		{"host as common name", "", func(c *x509.Certificate, r *lint.Rules) { c.Subject.CommonName = "pay.example.org" }},
		{"with a CRL", "", func(c *x509.Certificate, r *lint.Rules) { pointer(c, r, "http://crl.example.org/1.crl") }},
		{"short serial", "serial", func(c *x509.Certificate, r *lint.Rules) { c.SerialNumber = big.NewInt(1 << 62) }},
		{"a second too long", "validity", func(c *x509.Certificate, r *lint.Rules) { c.NotAfter = c.NotAfter.Add(time.Second) }},
		{"before its issuer", "validity", func(c *x509.Certificate, r *lint.Rules) {
			c.NotBefore = start.Add(-time.Second)
			r.MaxValidity += time.Minute
		}},
		{"beyond its issuer", "validity", func(c *x509.Certificate, r *lint.Rules) {
			c.NotAfter = start.AddDate(6, 0, 0)
			r.MaxValidity = 10 * 365 * 24 * time.Hour
		}},
		{"backwards", "validity", func(c *x509.Certificate, r *lint.Rules) { c.NotAfter = start.Add(-time.Hour) }},
		{"a CA", "basic constraints", func(c *x509.Certificate, r *lint.Rules) { c.IsCA = true }},
		{"no basic constraints", "basic constraints", func(c *x509.Certificate, r *lint.Rules) { c.BasicConstraintsValid = false }},
		{"certSign", "key usage", func(c *x509.Certificate, r *lint.Rules) { c.KeyUsage |= x509.KeyUsageCertSign }},
		{"keyEncipherment", "key usage", func(c *x509.Certificate, r *lint.Rules) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }},
		{"one usage less", "extended key usage", func(c *x509.Certificate, r *lint.Rules) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }},
		{"any usage", "extended key usage", func(c *x509.Certificate, r *lint.Rules) {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageAny)
		}},
		{"unknown usage", "extended key usage", func(c *x509.Certificate, r *lint.Rules) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}}
		}},
		{"SHA-1 key identifier", "subject key identifier", func(c *x509.Certificate, r *lint.Rules) {
			sum := sha1.Sum(c.SubjectKeyId)
			c.SubjectKeyId = sum[:]
		}},
		{"no noRevAvail", "noRevAvail", func(c *x509.Certificate, r *lint.Rules) { c.ExtraExtensions = nil }},
		{"noRevAvail critical", "extension", func(c *x509.Certificate, r *lint.Rules) { c.ExtraExtensions[0].Critical = true }},
		{"noRevAvail not NULL", "noRevAvail", func(c *x509.Certificate, r *lint.Rules) { c.ExtraExtensions[0].Value = []byte{0x30, 0} }},
		{"noRevAvail and a CRL", "noRevAvail", func(c *x509.Certificate, r *lint.Rules) {
			c.CRLDistributionPoints = []string{"http://crl.example.org/1.crl"}
		}},
		{"noRevAvail on a long one", "noRevAvail", func(c *x509.Certificate, r *lint.Rules) { r.NoRevAvail = false }},
		{"no CRL on a long one", "revocation", func(c *x509.Certificate, r *lint.Rules) { pointer(c, r) }},
		{"two CRLs", "revocation", func(c *x509.Certificate, r *lint.Rules) { pointer(c, r, "http://a.org/1", "http://b.org/1") }},
		{"CRL over https", "revocation", func(c *x509.Certificate, r *lint.Rules) { pointer(c, r, "https://a.org/1") }},
		{"OCSP", "revocation", func(c *x509.Certificate, r *lint.Rules) { c.OCSPServer = []string{"http://ocsp.example.org"} }},
		{"policies", "extension", func(c *x509.Certificate, r *lint.Rules) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 32}, Value: []byte{0x30, 6, 0x30, 4, 6, 2, 0x2a, 3}})
		}},
		{"name constraints", "extension", func(c *x509.Certificate, r *lint.Rules) { c.PermittedDNSDomains = []string{"a.org"} }},
		{"no names", "names", func(c *x509.Certificate, r *lint.Rules) { c.URIs, c.DNSNames = nil, nil }},
		{"e-mail", "names", func(c *x509.Certificate, r *lint.Rules) { c.EmailAddresses = []string{"a@example.org"} }},
		{"two URIs", "spiffe", func(c *x509.Certificate, r *lint.Rules) { c.URIs = append(c.URIs, c.URIs[0]) }},
		{"no URI", "spiffe", func(c *x509.Certificate, r *lint.Rules) { c.URIs = nil }},
		{"unwanted URI", "names", func(c *x509.Certificate, r *lint.Rules) { r.TrustDomain = "" }},
		{"https URI", "spiffe", func(c *x509.Certificate, r *lint.Rules) {
			c.URIs[0] = parseURL("https://dev.example.org/service/payments")
		}},
		{"foreign trust domain", "spiffe", func(c *x509.Certificate, r *lint.Rules) {
			c.URIs[0] = parseURL("spiffe://prod.example.org/service/payments")
		}},
		{"foreign to the issuer", "name constraints", func(c *x509.Certificate, r *lint.Rules) {
			c.URIs[0] = parseURL("spiffe://prod.example.org/service/payments")
			r.TrustDomain = "prod.example.org"
		}},
		{"below the trust domain", "name constraints", func(c *x509.Certificate, r *lint.Rules) {
			c.URIs[0] = parseURL("spiffe://x.dev.example.org/service/payments")
			r.TrustDomain = "x.dev.example.org"
		}},
		{"query", "spiffe", func(c *x509.Certificate, r *lint.Rules) { c.URIs[0] = parseURL("spiffe://dev.example.org/service/a?b") }},
		{"fragment", "spiffe", func(c *x509.Certificate, r *lint.Rules) { c.URIs[0] = parseURL("spiffe://dev.example.org/service/a#b") }},
		{"user", "spiffe", func(c *x509.Certificate, r *lint.Rules) { c.URIs[0] = parseURL("spiffe://u@dev.example.org/service/a") }},
		{"port", "spiffe", func(c *x509.Certificate, r *lint.Rules) { c.URIs[0] = parseURL("spiffe://dev.example.org:1/service/a") }},
		{"percent", "spiffe", func(c *x509.Certificate, r *lint.Rules) {
			c.URIs[0] = parseURL("spiffe://dev.example.org/service/a%2fb")
		}},
		{"dots", "spiffe", func(c *x509.Certificate, r *lint.Rules) { c.URIs[0] = parseURL("spiffe://dev.example.org/service/..") }},
		{"empty segment", "spiffe", func(c *x509.Certificate, r *lint.Rules) { c.URIs[0] = parseURL("spiffe://dev.example.org/service//a") }},
		{"no path", "spiffe", func(c *x509.Certificate, r *lint.Rules) { c.URIs[0] = parseURL("spiffe://dev.example.org/service") }},
		{"foreign host as common name", "subject", func(c *x509.Certificate, r *lint.Rules) { c.Subject.CommonName = "bank.example.org" }},
		{"word as common name", "subject", func(c *x509.Certificate, r *lint.Rules) { c.Subject.CommonName = "localhost" }},
		{"address as common name", "subject", func(c *x509.Certificate, r *lint.Rules) { c.Subject.CommonName = "2001:db8::1" }},
		{"long common name", "subject", func(c *x509.Certificate, r *lint.Rules) { c.Subject.CommonName = "a:" + strings.Repeat("x", 63) }},
		{"organization", "subject", func(c *x509.Certificate, r *lint.Rules) { c.Subject.Organization = []string{"x"} }},
	} {
		c, r := leafTemplate(t, k), rules
		b.change(c, &r)
		check(t, b, create(t, c, issuer.cert, k.Public(), issuer.key), r)
	}
	mine := leafTemplate(t, issuer.key)
	check(t, broken{name: "the issuer's own key", want: "public key"}, create(t, mine, issuer.cert, issuer.key.Public(), issuer.key), rules)
	_, stranger := hierarchy(t)
	check(t, broken{name: "another issuer's", want: "authority key identifier"}, create(t, leafTemplate(t, k), stranger.cert, k.Public(), stranger.key), rules)
}

func check(t *testing.T, b broken, c *x509.Certificate, r lint.Rules) {
	t.Helper()
	err := lint.Certificate(c, r)
	if b.want == "" {
		if err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
		return
	}
	found, ok := err.(lint.Findings) //nolint:errorlint // lint returns it bare
	if !ok {
		t.Errorf("%s: %v, want a finding of %q", b.name, err, b.want)
		return
	}
	for _, f := range found {
		if f.Rule == b.want {
			return
		}
	}
	t.Errorf("%s: %v, want a finding of %q", b.name, err, b.want)
}

func TestAuthorities(t *testing.T) {
	root, issuer := hierarchy(t)
	years := 5 * 366 * 24 * time.Hour
	rootRules := lint.Rules{Kind: lint.Root, MaxValidity: years}
	issuerRules := lint.Rules{Kind: lint.Issuer, Parent: root.cert, MaxValidity: years, TrustDomain: domain}
	check(t, broken{name: "root"}, root.cert, rootRules)
	check(t, broken{name: "issuer"}, issuer.cert, issuerRules)
	check(t, broken{name: "issuer as root", want: "issuer name"}, issuer.cert, rootRules)
	check(t, broken{name: "issuer without parent", want: "issuer"}, issuer.cert, lint.Rules{Kind: lint.Issuer, MaxValidity: years, TrustDomain: domain})
	for _, b := range []broken{
		{"pathlen", "basic constraints", func(c *x509.Certificate, r *lint.Rules) { c.MaxPathLen, c.MaxPathLenZero = -1, false }},
		{"digitalSignature", "key usage", func(c *x509.Certificate, r *lint.Rules) { c.KeyUsage |= x509.KeyUsageDigitalSignature }},
		{"extended usage", "extended key usage", func(c *x509.Certificate, r *lint.Rules) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}},
		{"unconstrained", "name constraints", func(c *x509.Certificate, r *lint.Rules) { c.PermittedURIDomains = nil }},
		{"not critical", "name constraints", func(c *x509.Certificate, r *lint.Rules) { c.PermittedDNSDomainsCritical = false }},
		{"two trust domains", "name constraints", func(c *x509.Certificate, r *lint.Rules) {
			c.PermittedURIDomains = append(c.PermittedURIDomains, "x.org")
		}},
		{"all below", "name constraints", func(c *x509.Certificate, r *lint.Rules) { c.PermittedURIDomains[0] = "." + domain }},
		{"no trust domain", "name constraints", func(c *x509.Certificate, r *lint.Rules) { r.TrustDomain, c.PermittedURIDomains = "", []string{""} }},
		{"a host name", "names", func(c *x509.Certificate, r *lint.Rules) { c.DNSNames = []string{"a.org"} }},
		{"noRevAvail", "extension", func(c *x509.Certificate, r *lint.Rules) { c.ExtraExtensions = []pkix.Extension{noRev} }},
		{"no name", "subject", func(c *x509.Certificate, r *lint.Rules) { c.Subject.CommonName = "" }},
	} {
		c, r := issuerTemplate(t, issuer.key), issuerRules
		b.change(c, &r)
		check(t, b, create(t, c, root.cert, issuer.key.Public(), root.key), r)
	}
	k := newKey(t)
	below := create(t, issuerTemplate(t, k), issuer.cert, k.Public(), issuer.key)
	r := issuerRules
	r.Parent = issuer.cert
	check(t, broken{name: "an issuer below an issuer", want: "issuer"}, below, r)
}

// TestOtherConstraints: DNS and IP constraints of a foreign parent are obeyed too.
func TestOtherConstraints(t *testing.T) {
	_, n4, _ := net.ParseCIDR("192.0.2.0/24")
	_, n6, _ := net.ParseCIDR("2001:db8::/32")
	_, bad, _ := net.ParseCIDR("192.0.2.128/25")
	parent := &x509.Certificate{
		PermittedDNSDomains: []string{"example.org", ".test"}, ExcludedDNSDomains: []string{"secret.example.org"},
		PermittedIPRanges: []*net.IPNet{n4, n6}, ExcludedIPRanges: []*net.IPNet{bad}, PermittedURIDomains: []string{".example.org"}, ExcludedURIDomains: []string{"prod.example.org"},
	}
	for _, c := range []struct {
		leaf x509.Certificate
		ok   bool
	}{
		{x509.Certificate{DNSNames: []string{"example.org", "a.example.org", "x.test"}}, true},
		{x509.Certificate{DNSNames: []string{"badexample.org"}}, false},
		{x509.Certificate{DNSNames: []string{"a.secret.example.org"}}, false},
		{x509.Certificate{IPAddresses: []net.IP{{192, 0, 2, 1}, net.ParseIP("2001:db8::1")}}, true},
		{x509.Certificate{IPAddresses: []net.IP{{192, 0, 2, 200}}}, false},
		{x509.Certificate{IPAddresses: []net.IP{net.ParseIP("2001:db9::1")}}, false},
		{x509.Certificate{URIs: []*url.URL{parseURL("spiffe://dev.example.org/service/a")}}, true},
		{x509.Certificate{URIs: []*url.URL{parseURL("spiffe://prod.example.org/service/a")}}, false},
		{x509.Certificate{URIs: []*url.URL{parseURL("spiffe://example.org/service/a")}}, false},
	} {
		c.leaf.SerialNumber = serial
		err := lint.Certificate(&c.leaf, lint.Rules{Kind: lint.Leaf, Parent: parent})
		if got := !strings.Contains(err.Error(), "the issuer may not name"); got != c.ok {
			t.Errorf("%v %v %v: permitted %v, want %v", c.leaf.DNSNames, c.leaf.IPAddresses, c.leaf.URIs, got, c.ok)
		}
	}
}

func TestCRLRules(t *testing.T) {
	root, issuer := hierarchy(t)
	entry := func(n int64, at time.Time, reason int) x509.RevocationListEntry {
		return x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: at, ReasonCode: reason}
	}
	for _, c := range []struct {
		name, want string
		change     func(l *x509.RevocationList)
	}{
		{"nothing", "", func(l *x509.RevocationList) {}},
		{"no entries", "", func(l *x509.RevocationList) { l.RevokedCertificateEntries = nil }},
		{"number 0", "crl number", func(l *x509.RevocationList) { l.Number = big.NewInt(0) }},
		{"too long", "crl dates", func(l *x509.RevocationList) { l.NextUpdate = l.NextUpdate.Add(time.Hour) }},
		{"no time", "crl dates", func(l *x509.RevocationList) { l.NextUpdate = l.ThisUpdate }},
		{"twice", "entries", func(l *x509.RevocationList) {
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, l.RevokedCertificateEntries[0])
		}},
		{"tomorrow", "entries", func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].RevocationTime = start.Add(24 * time.Hour)
		}},
		{"hold", "entries", func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 6 }},
		{"removal", "entries", func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 8 }},
		{"partial", "extension", func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}}
		}},
		{"entry extension", "entries", func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 24}, Value: []byte{5, 0}}}
		}},
	} {
		l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: start, NextUpdate: start.Add(time.Hour), RevokedCertificateEntries: []x509.RevocationListEntry{entry(5, start, 1), entry(6, start, 0)}}
		c.change(l)
		parsed := createCRL(t, l, issuer)
		err := lint.CRL(parsed, lint.CRLRules{Parent: issuer.cert, MaxLifetime: time.Hour})
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	foreign := createCRL(t, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: start, NextUpdate: start.Add(time.Hour)}, root)
	if err := lint.CRL(foreign, lint.CRLRules{Parent: issuer.cert, MaxLifetime: time.Hour}); err == nil {
		t.Error("the root's CRL passed for the issuer's")
	}
}

func createCRL(t *testing.T, l *x509.RevocationList, by ca) *x509.RevocationList {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, l, by.cert, by.key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// TestZlintFinds shows that the configured sources see what they should, and leave the public web's rules out.
func TestZlintFinds(t *testing.T) {
	_, issuer := hierarchy(t)
	k := newKey(t)
	z := lint.NewZlint()
	if err := z.Certificate(create(t, leafTemplate(t, k), issuer.cert, k.Public(), issuer.key).Raw); err != nil {
		t.Error(err)
	}
	bad := leafTemplate(t, k)
	bad.Subject.CommonName, bad.SubjectKeyId, bad.DNSNames = " x ", nil, []string{"a..b", "*"}
	err := z.Certificate(create(t, bad, issuer.cert, k.Public(), issuer.key).Raw)
	for _, want := range []string{"subject_dn_leading_whitespace", "ext_subject_key_identifier_missing_sub_cert", "san_bare_wildcard"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if z.Certificate([]byte("x")) == nil || z.CRL([]byte("x")) == nil {
		t.Error("garbage passed")
	}
	l := createCRL(t, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: start, NextUpdate: start.Add(time.Hour), RevokedCertificateEntries: []x509.RevocationListEntry{
		{SerialNumber: big.NewInt(5), RevocationTime: start.Add(time.Hour)}}}, issuer)
	if err := z.CRL(l.Raw); err == nil || !strings.Contains(err.Error(), "revocation_time") {
		t.Errorf("a revocation after thisUpdate: %v", err)
	}
}

func BenchmarkCertificate(b *testing.B) {
	_, issuer := hierarchy(b)
	k := newKey(b)
	c := create(b, leafTemplate(b, k), issuer.cert, k.Public(), issuer.key)
	rules := lint.Rules{Kind: lint.Leaf, Parent: issuer.cert, MaxValidity: 24 * time.Hour, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, TrustDomain: domain, NoRevAvail: true}
	for b.Loop() {
		if err := lint.Certificate(c, rules); err != nil {
			b.Fatal(err)
		}
	}
}
