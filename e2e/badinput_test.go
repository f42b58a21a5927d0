package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/api"
)

// Whatever is wrong with a request, the answer is a problem that says what to do.
func TestBadRequests(t *testing.T) {
	openssl := require(t, "openssl", "openssl")
	s := start(t, filepath.Join(t.TempDir(), "dev"))
	sealed := strings.TrimSpace(s.must("sealwright key create dev/bad/key >&2; printf secret | sealwright encrypt dev/bad/key --context tenant=42"))
	dir := t.TempDir()
	good, weak := filepath.Join(dir, "good.csr"), filepath.Join(dir, "weak.csr")
	makeCSR(t, good, filepath.Join(dir, "good.key"))
	run(t, openssl, "req", "-new", "-newkey", "rsa:1024", "-nodes", "-subj", "/", "-keyout", filepath.Join(dir, "weak.key"), "-out", weak)
	csr := contents(t, good)
	issue := func(csr string, more string) string {
		quoted, err := json.Marshal(csr)
		if err != nil {
			t.Fatal(err)
		}
		return `{"csr":` + string(quoted) + more + `}`
	}
	decrypt := func(ciphertext string) string {
		return `{"ciphertext":"` + ciphertext + `","context":{"tenant":"42"}}`
	}
	const keys, certificates = "POST /v1/keys", "POST /v1/certificates"
	const encrypt = "POST /v1/keys/dev/bad/key/encrypt"
	admin := mtls(t, filepath.Join(s.dir, "admin"))
	for _, c := range []struct {
		name, route, body string
		status            int
		code, want        string
	}{
		{"unknown field", keys, `{"name":"dev/bad/x","tyer":"device"}`, 400, "invalid", "tyer"},
		{"not JSON", keys, `name=dev/bad/x`, 400, "invalid", ""},
		{"two values", keys, `{"name":"dev/bad/x"}{}`, 400, "invalid", ""},
		{"name outside the grammar", keys, `{"name":"dev/bad/Über"}`, 400, "invalid", "lower-case"},
		{"name taken", keys, `{"name":"dev/bad/key"}`, 409, "exists", "choose another"},
		{"unknown algorithm", keys, `{"name":"dev/bad/x","algorithm":"rot13"}`, 400, "invalid", "rot13"},
		{"no environment of ours", keys, `{"name":"mars/bad/x"}`, 404, "not_found", "mars"},
		{"plaintext too large", encrypt, `{"plaintext":"` + base64.StdEncoding.EncodeToString(make([]byte, api.MaxPlaintext+1)) + `"}`, 400, "invalid", "65536"},
		{"body too large", encrypt, `{"plaintext":"` + strings.Repeat("A", 1<<20) + `"}`, 413, "too_large", ""},
		{"no such key", "POST /v1/keys/dev/bad/none/encrypt", `{"plaintext":""}`, 404, "not_found", "dev/bad/none"},
		{"truncated ciphertext", "POST /v1/decrypt", decrypt(sealed[:len(sealed)-8]), 400, "invalid_ciphertext", ""},
		{"altered ciphertext", "POST /v1/decrypt", decrypt(sealed[:60] + "AAAA" + sealed[64:]), 400, "invalid_ciphertext", ""},
		{"wrong context", "POST /v1/decrypt", strings.Replace(decrypt(sealed), "42", "43", 1), 400, "invalid_ciphertext", ""},
		{"no ciphertext", "POST /v1/decrypt", decrypt("nonsense"), 400, "invalid_ciphertext", ""},
		{"TTL beyond the profile", certificates, issue(csr, `,"spiffe":"service/bad","ttl":"99999h"`), 400, "invalid", "profile"},
		{"a name the profile does not mint", certificates, issue(csr, `,"spiffe":"spiffe://ops.sealwright.internal/user/eve"`), 400, "invalid", "eve"},
		{"a foreign trust domain", certificates, issue(csr, `,"spiffe":"spiffe://elsewhere.example/service/bad"`), 400, "invalid", "elsewhere"},
		{"a name that is none", certificates, issue(csr, `,"spiffe":"service/bad","dns":["not a name"]`), 400, "invalid", "not a name"},
		{"weak key", certificates, issue(contents(t, weak), `,"spiffe":"service/bad"`), 400, "invalid", "1024"},
		{"broken signature", certificates, issue(breakSignature(t, csr), `,"spiffe":"service/bad"`), 400, "invalid", "signature"},
		{"no CSR", certificates, issue("nonsense", `,"spiffe":"service/bad"`), 400, "invalid", "openssl req"},
		{"no such certificate", "POST /v1/certificates/1234/revoke", `{}`, 404, "not_found", ""},
		{"no such path", "GET /v1/nothing", ``, 404, "not_found", ""},
		{"method", "DELETE /v1/keys", ``, 405, "method_not_allowed", ""},
		{"a policy that does not parse", "PUT /v1/policy", `{"text":"permit (principal"}`, 400, "invalid", ":1:"},
		{"a policy nobody could repair", "PUT /v1/policy", `{"text":"forbid (principal, action, resource);"}`, 400, "invalid", "repair"},
	} {
		t.Run(c.name, func(t *testing.T) {
			method, path, _ := strings.Cut(c.route, " ")
			request, err := http.NewRequest(method, s.address()+path, bytes.NewReader([]byte(c.body)))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/json")
			answer, err := admin.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			text, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			var problem api.Problem
			if err := json.Unmarshal(text, &problem); err != nil || answer.Header.Get("Content-Type") != api.ProblemType {
				t.Fatalf("no problem: %s %v %s", answer.Status, err, text)
			}
			if answer.StatusCode != c.status || problem.Status != c.status || problem.Code != c.code || !strings.Contains(problem.Detail, c.want) || problem.Detail == "" || problem.RequestID == "" {
				t.Errorf("%s\nwant %d %s and a word about %q", text, c.status, c.code, c.want)
			}
		})
	}
	if got := s.must("printf %s '" + sealed + "' | sealwright decrypt --context tenant=42; sealwright audit verify >&2"); got != "secret" {
		t.Errorf("afterwards: %q", got)
	}
	s.stop()
}

