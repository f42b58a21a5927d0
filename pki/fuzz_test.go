package pki_test

import (
	"crypto/elliptic"
	"crypto/x509"
	"net/url"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/pki"
)

func FuzzParseCSR(f *testing.F) {
	der := request(f, newKey(f, elliptic.P256()), x509.CertificateRequest{DNSNames: []string{"a.example.org"}, IPAddresses: ips("192.0.2.1", "::1"), URIs: uris(f, serveID)})
	f.Add(der)
	f.Add(csrPEM(der))
	f.Add(request(f, newEd25519(f), x509.CertificateRequest{}))
	f.Add(request(f, newRSA(f, 2048), x509.CertificateRequest{}))
	f.Fuzz(func(t *testing.T, text []byte) {
		csr, err := pki.ParseCSR(text)
		if err != nil {
			return
		}
		if _, err := x509.ParsePKIXPublicKey(csr.PublicKeyInfo()); err != nil {
			t.Errorf("accepted a request whose key does not parse: %v", err)
		}
	})
}

// FuzzSPIFFE: what is accepted means the same to our grammar, to net/url and to
// whoever splits it by hand, and reads back as itself.
func FuzzSPIFFE(f *testing.F) {
	for _, s := range []string{serveID, "spiffe://a/b", "spiffe://a_b.c-d/E.f_g/..h", "spiffe://a//b", "spiffe://a/%41", "spiffe://a:1/b", "spiffe://a@b/c", "spiffe://a/b?c#d", "SPIFFE://a/b", "spiffe://a/./b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := pki.ParseSPIFFEID(s)
		if err != nil {
			return
		}
		u, err := url.Parse(s)
		if err != nil || id.String() != s || u.String() != s || u.Host != id.TrustDomain || u.Path != id.Path || u.Port() != "" || u.User != nil {
			t.Errorf("%q reads as %+v, to net/url as %+v, %v", s, id, u, err)
		}
		want := "/" + id.Kind() + "/" + id.Name()
		if id.Name() == "" {
			want = "/" + id.Kind()
		}
		if want != id.Path || strings.ContainsAny(s, "%*\\ \x00\n") {
			t.Errorf("%q: kind %q, name %q", s, id.Kind(), id.Name())
		}
	})
}

func FuzzCheckDNS(f *testing.F) {
	for _, s := range []string{"localhost", "*.example.org", "xn--bcher-kva.example.org", "a--b.org", "1.2.3.4", "a..b", "A.org", "xn--a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if pki.CheckDNS(s, false) != nil {
			return
		}
		if pki.CheckDNS(s, true) != nil {
			t.Errorf("%q is accepted only without wildcards", s)
		}
		if u, err := url.Parse("https://" + s + "/"); err != nil || u.Hostname() != s || len(s) > 253 || strings.ToLower(s) != s {
			t.Errorf("%q is no host to net/url", s)
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	h := build(f)
	f.Add(pki.EncodePEM(h.root.Certificate(), h.issuer.Certificate()))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := pki.ParseBundle(text)
		if err == nil {
			if again, err := pki.ParseBundle(pki.EncodePEM(list...)); err != nil || len(again) != len(list) {
				t.Errorf("%d certificates read back as %d, %v", len(list), len(again), err)
			}
		}
	})
}
