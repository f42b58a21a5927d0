package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/key"
)

// sealwrightd runs the program without its process.
func sealwrightd(args ...string) (code int, out string) {
	var all bytes.Buffer
	code = run(args, nil, &all, &all)
	return code, all.String()
}

func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What is misused says how to use it, ends with 2 and creates nothing.
func TestMisuse(t *testing.T) {
	dir := t.TempDir()
	config := write(t, dir, "config.yaml", least)
	_, csr, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	request := write(t, dir, "admin.csr", string(csr))
	junk := write(t, dir, "junk", "junk")
	init := []string{"init", "--config", config, "--out", dir}
	with := func(args ...string) []string { return append(append([]string{}, init...), args...) }
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no such command":                {[]string{"start"}, 2, "start"},
		"no such config command":         {[]string{"config", "edit"}, 2, "edit"},
		"no such flag":                   {[]string{"serve", "--port", "1"}, 2, "--port"},
		"an argument":                    {[]string{"serve", "now"}, 2, `"now"`},
		"serve without config":           {[]string{"serve"}, 2, "--config FILE"},
		"check without config":           {[]string{"config", "check"}, 2, "--config FILE"},
		"check of nothing":               {[]string{"config", "check", "--config", filepath.Join(dir, "none")}, 1, "no such file"},
		"serve without store":            {[]string{"serve", "--config", config}, 1, "store"},
		"init without request":           {with("--online-root", "--no-recovery"), 2, "--admin-csr"},
		"init undecided":                 {with("--admin-csr", request, "--online-root"), 2, "--recovery-recipient FILE or --no-recovery"},
		"init decided twice":             {with("--admin-csr", request, "--online-root", "--no-recovery", "--recovery-recipient", junk), 2, "--recovery-recipient FILE or --no-recovery"},
		"init without a root":            {with("--admin-csr", request, "--no-recovery"), 2, "--online-root"},
		"init with a bad name":           {with("--admin-csr", request, "--online-root", "--no-recovery", "--admin-name", "A B"), 1, "--admin-name"},
		"init with no request":           {with("--admin-csr", filepath.Join(dir, "none"), "--online-root", "--no-recovery"), 1, "no such file"},
		"init with junk":                 {with("--admin-csr", junk, "--online-root", "--no-recovery"), 1, "PKCS #10"},
		"init with junk for a recipient": {with("--admin-csr", request, "--online-root", "--recovery-recipient", junk), 1, "--recovery-recipient"},
		"init into nowhere":              {with("--admin-csr", request, "--online-root", "--no-recovery", "--out", filepath.Join(dir, "none")), 2, "mkdir"},
		"recovery key over a file":       {[]string{"init", "--make-recovery-key", junk}, 1, "never overwrites"},
		"dev on every address":           {[]string{"dev", "--dir", filepath.Join(dir, "d"), "--listen", "0.0.0.0:8470"}, 2, "loopback only"},
		"dev on another host":            {[]string{"dev", "--dir", filepath.Join(dir, "d"), "--listen", "example.org:8470"}, 2, "loopback only"},
		"dev on no address":              {[]string{"dev", "--dir", filepath.Join(dir, "d"), "--listen", "8470"}, 2, "host:port"},
		"dev on the last port":           {[]string{"dev", "--dir", filepath.Join(dir, "d"), "--listen", "127.0.0.1:65535"}, 2, "port"},
		"dev on another device":          {[]string{"dev", "--dir", filepath.Join(dir, "d"), "--device", "yubikey"}, 2, "softhsm or swtpm"},
		"dev in a directory in use":      {[]string{"dev", "--dir", dir}, 2, "a directory of its own"},
	} {
		code, out := sealwrightd(c.args...)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit code %d, want %d, saying %q: %s", name, code, c.code, c.says, out)
		}
	}
	for _, name := range []string{".gitignore", "store.db", "state", "cert.pem"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was made all the same", name)
		}
	}
	if code, out := sealwrightd("config", "check", "--config", config); code != 0 || !strings.Contains(out, "is good") {
		t.Errorf("a good configuration: %d: %s", code, out)
	}
}

func TestRecoveryKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recovery")
	code, out := sealwrightd("init", "--make-recovery-key", path)
	secret, err := os.ReadFile(path)
	if code != 0 || err != nil || strings.Contains(out, strings.TrimSpace(string(secret))) {
		t.Fatalf("%d: %s: %v", code, out, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	o := initOptions{adminName: "admin", onlineRoot: true, recipient: path + ".pub", out: t.TempDir()}
	_, csr, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	o.adminCSR = write(t, t.TempDir(), "csr", string(csr))
	if n, err := o.check(); err != nil || len(n.recovery) != 1 {
		t.Errorf("its recipient is refused: %v", err)
	}
	o.recipient = path // the secret half in the place of the public one
	if _, err := o.check(); err == nil || strings.Contains(err.Error(), strings.TrimSpace(string(secret))) {
		t.Errorf("the secret half as a recipient: %v", err)
	}
}

// A refused PIN has its own code, so that no supervisor tries again.
func TestExitCodes(t *testing.T) {
	for err, want := range map[error]int{nil: 0, key.ErrUnavailable: 1, fmt.Errorf("opening: %w", key.ErrAuth): exitPIN, fmt.Errorf("opening: %w", key.ErrLockedOut): exitPIN} {
		if got := cli.Report(&bytes.Buffer{}, "sealwrightd", withExitCode(err)); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}

func TestCRLAddress(t *testing.T) {
	for listen, want := range map[string]string{"127.0.0.1:8470": "127.0.0.1:8471", "localhost:0": "localhost:0", "[::1]:65534": "[::1]:65535", "127.0.0.1:65535": "", "127.0.0.1:http": "", "127.0.0.1:-1": "", "x": ""} {
		if got, err := crlAddress(listen); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v, want %q", listen, got, err, want)
		}
	}
}

// A shell that sources env gets exactly what was meant, whatever the directory is called.
func TestEnvIsQuoted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `it's $(touch pwned) "here" \`)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeEnv(dir, "127.0.0.1:8470", "log+key+'"); err != nil {
		t.Fatal(err)
	}
	sh := exec.Command("sh", "-c", `. "$0"; printf '%s\n' "$SEALWRIGHT_ADDR" "$SEALWRIGHT_CERT" "$SEALWRIGHT_LOG_KEY" "$SEALWRIGHT_ENVIRONMENT"`, filepath.Join(dir, "env"))
	sh.Dir = t.TempDir()
	out, err := sh.CombinedOutput()
	if want := "https://127.0.0.1:8470\n" + dir + "/admin/cert.pem\nlog+key+'\ndev\n"; err != nil || string(out) != want {
		t.Errorf("got %q, want %q: %v", out, want, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "env")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v: %v", info.Mode(), err)
	}
}

// A dev directory is found again, and one that is something else is left alone.
func TestDevDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	for range 2 {
		if err := makeDevDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, ".gitignore")); err != nil || string(text) != "*\n" {
		t.Errorf("%q, %v", text, err)
	}
	killed := t.TempDir()
	write(t, killed, "..gitignore.tmp-123", "")
	if err := makeDevDir(killed); err != nil {
		t.Errorf("where a run was killed at its very beginning: %v", err)
	}
	mine := t.TempDir()
	write(t, mine, ".gitignore", "*.o\n")
	if err := makeDevDir(mine); cli.Code(err) != 2 {
		t.Errorf("somebody's directory: %v", err)
	}
	if text, _ := os.ReadFile(filepath.Join(mine, ".gitignore")); string(text) != "*.o\n" {
		t.Errorf("somebody's .gitignore is now %q", text)
	}
}

func TestNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	notify("READY=1") // to nobody
	for _, address := range []string{filepath.Join(t.TempDir(), "s"), "@sealwright-notify-test"} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("NOTIFY_SOCKET", address)
		notify("READY=1\nSTATUS=serving")
		_ = l.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 100)
		n, err := l.Read(buf)
		if err != nil || string(buf[:n]) != "READY=1\nSTATUS=serving" {
			t.Errorf("%s: %q, %v", address, buf[:n], err)
		}
		_ = l.Close()
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	notify("READY=1") // nobody listens any more
}
