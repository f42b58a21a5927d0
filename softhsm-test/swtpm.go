package softhsmtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/tpm"
	"github.com/sealwright/sealwright/tpm/swtpm"
)

// TPM returns the address of a fresh software TPM of its own, for tpm.Open. It
// takes some 30 ms, is safe in parallel tests and ends with the test. Where
// swtpm is missing the test is skipped (see Require).
func TPM(t testing.TB) string {
	t.Helper()
	uri, _ := SoftwareTPM(t)
	return uri
}

// SoftwareTPM is TPM for tests that take the TPM away: it also returns the
// directory to open again with swtpm.Open, and the running TPM.
func SoftwareTPM(t testing.TB) (uri string, running *swtpm.TPM) {
	t.Helper()
	_, err := exec.LookPath("swtpm")
	Require(t, "swtpm", err == nil, "swtpm is not installed: apt-get install swtpm")
	dir := memoryDir(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	running, err = swtpm.Create(ctx, filepath.Join(dir, "tpm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Stop() })
	return running.URI(), running
}

// TPMDevice opens a fresh software TPM that ends with the test.
func TPMDevice(t testing.TB) key.Device {
	t.Helper()
	return OpenTPM(t, TPM(t))
}

// OpenTPM opens the TPM at uri until the test ends.
func OpenTPM(t testing.TB, uri string) *tpm.Device {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	d, err := tpm.Open(ctx, uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// memoryDir returns a directory in memory where there is one, because a TPM syncs often. Its name is short enough for a socket.
func memoryDir(t testing.TB) string {
	t.Helper()
	base := "/dev/shm"
	if info, err := os.Stat(base); err != nil || !info.IsDir() {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "swtpm-test-")
	if err != nil {
		if dir, err = os.MkdirTemp("", "swtpm-test-"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
