package storage

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

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
