package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sealwright/sealwright/key"
)

// Engine is what differs between SQLite and PostgreSQL. storage/sqlite and
// storage/postgres fill it in; nobody else needs it.
type Engine struct {
	Connect    func(context.Context) (Conn, error) // opens the write connection, also after a failure
	Fault      func(error) Fault                   // says what an error of Conn or Readers means
	Text       func(query string) string           // adapts a query for Readers; nil leaves it
	Readers    *sql.DB                             // read-only pool
	Savepoints int                                 // most savepoints in a transaction; 0: any number
	Remote     bool                                // the answer to COMMIT can be lost
	Close      func() error                        // releases everything but the connection of Connect
}

// Conn is the write connection. Only the committer uses it, one call at a time.
// No call takes a context: a shared transaction answers to no single caller.
type Conn interface {
	// Begin starts a write transaction.
	Begin() error
	// Do runs a statement without a result. It may be sent together with the
	// next one, which then reports its failure.
	Do(query string) error
	// Exec runs a statement and returns how many rows it changed.
	Exec(query string, args []any) (rows int64, err error)
	// Query and QueryRow read inside the transaction.
	Query(query string, args []any) (*sql.Rows, error)
	QueryRow(query string, args []any) *sql.Row
	// Head locks the head row until the end of the transaction and reads it.
	Head() (Head, error)
	// Commit runs the last statements and commits. When it fails with
	// FaultLost the outcome is unknown; after any other error nothing was written.
	Commit(last []Statement) error
	// Rollback ends the transaction. After an error the connection must be closed.
	Rollback() error
	// Close ends the connection and a transaction with it.
	Close() error
}

// Statement is a query with its arguments.
type Statement struct {
	Query string
	Args  []any
}

// Fault says what an error means for the batch in which it happened.
type Fault int

// The faults. Only FaultNone leaves the rest of the batch unharmed.
const (
	FaultNone    Fault = iota // the statement's own: the change fails, the batch goes on
	FaultRetry                // serialization failure, deadlock, busy: run the batch again
	FaultLost                 // the connection is gone: connect, then run the batch again
	FaultFull                 // no space left
	FaultIO                   // the disk or the server fails
	FaultCorrupt              // the file or an index is damaged
)

// Wrap gives err the kind that callers look for with errors.Is.
func (f Fault) Wrap(err error) error {
	switch f {
	case FaultRetry:
		return fmt.Errorf("%w: the store is contended: %w", key.ErrBusy, err)
	case FaultLost, FaultIO:
		if errors.Is(err, key.ErrUnavailable) {
			return err
		}
		return fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	case FaultFull:
		return fmt.Errorf("%w: %w", ErrFull, err)
	case FaultCorrupt:
		return fmt.Errorf("%w: %w", key.ErrIntegrity, err)
	}
	return err
}
