package e2e

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts of the command line, as users type them, against the real service.
func TestScripts(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "dev"))
	testscript.Run(t, testscript.Params{
		Dir: "../cmd/sealwright/testdata/server", RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			for _, kv := range s.env() {
				if name, value, _ := strings.Cut(kv, "="); name == "PATH" || strings.HasPrefix(name, "SEALWRIGHT_") {
					env.Setenv(name, value)
				}
			}
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": wantCode},
	})
}

// wantCode runs a command line and demands its exit code: code 2 sealwright ...
func wantCode(ts *testscript.TestScript, _ bool, args []string) {
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := err.(interface{ ExitCode() int })
		if !ok {
			ts.Fatalf("running %v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// The commands that must work as written, in one shell session.
const asWritten = `set -eo pipefail
printf 'attack at dawn' > plain
sealwright status
sealwright key create dev/payments/orders
sealwright key create dev/payments/release --tier device --algorithm ecdsa-p256
sealwright encrypt dev/payments/orders --context tenant=42 < plain > sealed ; sealwright decrypt --context tenant=42 < sealed | cmp - plain
sealwright datakey dev/payments/orders --output json > datakey.json
sealwright key rotate dev/payments/orders ; sealwright rewrap --context tenant=42 < sealed > rewrapped
sealwright decrypt --context tenant=42 < rewrapped | cmp - plain
sealwright cert issue --spiffe service/payments --dns localhost --ip 127.0.0.1 --ttl 1h --out DIR
sealwright cert list ; sealwright cert list --output json > certs.json
SERIAL=$(openssl x509 -in DIR/cert.pem -noout -serial | cut -d= -f2)
sealwright cert revoke $SERIAL
sealwright audit list --limit 20 ; sealwright audit verify ; sealwright audit prove 3 > entry.tlog-proof ; sealwright audit export LOG
sealwright audit verify entry.tlog-proof ; sealwright audit verify LOG
env -u SEALWRIGHT_ADDR -u SEALWRIGHT_CERT -u SEALWRIGHT_KEY -u SEALWRIGHT_CA sealwright audit verify LOG
sealwright principal register service/payments
sealwright policy apply FILE ; sealwright policy explain --principal service/payments --action kms:Decrypt --object dev/payments/orders
stat -c '%a %n' DIR/*.pem
`

func TestCommandsAsWritten(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "dev"))
	dir := t.TempDir()
	policy := "@id(\"administrators\")\npermit (principal in Role::\"administrator\", action, resource);\n" +
		"@id(\"payments\")\npermit (principal == Service::\"dev/payments\", action in Action::\"kms:Use\", resource in ServiceScope::\"dev/payments\");\n"
	if err := os.WriteFile(filepath.Join(dir, "FILE"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	out := s.must("cd " + dir + "\n" + asWritten)
	for _, want := range []string{"root made online", "dev/payments/orders", "allow: ", "600 DIR/ca.pem", "600 DIR/cert.pem", "600 DIR/key.pem", "spiffe://dev.sealwright.internal/service/payments"} {
		if !strings.Contains(out, want) {
			t.Errorf("the session shows no %q:\n%s", want, out)
		}
	}
	var dataKey struct{ Plaintext, Wrapped string }
	text, err := os.ReadFile(filepath.Join(dir, "datakey.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &dataKey); err != nil {
		t.Fatal(err)
	}
	if raw, err := base64.StdEncoding.DecodeString(dataKey.Plaintext); err != nil || len(raw) != 32 || !strings.HasPrefix(dataKey.Wrapped, "sw1:") {
		t.Errorf("a data key of %d bytes, %v, wrapped %.10s", len(raw), err, dataKey.Wrapped)
	}
	for line, want := range map[string]string{
		"sealwright --help":             "sealwright status",
		"sealwright key --help":         "rotate",
		"sealwright help cert issue":    "--ttl",
		"sealwright completion bash":    "complete -o default",
		"sealwright completion zsh":     "#compdef sealwright",
		"sealwright completion fish":    "complete -c sealwright",
		"sealwright __complete key cr ": "create",
		`bash -c 'source <(sealwright completion bash); complete -p sealwright'`: "sealwright",
	} {
		if got := s.must(strings.TrimSuffix(line, " ")); !strings.Contains(got, want) {
			t.Errorf("%s prints no %q:\n%s", line, want, got)
		}
	}
}

// fourEyes lets administrators do everything but rotate: that needs two of security.
const fourEyes = `@id("administrators")
permit (principal in Role::"administrator", action, resource) unless { action == Action::"kms:RotateKey" };
@id("rotate-four-eyes") @approvals("2 of security")
permit (principal in Role::"administrator", action == Action::"kms:RotateKey", resource);
`

// What programs read: the exit code.
func TestExitCodes(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "dev"))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "four-eyes.cedar"), []byte(fourEyes), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("cd " + dir + "\nset -e\nsealwright key create dev/codes/key\nsealwright principal register service/codes\n" +
		"sealwright cert issue --spiffe service/codes --ttl 1h --out codes\nsealwright policy apply four-eyes.cedar")
	as := "--cert codes/cert.pem --key codes/key.pem"
	for _, c := range []struct {
		line string
		code int
		want string
	}{
		{"sealwright status", 0, ""},
		{"sealwright key describe dev/codes/nothing", 1, "not found"},
		{"echo sw1:AAAA | sealwright decrypt", 1, "invalid ciphertext"},
		{"echo nonsense | sealwright decrypt", 1, "invalid ciphertext"},
		{"sealwright key create dev/Codes/x", 2, "\"Codes\""},
		{"sealwright key create", 2, "usage:"},
		{"sealwright status --addr https://127.0.0.1:1 --timeout 5s", 1, "is the server running?"},
		{"sealwright key describe dev/codes/key " + as, 3, "denied"},
		{"sealwright encrypt dev/codes/key < /dev/null " + as, 3, "denied"},
		{"sealwright policy apply four-eyes.cedar " + as, 3, "denied"},
		{"sealwright key rotate dev/codes/key", 4, "2 of security"},
		{"sealwright cert issue --spiffe service/codes --ttl 99999h --out long", 2, "profile"},
		{"sealwright cert issue --spiffe user/eve --ttl 1h --out eve", 2, "does not lie in dev."},
	} {
		out, problems, code := s.sh("cd " + dir + "\n" + c.line)
		if code != c.code || !strings.Contains(problems, c.want) {
			t.Errorf("%s\nended with %d, want %d and a word about %q\n%s%s", c.line, code, c.code, c.want, out, problems)
		}
	}
	if out := s.must("sealwright key describe dev/codes/key"); strings.Contains(out, "version 2") {
		t.Errorf("it rotated without approvals:\n%s", out)
	}
}
