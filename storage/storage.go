// Package storage is the store beside the service: SQLite or PostgreSQL, one
// SQL, and one way to write, [DB.Commit], which is group commit.
//
// Concurrent changes share one transaction (a savepoint each), one batch of
// audit entries and one fsync. What Commit acknowledged is durable; what it
// refused left nothing behind.
package storage

import (
	"errors"
	"time"

	"github.com/sealwright/sealwright/key"
)

var (
	// ErrStaleEpoch: access was narrowed after the caller decided. Decide again, then submit again.
	ErrStaleEpoch = errors.New("authorization epoch moved on")
	// ErrFull: the disk is full. Nothing of the batch was written.
	ErrFull = key.ErrFull
	// ErrNewerSchema: a newer Sealwright wrote this store.
	ErrNewerSchema = errors.New("the store was written by a newer version of Sealwright: upgrade this binary")
)

// Entry is one audit record as the store sees it.
type Entry struct {
	Data []byte   // canonical JSON, at most 65,535 bytes
	Uses []Access // rows of the principal→object index this record adds to
}

// Access is one use of one object, the unit of the principal→object index.
type Access struct {
	Principal string
	Object    string
	Version   int64
	Host      string
	At        time.Time
}

// Head is the log's head row as the batch that locked it sees it.
type Head struct {
	Size  int64  // entries so far; the next entry's index
	Edge  []byte // the right-edge hashes, opaque to the store
	Epoch int64  // authz_epoch
}

// Log turns a batch's entries into leaves. Package audit implements it; the
// store calls it inside each batch's transaction, once, with the head locked.
type Log interface {
	// Append stores entries at head.Size onward and returns the new right edge.
	// It may be called again with other entries after a batch failed, so what it
	// remembers between calls must be checked against head.Edge.
	Append(tx *Tx, head Head, entries []Entry) (edge []byte, err error)
}

// Change is one caller's part of a batch.
type Change struct {
	// Epoch is the authz_epoch the caller's decision was made under; 0 skips the
	// check (start-up, and outcomes of effects that already happened).
	Epoch int64
	// Apply is SQL only and may run more than once. An error undoes this change
	// alone. Nil means plain entries: no savepoint, one multi-row insert.
	Apply func(*Tx) error
	// Entries are appended to the log with the change; Apply may add more with Tx.Append.
	Entries []Entry
}
