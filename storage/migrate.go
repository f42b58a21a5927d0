package storage

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the schema of pool up to this binary's, which may mean laying
// it from nothing; it never goes back. dialect is "sqlite3" or "postgres". The
// caller keeps other processes from migrating at the same time. It returns
// [ErrNewerSchema] when a newer Sealwright was here.
func Migrate(ctx context.Context, dialect string, pool *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	if dialect == "sqlite3" {
		files = rowids{files}
	}
	provider, err := goose.NewProvider(goose.Dialect(dialect), pool, files,
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	have, want, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("reading the schema's version: %w", err)
	}
	if have > want {
		return fmt.Errorf("%w (schema %d, this binary knows %d)", ErrNewerSchema, have, want)
	}
	if have == want {
		return nil
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating the schema from version %d to %d: %w", have, want, err)
	}
	return nil
}

// rowids lets the integer primary keys of the migrations be SQLite's own row
// ids, which have 64 bits: "BIGINT PRIMARY KEY" would get an index beside the table.
type rowids struct{ fs.FS }

func (r rowids) Open(name string) (fs.File, error) {
	if !strings.HasSuffix(name, ".sql") {
		return r.FS.Open(name)
	}
	info, err := fs.Stat(r.FS, name)
	if err != nil {
		return nil, err
	}
	text, err := fs.ReadFile(r.FS, name)
	if err != nil {
		return nil, err
	}
	return &rowidFile{bytes.NewReader(bytes.ReplaceAll(text, []byte("BIGINT PRIMARY KEY"), []byte("INTEGER PRIMARY KEY"))), info}, nil
}

type rowidFile struct {
	*bytes.Reader
	info fs.FileInfo
}

func (f *rowidFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *rowidFile) Close() error               { return nil }
