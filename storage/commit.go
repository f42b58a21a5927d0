package storage

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/sealwright/sealwright/key"
)

// maxBatchBytes bounds the entries of one transaction, and with it how long the
// changes behind it wait.
const maxBatchBytes = 4 << 20

const (
	// linger is how long a busy store waits for the callers it has just served.
	linger = time.Millisecond
	// busy is how many changes of a batch make a busy store.
	busy = 4
	// forEver is a sleep until somebody comes.
	forEver time.Duration = -1
)

// committer is the state of the one goroutine that writes.
type committer struct {
	conn    Conn       // nil after a failure, until the next batch connects
	taken   []*request // the batch in hand, for the case that its goroutine ends
	spare   []*request // the queue's other slice
	texts   texts
	entries []Entry     // of the attempt in hand
	last    []Statement // of the attempt in hand
	batches int         // committed, for pruning
	timer   *time.Timer // of a sleep that ends
}

// run is the committer: it takes what has gathered and commits it, until Close.
func (db *DB) run() {
	defer func() {
		if db.taken == nil {
			db.disconnect()
			close(db.done)
			return
		}
		// Apply ended the goroutine (runtime.Goexit, as t.FailNow does), or a driver
		// panicked. Nobody may wait for ever because of that.
		err := fmt.Errorf("%w: a change ended the goroutine of its batch", key.ErrUnavailable)
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: the batch panicked: %v", key.ErrUnavailable, p)
		}
		batch := db.taken
		db.taken = nil
		db.disconnect()
		db.fail(batch, err)
		deliver(batch)
		go db.run()
	}()
	for {
		batch := db.gather()
		if batch == nil {
			return
		}
		db.taken = batch
		n := db.commitBatch(batch)
		db.taken = nil
		deliver(batch[:n])
		db.putBack(batch[n:])
		clear(batch)
		db.spare = batch[:0]
		db.expect(n)
		// The callers just woken have their next changes ready in microseconds. Letting
		// them run first costs an idle store nothing, and a busy one pays half the syncs.
		runtime.Gosched()
	}
}

// expect says how many changes the next batch is worth waiting for: as many
// callers as were just served or are waiting now. Under load most of them are
// back within a moment, and a batch of all of them costs little more than one of
// half of them. Few callers are not waited for.
func (db *DB) expect(served int) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.enough = 1
	if served >= busy {
		db.enough = min(served+len(db.queue), db.limit)
	}
}

// gather waits for changes and takes as many as one transaction holds; nil after Close.
func (db *DB) gather() []*request {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.sleep(linger)
	db.enough = 1
	for len(db.queue) == 0 {
		if db.closing {
			return nil
		}
		db.sleep(forEver)
	}
	n := db.fit(db.queue)
	batch := db.queue[:n]
	if n == len(db.queue) {
		db.queue = db.spare
	} else {
		batch = append(db.spare, batch...)
		db.queue = slices.Delete(db.queue, 0, n)
	}
	db.spare = nil
	for _, r := range batch {
		r.queued = false
	}
	return batch
}

// sleep waits, with db.mu unlocked, until enough changes have gathered, Close,
// or the end of the time.
func (db *DB) sleep(most time.Duration) {
	if db.closing || len(db.queue) >= db.enough {
		return
	}
	db.asleep = true
	db.mu.Unlock()
	defer db.mu.Lock()
	if most == forEver {
		<-db.wake
		return
	}
	if db.timer == nil {
		db.timer = time.NewTimer(most)
	} else {
		db.timer.Reset(most)
	}
	select {
	case <-db.wake:
		db.timer.Stop()
		return
	case <-db.timer.C:
	}
	db.mu.Lock()
	late := db.asleep
	db.asleep = false
	db.mu.Unlock()
	if !late {
		<-db.wake // somebody is just about to say it
	}
}

// fit says how many of the waiting changes go into one transaction.
func (db *DB) fit(queue []*request) int {
	savepoints, bytes := 0, 0
	for i, r := range queue {
		if r.change.Apply != nil {
			savepoints++
		}
		for j := range r.change.Entries {
			bytes += len(r.change.Entries[j].Data)
		}
		tooMany := db.engine.Savepoints > 0 && savepoints > db.engine.Savepoints
		if i > 0 && (tooMany || bytes > maxBatchBytes) {
			return i
		}
	}
	return len(queue)
}

// putBack returns what its batch did not reach to the head of the queue, where
// a context may withdraw it again.
func (db *DB) putBack(rest []*request) {
	if len(rest) == 0 {
		return
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, r := range rest {
		r.queued = true
	}
	db.queue = slices.Insert(db.queue, 0, rest...)
}

// deliver wakes the callers. A request belongs to its caller again afterwards.
func deliver(batch []*request) {
	for _, r := range batch {
		r.done <- struct{}{}
	}
}

// fail gives every request of the batch err, and remembers it for Check.
func (db *DB) fail(batch []*request, err error) {
	for _, r := range batch {
		// What Apply refused, and what was decided too early, stays refused for that reason.
		if r.err == nil {
			r.err = err
		}
	}
	db.failure.Store(&err)
}

// commitBatch commits a batch and leaves each request's answer in it. It
// returns how many of the requests it dealt with.
func (db *DB) commitBatch(reqs []*request) int {
	id := newBatchID()
	var lost []answer // of the run whose COMMIT got no answer
	var began time.Time
	for run := 0; ; run++ {
		n, failure := db.attempt(id, reqs, lost != nil)
		switch {
		case failure == nil:
			if db.failure.Load() != nil {
				db.failure.Store(nil)
			}
			return n
		case failure.stale:
			continue // each run takes at least one request out, so this ends
		case failure.committed:
			restore(reqs, lost)
			return n
		}
		if failure.fault != FaultRetry {
			db.disconnect()
		}
		if failure.committing && lost == nil {
			switch {
			case db.engine.Remote && failure.fault == FaultLost:
				reqs = reqs[:n]
				lost = answers(reqs)
				began = time.Time{}
				run = 0
			case !db.engine.Remote && failure.fault == FaultIO:
				failure.unknown = db.bury() != nil
			}
		}
		if began.IsZero() {
			began = time.Now()
		}
		if db.again(failure, lost != nil, run, began) {
			continue
		}
		err := failure.fault.Wrap(failure.err)
		if lost != nil || failure.unknown {
			err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, failure.err)
		}
		if lost != nil {
			restore(reqs, lost)
		}
		db.fail(reqs, err)
		return len(reqs)
	}
}

// answer is what a request would have been told.
type answer struct {
	index int64
	err   error
}

func answers(reqs []*request) []answer {
	all := make([]answer, len(reqs))
	for i, r := range reqs {
		all[i] = answer{r.index, r.err}
	}
	return all
}

func restore(reqs []*request, all []answer) {
	for i, a := range all {
		reqs[i].index, reqs[i].err = a.index, a.err
	}
}
