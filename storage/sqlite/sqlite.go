// Package sqlite keeps the store in one SQLite file, for a service that runs
// on one machine.
//
// What Commit acknowledged survives a crash of the process and of the machine
// (write-ahead log, synchronous=FULL). One process serves a file at a time.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// Create makes a new store at path, readable by its owner only, and opens it.
// It returns key.ErrExists when something is there, and key.ErrBusy when
// another process serves it. A store that Create did not finish does not exist.
func Create(ctx context.Context, path string) (*storage.DB, error) {
	lock, err := acquire(path)
	if err != nil {
		return nil, fmt.Errorf("creating the store %s: %w", path, err)
	}
	if err := lay(ctx, path); err != nil {
		return nil, fmt.Errorf("creating the store %s: %w", path, errors.Join(err, lock.release()))
	}
	return open(ctx, path, lock)
}

// Open opens the store at path and migrates it when this binary is newer. It
// returns key.ErrNotFound when there is none, [storage.ErrNewerSchema] when a
// newer Sealwright wrote it, and key.ErrBusy when another process serves it.
func Open(ctx context.Context, path string) (*storage.DB, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no store at %s: check the path, or make one with sealwrightd init", key.ErrNotFound, path)
	}
	lock, err := acquire(path)
	if err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", path, err)
	}
	err = recognise(ctx, path)
	if err == nil {
		err = update(ctx, path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", path, errors.Join(err, lock.release()))
	}
	return open(ctx, path, lock)
}

// lay makes the file aside and moves it into place when it is whole, so that a
// crash leaves no half-made store that Open would take for one.
func lay(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%w: open it, or choose another path", key.ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	draft := path + ".new"
	for _, leftover := range []string{draft, draft + "-wal", draft + "-shm"} {
		if err := os.Remove(leftover); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f, err := os.OpenFile(draft, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := update(ctx, draft); err != nil {
		return err
	}
	if err := os.Rename(draft, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// recognise refuses a file that is no store before anything can write to it.
func recognise(ctx context.Context, path string) error {
	pool, err := sql.Open("sqlite3", address(path))
	if err != nil {
		return err
	}
	var tables int
	err = pool.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'log_head'").Scan(&tables)
	if err := errors.Join(err, pool.Close()); err != nil {
		return fault(err).Wrap(err)
	}
	if tables == 0 {
		return fmt.Errorf("%w: this file is no store: check the path, or make a store elsewhere with sealwrightd init", key.ErrNotFound)
	}
	return nil
}

// update migrates on a pool of its own, whose last Close folds the write-ahead
// log into the file: after it the file alone is the store.
func update(ctx context.Context, path string) error {
	pool, err := sql.Open("sqlite3", dsn(path, writing))
	if err != nil {
		return err
	}
	pool.SetMaxOpenConns(1)
	err = storage.Migrate(ctx, "sqlite3", pool)
	return errors.Join(err, pool.Close())
}

func open(ctx context.Context, path string, lock *lock) (*storage.DB, error) {
	writers, err := sql.Open("sqlite3", dsn(path, writing))
	if err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", path, errors.Join(err, lock.release()))
	}
	readers, err := sql.Open("sqlite3", dsn(path, reading))
	if err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", path, errors.Join(err, writers.Close(), lock.release()))
	}
	// One write connection, closed for good after a failure.
	writers.SetMaxOpenConns(1)
	writers.SetMaxIdleConns(0)
	pool := max(4, 2*runtime.GOMAXPROCS(0))
	readers.SetMaxOpenConns(pool)
	readers.SetMaxIdleConns(pool)
	rewritten := &texts{}
	db, err := storage.New(ctx, storage.Engine{
		Connect: func(ctx context.Context) (storage.Conn, error) { return connect(ctx, writers, rewritten) },
		Fault:   fault,
		Text:    rewritten.text,
		Readers: readers,
		Close: func() error {
			err := errors.Join(readers.Close(), writers.Close())
			return errors.Join(err, lock.release())
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return db, nil
}

const (
	writing = "&_txlock=immediate"
	reading = "&_query_only=1"
)

// dsn names the file with its pragmas, so that every connection of a pool has them.
func dsn(path, how string) string {
	return address(path) + "&_journal_mode=WAL&_synchronous=FULL&_foreign_keys=1&_stmt_cache_size=64" + how
}

// address names a file that must exist: mode=rw creates none.
func address(path string) string {
	// SQLite decodes percent signs, and the driver cuts at the first question mark.
	return "file:" + strings.ReplaceAll(url.PathEscape(path), "%2F", "/") + "?mode=rw&_busy_timeout=5000"
}
