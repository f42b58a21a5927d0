package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// 'make run' without its building: the first screen of the README prints what
// the README shows, twice in one directory, and ends orderly on Ctrl-C.
func TestMakeRun(t *testing.T) {
	require(t, "softhsm", "softhsm2-util")
	var shown *example
	for _, e := range examplesIn(t, "../README.md") {
		if e.command == "make run" {
			shown = &e
			break
		}
	}
	if shown == nil || len(shown.shown) == 0 {
		t.Fatal("the README does not show make run")
	}
	port := regexp.MustCompile(`127\.0\.0\.1:\d+`)
	for i, line := range shown.shown {
		shown.shown[i] = port.ReplaceAllString(line, "127.0.0.1:PORT")
	}
	dir := filepath.Join(t.TempDir(), ".sealwright")
	for _, first := range []bool{true, false} {
		run := exec.Command("../scripts/run.sh", "--dir", dir, "--listen", "127.0.0.1:0")
		run.Env = append(os.Environ(), "BIN="+bin, "HOME="+filepath.Dir(dir))
		run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		var out lockedBuffer
		run.Stdout, run.Stderr = &out, &out
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Kill(-run.Process.Pid, syscall.SIGKILL) })
		for end := time.Now().Add(60 * time.Second); !strings.Contains(out.String(), "Ctrl-C stops it") && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
		}
		_ = syscall.Kill(-run.Process.Pid, syscall.SIGINT)
		if err := run.Wait(); err != nil {
			t.Errorf("make run ended with %v:\n%s", err, out.String())
		}
		text := port.ReplaceAllString(strings.ReplaceAll(out.String(), dir, ".sealwright"), "127.0.0.1:PORT")
		switch {
		case first && !shown.matches(text):
			t.Errorf("README.md:%d shows:\n%s\nprinted:\n%s", shown.line, strings.Join(shown.shown, "\n"), text)
		case !first && !strings.Contains(text, "Found everything again in"):
			t.Errorf("the second run printed:\n%s", text)
		}
	}
}

// lockedBuffer is a bytes.Buffer that may be read while a process writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
