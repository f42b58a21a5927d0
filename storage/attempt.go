package storage

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// patience bounds how long a contended batch is run again, and how long a
	// COMMIT whose answer was lost is looked for.
	patience = 10 * time.Second
	// reconnecting bounds how long a batch waits for a store that went away.
	reconnecting = 2 * time.Second
	// maxBackoff is the longest pause between two runs of a batch.
	maxBackoff = 250 * time.Millisecond
	// connecting bounds one connection attempt.
	connecting = 5 * time.Second

	// keepBatches is how long a batch id can resolve a lost answer: far longer than patience.
	keepBatches = 10 * time.Minute
	// pruneEvery is how many batches share one pruning of old ids.
	pruneEvery = 1024
)

const (
	claimBatch = "INSERT INTO log_batch (id, at) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING"
	noteBatch  = "INSERT INTO log_batch (id, at) VALUES ($1, $2)"
	pruneBatch = "DELETE FROM log_batch WHERE id < $1"
	moveHead   = "UPDATE log_head SET size = $1, edge = $2, authz_epoch = $3, batch = $4 WHERE id = 1"
	touchHead  = "UPDATE log_head SET batch = $1 WHERE id = 1"
)

// setback is why an attempt did not end in a committed batch.
type setback struct {
	fault      Fault
	err        error
	stale      bool // requests were found stale; run the others
	committed  bool // the batch was committed by an earlier run
	committing bool // it failed in COMMIT
	unknown    bool // and nobody can tell how that ended
}

func (db *DB) setback(err error) *setback { return &setback{fault: db.engine.Fault(err), err: err} }

// again says whether to run the batch once more, and pauses before.
func (db *DB) again(s *setback, lost bool, run int, began time.Time) bool {
	bound := patience
	switch {
	case s.unknown || s.fault == FaultNone && !lost:
		return false
	case lost || s.fault == FaultRetry:
	case s.fault == FaultLost:
		bound = reconnecting
	default:
		return false
	}
	pause := min(time.Millisecond<<min(run, 10), maxBackoff)
	pause = pause/2 + rand.N(pause)/2
	if time.Since(began)+pause > bound {
		return false
	}
	time.Sleep(pause)
	return true
}

// attempt runs the batch's transaction once. n is how many requests it reached:
// a change that bumps the epoch is the last of its batch.
//
// With claim, an earlier run may have committed without our hearing of it. The
// batch id goes in first then: its uniqueness makes this transaction wait for the
// earlier one, and keeps a late COMMIT of that one from ever succeeding.
func (db *DB) attempt(id string, reqs []*request, claim bool) (n int, s *setback) {
	if err := db.connect(); err != nil {
		return len(reqs), db.setback(err)
	}
	if err := db.conn.Begin(); err != nil {
		return len(reqs), &setback{fault: max(db.engine.Fault(err), FaultRetry), err: fmt.Errorf("beginning a batch: %w", err)}
	}
	if claim {
		rows, err := db.conn.Exec(claimBatch, []any{id, now()})
		if err != nil {
			return len(reqs), db.abandon(db.setback(err))
		}
		if rows == 0 {
			return len(reqs), db.abandon(&setback{committed: true})
		}
	}
	a := assembly{save: len(reqs) > 1 || claim}
	if n, s = db.assemble(&a, reqs); s != nil {
		return n, db.abandon(s)
	}
	if a.alive == 0 && !claim {
		if s := db.abandon(nil); s != nil {
			db.disconnect()
		}
		return n, nil
	}
	db.last = db.last[:0]
	epoch := int64(0)
	if len(db.entries) > 0 || a.bump || a.decided {
		if epoch, s = db.seal(&a, id, reqs[:n]); s != nil {
			return n, db.abandon(s)
		}
	}
	if db.engine.Remote && !claim {
		db.last = append(db.last, Statement{noteBatch, []any{id, now()}})
	}
	if err := db.conn.Commit(db.last); err != nil {
		s := db.setback(fmt.Errorf("committing a batch: %w", err))
		s.committing = true
		if s.fault == FaultLost {
			return n, s
		}
		return n, db.abandon(s)
	}
	db.sawEpoch(epoch)
	db.batches++
	if db.engine.Remote && db.batches%pruneEvery == 0 {
		db.prune()
	}
	return n, nil
}

// abandon rolls back. What cannot be rolled back is cut off.
func (db *DB) abandon(s *setback) *setback {
	if err := db.conn.Rollback(); err != nil {
		db.disconnect()
	}
	return s
}

// assembly is what the changes of an attempt add up to.
type assembly struct {
	save    bool // a savepoint around each Apply: its failure is not the batch's
	alive   int  // changes that hold
	bump    bool
	decided bool // some change was decided under an epoch
}

// assemble applies the changes and gathers their entries in arrival order.
func (db *DB) assemble(a *assembly, reqs []*request) (int, *setback) {
	clear(db.entries)
	db.entries = db.entries[:0]
	seen := db.epoch.Load()
	for i, r := range reqs {
		if r.change.Epoch != 0 && r.change.Epoch < seen {
			r.stale = true // epochs only grow
		}
		if r.stale {
			r.err = ErrStaleEpoch
			continue
		}
		r.err, r.index = nil, -1
		first := len(db.entries)
		db.entries = append(db.entries, r.change.Entries...)
		if r.change.Apply != nil {
			bump, s := db.apply(r, a.save)
			if s != nil {
				return len(reqs), s
			}
			if r.err != nil {
				db.entries = db.entries[:first]
				continue
			}
			a.bump = bump
		}
		a.alive++
		a.decided = a.decided || r.change.Epoch != 0
		if len(db.entries) > first {
			r.index = int64(first)
		}
		if a.bump {
			return i + 1, nil
		}
	}
	return len(reqs), nil
}

