package pki_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/pki/lint"
)

// orders returns one order of every shape we care for.
func orders(t testing.TB) map[string]pki.Order {
	t.Helper()
	long := strings.Repeat("a", 60) + ".example.org"
	service, server, client := profile(t, "service"), profile(t, "server"), profile(t, "client")
	user, node := profile(t, "user"), profile(t, "node")
	wild := server
	wild.Wildcards = true
	all := map[string]pki.Order{
		"service":              {Profile: service, SPIFFEID: serveID},
		"service with hosts":   {Profile: service, SPIFFEID: serveID, DNS: []string{"localhost", "pay.example.org"}, IPs: addrs("127.0.0.1", "::1")},
		"service deep":         {Profile: service, SPIFFEID: serveID + "/api/v1"},
		"service long path":    {Profile: service, SPIFFEID: serveID + "/" + strings.Repeat("b", 63)},
		"service of 30 days":   {Profile: service, SPIFFEID: serveID, TTL: 30 * 24 * time.Hour},
		"service of 7 days":    {Profile: service, SPIFFEID: serveID, TTL: pki.NoRevAvailBelow},
		"server":               {Profile: server, DNS: []string{"www.example.org"}},
		"server by address":    {Profile: server, IPs: addrs("192.0.2.1", "2001:db8::1")},
		"server of 90 days":    {Profile: server, DNS: []string{"www.example.org"}, TTL: 90 * 24 * time.Hour},
		"server long name":     {Profile: server, DNS: []string{long}},
		"server international": {Profile: server, DNS: []string{"xn--bcher-kva.example.org", "www.xn--bcher-kva.example.org"}},
		"server wildcard":      {Profile: wild, DNS: []string{"*.example.org"}},
		"client":               {Profile: client, DNS: []string{"reports.example.org"}},
		"client of an hour":    {Profile: client, DNS: []string{"reports.example.org"}, TTL: time.Hour},
		"user":                 {Profile: user, SPIFFEID: "spiffe://dev.example.org/user/admin"},
		"node":                 {Profile: node, SPIFFEID: "spiffe://dev.example.org/node/host1", DNS: []string{"host1.example.org"}},
	}
	for name, o := range all {
		o.CSR = plainCSR(t)
		all[name] = o
	}
	for name, k := range map[string]crypto.Signer{
		"P-384": newKey(t, elliptic.P384()), "Ed25519": newEd25519(t), "RSA-2048": newRSA(t, 2048), "RSA-3072": newRSA(t, 3072),
	} {
		all["service with "+name] = pki.Order{Profile: service, SPIFFEID: serveID, CSR: parse(t, request(t, k, x509.CertificateRequest{}))}
	}
	return all
}

