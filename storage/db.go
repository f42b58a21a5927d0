package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealwright/sealwright/key"
)

// defaultQueue is how many changes may wait for a batch before Commit answers busy.
const defaultQueue = 4096

// ErrOutcomeUnknown: the store went away while it was committing and did not
// come back in time to say whether the change holds. Look before retrying.
var ErrOutcomeUnknown = fmt.Errorf("%w: the outcome of the change is unknown: read it back before retrying", key.ErrUnavailable)

// DB is an open store. Its methods are safe for concurrent use.
type DB struct {
	engine Engine // immutable after New

	epoch   atomic.Int64 // newest authz_epoch seen
	log     atomic.Pointer[Log]
	failure atomic.Pointer[error] // why the last batch failed; nil when it did not

	mu      sync.Mutex // guards the fields below
	queue   []*request // waiting for a batch, in arrival order
	limit   int        // of queue
	asleep  bool       // the committer waits on wake
	enough  int        // changes that a sleeping committer waits for
	closing bool

	wake chan struct{} // one slot: work arrived for a sleeping committer
	done chan struct{} // closed when the committer has ended

	requests sync.Pool // of *request: a channel per change would be half of its allocations

	closeOnce sync.Once
	closeErr  error

	committer // used by the committer goroutine only
}

// New opens a store on engine and starts its committer. It takes over engine:
// Close releases it, and so does New when it fails. ctx bounds only New.
func New(ctx context.Context, engine Engine) (*DB, error) {
	db := &DB{
		engine: engine,
		limit:  defaultQueue,
		wake:   make(chan struct{}, 1),
		done:   make(chan struct{}),
	}
	conn, err := engine.Connect(ctx)
	if err == nil {
		db.conn = conn
		_, err = db.RefreshEpoch(ctx)
	}
	if err != nil {
		if conn != nil {
			err = errors.Join(err, conn.Close())
		}
		return nil, fmt.Errorf("opening the store: %w", errors.Join(err, engine.Close()))
	}
	db.texts = texts{}
	go db.run()
	return db, nil
}

// SetLog names the log that takes the entries. Call it before the first Change with entries.
func (db *DB) SetLog(log Log) { db.log.Store(&log) }

// SetQueueLimit changes how many changes may wait for a batch (4096) before
// Commit answers key.ErrBusy.
func (db *DB) SetQueueLimit(n int) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.limit = max(n, 1)
}

// Waiting returns how many changes wait for a batch.
func (db *DB) Waiting() int {
	db.mu.Lock()
	defer db.mu.Unlock()
	return len(db.queue)
}

// Commit makes change and its entries durable in one transaction, which it
// shares with the changes of other callers. It returns the log index of the
// change's first entry, -1 if it has none.
//
// ctx bounds only the wait in the queue; once the change is in a batch, Commit
// returns what became of it. Errors: what Apply returned; [ErrStaleEpoch];
// [ErrFull]; key.ErrBusy when the queue is full; [ErrOutcomeUnknown];
// key.ErrUnavailable for everything else the store suffers. Unless the outcome
// is unknown, an error means that nothing of the change was written.
func (db *DB) Commit(ctx context.Context, change Change) (int64, error) {
	if err := db.admit(ctx, change); err != nil {
		return -1, err
	}
	r := db.newRequest(change)
	db.mu.Lock()
	switch {
	case db.closing:
		db.mu.Unlock()
		return -1, errClosed
	case len(db.queue) >= db.limit:
		db.mu.Unlock()
		return -1, fmt.Errorf("%w: %d changes wait for the store", key.ErrBusy, db.limit)
	}
	r.queued = true
	db.queue = append(db.queue, r)
	rouse := db.asleep && len(db.queue) >= db.enough
	if rouse {
		db.asleep = false
	}
	db.mu.Unlock()
	if rouse {
		db.wake <- struct{}{}
	}
	return db.await(ctx, r)
}

// Update commits a change that has no entries of its own and needs no epoch check.
func (db *DB) Update(ctx context.Context, apply func(*Tx) error) error {
	_, err := db.Commit(ctx, Change{Apply: apply})
	return err
}

