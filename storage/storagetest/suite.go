package storagetest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sealwright/sealwright/storage"
)

// Place is where one store can be, empty at first.
type Place struct {
	Create func(context.Context) (*storage.DB, error)
	Open   func(context.Context) (*storage.DB, error)
	// Raw opens the database past package storage, as another server or an attacker would.
	Raw func(testing.TB) *sql.DB
	// Transient is an error of the driver after which a batch should run again.
	Transient error
}

// Run is the suite of an engine. fresh returns a new empty place.
func Run(t *testing.T, fresh func(testing.TB) Place) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Place)
	}{
		{"CreateIsNotOpen", createIsNotOpen},
		{"NewerSchema", newerSchema},
		{"Reopen", reopen},
		{"Concurrent", concurrent},
		{"EntriesOfAChange", entriesOfAChange},
		{"ErrorUndoesOneChange", errorUndoesOneChange},
		{"ErrorAlone", errorAlone},
		{"PanicUndoesOneChange", panicUndoesOneChange},
		{"GoexitSparesTheStore", goexitSparesTheStore},
		{"SwallowedFailure", swallowedFailure},
		{"ManySavepoints", manySavepoints},
		{"OpenCursors", openCursors},
		{"Statements", statements},
		{"InsertRows", insertRows},
		{"TxOutlivesApply", txOutlivesApply},
		{"BumpClosesItsBatch", bumpClosesItsBatch},
		{"FailedBump", failedBump},
		{"OtherServerBumps", otherServerBumps},
		{"EpochSetBack", epochSetBack},
		{"ContextInQueue", contextInQueue},
		{"ContextInBatch", contextInBatch},
		{"QueueLimit", queueLimit},
		{"RunAgain", runAgain},
		{"LogFails", logFails},
		{"Refusals", refusals},
		{"CloseDrains", closeDrains},
		{"Snapshot", snapshot},
		{"ReadersCannotWrite", readersCannotWrite},
		{"Check", check},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, fresh(t))
		})
	}
}

// create makes the store of a test and closes it at its end.
func create(t testing.TB, p Place) *storage.DB {
	t.Helper()
	db, err := p.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIf(db) })
	db.SetLog(Log{})
	return db
}

// put inserts a row whose presence shows that a change holds.
func put(tx *storage.Tx, name string) error {
	_, err := tx.Exec("INSERT INTO nonce (nonce, expires_at) VALUES ($1, $2)", name, 1)
	return err
}

// has reports whether put's row is there.
func has(t testing.TB, db *storage.DB, name string) bool {
	t.Helper()
	return count(t, db, "SELECT count(*) FROM nonce WHERE nonce = $1", name) == 1
}

func count(t testing.TB, db *storage.DB, query string, args ...any) int64 {
	t.Helper()
	var n int64
	if err := db.QueryRow(context.Background(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func entry(text string) storage.Entry { return storage.Entry{Data: []byte(text)} }

// CheckLog verifies that the log is without gaps, that its head and its chain
// agree, and returns its entries in order.
func CheckLog(t testing.TB, db *storage.DB) []string {
	t.Helper()
	var all []string
	err := db.Snapshot(context.Background(), func(r *storage.ReadTx) error {
		var size int64
		var edge, chain []byte
		if err := r.QueryRow("SELECT size, edge FROM log_head WHERE id = 1").Scan(&size, &edge); err != nil {
			return err
		}
		rows, err := r.Query("SELECT idx, data FROM log_entry ORDER BY idx")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var index int64
			var data []byte
			if err := rows.Scan(&index, &data); err != nil {
				return err
			}
			if index != int64(len(all)) {
				return fmt.Errorf("entry %d where %d should be", index, len(all))
			}
			all = append(all, string(data))
			chain = Chain(chain, data)
		}
		if int64(len(all)) != size || !bytes.Equal(chain, edge) {
			return fmt.Errorf("the head says %d entries and edge %x, the rows %d and %x", size, edge, len(all), chain)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatalf("checking the log: %v", err)
	}
	return all
}

// hold keeps the committer busy, so that what comes meanwhile forms one batch.
func hold(t testing.TB, db *storage.DB) (release func()) {
	t.Helper()
	entered, gate, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	first := true
	go func() {
		ended <- db.Update(context.Background(), func(*storage.Tx) error {
			if first {
				first = false
				close(entered)
			}
			<-gate
			return nil
		})
	}()
	<-entered
	return func() {
		t.Helper()
		close(gate)
		if err := <-ended; err != nil {
			t.Errorf("the change that held the batch: %v", err)
		}
	}
}

// outcome is what Commit returned.
type outcome struct {
	index int64
	err   error
}

// together commits the changes in one batch, in order, as far as the engine's limits allow.
func together(t testing.TB, db *storage.DB, changes ...storage.Change) []outcome {
	t.Helper()
	release := hold(t, db)
	results := make([]chan outcome, len(changes))
	for i, c := range changes {
		results[i] = submit(t, db, context.Background(), c)
	}
	release()
	all := make([]outcome, len(changes))
	for i := range results {
		all[i] = <-results[i]
	}
	return all
}

// submit queues a change behind a held batch and returns when it is queued.
func submit(t testing.TB, db *storage.DB, ctx context.Context, c storage.Change) chan outcome {
	t.Helper()
	before := db.Waiting()
	result := make(chan outcome, 1)
	go func() {
		index, err := db.Commit(ctx, c)
		result <- outcome{index, err}
	}()
	for deadline := time.Now().Add(10 * time.Second); db.Waiting() == before && len(result) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the change was not queued")
		}
		time.Sleep(50 * time.Microsecond)
	}
	return result
}

var errRefused = errors.New("refused by the change")
