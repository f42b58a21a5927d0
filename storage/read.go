package storage

import (
	"context"
	"database/sql"
	"fmt"
)

// Query reads rows outside of batches. The connection refuses to write.
func (db *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	rows, err := db.engine.Readers.QueryContext(ctx, db.text(query), args...)
	return rows, db.readError(err)
}

// QueryRow reads at most one row outside of batches; errors come from Scan.
func (db *DB) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return db.engine.Readers.QueryRowContext(ctx, db.text(query), args...)
}

func (db *DB) text(query string) string {
	if db.engine.Text == nil {
		return query
	}
	return db.engine.Text(query)
}

// ReadTx is a consistent view of the store.
type ReadTx struct {
	ctx  context.Context
	tx   *sql.Tx
	text func(string) string
}

// Query reads rows of the snapshot.
func (r *ReadTx) Query(query string, args ...any) (*sql.Rows, error) {
	return r.tx.QueryContext(r.ctx, r.text(query), args...)
}

// QueryRow reads at most one row of the snapshot; errors come from Scan.
func (r *ReadTx) QueryRow(query string, args ...any) *sql.Row {
	return r.tx.QueryRowContext(r.ctx, r.text(query), args...)
}

// Snapshot runs read on one consistent view of the store. ctx ends the view.
func (db *DB) Snapshot(ctx context.Context, read func(*ReadTx) error) error {
	tx, err := db.engine.Readers.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return fmt.Errorf("opening a snapshot: %w", db.readError(err))
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	return read(&ReadTx{ctx: ctx, tx: tx, text: db.text})
}
