package swtpm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/tpm"
	"github.com/sealwright/sealwright/tpm/swtpm"
)

// TestMain lets the test binary be the parent that dies (see TestDiesWithParent).
func TestMain(m *testing.M) {
	if dir := os.Getenv("SWTPM_TEST_PARENT"); dir != "" {
		parent(dir)
	}
	os.Exit(m.Run())
}

func need(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("swtpm")
	softhsmtest.Require(t, "swtpm", err == nil, "apt-get install swtpm")
}

func create(t *testing.T, dir string) *swtpm.TPM {
	t.Helper()
	need(t)
	s, err := swtpm.Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
	return s
}

// use proves that the TPM serves, with a key that the first use makes.
func use(t *testing.T, s *swtpm.TPM, ref *key.Ref) {
	t.Helper()
	d, err := tpm.Open(t.Context(), s.URI())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if ref.Blob == nil {
		*ref, err = d.Generate(t.Context(), key.Spec{ID: key.NewID(), Label: "ca", Algorithm: key.ECDSAP256, Usage: key.UsageSign})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Sign(t.Context(), *ref, make([]byte, 32), nil); err != nil {
		t.Error(err)
	}
}

func TestReuse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tpm")
	s := create(t, dir)
	var ref key.Ref
	for range 3 {
		use(t, s, &ref)
		if _, err := swtpm.Create(t.Context(), dir); !errors.Is(err, key.ErrExists) {
			t.Errorf("creating over a TPM: %v", err)
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(); err != nil {
			t.Errorf("stopping twice: %v", err)
		}
		if _, err := tpm.Open(t.Context(), s.URI()); !errors.Is(err, key.ErrUnavailable) {
			t.Errorf("a stopped TPM: %v", err)
		}
		var err error
		if s, err = swtpm.Open(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Stop() })
	}
	use(t, s, &ref)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tpm")
	if _, err := swtpm.Open(t.Context(), dir); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("opening nothing: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("opening made a directory")
	}
	s := create(t, dir)
	if _, err := swtpm.Open(t.Context(), dir); !errors.Is(err, key.ErrBusy) {
		t.Errorf("opening a running TPM: %v", err)
	}
	var ref key.Ref
	use(t, s, &ref) // the refused one did no harm
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}

	state := filepath.Join(dir, "state", "tpm2-00.permall")
	content, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, bytes.Repeat([]byte("x"), len(content)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := swtpm.Open(t.Context(), dir); !errors.Is(err, key.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "damaged") {
		t.Errorf("opening a damaged TPM: %v", err)
	}
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	if _, err := swtpm.Open(t.Context(), dir); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("opening a TPM whose state is lost: %v", err)
	}
	if _, err := swtpm.Create(t.Context(), filepath.Join(dir, "a", "b")); !errors.Is(err, key.ErrUnavailable) {
		t.Errorf("creating without a parent: %v", err)
	}
}

func TestNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := filepath.Join(t.TempDir(), "tpm")
	_, err := swtpm.Create(t.Context(), dir)
	if !errors.Is(err, key.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "apt-get install swtpm") {
		t.Errorf("without swtpm: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a directory was made all the same")
	}
}

func TestLongPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := create(t, filepath.Join(dir, "tpm"))
	var ref key.Ref
	use(t, s, &ref)
	u, err := tpm.ParseURI(s.URI())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(u.Socket)); err == nil {
		t.Error("the socket's directory stayed")
	}
	if s, err = swtpm.Open(t.Context(), filepath.Join(dir, "tpm")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
	use(t, s, &ref)
}

// parent starts a TPM from a thread that ends at once, says which process it is and waits to be killed.
func parent(dir string) {
	type result struct {
		s   *swtpm.TPM
		err error
	}
	started := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		s, err := swtpm.Create(context.Background(), dir)
		started <- result{s, err}
	}()
	r := <-started
	if r.err != nil {
		fmt.Println(r.err)
		os.Exit(1)
	}
	time.Sleep(200 * time.Millisecond)
	fmt.Println(r.s.PID())
	time.Sleep(time.Minute)
}

func TestDiesWithParent(t *testing.T) {
	t.Parallel()
	need(t)
	dir := filepath.Join(t.TempDir(), "tpm")
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "SWTPM_TEST_PARENT="+dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	n, _ := out.Read(line)
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatalf("the parent said %q", line[:n])
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("swtpm died with the thread that asked for it: %v", err)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	// At once, as a restarted service would: the predecessor may still be dying.
	s, err := swtpm.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
	var ref key.Ref
	use(t, s, &ref)
	if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !bytes.Contains(state, []byte(") Z ")) {
		t.Errorf("swtpm outlived its parent: %s", state)
	}
}
