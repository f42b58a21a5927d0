package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"syscall"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/sealwright/sealwright/storage"
)

// maxStatements bounds the prepared statements of the write connection.
const maxStatements = 128

// checkpointEvery lets the write-ahead log grow to 16 MB. A checkpoint stands in
// the way of a batch: at SQLite's 4 MB it made the p99 four times as long.
const checkpointEvery = "PRAGMA wal_autocheckpoint = 4000"

// conn is the write connection. Statements run on the driver directly:
// database/sql would cost more than SQLite itself does.
type conn struct {
	sql   *sql.Conn
	raw   *sqlite3.SQLiteConn // of sql; valid until Close
	texts *texts
	stmts map[string]driver.StmtExecContext
	args  []driver.NamedValue // reused
}

func connect(ctx context.Context, pool *sql.DB, texts *texts) (storage.Conn, error) {
	c, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.ExecContext(ctx, checkpointEvery); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	w := &conn{sql: c, texts: texts, stmts: map[string]driver.StmtExecContext{}}
	err = c.Raw(func(dc any) error {
		raw, ok := dc.(*sqlite3.SQLiteConn)
		if !ok {
			return fmt.Errorf("unexpected driver connection %T", dc)
		}
		w.raw = raw
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return w, nil
}

func (c *conn) Begin() error { return c.Do("BEGIN IMMEDIATE") }

func (c *conn) Do(query string) error {
	_, err := c.Exec(query, nil)
	return err
}

func (c *conn) Exec(query string, args []any) (int64, error) {
	stmt, err := c.prepare(query)
	if err != nil {
		return 0, err
	}
	c.args = c.args[:0]
	for i, arg := range args {
		value, err := convert(arg)
		if err != nil {
			return 0, fmt.Errorf("argument $%d: %w", i+1, err)
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: value})
	}
	result, err := stmt.ExecContext(context.Background(), c.args)
	clear(c.args) // do not keep the callers' data alive
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// convert passes the types the driver binds, and leaves the rest to database/sql's rules.
func convert(arg any) (driver.Value, error) {
	switch v := arg.(type) {
	case nil, int64, string, []byte, bool, float64:
		return v, nil
	case int:
		return int64(v), nil
	case driver.Valuer:
		value, err := v.Value()
		if err != nil {
			return nil, err
		}
		return driver.DefaultParameterConverter.ConvertValue(value)
	}
	return driver.DefaultParameterConverter.ConvertValue(arg)
}

func (c *conn) prepare(query string) (driver.StmtExecContext, error) {
	if stmt, ok := c.stmts[query]; ok {
		return stmt, nil
	}
	text := c.texts.text(query)
	// The driver runs the first statement of a prepared text and drops the others in silence.
	if strings.Contains(strings.TrimRight(text, "; \t\r\n"), ";") {
		return nil, errors.New("one statement at a time, and no semicolon in a literal: pass it as an argument")
	}
	prepared, err := c.raw.Prepare(text)
	if err != nil {
		return nil, err
	}
	stmt, ok := prepared.(driver.StmtExecContext)
	if !ok {
		return nil, fmt.Errorf("unexpected driver statement %T", prepared)
	}
	if len(c.stmts) >= maxStatements {
		c.forget()
	}
	c.stmts[query] = stmt
	return stmt, nil
}

// forget closes all prepared statements; those in use are soon prepared again.
func (c *conn) forget() {
	for query, stmt := range c.stmts {
		if s, ok := stmt.(driver.Stmt); ok {
			_ = s.Close()
		}
		delete(c.stmts, query)
	}
}

func (c *conn) Query(query string, args []any) (*sql.Rows, error) {
	return c.sql.QueryContext(context.Background(), c.texts.text(query), args...)
}

func (c *conn) QueryRow(query string, args []any) *sql.Row {
	return c.sql.QueryRowContext(context.Background(), c.texts.text(query), args...)
}

// Head needs no lock of its own: BEGIN IMMEDIATE has the whole file.
func (c *conn) Head() (storage.Head, error) {
	var h storage.Head
	err := c.QueryRow("SELECT size, edge, authz_epoch FROM log_head WHERE id = 1", nil).Scan(&h.Size, &h.Edge, &h.Epoch)
	return h, err
}

func (c *conn) Commit(last []storage.Statement) error {
	for _, s := range last {
		if _, err := c.Exec(s.Query, s.Args); err != nil {
			return err
		}
	}
	return c.Do("COMMIT")
}

// Rollback is content when SQLite has rolled back already, as it does when the disk is full.
func (c *conn) Rollback() error {
	if c.raw.AutoCommit() {
		return nil
	}
	return c.Do("ROLLBACK")
}

func (c *conn) Close() error {
	c.forget()
	return c.sql.Close() // the pool keeps no idle connection: this one ends
}

func fault(err error) storage.Fault {
	var e sqlite3.Error
	switch {
	case err == nil:
		return storage.FaultNone
	case errors.As(err, &e):
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return storage.FaultFull
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone):
		return storage.FaultLost
	default:
		return storage.FaultNone
	}
	switch e.Code {
	case sqlite3.ErrBusy, sqlite3.ErrLocked, sqlite3.ErrProtocol:
		return storage.FaultRetry
	case sqlite3.ErrFull:
		return storage.FaultFull
	case sqlite3.ErrIoErr, sqlite3.ErrCantOpen, sqlite3.ErrNomem, sqlite3.ErrReadonly, sqlite3.ErrPerm, sqlite3.ErrInterrupt:
		if e.SystemErrno == syscall.ENOSPC || e.SystemErrno == syscall.EDQUOT {
			return storage.FaultFull
		}
		return storage.FaultIO
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
		return storage.FaultCorrupt
	}
	return storage.FaultNone
}
