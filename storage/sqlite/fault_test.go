package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/storage/sqlite"
	"github.com/sealwright/sealwright/storage/storagetest"
)

func TestDoomed(t *testing.T) { storagetest.Doomed(t, sqlite.Open) }

// doomedStore makes a store for processes that will die.
func doomedStore(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	db, err := sqlite.Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func checkFate(t *testing.T, path string, fate *storagetest.Fate) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	fate.Check(t, db)
}

func rounds(full int) int {
	if testing.Short() {
		return full / 10
	}
	return full
}

func TestKill(t *testing.T) {
	path := doomedStore(t)
	var fate storagetest.Fate
	n := rounds(50)
	for range n {
		fate.Crash(t, path, nil, time.Duration(rand.IntN(100))*time.Millisecond)
		checkFate(t, path, &fate)
	}
	if fate.Ends != n || len(fate.Done) < n {
		t.Errorf("%d of %d processes came to write, %d changes", fate.Ends, n, len(fate.Done))
	}
	t.Logf("%d changes acknowledged before %d kills", len(fate.Done), n)
}

func strace(t *testing.T, inject string) []string {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		storagetest.Need(t, "strace", "not in PATH (Debian: strace)")
	}
	if out, err := exec.Command(path, "-f", "-o", "/dev/null", "/bin/true").CombinedOutput(); err != nil {
		storagetest.Need(t, "strace", fmt.Sprintf("it may not trace here: %v: %s", err, out))
	}
	return []string{path, "-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:" + inject}
}

func TestKillAtSync(t *testing.T) {
	strace(t, "")
	path := doomedStore(t)
	var fate storagetest.Fate
	n := rounds(50)
	for range n {
		// The first few syncs are those of opening; strace counts per thread.
		fate.Crash(t, path, strace(t, fmt.Sprintf("signal=KILL:when=%d", 1+rand.IntN(40))), 2*time.Second)
		checkFate(t, path, &fate)
	}
	t.Logf("%d changes acknowledged, %d of %d processes came to write", len(fate.Done), fate.Ends, n)
	if len(fate.Done) == 0 {
		t.Error("no change was acknowledged")
	}
}

// TestSyncFails: a disk whose sync fails now and then costs the batches that it
// hits, not the service, and what was refused does not come back after a crash.
func TestSyncFails(t *testing.T) {
	path := doomedStore(t)
	var fate storagetest.Fate
	for range rounds(10) {
		fate.Crash(t, path, strace(t, "error=EIO:when=20+13"), 300*time.Millisecond)
		checkFate(t, path, &fate)
	}
	t.Logf("%d acknowledged, %d refused, %d unknown", len(fate.Done), len(fate.Refused), len(fate.Unknown))
	if !testing.Short() && (len(fate.Done) == 0 || len(fate.Refused) == 0) {
		t.Error("the injected errors did not show")
	}
}

// TestDiskFull fills a real file system: requests fail with ErrFull, the service
// stays up, the log stays whole, and it goes on when there is space.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		storagetest.Need(t, "diskfull", fmt.Sprintf("mounting a small file system takes root: %v", err))
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	path := filepath.Join(dir, "store.db")
	db, err := sqlite.Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetLog(storagetest.Log{})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if full := fill(t, db); full == 0 {
		t.Fatal("2 MB hold any number of entries")
	}
	// The probe is one page; some may be left where a batch did not fit.
	for range 20 {
		if err = db.Check(t.Context()); err != nil {
			break
		}
		fill(t, db)
	}
	if !errors.Is(err, storage.ErrFull) {
		t.Errorf("readiness on a full disk: %v", err)
	}
	whole := len(storagetest.CheckLog(t, db))
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := db.Check(t.Context()); err != nil {
		t.Errorf("readiness when there is space: %v", err)
	}
	if index, err := db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{{Data: []byte("space")}}}); err != nil || index != int64(whole) {
		t.Errorf("entry %d, want %d: %v", index, whole, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if n := len(storagetest.CheckLog(t, again)); n != whole+1 {
		t.Errorf("%d entries, want %d", n, whole+1)
	}
}

// fill writes from many callers until each was refused twenty times.
func fill(t *testing.T, db *storage.DB) (refused int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	acknowledged := map[int64]bool{}
	before := len(storagetest.CheckLog(t, db))
	for range 8 {
		wg.Go(func() {
			for failures := 0; failures < 20; {
				// Ever smaller, into the last corner.
				data := make([]byte, 2000>>min(failures, 10))
				index, err := db.Commit(context.Background(), storage.Change{Entries: []storage.Entry{{Data: data}}})
				mu.Lock()
				switch {
				case err == nil:
					if acknowledged[index] {
						t.Errorf("index %d was given twice", index)
					}
					acknowledged[index] = true
				case errors.Is(err, storage.ErrFull) && errors.Is(err, key.ErrUnavailable):
					refused++
					failures++
				default:
					t.Errorf("the wrong error: %v", err)
					failures++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if n := len(storagetest.CheckLog(t, db)); n != before+len(acknowledged) {
		t.Errorf("%d entries, %d acknowledged", n-before, len(acknowledged))
	}
	return refused
}
