package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// A full disk: the request fails, the service stays up, nothing acknowledged is
// lost, and it works again once there is room.
func TestFullDisk(t *testing.T) {
	disk := t.TempDir()
	mount := exec.Command("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk)
	out, err := mount.CombinedOutput()
	softhsmtest.Require(t, "diskfull", err == nil, "a small tmpfs cannot be mounted here: "+string(out))
	t.Cleanup(func() { _ = exec.Command("umount", "-l", disk).Run() })

	s := start(t, filepath.Join(disk, "dev"))
	s.must("sealwright key create dev/full/base")
	sealed := s.must("echo before | sealwright encrypt dev/full/base")
	if err := os.WriteFile(filepath.Join(disk, "filler"), bytes.Repeat([]byte{1}, 16<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	var problems string
	code := 0
	for i := 0; i < 200 && code == 0; i++ {
		_, problems, code = s.sh("head -c 30000 /dev/zero | sealwright encrypt dev/full/base --context pad=" + strings.Repeat("x", 4000))
	}
	if code != 1 || !strings.Contains(problems, "disk is full") {
		t.Fatalf("on a full disk: code %d, %s", code, problems)
	}
	if out := s.must(`curl -s --cacert "$SEALWRIGHT_CA" "$SEALWRIGHT_ADDR/livez"`); strings.TrimSpace(out) != "ok" {
		t.Errorf("livez: %q", out)
	}
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	if got := s.must("echo '" + strings.TrimSpace(sealed) + "' | sealwright decrypt"); got != "before\n" {
		t.Errorf("decrypted %q", got)
	}
	s.must("echo after | sealwright encrypt dev/full/base")
	s.must("sealwright audit verify")
	s.stop()
}

func TestSecondServerOnOneStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	s := start(t, dir)
	second := exec.Command(filepath.Join(bin, "sealwrightd"), "dev", "--dir", dir, "--listen", "127.0.0.1:0")
	out, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another sealwrightd") {
		t.Errorf("a second server on the same store: %v\n%s", err, out)
	}
	// The first goes on as if nothing had happened.
	_ = os.WriteFile(filepath.Join(dir, "ready"), []byte("x"), 0o600)
	s.must("sealwright status")
	s.stop()
}

// The daemon, told nonsense.
func TestDaemonRefusals(t *testing.T) {
	dir := t.TempDir()
	devDir := filepath.Join(dir, "dev")
	s := start(t, devDir)
	s.stop()
	pins, err := filepath.Glob(filepath.Join(devDir, "softhsm", "*pin*"))
	if err != nil || len(pins) != 1 {
		t.Fatalf("PIN files: %v, %v", pins, err)
	}
	module := softHSM
	good := "domain: example.internal\nstore: sqlite:store.db\nstate: state\ncrl_url: http://crl.example.internal/\n"
	device := "device: pkcs11:token=sealwright-dev;module-path=" + module + "?pin-source=file:" + pins[0] + "\n"
	request := filepath.Join(dir, "admin.csr")
	makeCSR(t, request, filepath.Join(dir, "admin.key"))
	for _, c := range []struct{ name, config, want string }{
		{"unknown key", good + device + "listn: 127.0.0.1:1\n", "listn"},
		{"no device", good, "device: invalid: required"},
		{"PIN in the URI", good + "device: pkcs11:token=x;module-path=" + module + "?pin-value=1234\n", "pin-source"},
		{"reserved environment", good + device + "environments: [ops]\n", "reserved"},
		{"domain outside the grammar", "domain: Example!\nstore: sqlite:store.db\nstate: state\n" + device, "domain"},
		{"no such module", good + "device: pkcs11:token=x;module-path=/nowhere/lib.so?pin-source=file:" + pins[0] + "\n", "/nowhere/lib.so"},
		{"no such token", good + "device: pkcs11:token=nobody;module-path=" + module + "?pin-source=file:" + pins[0] + "\n", "nobody"},
		{"store not created", good + device, "store.db"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(dir, "config.yaml")
			if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"serve", "--config", file}
			if strings.HasPrefix(c.name, "no such") { // serve would miss the store first
				args = []string{"init", "--config", file, "--admin-csr", request, "--online-root", "--no-recovery", "--out", dir}
			}
			run := exec.Command(filepath.Join(bin, "sealwrightd"), args...)
			run.Env = append(os.Environ(), "SOFTHSM2_CONF="+filepath.Join(devDir, "softhsm", "softhsm2.conf"))
			done := time.AfterFunc(20*time.Second, func() { _ = run.Process.Kill() })
			defer done.Stop()
			out, err := run.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v\n%s\nwant a word about %q", err, out, c.want)
			}
			if strings.Contains(string(out), "1234") {
				t.Errorf("the PIN is in the message: %s", out)
			}
		})
	}
}

// A wrong PIN has its own exit code, so that no supervisor tries again.
func TestWrongPIN(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	s := start(t, dir)
	s.stop()
	pins, err := filepath.Glob(filepath.Join(dir, "softhsm", "*pin*"))
	if err != nil || len(pins) != 1 {
		t.Fatalf("PIN files: %v, %v", pins, err)
	}
	if err := os.WriteFile(pins[0], []byte("wrong-pin-7391"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := exec.Command(filepath.Join(bin, "sealwrightd"), "dev", "--dir", dir, "--listen", "127.0.0.1:0")
	out, err := run.CombinedOutput()
	if run.ProcessState.ExitCode() != 5 || strings.Contains(string(out), "7391") || !strings.Contains(string(out), "PIN") {
		t.Errorf("exit code %d, %v\n%s", run.ProcessState.ExitCode(), err, out)
	}
}