// TestEveryShape issues every shape and asks zlint, Go and our own lints about each.
func TestEveryShape(t *testing.T) {
	h := build(t)
	z := lint.NewZlint()
	for name, o := range orders(t) {
		start := time.Now()
		c := h.issue(t, o)
		end := time.Now()
		if err := z.Certificate(c.Raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if parsed, err := x509.ParseCertificate(c.Raw); err != nil || !reflect.DeepEqual(parsed, c) {
			t.Errorf("%s: what Sign returns is not what its bytes say: %v", name, err)
		}
		if err := c.CheckSignatureFrom(h.issuer.Certificate()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, usage := range o.Profile.Usages {
			if err := pki.Verify([]*x509.Certificate{c, h.issuer.Certificate()}, []*x509.Certificate{h.root.Certificate()}, usage, time.Now()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		ttl := o.TTL
		if ttl == 0 {
			ttl = o.Profile.DefaultTTL
		}
		// Whole seconds: both ends belong to the validity.
		if c.NotAfter.Before(start.Add(ttl-2*time.Second)) || c.NotAfter.After(end.Add(ttl)) {
			t.Errorf("%s: issued at %s for %s, ends at %s", name, start, ttl, c.NotAfter)
		}
		if c.NotBefore.Before(start.Add(-pki.Backdate-time.Second)) || c.NotBefore.After(end.Add(-pki.Backdate)) {
			t.Errorf("%s: issued at %s, begins at %s", name, start, c.NotBefore)
		}
		if noPointer := len(c.CRLDistributionPoints) == 0; noPointer != (ttl < pki.NoRevAvailBelow) {
			t.Errorf("%s: lives %s and has CRL pointers %v", name, ttl, c.CRLDistributionPoints)
		}
		if (c.Subject.CommonName == "") != strings.Contains(name, "long") && name != "server wildcard" {
			t.Errorf("%s: common name %q", name, c.Subject.CommonName)
		}
		if o.SPIFFEID != "" {
			if id, err := pki.Identity(c, h.issuer.Certificate()); err != nil || id.String() != o.SPIFFEID {
				t.Errorf("%s: identity %v, %v", name, id, err)
			}
		}
	}
	for _, c := range []*x509.Certificate{h.root.Certificate(), h.issuer.Certificate()} {
		if err := z.Certificate(c.Raw); err != nil {
			t.Errorf("%s: %v", c.Subject, err)
		}
	}
}

// TestBytesLikeGo compares our encoder with crypto/x509's, byte for byte.
func TestBytesLikeGo(t *testing.T) {
	h := build(t)
	again := newKey(t, elliptic.P256())
	compare := func(name string, c, parent *x509.Certificate) {
		t.Helper()
		parent2 := *parent
		parent2.PublicKey = again.Public() // CreateCertificate signs with any key; the TBS names the parent all the same
		template := &x509.Certificate{
			SerialNumber: c.SerialNumber, Subject: c.Subject, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
			KeyUsage: c.KeyUsage, ExtKeyUsage: c.ExtKeyUsage, BasicConstraintsValid: true, IsCA: c.IsCA, MaxPathLen: c.MaxPathLen, MaxPathLenZero: c.MaxPathLenZero,
			SubjectKeyId: c.SubjectKeyId, AuthorityKeyId: c.AuthorityKeyId, DNSNames: c.DNSNames, IPAddresses: c.IPAddresses, URIs: c.URIs,
			PermittedURIDomains: c.PermittedURIDomains, PermittedDNSDomainsCritical: c.PermittedDNSDomainsCritical, CRLDistributionPoints: c.CRLDistributionPoints,
		}
		if last := c.Extensions[len(c.Extensions)-1]; last.Id.String() == "2.5.29.56" {
			template.ExtraExtensions = append(template.ExtraExtensions, last)
		}
		der, err := x509.CreateCertificate(nil, template, &parent2, c.PublicKey, again)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		theirs, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(theirs.RawTBSCertificate, c.RawTBSCertificate) {
			t.Errorf("%s: ours\n%x\ntheirs\n%x", name, c.RawTBSCertificate, theirs.RawTBSCertificate)
		}
	}
	for name, o := range orders(t) {
		compare(name, h.issue(t, o), h.issuer.Certificate())
	}
	compare("root", h.root.Certificate(), h.root.Certificate())
	compare("issuer", h.issuer.Certificate(), h.root.Certificate())
	late := buildAt(t, time.Date(2049, 6, 1, 0, 0, 0, 0, time.UTC), newKey(t, elliptic.P256()))
	compare("2050 and later", late.issuer.Certificate(), late.root.Certificate())
}

// TestNoRevAvailGolden: OID 2.5.29.56, not 1.3.6.1.5.5.7.1.56 as others once
// shipped, value NULL, not critical (RFC 9608).
func TestNoRevAvailGolden(t *testing.T) {
	const golden = "3009" + "0603551d38" + "04020500"
	h := build(t)
	c := h.issue(t, pki.Order{Profile: profile(t, "service"), SPIFFEID: serveID, CSR: plainCSR(t)})
	if !strings.Contains(hex.EncodeToString(c.Raw), golden) {
		t.Errorf("no %s in %x", golden, c.Raw)
	}
	for _, e := range h.issuer.Certificate().Extensions {
		if e.Id.String() == "2.5.29.56" {
			t.Error("noRevAvail in a CA certificate")
		}
	}
}

func TestIssuerWithP384(t *testing.T) {
	h := buildAt(t, time.Now(), newKey(t, elliptic.P384()))
	c := h.issue(t, pki.Order{Profile: profile(t, "service"), SPIFFEID: serveID, CSR: plainCSR(t)})
	if c.SignatureAlgorithm != x509.ECDSAWithSHA384 {
		t.Errorf("signed with %s", c.SignatureAlgorithm)
	}
	if err := c.CheckSignatureFrom(h.issuer.Certificate()); err != nil {
		t.Error(err)
	}
}

func TestSerials(t *testing.T) {
	h := build(t)
	seen := map[string]bool{}
	for range 100 {
		c := h.issue(t, pki.Order{Profile: profile(t, "service"), SPIFFEID: serveID, CSR: plainCSR(t)})
		serial := c.SerialNumber.Text(16)
		if seen[serial] || len(serial) != 32 || c.SerialNumber.BitLen() != 127 {
			t.Fatalf("serial %s", serial)
		}
		seen[serial] = true
	}
}

// TestNotBeforeIssuer: a leaf of a fresh issuer does not begin before it.
func TestNotBeforeIssuer(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	h := buildAt(t, now.Add(3*time.Minute), newKey(t, elliptic.P256()))
	checked, err := h.issuer.Check(pki.Order{Profile: profile(t, "service"), SPIFFEID: serveID, CSR: plainCSR(t)}, now)
	if err != nil {
		t.Fatal(err)
	}
	if c := sign(t, checked); c.NotBefore.Before(h.issuer.Certificate().NotBefore) {
		t.Errorf("begins at %s, its issuer at %s", c.NotBefore, h.issuer.Certificate().NotBefore)
	}
}

func TestCRL(t *testing.T) {
	h := build(t)
	now := time.Now()
	z := lint.NewZlint()
	revoked := []pki.Revoked{{Serial: big.NewInt(77), At: now, Reason: 1}, {Serial: big.NewInt(78), At: now.Add(-time.Hour)}, {Serial: big.NewInt(79), At: now.Add(-time.Hour), Reason: 4}}
	for name, c := range map[string]struct {
		by   *pki.Issuer
		list []pki.Revoked
	}{"root, empty": {h.root, nil}, "issuer, empty": {h.issuer, nil}, "issuer": {h.issuer, revoked}} {
		der, err := c.by.CRL(3, c.list, 24*time.Hour, now)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := z.CRL(der); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.CheckSignatureFrom(c.by.Certificate()); err != nil || l.Number.Int64() != 3 || len(l.RevokedCertificateEntries) != len(c.list) {
			t.Errorf("%s: %v, number %d, %d entries", name, err, l.Number, len(l.RevokedCertificateEntries))
		}
		if l.ThisUpdate.After(now) || l.NextUpdate.Before(now.Add(23*time.Hour)) {
			t.Errorf("%s: from %s to %s", name, l.ThisUpdate, l.NextUpdate)
		}
	}
	for name, bad := range map[string][]pki.Revoked{
		"hold":           {{Serial: big.NewInt(1), At: now, Reason: 6}},
		"twice":          {{Serial: big.NewInt(1), At: now}, {Serial: big.NewInt(1), At: now}},
		"negative":       {{Serial: big.NewInt(-1), At: now}},
		"without serial": {{At: now}},
	} {
		if _, err := h.issuer.CRL(1, bad, time.Hour, now); err == nil {
			t.Errorf("%s: a CRL was made", name)
		}
	}
	if _, err := h.issuer.CRL(0, nil, time.Hour, now); err == nil {
		t.Error("a CRL with number 0 was made")
	}
	if _, err := h.issuer.CRL(1, nil, time.Second, now); err == nil {
		t.Error("a CRL of one second was made")
	}
}

func TestBundle(t *testing.T) {
	h := build(t)
	text := pki.EncodePEM(h.issuer.Certificate(), h.root.Certificate())
	list, err := pki.ParseBundle(text)
	if err != nil || len(list) != 2 || !list[1].Equal(h.root.Certificate()) {
		t.Fatalf("%d certificates, %v", len(list), err)
	}
	if len(pki.Fingerprint(list[0])) != 64 || pki.Fingerprint(list[0]) == pki.Fingerprint(list[1]) {
		t.Error("fingerprints")
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "garbage": []byte("x"), "trailing garbage": append(bytes.Clone(text), "x"...), "cut": text[:len(text)-40],
		"a CRL": pki.EncodeCRL([]byte{0x30, 0}), "too big": bytes.Repeat([]byte(" "), 2<<20), "too many": bytes.Repeat(text, 51),
	} {
		if _, err := pki.ParseBundle(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// BenchmarkCheckThenSign prints the parts, software key: what SoftHSM2 adds is measured in pki/ca.
func BenchmarkCheckThenSign(b *testing.B) {
	h := build(b)
	der := request(b, newKey(b, elliptic.P256()), x509.CertificateRequest{})
	o := pki.Order{Profile: profile(b, "service"), SPIFFEID: serveID, DNS: []string{"localhost"}, IPs: addrs("127.0.0.1"), CSR: parse(b, der)}
	b.Run("ParseCSR", func(b *testing.B) {
		for b.Loop() {
			parse(b, der)
		}
	})
	b.Run("Check", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.issuer.Check(o, time.Now()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Check+Sign", func(b *testing.B) {
		for b.Loop() {
			h.issue(b, o)
		}
	})
	b.Run("x509.CreateCertificate", func(b *testing.B) {
		k := newKey(b, elliptic.P256())
		c := h.issue(b, o)
		parent := *h.issuer.Certificate()
		parent.PublicKey = k.Public()
		for b.Loop() {
			if _, err := x509.CreateCertificate(nil, c, &parent, c.PublicKey, k); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("zlint", func(b *testing.B) {
		z := lint.NewZlint()
		c := h.issue(b, o)
		for b.Loop() {
			if err := z.Certificate(c.Raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("NewZlint", func(b *testing.B) {
		for b.Loop() {
			lint.NewZlint()
		}
	})
	b.Run("CRL of 10000", func(b *testing.B) {
		var list []pki.Revoked
		for n := range 10000 {
			list = append(list, pki.Revoked{Serial: big.NewInt(int64(n) + 1<<40), At: time.Now(), Reason: 1})
		}
		for b.Loop() {
			if _, err := h.issuer.CRL(1, list, time.Hour, time.Now()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func ExampleProfiles() {
	for _, p := range pki.Profiles() {
		fmt.Println(p.Name, p.DefaultTTL, p.MaxTTL)
	}
	// Output:
	// service 24h0m0s 720h0m0s
	// server 24h0m0s 2160h0m0s
	// client 24h0m0s 2160h0m0s
	// user 24h0m0s 2160h0m0s
	// node 24h0m0s 720h0m0s
}
