package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mtls is an HTTP client with the certificate of a directory.
func mtls(t testing.TB, dir string) *http.Client {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil || !roots.AppendCertsFromPEM(ca) {
		t.Fatalf("roots: %v", err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// Who you are is asked for each request, not for each connection.
func TestIdentities(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "dev"))
	dir := t.TempDir()
	s.must("cd " + dir + "; set -e; sealwright key create dev/idem/key\n" +
		"for name in idem nobody gone short; do sealwright cert issue --spiffe service/$name --ttl 1h --out $name; done\n" +
		"for name in idem gone short; do sealwright principal register service/$name; done\n" +
		"sealwright cert issue --spiffe service/short --ttl 2s --out expired || sealwright cert issue --spiffe service/short --ttl 60s --out expired\n" +
		"printf '%s' '@id(\"administrators\") permit (principal in Role::\"administrator\", action, resource);\n@id(\"services\") permit (principal is Service, action in Action::\"kms:Use\", resource in Environment::\"dev\");' > policy.cedar\n" +
		"sealwright policy apply policy.cedar")
	address := s.address()
	for _, name := range []string{"idem", "gone"} {
		client := mtls(t, filepath.Join(dir, name))
		encrypt := func() (status int, body string, reused bool) {
			request, err := http.NewRequest(http.MethodPost, address+"/v1/keys/dev/idem/key/encrypt", bytes.NewReader([]byte(`{"plaintext":"c2VjcmV0"}`)))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/json")
			request = request.WithContext(httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}))
			answer, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			text, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			return answer.StatusCode, string(text), reused
		}
		if status, body, _ := encrypt(); status != http.StatusOK {
			t.Fatalf("%s: %d %s", name, status, body)
		}
		if name == "idem" {
			s.must("sealwright cert revoke $(openssl x509 -in " + dir + "/idem/cert.pem -noout -serial | cut -d= -f2)")
		} else {
			s.must("sealwright principal disable service/gone")
		}
		status, body, reused := encrypt()
		if status != http.StatusUnauthorized || !reused || strings.Contains(body, "sw1:") {
			t.Errorf("%s, revoked, on the same connection (%v): %d %s", name, reused, status, body)
		}
	}
	foreign(t, dir)
	for _, c := range []struct{ who, want string }{
		{"nobody", "registered"}, {"gone", "disabled"}, {"idem", "revoked"}, {"foreign", "does not chain"},
	} {
		as := " --cert " + c.who + "/cert.pem --key " + c.who + "/key.pem"
		out, problems, code := s.sh("cd " + dir + "; echo x | sealwright encrypt dev/idem/key" + as)
		if code != 3 || !strings.Contains(problems, c.want) {
			t.Errorf("%s: code %d, want 3 and a word about %q\n%s%s", c.who, code, c.want, out, problems)
		}
	}
	if out, problems, code := s.sh(`curl -sS --cacert "$SEALWRIGHT_CA" "$SEALWRIGHT_ADDR/v1/status"`); code != 0 || !strings.Contains(out, "client certificate") || !strings.Contains(out, `"code"`) {
		t.Errorf("without a certificate: %d\n%s%s", code, out, problems)
	}
	expire(t, filepath.Join(dir, "expired", "cert.pem"))
	out, problems, code := s.sh("cd " + dir + "; echo x | sealwright encrypt dev/idem/key --cert expired/cert.pem --key expired/key.pem")
	if code != 3 || !strings.Contains(problems, "expired") && !strings.Contains(problems, "ended") {
		t.Errorf("expired: code %d, want 3\n%s%s", code, out, problems)
	}
	if out := s.must("sealwright audit verify; sealwright audit list --limit 50"); !strings.Contains(out, "verifies") {
		t.Error(out)
	}
}

// foreign makes a certificate that names our administrator under another CA.
func foreign(t *testing.T, dir string) {
	t.Helper()
	openssl := require(t, "openssl", "openssl")
	if err := os.Mkdir(filepath.Join(dir, "foreign"), 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=admin", "-days", "1",
		"-addext", "subjectAltName=URI:spiffe://ops.sealwright.internal/user/admin", "-addext", "extendedKeyUsage=clientAuth",
		"-keyout", filepath.Join(dir, "foreign", "key.pem"), "-out", filepath.Join(dir, "foreign", "cert.pem"))
}

// expire waits until a certificate has ended.
func expire(t *testing.T, file string) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(file, filepath.Join(filepath.Dir(file), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	left := time.Until(pair.Leaf.NotAfter) + 1100*time.Millisecond
	if left > 70*time.Second {
		t.Fatalf("it lives another %s", left)
	}
	time.Sleep(max(0, left))
}

// vary returns one variable of the administrator's environment.
func (s *service) vary(name string) string {
	s.t.Helper()
	for _, kv := range s.env() {
		if strings.HasPrefix(kv, name+"=") {
			return kv
		}
	}
	s.t.Fatalf("no %s in the environment", name)
	return ""
}
