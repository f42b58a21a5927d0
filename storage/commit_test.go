package storage

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealwright/sealwright/key"
)

// put is a change that leaves a row and an entry of that name, and counts its runs.
func put(name string, runs *int) Change {
	return Change{
		Entries: []Entry{{Data: []byte(name)}},
		Apply: func(tx *Tx) error {
			if runs != nil {
				*runs++
			}
			_, err := tx.Exec("put", name)
			return err
		},
	}
}

// bubble runs the test on a server where waiting takes no time.
func bubble(t *testing.T, s *server, test func(t *testing.T, db *DB)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, s.start(t)) })
}

func TestLostAnswerOfACommit(t *testing.T) {
	s := &server{remote: true, commits: []crash{{errGone, true}}}
	bubble(t, s, func(t *testing.T, db *DB) {
		runs := 0
		index, err := db.Commit(context.Background(), put("a", &runs))
		if index != 0 || err != nil {
			t.Errorf("got %d, %v", index, err)
		}
		if runs != 1 || string(s.head.Edge) != "a" {
			t.Errorf("%d runs, log %q", runs, s.head.Edge)
		}
	})
}

// TestLostAnswerOfABump: the epoch that this very batch moved must not make its changes stale.
func TestLostAnswerOfABump(t *testing.T) {
	s := &server{remote: true, commits: []crash{{errGone, true}}}
	bubble(t, s, func(t *testing.T, db *DB) {
		c := put("a", nil)
		c.Epoch, c.Apply = 1, func(tx *Tx) error { tx.BumpEpoch(); return nil }
		if index, err := db.Commit(context.Background(), c); index != 0 || err != nil {
			t.Errorf("got %d, %v", index, err)
		}
		if s.head.Epoch != 2 || s.head.Size != 1 {
			t.Errorf("head %v", s.head)
		}
	})
}

func TestLostCommit(t *testing.T) {
	s := &server{remote: true, commits: []crash{{errGone, false}, {errGone, false}, {errBusy, false}}}
	bubble(t, s, func(t *testing.T, db *DB) {
		runs := 0
		index, err := db.Commit(context.Background(), put("a", &runs))
		if index != 0 || err != nil {
			t.Errorf("got %d, %v", index, err)
		}
		if runs != 4 || string(s.head.Edge) != "a" {
			t.Errorf("%d runs, log %q", runs, s.head.Edge)
		}
	})
}

// TestLostThenStale: while the answer was lost, another server narrowed access.
func TestLostThenStale(t *testing.T) {
	s := &server{remote: true, commits: []crash{{errGone, false}}}
	bubble(t, s, func(t *testing.T, db *DB) {
		c := put("a", nil)
		c.Epoch = 1
		first := true
		apply := c.Apply
		c.Apply = func(tx *Tx) error {
			if !first {
				tx.conn.(*fakeConn).head.Epoch = 2
			}
			first = false
			return apply(tx)
		}
		if _, err := db.Commit(context.Background(), c); !errors.Is(err, ErrStaleEpoch) {
			t.Errorf("got %v", err)
		}
		if len(s.rows) != 0 || s.head.Size != 0 {
			t.Errorf("a stale change was written: %v", s.head)
		}
		if len(s.batches) != 1 {
			t.Error("the batch id was given back: a late COMMIT could still succeed")
		}
	})
}

func TestOutcomeUnknown(t *testing.T) {
	s := &server{remote: true, commits: []crash{{errGone, true}}}
	bubble(t, s, func(t *testing.T, db *DB) {
		began := time.Now()
		c := put("a", nil)
		apply := c.Apply
		c.Apply = func(tx *Tx) error { s.down = 1 << 20; return apply(tx) }
		_, err := db.Commit(context.Background(), c)
		if !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, key.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > patience {
			t.Errorf("it took %v", took)
		}
		if db.failure.Load() == nil {
			t.Error("Check would not know")
		}
		s.down = 0
		if index, err := db.Commit(context.Background(), put("b", nil)); index != 1 || err != nil {
			t.Errorf("after the server is back: %d, %v", index, err)
		}
		if db.failure.Load() != nil {
			t.Error("Check would not know that the store recovered")
		}
	})
}

func TestServerAway(t *testing.T) {
	s := &server{remote: true, begins: []error{errGone}}
	bubble(t, s, func(t *testing.T, db *DB) {
		if _, err := db.Commit(context.Background(), put("a", nil)); err != nil {
			t.Errorf("a connection that died while idle: %v", err)
		}
		s.begins, s.down = []error{errGone}, 1<<20
		began := time.Now()
		_, err := db.Commit(context.Background(), put("b", nil))
		if !errors.Is(err, key.ErrUnavailable) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > reconnecting {
			t.Errorf("it took %v", took)
		}
	})
}

