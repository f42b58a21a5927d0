package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// acts are the same for every device; each line works on what the lines above left.
var acts = []struct{ line, want string }{
	{"sealwright status", "healthy"},
	{"sealwright key create dev/both/data", "wrapped"},
	{"sealwright key create dev/both/sign --tier device --algorithm ecdsa-p256", "device"},
	{"printf secret | sealwright encrypt dev/both/data --context tenant=1 > sealed; cut -c1-4 sealed", "sw1:"},
	{"sealwright decrypt --context tenant=1 < sealed", "secret"},
	{"sealwright key rotate dev/both/data", "2"},
	{"sealwright rewrap --context tenant=1 < sealed > sealed2; sealwright decrypt --context tenant=1 < sealed2", "secret"},
	{"sealwright datakey dev/both/data -o json", `"wrapped"`},
	{"printf message > message; sealwright key sign dev/both/sign < message > signature; sealwright key verify dev/both/sign --signature signature < message", "valid: by version 1"},
	{"sealwright cert issue --spiffe service/both --dns localhost --ttl 1h --out tls && openssl verify -CAfile tls/ca.pem -untrusted tls/cert.pem tls/cert.pem", "tls/cert.pem: OK"},
	{"sealwright audit verify", "verifies"},
}

// again is what a restarted service must still know.
var again = []struct{ line, want string }{
	{"sealwright status", "healthy"},
	{"sealwright key list", "dev/both/sign"},
	{"sealwright decrypt --context tenant=1 < sealed", "secret"},
	{"sealwright decrypt --context tenant=1 < sealed2", "secret"},
	{"sealwright key verify dev/both/sign --signature signature < message", "valid: by version 1"},
	{"sealwright key sign dev/both/sign < message > signature2; sealwright key verify dev/both/sign --signature signature2 < message", "valid: by version 1"},
	{"sealwright cert list", "service/both"},
	{"sealwright cert issue --spiffe service/both --dns localhost --ttl 1h --out tls", "service/both"},
	{"sealwright audit verify", "verifies"},
}

// One script, two devices, and a restart of each.
func TestDevices(t *testing.T) {
	require(t, "openssl", "openssl")
	for _, device := range []string{"softhsm", "swtpm"} {
		t.Run(device, func(t *testing.T) {
			if device == "swtpm" {
				softhsmtest.Require(t, "swtpm", exists("/usr/bin/swtpm", "/usr/local/bin/swtpm"), "swtpm is not installed")
			}
			dir, work := filepath.Join(t.TempDir(), "dev"), t.TempDir()
			s := start(t, dir, "--device", device)
			for _, a := range acts {
				if out := s.must("cd " + work + "; " + a.line); !strings.Contains(out, a.want) {
					t.Fatalf("%s prints no %q:\n%s", a.line, a.want, out)
				}
			}
			s.stop()
			s = start(t, dir, "--device", device)
			for _, a := range again {
				if out := s.must("cd " + work + "; " + a.line); !strings.Contains(out, a.want) {
					t.Fatalf("after a restart %s prints no %q:\n%s", a.line, a.want, out)
				}
			}
			s.kill() // and after a crash
			s = start(t, dir, "--device", device)
			if out := s.must("cd " + work + "; sealwright decrypt --context tenant=1 < sealed"); out != "secret" {
				t.Errorf("after a crash: %q", out)
			}
			s.stop()
			other := map[string]string{"softhsm": "swtpm", "swtpm": "softhsm"}[device]
			wrong := launch(t, dir, nil, "--device", other)
			<-wrong.done
			if code := wrong.cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(wrong.output.String(), "created on the other device") {
				t.Errorf("opened with %s: code %d\n%s", other, code, wrong.output)
			}
		})
	}
}
