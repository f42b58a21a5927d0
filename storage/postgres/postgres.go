// Package postgres keeps the store in one schema of a PostgreSQL database, for
// when one machine is not enough.
//
// It refuses a server that would acknowledge before the disk has it
// (synchronous_commit or fsync off).
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// startLock is the advisory lock under which a server creates or migrates.
const startLock = 0x7365616c // "seal"

// Create lays a new store in the empty schema that dsn leads to, and opens it.
// It returns key.ErrExists when the schema holds anything.
func Create(ctx context.Context, dsn string) (*storage.DB, error) {
	db, err := start(ctx, dsn, func(tables, ours int) error {
		switch {
		case ours > 0:
			return fmt.Errorf("%w: the database holds a store: open it, or choose another database", key.ErrExists)
		case tables > 0:
			return fmt.Errorf("%w: the schema holds %d other tables: give the store a database of its own", key.ErrExists, tables)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("creating the store: %w", err)
	}
	return db, nil
}

// Open opens the store that dsn leads to and migrates it when this binary is
// newer. It returns key.ErrNotFound when there is none and
// [storage.ErrNewerSchema] when a newer Sealwright wrote it.
func Open(ctx context.Context, dsn string) (*storage.DB, error) {
	db, err := start(ctx, dsn, func(_, ours int) error {
		if ours == 0 {
			return fmt.Errorf("%w: no store in this database: check the address, or make one with sealwrightd init", key.ErrNotFound)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	return db, nil
}

func start(ctx context.Context, dsn string, admit func(tables, ours int) error) (*storage.DB, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", key.ErrInvalid, err) // pgx takes the password out
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "sealwrightd"
	}
	if err := update(ctx, config, admit); err != nil {
		if fault(err) == storage.FaultLost {
			err = fmt.Errorf("%w: %w", key.ErrUnavailable, err)
		}
		return nil, err
	}
	writers := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(durably))
	writers.SetMaxOpenConns(1)
	writers.SetMaxIdleConns(0) // closed for good after a failure
	readers := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(readOnly))
	pool := max(8, 4*runtime.GOMAXPROCS(0))
	readers.SetMaxOpenConns(pool)
	readers.SetMaxIdleConns(pool)
	return storage.New(ctx, storage.Engine{
		Connect: func(ctx context.Context) (storage.Conn, error) { return connect(ctx, writers) },
		Fault:   fault,
		Readers: readers,
		// PostgreSQL keeps the ids of 64 subtransactions in memory; more of them slow every reader down.
		Savepoints: 64,
		Remote:     true,
		Close:      func() error { return errors.Join(readers.Close(), writers.Close()) },
	})
}

// update checks and migrates under an advisory lock, so that servers that start
// together do it one after the other.
func update(ctx context.Context, config *pgx.ConnConfig, admit func(tables, ours int) error) (err error) {
	pool := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(durably))
	defer func() { err = errors.Join(err, pool.Close()) }()
	guard, err := pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guard.Close()) }() // its end releases the lock
	if _, err := guard.ExecContext(ctx, "SELECT pg_advisory_lock($1)", startLock); err != nil {
		return fmt.Errorf("waiting for other servers to start: %w", err)
	}
	tables, ours, err := census(ctx, guard)
	if err != nil {
		return err
	}
	if err := admit(tables, ours); err != nil {
		return err
	}
	return storage.Migrate(ctx, "postgres", pool)
}

// census counts the tables of the schema. The version table of a creation that
// was interrupted does not count: Create goes on from there.
func census(ctx context.Context, c *sql.Conn) (tables, ours int, err error) {
	var schema sql.NullString
	if err := c.QueryRowContext(ctx, "SELECT current_schema()").Scan(&schema); err != nil {
		return 0, 0, fmt.Errorf("looking at the schema: %w", err)
	}
	if !schema.Valid {
		return 0, 0, fmt.Errorf("%w: no schema of the search_path exists: create it, or name another in the address", key.ErrNotFound)
	}
	err = c.QueryRowContext(ctx, `SELECT count(*), count(*) FILTER (WHERE table_name = 'log_head')
		FROM information_schema.tables WHERE table_schema = $1 AND table_name <> 'goose_db_version'`, schema.String).Scan(&tables, &ours)
	if err != nil {
		return 0, 0, fmt.Errorf("looking at the schema: %w", err)
	}
	return tables, ours, nil
}

// durably prepares a write connection, and refuses a server that acknowledges too early.
func durably(ctx context.Context, c *pgx.Conn) error {
	for _, setting := range []struct{ name, remedy string }{
		{"synchronous_commit", "ALTER ROLE … SET synchronous_commit = on, or the like for the database or the server"},
		{"fsync", "set fsync = on in postgresql.conf"},
	} {
		var value *string // null where an engine does not have the setting
		if err := c.QueryRow(ctx, "SELECT current_setting($1, true)", setting.name).Scan(&value); err != nil {
			return fmt.Errorf("reading %s: %w", setting.name, err)
		}
		if value != nil && *value == "off" {
			return fmt.Errorf("%w: the server has %s = off, so it may lose what it acknowledged: %s", key.ErrUnsupported, setting.name, setting.remedy)
		}
	}
	// A connection that hangs in a transaction holds the head row against every other server.
	_, err := c.Exec(ctx, "SET idle_in_transaction_session_timeout = '30s'")
	if err == nil {
		_, err = c.Exec(ctx, "SET lock_timeout = '20s'")
	}
	if err == nil {
		_, err = c.Exec(ctx, "SET default_transaction_isolation = 'read committed'")
	}
	return err
}

func readOnly(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, "SET default_transaction_read_only = on")
	return err
}
