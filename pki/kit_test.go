package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealwright/sealwright/pki"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// house is a root and one issuer of the environment dev, with software keys.
type house struct {
	root   *pki.Issuer
	issuer *pki.Issuer
}

const (
	domain  = "dev.example.org"
	crlURL  = "http://127.0.0.1:8471/crl/dev.crl"
	serveID = "spiffe://dev.example.org/service/payments"
)

func build(t testing.TB) house {
	t.Helper()
	return buildAt(t, time.Now(), newKey(t, elliptic.P256()))
}

func buildAt(t testing.TB, now time.Time, issuerKey crypto.Signer) house {
	t.Helper()
	rootKey := newKey(t, elliptic.P256())
	checked, err := pki.CheckRoot(rootKey, pki.Plan{CommonName: "Test root 1", Organization: "example.org", Lifetime: 3650 * 24 * time.Hour}, now)
	root := issuerOf(t, checked, err, rootKey)
	checked, err = root.CheckIssuer(issuerKey.Public(), domain, pki.Plan{CommonName: "Test issuer dev 1", Organization: "example.org", Lifetime: 730 * 24 * time.Hour}, now)
	return house{root, issuerOf(t, checked, err, issuerKey)}
}

func issuerOf(t testing.TB, checked *pki.Checked, err error, signer crypto.Signer) *pki.Issuer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	i, err := pki.NewIssuer(sign(t, checked), signer, crlURL)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func sign(t testing.TB, checked *pki.Checked) *x509.Certificate {
	t.Helper()
	c, err := checked.Sign()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (h house) issue(t testing.TB, o pki.Order) *x509.Certificate {
	t.Helper()
	checked, err := h.issuer.Check(o, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, checked)
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// request makes the DER of a signing request.
func request(t testing.TB, signer crypto.Signer, template x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t testing.TB, der []byte) *pki.CSR {
	t.Helper()
	csr, err := pki.ParseCSR(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// plainCSR has a new P-256 key and no names.
func plainCSR(t testing.TB) *pki.CSR {
	t.Helper()
	return parse(t, request(t, newKey(t, elliptic.P256()), x509.CertificateRequest{}))
}

func profile(t testing.TB, name string) pki.Profile {
	t.Helper()
	p, err := pki.ProfileNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func ips(list ...string) (out []net.IP) {
	for _, s := range list {
		ip := net.ParseIP(s)
		if four := ip.To4(); four != nil {
			ip = four
		}
		out = append(out, ip)
	}
	return out
}

func uris(t testing.TB, list ...string) (out []*url.URL) {
	t.Helper()
	for _, s := range list {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

// tool finds a program of the machine.
func tool(t testing.TB, component, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	softhsmtest.Require(t, component, err == nil, "there is no program "+program)
	return path
}

// run returns what the program printed and whether it succeeded.
func run(t testing.TB, stdin []byte, program string, args ...string) (string, bool) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

func write(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func csrPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
