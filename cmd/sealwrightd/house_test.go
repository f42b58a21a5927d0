package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/hsm/softhsm"
	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

func TestStoresAndConfigurationsThatDoNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		mode, domain string
		config       Config
		says         string
	}{
		"production": {modeProduction, "a", Config{Domain: "a"}, ""},
		"dev":        {modeDev, "a", Config{Domain: "a", dev: true}, ""},
		"serve dev":  {modeDev, "a", Config{Domain: "a"}, "for development for ever"},
		"dev serves": {modeProduction, "a", Config{Domain: "a", dev: true}, "use 'sealwrightd serve'"},
		"domain":     {modeProduction, "a", Config{Domain: "b"}, "a domain is for ever"},
	} {
		err := storeRow{mode: c.mode, domain: c.domain}.fits(c.config)
		if (err == nil) != (c.says == "") || err != nil && (!errors.Is(err, key.ErrInvalid) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// The device of a dev directory is that of its first run.
func TestDevKeepsItsDevice(t *testing.T) {
	for device, other := range map[string]string{"softhsm": "swtpm", "swtpm": "softhsm"} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, other), 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := devOptions{dir: dir, device: device}.startDevice(t.Context(), dir, false, &Config{})
		if cli.Code(err) != 2 || !strings.Contains(err.Error(), "other device") {
			t.Errorf("%s where %s was: %v", device, other, err)
		}
	}
}

// listener is a free port that something listens on.
func listener(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// A whole dev run in this process: it greets, serves, keeps what it made for
// the next run, ends when told, and refuses a taken port without a trace of it.
func TestDevRuns(t *testing.T) {
	_, err := softhsm.Library()
	softhsmtest.Require(t, "softhsm", err == nil, "SoftHSM2 is not installed")
	dir := filepath.Join(t.TempDir(), "dev")
	o := devOptions{dir: dir, listen: "127.0.0.1:0", device: "softhsm"}
	for _, greeting := range []string{"Created a new Sealwright in", "Found everything again in"} {
		ctx, stop := context.WithCancel(t.Context())
		out, in := io.Pipe()
		done := make(chan error, 1)
		go func() {
			done <- dev(ctx, o, in, io.Discard)
			_ = in.Close()
		}()
		buf := make([]byte, 4096)
		n, _ := out.Read(buf)
		text := string(buf[:n])
		if !strings.Contains(text, greeting) || !strings.Contains(text, "not for production") {
			t.Errorf("it says %q", text)
		}
		checkCRLListener(t, text)
		go func() { _, _ = io.Copy(io.Discard, out) }()
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("it does not stop")
		}
		if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
			t.Error("it is still said to be ready")
		}
	}
	o.listen = listener(t).Addr().String()
	if err := dev(t.Context(), o, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "listening") {
		t.Errorf("a taken port: %v", err)
	}
}

// checkCRLListener asks the plain listener for what it is for and what it is not.
func checkCRLListener(t *testing.T, greeting string) {
	t.Helper()
	_, rest, _ := strings.Cut(greeting, "CRLs at ")
	address, _, _ := strings.Cut(rest, "/crl/")
	for path, want := range map[string]int{"/ca.pem": 200, "/metrics": 404, "/v1/status": 404} {
		res, err := http.Get(address + path)
		if err != nil {
			t.Error(err)
			continue
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s%s: %d, want %d", address, path, res.StatusCode, want)
		}
	}
}
