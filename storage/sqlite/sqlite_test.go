package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/storage/sqlite"
	"github.com/sealwright/sealwright/storage/storagetest"
)

func place(t testing.TB) storagetest.Place {
	return placeAt(filepath.Join(t.TempDir(), "store.db"))
}

func placeAt(path string) storagetest.Place {
	return storagetest.Place{
		Create: func(ctx context.Context) (*storage.DB, error) { return sqlite.Create(ctx, path) },
		Open:   func(ctx context.Context) (*storage.DB, error) { return sqlite.Open(ctx, path) },
		Raw: func(t testing.TB) *sql.DB {
			db, err := sql.Open("sqlite3", path+"?_busy_timeout=5000")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			return db
		},
		Transient: sqlite3.Error{Code: sqlite3.ErrBusy},
	}
}

func TestSuite(t *testing.T) { storagetest.Run(t, place) }

func TestPathsNeedNoCare(t *testing.T) {
	for _, name := range []string{"a b.db", "what?.db", "100%25.db", "#1&mode=ro.db", "ümlaut;x=y.db", "file:x.db"} {
		path := filepath.Join(t.TempDir(), name)
		db, err := sqlite.Create(t.Context(), path)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if err := db.Close(); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%q: the store is somewhere else: %v", name, err)
		}
	}
	t.Chdir(t.TempDir())
	db, err := sqlite.Create(t.Context(), "relative.db")
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := os.Stat("relative.db"); err != nil {
		t.Error(err)
	}
}

func TestOneProcessPerStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db, err := sqlite.Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for name, again := range map[string]func(context.Context, string) (*storage.DB, error){"Open": sqlite.Open, "Create": sqlite.Create} {
		other, err := again(t.Context(), path)
		if err == nil {
			other.Close()
			t.Fatalf("%s: two of us have the store", name)
		}
		if !errors.Is(err, key.ErrBusy) || !strings.Contains(err.Error(), "another sealwrightd serves this store") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = sqlite.Open(t.Context(), path); err != nil {
		t.Fatalf("after Close: %v", err)
	}
	db.Close()
}

func TestOnlyTheOwnerReads(t *testing.T) {
	dir := t.TempDir()
	db, err := sqlite.Create(t.Context(), filepath.Join(dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(t.Context(), func(tx *storage.Tx) error { tx.BumpEpoch(); return nil }); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		names[d.Name()] = true
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %o", d.Name(), mode)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !names["store.db-wal"] || len(names) != 4 {
		t.Errorf("files: %v", names)
	}
}

// TestInterruptedCreate: a crash in Create leaves nothing that Open takes for a
// store, and nothing that keeps Create from starting over.
func TestInterruptedCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	for _, leftover := range []string{".new", ".new-wal", ".new-shm", ".lock"} {
		if err := os.WriteFile(path+leftover, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if db, err := sqlite.Open(t.Context(), path); !errors.Is(err, key.ErrNotFound) {
		t.Fatalf("opened %v: %v", db, err)
	}
	db, err := sqlite.Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
}

func TestNoStoreThere(t *testing.T) {
	dir := t.TempDir()
	if _, err := sqlite.Create(t.Context(), filepath.Join(dir, "missing", "store.db")); err == nil {
		t.Error("created in a directory that does not exist")
	}
	for name, content := range map[string]string{"empty": "", "text": strings.Repeat("this is no database ", 500)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if db, err := sqlite.Open(t.Context(), path); err == nil {
			db.Close()
			t.Errorf("opened a file that is %s", name)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func BenchmarkCommit(b *testing.B) { storagetest.Bench(b, place) }