// breakSignature flips a bit in the last bytes of a PEM request.
func breakSignature(t *testing.T, csr string) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(csr), "\n")
	der, err := base64.StdEncoding.DecodeString(strings.Join(lines[1:len(lines)-1], ""))
	if err != nil {
		t.Fatal(err)
	}
	der[len(der)-1] ^= 1
	return lines[0] + "\n" + base64.StdEncoding.EncodeToString(der) + "\n" + lines[len(lines)-1] + "\n"
}

// address is where the API is.
func (s *service) address() string {
	s.t.Helper()
	return strings.TrimPrefix(s.vary("SEALWRIGHT_ADDR"), "SEALWRIGHT_ADDR=")
}

// A PIN that the device refuses ends init and serve with a code of its own, and
// init leaves nothing behind.
func TestWrongPINInProduction(t *testing.T) {
	s := newSite(t, "sqlite:store.db", "")
	s.write("pin", "wrong-pin-7391\n")
	refused := func(what, out string, code int) {
		t.Helper()
		if code != 5 || strings.Contains(out, "7391") || !strings.Contains(out, "correct the PIN") {
			t.Errorf("%s: code %d, want 5\n%s", what, code, out)
		}
	}
	out, code := s.init("--no-recovery")
	refused("init", out, code)
	if _, err := os.Stat(filepath.Join(s.dir, "store.db")); err == nil {
		t.Error("init left a store behind")
	}
	s.write("pin", sitePIN+"\n")
	if out, code := s.init("--no-recovery"); code != 0 {
		t.Fatalf("init with the right PIN: %s", out)
	}
	s.write("pin", "wrong-pin-7391\n")
	out, code = s.daemon("serve", "--config", s.config)
	refused("serve", out, code)
	s.write("pin", sitePIN+"\n")
	s.serve().stop()
}
