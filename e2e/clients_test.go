package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var crlLine = regexp.MustCompile(`CRLs at (http://\S+?)/?\n`)

// crlURL is where the service says its CRLs are.
func (s *service) crlURL() string {
	s.t.Helper()
	var found []string
	s.wait(5*time.Second, func() bool {
		found = crlLine.FindStringSubmatch(s.output.String())
		return found != nil
	})
	return found[1]
}

// Debian's nginx, as examples/nginx shows it to readers.
func TestNginx(t *testing.T) {
	require(t, "nginx", "nginx")
	require(t, "openssl", "openssl")
	require(t, "curl", "curl")
	s := start(t, filepath.Join(t.TempDir(), "dev"))
	_, port, err := net.SplitHostPort(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("../examples/nginx/run.sh")
	if err != nil {
		t.Fatal(err)
	}
	out := s.must("PORT=" + port + " CRL_URL=" + s.crlURL() + " " + script + " 2>&1")
	if !strings.Contains(out, "nginx accepted, and refused the revoked and the expired.") {
		t.Errorf("the example says:\n%s", out)
	}
	s.must("sealwright audit verify")
	s.stop()
}

// OpenSSL and GnuTLS accept what was issued: certificates, chains, CRLs, signatures.
func TestForeignTools(t *testing.T) {
	require(t, "openssl", "openssl")
	require(t, "gnutls", "certtool")
	require(t, "curl", "curl")
	s := start(t, filepath.Join(t.TempDir(), "dev"))
	dir := t.TempDir()
	s.must("cd " + dir + `; set -e
sealwright cert issue --spiffe service/tools --dns localhost --ip 127.0.0.1 --ttl 1h --out tls
sealwright cert issue --profile server --dns localhost --ip 127.0.0.1 --ttl 200h --out long
sealwright cert issue --spiffe service/tools --ttl 1h --out revoked
curl -sSf --cacert "$SEALWRIGHT_CA" --cert "$SEALWRIGHT_CERT" --key "$SEALWRIGHT_KEY" "$SEALWRIGHT_ADDR/v1/issuers" | grep -o '"id": *"[0-9a-f]*"' | cut -d'"' -f4 > issuers
sealwright cert revoke $(openssl x509 -in revoked/cert.pem -noout -serial | cut -d= -f2)
while read -r id; do curl -sSf ` + s.crlURL() + `/$id.crl > $id.der; openssl crl -inform DER -in $id.der >> crl.pem; done < issuers
curl -sSf ` + strings.TrimSuffix(s.crlURL(), "/crl") + `/ca.pem | cmp - tls/ca.pem
sealwright key create dev/tools/sign --tier device --algorithm ecdsa-p256
printf message > message; sealwright key sign dev/tools/sign --raw < message > signature; sealwright key public-key dev/tools/sign > public.pem`)
	for _, c := range []struct{ line, want string }{
		{"openssl verify -x509_strict -purpose sslserver -verify_hostname localhost -CAfile tls/ca.pem -untrusted tls/cert.pem tls/cert.pem", "tls/cert.pem: OK"},
		{"openssl verify -x509_strict -purpose sslclient -CAfile tls/ca.pem -untrusted tls/cert.pem -crl_check_all -CRLfile crl.pem tls/cert.pem", "tls/cert.pem: OK"},
		{"openssl verify -CAfile tls/ca.pem -untrusted revoked/cert.pem -crl_check_all -CRLfile crl.pem revoked/cert.pem 2>&1 || true", "certificate revoked"},
		{openssl2CRLs, "2"},
		{"openssl crl -in <(cat crl.pem) -noout -text", "CRL Number"},
		{"openssl x509 -in long/cert.pem -noout -text", s.crlURL()},
		{"openssl x509 -in tls/cert.pem -noout -ext subjectAltName", "URI:spiffe://dev.sealwright.internal/service/tools"},
		{"openssl pkey -in tls/key.pem -noout -check", "valid"},
		{"certtool --verify --load-ca-certificate tls/ca.pem --infile tls/cert.pem", "Verified. The certificate is trusted"},
		{"cat crl.pem | certtool --crl-info | tail -n 60", "Issuer:"},
		{certtool2CRLs, "2"},
		{"openssl dgst -sha256 -verify public.pem -signature signature message", "Verified OK"},
		{`curl -sS --cacert "$SEALWRIGHT_CA" --cert "$SEALWRIGHT_CERT" --key "$SEALWRIGHT_KEY" "$SEALWRIGHT_ADDR/v1/keys?environment=dev"`, "dev/tools/sign"},
		{`curl -sS --cacert "$SEALWRIGHT_CA" "$SEALWRIGHT_ADDR/openapi.json"`, `"openapi"`},
		{`curl -sS --tls-max 1.2 --cacert "$SEALWRIGHT_CA" "$SEALWRIGHT_ADDR/livez" 2>&1 || echo refused`, "refused"},
	} {
		if out, problems, code := s.sh("cd " + dir + "; " + c.line); code != 0 || !strings.Contains(out+problems, c.want) {
			t.Errorf("%s\nended with %d, want %q\n%s%s", c.line, code, c.want, out, problems)
		}
	}
	goClient(t, dir)
	s.stop()
}

// The root's CRL and the issuer's are verified with the CAs that cert issue wrote.
const (
	openssl2CRLs  = `cat tls/ca.pem tls/cert.pem > cas; for f in *.der; do openssl crl -inform DER -in $f -noout -CAfile cas 2>&1 || true; done | grep -c '^verify OK'`
	certtool2CRLs = `awk '/BEGIN/{n++} n==2' tls/cert.pem > issuer; for ca in tls/ca.pem issuer; do for f in *.der; do openssl crl -inform DER -in $f -out $f.pem; certtool --verify-crl --load-ca-certificate $ca --infile $f.pem || true; done; done | grep -ci 'output: verified'`
)

// goClient has Go's own TLS serve and call with the files as they are.
func goClient(t *testing.T, dir string) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls", "cert.pem"), filepath.Join(dir, "tls", "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(dir, "tls", "ca.pem"))
	if err != nil || !roots.AppendCertsFromPEM(ca) {
		t.Fatalf("roots: %v", err)
	}
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].URIs[0].String())
	}))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
	web.StartTLS()
	defer web.Close()
	answer, err := mtls(t, filepath.Join(dir, "tls")).Get(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || string(text) != "spiffe://dev.sealwright.internal/service/tools" {
		t.Errorf("Go sees %q, %v", text, err)
	}
}