func TestContention(t *testing.T) {
	s := &server{}
	bubble(t, s, func(t *testing.T, db *DB) {
		runs := 0
		began := time.Now()
		_, err := db.Commit(context.Background(), Change{Apply: func(*Tx) error { runs++; return errBusy }})
		if !errors.Is(err, key.ErrBusy) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took < patience/2 || took > patience || runs > 200 {
			t.Errorf("%d runs in %v", runs, took)
		}
		if s.opened != 1 {
			t.Errorf("%d connections: contention is no reason for a new one", s.opened)
		}
	})
}

func TestFullDisk(t *testing.T) {
	s := &server{commits: []crash{{errNoSpace, false}}}
	bubble(t, s, func(t *testing.T, db *DB) {
		_, err := db.Commit(context.Background(), put("a", nil))
		if !errors.Is(err, ErrFull) || !errors.Is(err, key.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if index, err := db.Commit(context.Background(), put("b", nil)); index != 0 || err != nil {
			t.Errorf("when there is space again: %d, %v", index, err)
		}
	})
}

// TestDiskFailsInCommit: what a failed sync left in the write-ahead log is
// overwritten before the caller hears that nothing was written.
func TestDiskFailsInCommit(t *testing.T) {
	s := &server{commits: []crash{{errDisk, false}}}
	bubble(t, s, func(t *testing.T, db *DB) {
		_, err := db.Commit(context.Background(), put("a", nil))
		if !errors.Is(err, key.ErrUnavailable) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("got %v", err)
		}
		s.commits = []crash{{errDisk, false}, {errDisk, false}}
		if _, err := db.Commit(context.Background(), put("b", nil)); !errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("when it cannot be overwritten: %v", err)
		}
		if index, err := db.Commit(context.Background(), put("c", nil)); index != 0 || err != nil {
			t.Errorf("when the disk is well: %d, %v", index, err)
		}
	})
}

func TestBatchIDs(t *testing.T) {
	s := &server{remote: true}
	bubble(t, s, func(t *testing.T, db *DB) {
		for range 2 * pruneEvery {
			if err := db.Update(context.Background(), func(*Tx) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if len(s.batches) != 2*pruneEvery || s.pruned != 2 {
			t.Errorf("%d ids, %d prunings", len(s.batches), s.pruned)
		}
		before := newBatchID()
		time.Sleep(time.Millisecond)
		if id := newBatchID(); len(id) != 32 || id <= before || batchTime(now()-keepBatches.Microseconds()) >= id {
			t.Errorf("ids do not sort by age: %s, %s", before, id)
		}
	})
}

// TestLinger: a batch waits for the callers that were just served, but not for
// long, and not where few call.
func TestLinger(t *testing.T) {
	for _, c := range []struct {
		name          string
		callers, back int
		batches       int           // of those that come back
		took          time.Duration // until the last of them is served
	}{
		{"all come back", 8, 8, 1, 800 * time.Microsecond},
		{"some stay away", 8, 6, 1, linger},
		{"too few to wait for", busy - 1, busy - 1, busy - 1, 300 * time.Microsecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, &server{}, func(t *testing.T, db *DB) {
				var callers sync.WaitGroup
				call := func(change Change) {
					callers.Go(func() {
						if _, err := db.Commit(context.Background(), change); err != nil {
							t.Error(err)
						}
					})
				}
				call(Change{Apply: func(*Tx) error { time.Sleep(time.Second); return nil }})
				synctest.Wait()
				for range c.callers {
					call(put("a", nil)) // they gather behind the slow one
				}
				callers.Wait()
				synctest.Wait()
				before, start := db.batches, time.Now()
				for i := range c.back {
					time.AfterFunc(time.Duration(i+1)*100*time.Microsecond, func() { call(put("a", nil)) })
				}
				time.Sleep(time.Duration(c.back) * 100 * time.Microsecond)
				synctest.Wait()
				callers.Wait()
				if took := time.Since(start); took != c.took {
					t.Errorf("served after %v, not %v", took, c.took)
				}
				synctest.Wait()
				if got := db.batches - before; got != c.batches {
					t.Errorf("%d batches, not %d", got, c.batches)
				}
			})
		})
	}
}

// TestCloseWhileLingering: Close commits what waits and does not wait itself.
func TestCloseWhileLingering(t *testing.T) {
	bubble(t, &server{}, func(t *testing.T, db *DB) {
		var callers sync.WaitGroup
		callers.Go(func() {
			_, _ = db.Commit(context.Background(), Change{Apply: func(*Tx) error { time.Sleep(time.Second); return nil }})
		})
		synctest.Wait()
		for range 2 * busy {
			callers.Go(func() { _, _ = db.Commit(context.Background(), put("a", nil)) })
		}
		callers.Wait()
		start := time.Now()
		callers.Go(func() {
			if _, err := db.Commit(context.Background(), put("late", nil)); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		callers.Wait()
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}