// apply runs one change. Its own failure goes into r.err and is undone; a
// setback is one that the whole batch suffers.
func (db *DB) apply(r *request, save bool) (bump bool, s *setback) {
	if save {
		if err := db.conn.Do("SAVEPOINT change"); err != nil {
			return false, db.broken(err)
		}
	}
	tx := &Tx{db: db, conn: db.conn, logs: db.log.Load() != nil}
	err := protect("a change", func() error { return r.change.Apply(tx) })
	failed, read := tx.err, len(tx.cursors) > 0
	tx.end()
	for _, e := range []error{failed, err} {
		if e == nil {
			continue
		}
		if fault := db.engine.Fault(e); fault != FaultNone {
			return false, &setback{fault: fault, err: e}
		}
	}
	if err == nil {
		err = failed
	}
	if err == nil && save {
		release := db.conn.Do
		if read {
			// An error that Apply did not look for, in rows, shows here and must not be taken for the next change's.
			release = func(query string) error { _, err := db.conn.Exec(query, nil); return err }
		}
		err = release("RELEASE SAVEPOINT change")
	}
	if err == nil {
		db.entries = append(db.entries, tx.entries...)
		return tx.bump, nil
	}
	r.err = err
	if save {
		for _, query := range []string{"ROLLBACK TO SAVEPOINT change", "RELEASE SAVEPOINT change"} {
			if err := db.conn.Do(query); err != nil {
				return false, db.broken(err)
			}
		}
	}
	return false, nil
}

// broken is the setback of a transaction that is not what we think it is.
func (db *DB) broken(err error) *setback {
	s := db.setback(err)
	if s.fault == FaultNone {
		s.fault = FaultLost
	}
	return s
}

// protect turns a panic of foreign code into an error.
func protect(who string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s panicked: %v", who, p)
		}
	}()
	return f()
}

// seal locks the head, checks the epochs, appends the entries and moves the head.
func (db *DB) seal(a *assembly, id string, reqs []*request) (epoch int64, s *setback) {
	head, err := db.conn.Head()
	if err != nil {
		return 0, db.setback(fmt.Errorf("locking the log's head: %w", err))
	}
	if seen := db.epoch.Load(); head.Epoch < seen {
		// With it back, narrowing would not be noticed until the number is reached again.
		return 0, &setback{fault: FaultCorrupt, err: fmt.Errorf("authz_epoch is %d and was %d: the store was set back while it was in use: stop the service and find out by whom", head.Epoch, seen)}
	}
	stale := false
	for _, r := range reqs {
		if r.err == nil && r.change.Epoch != 0 && r.change.Epoch < head.Epoch {
			r.stale, stale = true, true
		}
	}
	if stale {
		db.sawEpoch(head.Epoch)
		return 0, &setback{stale: true}
	}
	if len(db.entries) == 0 && !a.bump {
		return head.Epoch, nil
	}
	next := head
	next.Size += int64(len(db.entries))
	if len(db.entries) > 0 {
		tx := &Tx{db: db, conn: db.conn}
		err := protect("the log", func() (err error) {
			next.Edge, err = (*db.log.Load()).Append(tx, head, db.entries)
			return err
		})
		if failed := tx.err; failed != nil && err == nil {
			err = failed
		}
		tx.end()
		if err != nil {
			return 0, db.setback(fmt.Errorf("appending to the log: %w", err))
		}
	}
	for _, r := range reqs {
		if r.err == nil && r.index >= 0 {
			r.index += head.Size
		}
	}
	if a.bump {
		next.Epoch++
	}
	if next.Edge == nil {
		next.Edge = []byte{}
	}
	db.last = append(db.last, Statement{moveHead, []any{next.Size, next.Edge, next.Epoch, id}})
	return next.Epoch, nil
}

// bury overwrites what a COMMIT that failed at the disk may have left in
// SQLite's write-ahead log, where a crash could still bring it to life.
func (db *DB) bury() error {
	if err := db.connect(); err != nil {
		return err
	}
	err := db.conn.Begin()
	if err == nil {
		err = db.conn.Commit([]Statement{{touchHead, []any{newBatchID()}}})
	}
	if err != nil {
		db.disconnect()
	}
	return err
}

// prune forgets old batch ids. They begin with the time, so the primary key finds them.
func (db *DB) prune() {
	oldest := batchTime(now() - keepBatches.Microseconds())
	err := db.conn.Begin()
	if err == nil {
		err = db.conn.Commit([]Statement{{pruneBatch, []any{oldest}}})
	}
	if err != nil {
		db.disconnect() // the next batch meets the same failure and reports it
	}
}

func (db *DB) connect() error {
	if db.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), connecting)
	defer cancel()
	conn, err := db.engine.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connecting to the store: %w", err)
	}
	db.conn = conn
	return nil
}

func (db *DB) disconnect() {
	if db.conn != nil {
		_ = db.conn.Close() // whatever it says, it is not used again
		db.conn = nil
	}
}

// newBatchID returns 32 hex digits: microseconds, so that ids sort by age, and 64 random bits.
func newBatchID() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now()))
	binary.BigEndian.PutUint64(b[8:], rand.Uint64())
	return hex.EncodeToString(b[:])
}

func batchTime(micros int64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(max(micros, 0)))
	return hex.EncodeToString(b[:])
}
