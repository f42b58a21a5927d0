package pki_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/pki"
)

// TestOpenSSL: openssl verifies every shape, with CRL checks of the whole
// chain, reads CRLs, sees a revocation, and enforces the trust domain.
func TestOpenSSL(t *testing.T) {
	openssl := tool(t, "openssl", "openssl")
	dir := t.TempDir()
	issuerKey := newKey(t, elliptic.P256())
	h := buildAt(t, time.Now(), issuerKey)
	root := write(t, dir, "root.pem", pki.EncodePEM(h.root.Certificate()))
	chain := write(t, dir, "chain.pem", pki.EncodePEM(h.issuer.Certificate()))
	gone := h.issue(t, pki.Order{Profile: profile(t, "service"), SPIFFEID: serveID, CSR: plainCSR(t)})
	crls := write(t, dir, "crls.pem", append(crl(t, h.root), crl(t, h.issuer, pki.Revoked{Serial: gone.SerialNumber, At: time.Now(), Reason: 1})...))
	verify := []string{"verify", "-x509_strict", "-CAfile", root, "-untrusted", chain, "-CRLfile", crls, "-crl_check_all"}
	for name, o := range orders(t) {
		c := h.issue(t, o)
		leaf := write(t, dir, "leaf.pem", pki.EncodePEM(c))
		purpose := "sslserver"
		if o.Profile.Name == "client" {
			purpose = "sslclient"
		}
		if out, ok := run(t, nil, openssl, append(verify, "-purpose", purpose, leaf)...); !ok {
			t.Errorf("%s: %s", name, out)
		}
		out, ok := run(t, nil, openssl, "x509", "-in", leaf, "-noout", "-text")
		if !ok || o.SPIFFEID != "" && !strings.Contains(out, "URI:"+o.SPIFFEID) || !strings.Contains(out, "CA:FALSE") {
			t.Errorf("%s: openssl reads\n%s", name, out)
		}
	}
	leaf := write(t, dir, "gone.pem", pki.EncodePEM(gone))
	if out, ok := run(t, nil, openssl, append(verify, leaf)...); ok || !strings.Contains(out, "certificate revoked") {
		t.Errorf("revoked: %s", out)
	}
	der, err := h.issuer.CRL(7, nil, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	out, ok := run(t, der, openssl, "crl", "-inform", "DER", "-noout", "-text", "-CAfile", chain)
	if !ok || !strings.Contains(out, "verify OK") || !strings.Contains(out, "X509v3 CRL Number") {
		t.Errorf("openssl reads the CRL as\n%s", out)
	}
	// A leaf that the issuer's constraint forbids, had we signed it: OpenSSL must refuse it.
	out, ok = run(t, nil, openssl, "verify", "-CAfile", root, "-untrusted", chain, write(t, dir, "evil.pem", foreignLeaf(t, h, issuerKey)))
	if ok || !strings.Contains(out, "permitted subtree violation") {
		t.Errorf("a leaf of another trust domain: %s", out)
	}
}

func crl(t *testing.T, i *pki.Issuer, revoked ...pki.Revoked) []byte {
	t.Helper()
	der, err := i.CRL(1, revoked, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return pki.EncodeCRL(der)
}

// foreignLeaf is a leaf of the trust domain prod, signed by the issuer for dev
// behind the back of Check.
func foreignLeaf(t *testing.T, h house, issuerKey crypto.Signer) []byte {
	t.Helper()
	c := h.issue(t, pki.Order{Profile: profile(t, "service"), SPIFFEID: serveID, CSR: plainCSR(t)})
	c.URIs = uris(t, "spiffe://prod.example.org/service/payments")
	der, err := x509.CreateCertificate(rand.Reader, c, h.issuer.Certificate(), c.PublicKey, issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestGnuTLS: GnuTLS 3.7 accepts the critical URI name constraint and noRevAvail.
// It does not enforce permitted URI subtrees, only excluded ones; so for GnuTLS
// peers the trust domain rests on what our issuers are willing to sign.
func TestGnuTLS(t *testing.T) {
	certtool := tool(t, "gnutls", "certtool")
	dir := t.TempDir()
	h := build(t)
	root := write(t, dir, "root.pem", pki.EncodePEM(h.root.Certificate()))
	gone := h.issue(t, pki.Order{Profile: profile(t, "service"), SPIFFEID: serveID, CSR: plainCSR(t)})
	crls := write(t, dir, "crls.pem", append(crl(t, h.issuer, pki.Revoked{Serial: gone.SerialNumber, At: time.Now().Add(-time.Hour), Reason: 1}), crl(t, h.root)...))
	for name, o := range orders(t) {
		c := h.issue(t, o)
		out, ok := run(t, pki.EncodePEM(c, h.issuer.Certificate()), certtool, "--verify", "--verify-profile", "medium", "--load-ca-certificate", root, "--load-crl", crls)
		if !ok || !strings.Contains(out, "Chain verification output: Verified. The certificate is trusted.") {
			t.Errorf("%s: %s", name, out)
		}
	}
	out, ok := run(t, pki.EncodePEM(gone, h.issuer.Certificate()), certtool, "--verify", "--load-ca-certificate", root, "--load-crl", crls)
	if ok || !strings.Contains(out, "revoked") {
		t.Errorf("revoked: %s", out)
	}
	out, ok = run(t, crl(t, h.issuer, pki.Revoked{Serial: gone.SerialNumber, At: time.Now()}), certtool, "--crl-info")
	if !ok || !strings.Contains(out, "Revoked certificates (1)") {
		t.Errorf("certtool reads the CRL as\n%s", out)
	}
	block, _ := pem.Decode(crl(t, h.issuer))
	if block == nil || block.Type != "X509 CRL" {
		t.Error("EncodeCRL makes no X509 CRL")
	}
}
