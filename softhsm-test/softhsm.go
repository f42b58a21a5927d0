// Package softhsmtest gives any test a device of its own in milliseconds.
package softhsmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/hsm/softhsm"
	"github.com/sealwright/sealwright/key"
)

// shared is the one SoftHSM2 directory of this test process: SoftHSM2 reads
// its configuration once, in C_Initialize.
var shared struct {
	mu    sync.Mutex
	dir   string // chosen by the first test, the same for all
	live  int    // tokens of running tests; the directory goes with the last
	count int    // tokens ever made, for their labels
}

// Token makes a SoftHSM2 token and returns its URI for hsm.Open. The token is
// removed when the test ends. The process's environment variable SOFTHSM2_CONF
// leads child processes to it as well.
func Token(t testing.TB) string {
	t.Helper()
	_, err := softhsm.Library()
	Require(t, "softhsm", err == nil, fmt.Sprint(err))
	dir, label := claim(t)
	uri, err := softhsm.Create(t.Context(), dir, label)
	if err != nil {
		t.Fatal(err)
	}
	u, err := hsm.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, TokenDir(u)) })
	return uri
}

// Device makes a SoftHSM2 token, opens it and closes it when the test ends.
func Device(t testing.TB) key.Device {
	t.Helper()
	d, err := hsm.Open(t.Context(), Token(t), hsm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("closing the device: %v", err)
		}
	})
	return d
}

// TokenDir returns the directory in which SoftHSM2 keeps the token u names. It
// is named by a UUID whose last 16 digits are the serial number.
func TokenDir(u hsm.URI) string {
	if len(u.Serial) != 16 {
		return ""
	}
	pattern := filepath.Join(filepath.Dir(u.PINSource), "tokens", "*-"+u.Serial[:4]+"-"+u.Serial[4:])
	found, _ := filepath.Glob(pattern) // the pattern is well-formed
	if len(found) != 1 {
		return ""
	}
	return found[0]
}

// claim returns the shared directory and a fresh label, and gives the
// directory up when the test ends.
func claim(t testing.TB) (dir, label string) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.dir == "" {
		base := "/dev/shm" // a key takes 90 ms to make on a disk and 2 ms here
		if probe, err := os.MkdirTemp(base, prefix); err != nil {
			base = os.TempDir()
		} else {
			_ = os.Remove(probe)
			sweep(base)
		}
		shared.dir = filepath.Join(base, prefix+strconv.Itoa(os.Getpid())+"-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	}
	if err := os.MkdirAll(shared.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	shared.live++
	shared.count++
	t.Cleanup(func() {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		if shared.live--; shared.live == 0 {
			_ = os.RemoveAll(shared.dir)
		}
	})
	return shared.dir, "test-" + strconv.Itoa(shared.count)
}

const prefix = "sealwright-softhsm-"

// sweep removes what test processes left that were killed more than an hour ago.
func sweep(base string) {
	left, _ := filepath.Glob(filepath.Join(base, prefix+"*")) // the pattern is well-formed
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		info, err := os.Stat(dir)
		_, gone := os.Stat("/proc/" + pid)
		if err == nil && os.IsNotExist(gone) && time.Since(info.ModTime()) > time.Hour {
			_ = os.RemoveAll(dir)
		}
	}
}

func remove(t testing.TB, tokenDir string) {
	if tokenDir == "" {
		return // the test moved it away; the shared directory's end takes it along
	}
	if err := os.RemoveAll(tokenDir); err != nil {
		t.Errorf("removing the token: %v", err)
	}
}
