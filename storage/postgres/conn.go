package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/sealwright/sealwright/storage"
)

// batchTime bounds one transaction. A network that swallows packets would
// otherwise hold all writers for as long as TCP keeps hoping.
const batchTime = 30 * time.Second

// conn is the write connection. What needs no answer waits in pending and
// travels with the next statement: round trips, not work, make PostgreSQL slow.
type conn struct {
	sql     *sql.Conn
	raw     *pgx.Conn // of sql; valid until Close
	pending []storage.Statement
	known   map[string]bool // prepared under their own text
}

// maxStatements bounds the prepared statements of the write connection.
const maxStatements = 256

// control statements are prepared ahead, because in an aborted transaction
// nothing can be.
var control = [...]string{
	"BEGIN", "COMMIT", "ROLLBACK", lockHead,
	"SAVEPOINT change", "RELEASE SAVEPOINT change", "ROLLBACK TO SAVEPOINT change",
}

const lockHead = "SELECT size, edge, authz_epoch FROM log_head WHERE id = 1 FOR UPDATE"

func connect(ctx context.Context, pool *sql.DB) (storage.Conn, error) {
	c, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	w := &conn{sql: c}
	err = c.Raw(func(dc any) error {
		raw, ok := dc.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("unexpected driver connection %T", dc)
		}
		w.raw = raw.Conn()
		return nil
	})
	if err == nil {
		err = w.prepareControl(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return w, nil
}

func (c *conn) prepareControl(ctx context.Context) error {
	c.known = make(map[string]bool, maxStatements)
	for _, query := range control {
		if _, err := c.raw.Prepare(ctx, query, query); err != nil {
			return c.judge(err)
		}
		c.known[query] = true
	}
	return nil
}

// prepare makes the server know query. The pending statements go first: one of
// them may be the ROLLBACK TO that makes preparing possible again.
func (c *conn) prepare(query string) error {
	if c.known[query] {
		return nil
	}
	if err := c.flush(); err != nil {
		return err
	}
	if _, err := c.raw.Prepare(context.Background(), query, query); err != nil {
		return c.judge(err)
	}
	c.known[query] = true
	return nil
}

func (c *conn) Begin() error {
	c.pending = c.pending[:0]
	if err := c.raw.PgConn().Conn().SetDeadline(time.Now().Add(batchTime)); err != nil {
		return lostError{err}
	}
	if len(c.known) > maxStatements {
		if err := c.raw.DeallocateAll(context.Background()); err != nil {
			return c.judge(err)
		}
		if err := c.prepareControl(context.Background()); err != nil {
			return err
		}
	}
	return c.Do("BEGIN")
}

func (c *conn) Do(query string) error {
	c.pending = append(c.pending, storage.Statement{Query: query})
	return nil
}

func (c *conn) Exec(query string, args []any) (int64, error) {
	if err := c.prepare(query); err != nil {
		return 0, err
	}
	if len(c.pending) == 0 {
		tag, err := c.raw.Exec(context.Background(), query, args...)
		return tag.RowsAffected(), c.judge(err)
	}
	results := c.send(storage.Statement{Query: query, Args: args})
	tag, err := results.Exec()
	return tag.RowsAffected(), c.judge(first(err, results.Close()))
}

// send puts the pending statements and one more on their way. The results of
// the pending ones have been read; a failure of theirs is that of the last.
func (c *conn) send(last ...storage.Statement) pgx.BatchResults {
	batch := &pgx.Batch{}
	for _, s := range c.pending {
		batch.Queue(s.Query, s.Args...)
	}
	for _, s := range last {
		batch.Queue(s.Query, s.Args...)
	}
	skip := len(c.pending) + len(last) - 1
	c.pending = c.pending[:0]
	results := c.raw.SendBatch(context.Background(), batch)
	for range skip {
		if _, err := results.Exec(); err != nil {
			break // the last one reports it again
		}
	}
	return results
}

// flush sends what is pending before a read, which goes through database/sql.
func (c *conn) flush() error {
	if len(c.pending) == 0 {
		return nil
	}
	return c.judge(c.send().Close())
}

func (c *conn) Query(query string, args []any) (*sql.Rows, error) {
	if err := c.flush(); err != nil {
		return nil, err
	}
	rows, err := c.sql.QueryContext(context.Background(), query, args...)
	return rows, c.judge(err)
}

func (c *conn) QueryRow(query string, args []any) *sql.Row {
	// When this fails the transaction is aborted or the connection gone, and the query says so.
	_ = c.flush()
	return c.sql.QueryRowContext(context.Background(), query, args...)
}

func (c *conn) Head() (storage.Head, error) {
	var h storage.Head
	results := c.send(storage.Statement{Query: lockHead})
	err := results.QueryRow().Scan(&h.Size, &h.Edge, &h.Epoch)
	return h, c.judge(first(err, results.Close()))
}

func (c *conn) Commit(last []storage.Statement) error {
	for _, s := range last {
		if err := c.prepare(s.Query); err != nil {
			return err
		}
	}
	results := c.send(append(last[:len(last):len(last)], storage.Statement{Query: "COMMIT"})...)
	tag, err := results.Exec()
	if err := c.judge(first(err, results.Close())); err != nil {
		return err
	}
	// COMMIT of an aborted transaction succeeds, as a rollback.
	if answer := tag.String(); answer != "COMMIT" {
		return fmt.Errorf("the server answered COMMIT with %s", answer)
	}
	return nil
}

func (c *conn) Rollback() error {
	if c.raw.IsClosed() {
		return net.ErrClosed
	}
	c.pending = c.pending[:0]
	if c.raw.PgConn().TxStatus() == 'I' {
		return nil // BEGIN never left
	}
	_, err := c.raw.Exec(context.Background(), "ROLLBACK")
	return err
}

func (c *conn) Close() error { return c.sql.Close() }

// lostError marks that the connection did not survive the error.
type lostError struct{ error }

func (e lostError) Unwrap() error { return e.error }

// first is err, or else the error of closing, which repeats err when there was one.
func first(err, closing error) error {
	if err != nil {
		return err
	}
	return closing
}

// judge marks err when pgx gave the connection up because of it.
func (c *conn) judge(err error) error {
	if err != nil && c.raw.IsClosed() {
		return lostError{err}
	}
	return err
}

func fault(err error) storage.Fault {
	var lost lostError
	var answer *pgconn.PgError
	var connecting *pgconn.ConnectError
	var network net.Error
	switch {
	case err == nil:
		return storage.FaultNone
	case errors.As(err, &lost):
		return storage.FaultLost // whatever the server said last
	case errors.As(err, &answer):
		return state(answer.Code)
	case errors.As(err, &connecting), errors.As(err, &network),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone):
		return storage.FaultLost
	}
	return storage.FaultNone
}

// state maps an SQLSTATE (PostgreSQL documentation, appendix A).
func state(code string) storage.Fault {
	switch code {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock not available
		return storage.FaultRetry
	case "53100": // disk full
		return storage.FaultFull
	case "XX001", "XX002": // data corrupted, index corrupted
		return storage.FaultCorrupt
	case "25006", // read-only: the server became a standby
		"25P03", // idle in transaction for too long
		"57P01", "57P02", "57P03", "57P05", "53300":
		return storage.FaultLost
	}
	switch {
	case strings.HasPrefix(code, "08"): // connection exceptions
		return storage.FaultLost
	case strings.HasPrefix(code, "53"), strings.HasPrefix(code, "58"), // resources, system errors
		strings.HasPrefix(code, "28"), strings.HasPrefix(code, "3D"): // refused login, no such database
		return storage.FaultIO
	}
	return storage.FaultNone
}