// admit refuses what no batch could commit, so that it cannot fail the batch of others.
func (db *DB) admit(ctx context.Context, change Change) error {
	if ctx.Err() != nil {
		return fmt.Errorf("waiting for the store: %w", context.Cause(ctx))
	}
	if len(change.Entries) > 0 && db.log.Load() == nil {
		return errNoLog
	}
	for i := range change.Entries {
		if len(change.Entries[i].Data) > maxEntry {
			return errEntrySize
		}
	}
	return nil
}

func (db *DB) await(ctx context.Context, r *request) (int64, error) {
	if ctx.Done() == nil {
		<-r.done
		return db.take(r)
	}
	select {
	case <-r.done:
		return db.take(r)
	case <-ctx.Done():
	}
	if db.withdraw(r) {
		return -1, fmt.Errorf("waiting for the store: %w", context.Cause(ctx))
	}
	<-r.done
	return db.take(r)
}

// withdraw takes r out of the queue, unless a batch has it already.
func (db *DB) withdraw(r *request) bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	if !r.queued {
		return false
	}
	for i, other := range db.queue {
		if other == r {
			db.queue = append(db.queue[:i], db.queue[i+1:]...)
			break
		}
	}
	return true
}

// Epoch returns the newest authz_epoch this process has seen. Decide under it
// and put it into [Change.Epoch].
func (db *DB) Epoch() int64 { return db.epoch.Load() }

// RefreshEpoch reads authz_epoch from the store, which another server may have moved on.
func (db *DB) RefreshEpoch(ctx context.Context) (int64, error) {
	var epoch int64
	if err := db.QueryRow(ctx, "SELECT authz_epoch FROM log_head WHERE id = 1").Scan(&epoch); err != nil {
		return 0, fmt.Errorf("reading the authorization epoch: %w", db.readError(err))
	}
	db.sawEpoch(epoch)
	return epoch, nil
}

func (db *DB) sawEpoch(epoch int64) {
	for seen := db.epoch.Load(); epoch > seen; seen = db.epoch.Load() {
		if db.epoch.CompareAndSwap(seen, epoch) {
			return
		}
	}
}

// readError gives an error of the read pool the kind its callers look for.
func (db *DB) readError(err error) error {
	if err == nil || errors.Is(err, sql.ErrNoRows) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return db.engine.Fault(err).Wrap(err)
}

// Check is the readiness test: it reads from the store and, when the last batch
// failed, tries a batch that changes nothing but must become durable.
func (db *DB) Check(ctx context.Context) error {
	if _, err := db.RefreshEpoch(ctx); err != nil {
		return err
	}
	failure := db.failure.Load()
	if failure == nil {
		return nil
	}
	// A store that is not ready gets no requests, so nobody but this probe can find out that it recovered.
	err := db.Update(ctx, func(tx *Tx) error {
		_, err := tx.Exec(touchHead, newBatchID()) // a new value: SQLite does not write a page that stays the same
		return err
	})
	if err != nil {
		return fmt.Errorf("the last batch failed (%w) and so did a new one: %w", *failure, err)
	}
	return nil
}

// Close refuses new changes, commits those that wait, and releases the store.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		db.mu.Lock()
		db.closing = true
		rouse := db.asleep
		db.asleep = false
		db.mu.Unlock()
		if rouse {
			db.wake <- struct{}{}
		}
		<-db.done
		db.closeErr = db.engine.Close()
	})
	return db.closeErr
}

// request is one caller's change on its way through the queue and a batch.
type request struct {
	change Change
	index  int64
	err    error
	done   chan struct{} // one slot, filled once per use
	queued bool          // guarded by DB.mu
	stale  bool          // the committer's note while a batch runs
}

func (db *DB) newRequest(change Change) *request {
	r, ok := db.requests.Get().(*request)
	if !ok {
		r = &request{done: make(chan struct{}, 1)}
	}
	r.change, r.index, r.err, r.stale = change, -1, nil, false
	return r
}

// take reads the answer and gives the request back to the pool.
func (db *DB) take(r *request) (int64, error) {
	index, err := r.index, r.err
	r.change, r.err = Change{}, nil
	db.requests.Put(r)
	if err != nil {
		return -1, err
	}
	return index, nil
}

// now is the clock of batch ids and retries.
func now() int64 { return time.Now().UnixMicro() }
