package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The token goes away and comes back. Readiness says so, what needs the device
// fails and can be repeated, the service stays up, and nothing is lost.
func TestTokenGoesAway(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "dev"))
	work := t.TempDir()
	s.must("cd " + work + "; set -e; sealwright key create dev/away/data; sealwright key create dev/away/sign --tier device --algorithm ecdsa-p256; printf message > message; printf secret | sealwright encrypt dev/away/data > sealed")
	ready := func() string {
		out, _, _ := s.sh(`curl -s -o /dev/null -w '%{http_code}' --cacert "$SEALWRIGHT_CA" "$SEALWRIGHT_ADDR/readyz"`)
		return out
	}
	if got := ready(); got != "200" {
		t.Fatalf("readyz: %s", got)
	}
	tokens := filepath.Join(s.dir, "softhsm", "tokens")
	if err := os.Rename(tokens, tokens+".away"); err != nil {
		t.Fatal(err)
	}
	_, problems, code := s.sh("cd " + work + "; sealwright --timeout 20s key sign dev/away/sign < message")
	if code != 1 || !strings.Contains(problems, "retry") && !strings.Contains(problems, "timeout") {
		t.Errorf("signing without the token: code %d\n%s", code, problems)
	}
	s.wait(30*time.Second, func() bool { return ready() == "503" })
	if out := s.must(`curl -s --cacert "$SEALWRIGHT_CA" "$SEALWRIGHT_ADDR/livez"`); strings.TrimSpace(out) != "ok" {
		t.Errorf("livez: %q", out)
	}
	if err := os.Rename(tokens+".away", tokens); err != nil {
		t.Fatal(err)
	}
	s.wait(30*time.Second, func() bool { return ready() == "200" })
	s.must("cd " + work + "; set -e; sealwright key sign dev/away/sign < message > signature; sealwright key verify dev/away/sign --signature signature < message; [ \"$(sealwright decrypt < sealed)\" = secret ]; sealwright audit verify")
	s.stop()
}
