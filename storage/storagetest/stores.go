package storagetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

func createIsNotOpen(t *testing.T, p Place) {
	if db, err := p.Open(t.Context()); !errors.Is(err, key.ErrNotFound) {
		closeIf(db)
		t.Fatalf("opening what is missing: %v", err)
	} else if !strings.Contains(err.Error(), "init") {
		t.Errorf("the error does not say what to do: %v", err)
	}
	db := create(t, p)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if again, err := p.Create(t.Context()); !errors.Is(err, key.ErrExists) {
		closeIf(again)
		t.Fatalf("creating what exists: %v", err)
	}
	again, err := p.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closeIf(again)
}

func closeIf(db *storage.DB) {
	if db != nil {
		_ = db.Close() // the tests that care look themselves
	}
}

func newerSchema(t *testing.T, p Place) {
	db := create(t, p)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw := p.Raw(t)
	if _, err := raw.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)"); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := p.Open(t.Context())
	if !errors.Is(err, storage.ErrNewerSchema) {
		closeIf(again)
		t.Fatalf("got %v", err)
	}
}

func reopen(t *testing.T, p Place) {
	db := create(t, p)
	for i := range 3 {
		index, err := db.Commit(t.Context(), storage.Change{
			Apply:   func(tx *storage.Tx) error { tx.BumpEpoch(); return put(tx, fmt.Sprint(i)) },
			Entries: []storage.Entry{entry(fmt.Sprint(i))},
		})
		if err != nil || index != int64(i) {
			t.Fatal(index, err)
		}
	}
	epoch := db.Epoch()
	if epoch != 4 {
		t.Errorf("epoch %d after three bumps of 1", epoch)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := p.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeIf(db)
	db.SetLog(Log{})
	if db.Epoch() != epoch {
		t.Errorf("epoch %d, want %d", db.Epoch(), epoch)
	}
	if index, err := db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{entry("3")}}); err != nil || index != 3 {
		t.Error(index, err)
	}
	if all := strings.Join(CheckLog(t, db), " "); all != "0 1 2 3" {
		t.Errorf("log: %s", all)
	}
}

func refusals(t *testing.T, p Place) {
	db, err := p.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeIf(db)
	if _, err := db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{entry("x")}}); err == nil {
		t.Error("entries without a log were accepted")
	}
	if err := db.Update(t.Context(), func(tx *storage.Tx) error { tx.Append(entry("x")); return nil }); err == nil {
		t.Error("Append without a log was accepted")
	}
	db.SetLog(Log{})
	large := storage.Entry{Data: make([]byte, 65536)}
	if _, err := db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{large}}); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("an entry of 65,536 bytes: %v", err)
	}
	if err := db.Update(t.Context(), func(tx *storage.Tx) error { tx.Append(large); return nil }); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("an appended entry of 65,536 bytes: %v", err)
	}
	if _, err := db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{{Data: large.Data[:65535]}}}); err != nil {
		t.Errorf("an entry of 65,535 bytes: %v", err)
	}
}

// closeDrains: Close commits what waits, and refuses what comes later.
func closeDrains(t *testing.T, p Place) {
	db := create(t, p)
	release := hold(t, db)
	const waiting = 50
	var results []chan outcome
	for i := range waiting {
		results = append(results, submit(t, db, context.Background(), storage.Change{Entries: []storage.Entry{entry(fmt.Sprint(i))}}))
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := db.Close(); err != nil {
				t.Errorf("closing: %v", err)
			}
		})
	}
	for {
		// Until Close has begun this waits in the queue like the others, and is withdrawn.
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		_, err := db.Commit(ctx, storage.Change{})
		cancel()
		if errors.Is(err, key.ErrUnavailable) {
			break
		}
	}
	release()
	wg.Wait()
	for i, r := range results {
		if o := <-r; o.err != nil || o.index != int64(i) {
			t.Errorf("waiting change %d: %v", i, o)
		}
	}
	if _, err := db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{entry("late")}}); !errors.Is(err, key.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	db, err := p.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeIf(db)
	if n := len(CheckLog(t, db)); n != waiting {
		t.Errorf("%d entries, want %d", n, waiting)
	}
}

// snapshot: a reader sees both halves of each change or neither, and one state throughout.
func snapshot(t *testing.T, p Place) {
	db := create(t, p)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("%d/%d", w, i)
				_, err := db.Commit(context.Background(), storage.Change{
					Apply: func(tx *storage.Tx) error { return put(tx, name) }, Entries: []storage.Entry{entry(name)},
				})
				if err != nil {
					t.Errorf("writing: %v", err)
					return
				}
			}
		})
	}
	for range 50 {
		err := db.Snapshot(t.Context(), func(r *storage.ReadTx) error {
			var size, rows, entries, after int64
			return errors.Join(
				r.QueryRow("SELECT size FROM log_head WHERE id = $1", 1).Scan(&size),
				r.QueryRow("SELECT count(*) FROM nonce").Scan(&rows),
				r.QueryRow("SELECT count(*) FROM log_entry").Scan(&entries),
				r.QueryRow("SELECT size FROM log_head").Scan(&after),
				func() error {
					if size != rows || rows != entries || size != after {
						return fmt.Errorf("head %d, %d rows, %d entries, head %d", size, rows, entries, after)
					}
					return nil
				}(),
			)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
}

// drain reads rows to their end and returns the error on the way.
func drain(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}

func readersCannotWrite(t *testing.T, p Place) {
	db := create(t, p)
	query := "INSERT INTO nonce (nonce, expires_at) VALUES ($1, 1) RETURNING expires_at"
	var n int64
	if err := db.QueryRow(t.Context(), query, "a").Scan(&n); err == nil {
		t.Error("QueryRow wrote")
	}
	if err := drain(db.Query(t.Context(), query, "b")); err == nil {
		t.Error("Query wrote")
	}
	err := db.Snapshot(t.Context(), func(r *storage.ReadTx) error { return r.QueryRow(query, "c").Scan(&n) })
	if err == nil {
		t.Error("Snapshot wrote")
	}
	if count(t, db, "SELECT count(*) FROM nonce") != 0 {
		t.Error("a reader left a row")
	}
}

// check: a failed batch makes the store unready until a batch works again, and
// the question itself finds that out.
func check(t *testing.T, p Place) {
	db := create(t, p)
	if err := db.Check(t.Context()); err != nil {
		t.Errorf("fresh store: %v", err)
	}
	if err := db.Update(t.Context(), func(*storage.Tx) error { return errRefused }); err == nil {
		t.Error("refused change was accepted")
	}
	if err := db.Check(t.Context()); err != nil {
		t.Errorf("a refused change is no failure of the store: %v", err)
	}
	db.SetLog(&badLog{fails: 1, how: func() error { return errRefused }})
	if _, err := db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{entry("x")}}); err == nil {
		t.Error("the failing log was ignored")
	}
	if err := db.Check(t.Context()); err != nil {
		t.Errorf("after the store recovered: %v", err)
	}
	closeIf(db)
	if err := db.Check(t.Context()); err == nil {
		t.Error("a closed store is ready")
	}
}
