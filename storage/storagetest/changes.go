package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// openCursors: what a change leaves open must not disturb its neighbours.
func openCursors(t *testing.T, p Place) {
	db := create(t, p)
	var changes []storage.Change
	for i := range 10 {
		changes = append(changes, storage.Change{
			Apply: func(tx *storage.Tx) error {
				for n := range 5 {
					if err := put(tx, fmt.Sprintf("%d/%d", i, n)); err != nil {
						return err
					}
				}
				if i%2 == 0 {
					tx.QueryRow("SELECT nonce FROM nonce")
					return nil
				}
				rows, err := tx.Query("SELECT nonce FROM nonce") //nolint:sqlclosecheck // leaving it open is the test
				if err != nil {
					return err
				}
				rows.Next()
				return rows.Err()
			},
			Entries: []storage.Entry{entry("e")},
		})
	}
	for i, o := range together(t, db, changes...) {
		if o.err != nil {
			t.Errorf("change %d: %v", i, o.err)
		}
	}
	if n := count(t, db, "SELECT count(*) FROM nonce"); n != 50 {
		t.Errorf("%d rows, want 50", n)
	}
}

// statements: one SQL text means the same on all engines.
func statements(t *testing.T, p Place) {
	db := create(t, p)
	err := db.Update(t.Context(), func(tx *storage.Tx) error {
		if err := put(tx, "a"); err != nil {
			return err
		}
		// Placeholders out of order, and one that appears twice.
		n, err := tx.Exec("UPDATE nonce SET expires_at = expires_at * $2 + $2 WHERE nonce = $1", "a", int64(21))
		if err != nil || n != 1 {
			return fmt.Errorf("updating: %d rows, %w", n, err)
		}
		if n, err = tx.Exec("DELETE FROM nonce WHERE nonce = $1", "nobody"); err != nil || n != 0 {
			return fmt.Errorf("deleting nothing: %d rows, %w", n, err)
		}
		var at int64
		if err := tx.QueryRow("SELECT expires_at FROM nonce WHERE expires_at < $2 AND nonce = $1", "a", 100).Scan(&at); err != nil || at != 42 {
			return fmt.Errorf("reading back: %d, %w", at, err)
		}
		err = tx.QueryRow("INSERT INTO nonce (expires_at, nonce) VALUES ($2, $1) RETURNING expires_at", "it's $1", int64(7)).Scan(&at)
		if err != nil || at != 7 {
			return fmt.Errorf("returning: %d, %w", at, err)
		}
		_, err = tx.Exec("INSERT INTO device_key (purpose, ref, device, created_at) VALUES ($1, $2, $3, $4)", "p", []byte{}, "", 1)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var at int64
	if err := db.QueryRow(t.Context(), "SELECT expires_at FROM nonce WHERE expires_at < $2 AND nonce = $1", "a", 100).Scan(&at); err != nil || at != 42 {
		t.Errorf("reading outside: %d, %v", at, err)
	}
	var ref []byte
	if err := db.QueryRow(t.Context(), "SELECT ref FROM device_key").Scan(&ref); err != nil || len(ref) != 0 {
		t.Errorf("empty bytes: %x, %v", ref, err)
	}
	for _, bad := range []string{"DELETE FROM nonce; DELETE FROM nonce", "DELETE FROM nothing", "DELETE"} {
		if err := db.Update(t.Context(), func(tx *storage.Tx) error { _, err := tx.Exec(bad); return err }); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func insertRows(t *testing.T, p Place) {
	db := create(t, p)
	total := int64(0)
	for _, rows := range []int{0, 1, 7, 8, 31, 32, 33, 200} {
		err := db.Update(t.Context(), func(tx *storage.Tx) error {
			var args []any
			for i := range rows {
				args = append(args, fmt.Sprintf("%d/%d", rows, i), int64(i))
			}
			if err := tx.InsertRows("INSERT INTO nonce (nonce, expires_at)", "", 2, args); err != nil {
				return err
			}
			return tx.InsertRows("INSERT INTO nonce (nonce, expires_at)", "ON CONFLICT (nonce) DO UPDATE SET expires_at = nonce.expires_at + 1", 2, args)
		})
		if err != nil {
			t.Errorf("%d rows: %v", rows, err)
		}
		total += int64(rows)
		if n := count(t, db, "SELECT count(*) FROM nonce"); n != total {
			t.Errorf("after %d rows: %d, want %d", rows, n, total)
		}
	}
	if n := count(t, db, "SELECT max(expires_at) FROM nonce"); n != 200 {
		t.Errorf("highest %d, want 200", n)
	}
	err := db.Update(t.Context(), func(tx *storage.Tx) error {
		return tx.InsertRows("INSERT INTO nonce (nonce, expires_at)", "", 2, make([]any, 3))
	})
	if !errors.Is(err, key.ErrInvalid) {
		t.Errorf("a row and a half: %v", err)
	}
}

func txOutlivesApply(t *testing.T, p Place) {
	db := create(t, p)
	var kept *storage.Tx
	if err := db.Update(t.Context(), func(tx *storage.Tx) error { kept = tx; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := kept.Exec("DELETE FROM nonce"); err == nil {
		t.Error("Exec after Apply")
	}
	if err := drain(kept.Query("SELECT 1")); err == nil {
		t.Error("Query after Apply")
	}
	var n int64
	if err := kept.QueryRow("SELECT 1").Scan(&n); err == nil {
		t.Error("QueryRow after Apply")
	}
	kept.Append(entry("x"))
	if n := len(CheckLog(t, db)); n != 0 {
		t.Error("Append after Apply")
	}
}

// bumpClosesItsBatch: what was decided before access narrowed, and queued behind
// it, is refused; what came before it holds, and stands before it in the log.
func bumpClosesItsBatch(t *testing.T, p Place) {
	db := create(t, p)
	epoch := db.Epoch()
	decided := func(name string) storage.Change {
		return storage.Change{Epoch: epoch, Entries: []storage.Entry{entry(name)}, Apply: func(tx *storage.Tx) error { return put(tx, name) }}
	}
	got := together(t, db,
		decided("before"),
		storage.Change{Epoch: epoch, Entries: []storage.Entry{entry("plain")}},
		storage.Change{Epoch: epoch, Entries: []storage.Entry{entry("bump")}, Apply: func(tx *storage.Tx) error { tx.BumpEpoch(); tx.BumpEpoch(); return nil }},
		decided("after"),
		storage.Change{Epoch: epoch, Entries: []storage.Entry{entry("plain after")}},
		storage.Change{Entries: []storage.Entry{entry("unchecked")}},
	)
	for i, want := range []error{nil, nil, nil, storage.ErrStaleEpoch, storage.ErrStaleEpoch, nil} {
		if !errors.Is(got[i].err, want) {
			t.Errorf("change %d: %v, want %v", i, got[i].err, want)
		}
	}
	if has(t, db, "after") || !has(t, db, "before") {
		t.Error("the wrong rows are there")
	}
	if all := strings.Join(CheckLog(t, db), " "); all != "before plain bump unchecked" {
		t.Errorf("log: %s", all)
	}
	if db.Epoch() != epoch+1 {
		t.Errorf("epoch %d, want %d", db.Epoch(), epoch+1)
	}
	if _, err := db.Commit(t.Context(), storage.Change{Epoch: db.Epoch(), Entries: []storage.Entry{entry("fresh")}}); err != nil {
		t.Errorf("decided again: %v", err)
	}
	// A bump without an entry still counts.
	if err := db.Update(t.Context(), func(tx *storage.Tx) error { tx.BumpEpoch(); return nil }); err != nil {
		t.Fatal(err)
	}
	if n, err := db.RefreshEpoch(t.Context()); err != nil || n != epoch+2 {
		t.Errorf("epoch %d, %v", n, err)
	}
}

func failedBump(t *testing.T, p Place) {
	db := create(t, p)
	epoch := db.Epoch()
	got := together(t, db,
		storage.Change{Epoch: epoch, Apply: func(tx *storage.Tx) error { tx.BumpEpoch(); return errRefused }},
		storage.Change{Epoch: epoch, Entries: []storage.Entry{entry("a")}},
	)
	if !errors.Is(got[0].err, errRefused) || got[1].err != nil || db.Epoch() != epoch {
		t.Errorf("got %v, epoch %d", got, db.Epoch())
	}
}

// epochSetBack: who writes to the database cannot make narrowing go unnoticed
// by setting the epoch back under a service that remembers a later one.
func epochSetBack(t *testing.T, p Place) {
	db := create(t, p)
	for range 3 {
		if err := db.Update(t.Context(), func(tx *storage.Tx) error { tx.BumpEpoch(); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	raw := p.Raw(t)
	if _, err := raw.ExecContext(t.Context(), "UPDATE log_head SET authz_epoch = authz_epoch - 1"); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]storage.Change{
		"an entry": {Epoch: db.Epoch(), Entries: []storage.Entry{entry("x")}},
		"a bump":   {Apply: func(tx *storage.Tx) error { tx.BumpEpoch(); return nil }},
	} {
		if _, err := db.Commit(t.Context(), c); !errors.Is(err, key.ErrIntegrity) {
			t.Errorf("%s: %v, want ErrIntegrity", name, err)
		}
	}
	if _, err := raw.ExecContext(t.Context(), "UPDATE log_head SET authz_epoch = authz_epoch + 1"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Commit(t.Context(), storage.Change{Epoch: db.Epoch(), Entries: []storage.Entry{entry("y")}}); err != nil {
		t.Error(err)
	}
}

// otherServerBumps: the epoch moved in the store, and this process has not seen
// it; the locked head tells, the batch is rolled back and the others run again.
func otherServerBumps(t *testing.T, p Place) {
	db := create(t, p)
	epoch := db.Epoch()
	raw := p.Raw(t)
	if _, err := raw.ExecContext(t.Context(), "UPDATE log_head SET authz_epoch = authz_epoch + 1"); err != nil {
		t.Fatal(err)
	}
	runs := 0
	got := together(t, db,
		storage.Change{Epoch: epoch, Entries: []storage.Entry{entry("stale")}, Apply: func(tx *storage.Tx) error { return put(tx, "stale") }},
		storage.Change{Entries: []storage.Entry{entry("unchecked")}, Apply: func(tx *storage.Tx) error { runs++; return put(tx, "unchecked") }},
		storage.Change{Epoch: epoch + 1, Entries: []storage.Entry{entry("fresh")}},
		storage.Change{Epoch: epoch, Apply: func(tx *storage.Tx) error { return put(tx, "stale too") }},
	)
	for i, want := range []error{storage.ErrStaleEpoch, nil, nil, storage.ErrStaleEpoch} {
		if !errors.Is(got[i].err, want) {
			t.Errorf("change %d: %v, want %v", i, got[i].err, want)
		}
	}
	if runs != 2 {
		t.Errorf("the others ran %d times, want 2", runs)
	}
	if db.Epoch() != epoch+1 {
		t.Errorf("epoch %d, want %d", db.Epoch(), epoch+1)
	}
	if all := strings.Join(CheckLog(t, db), " "); all != "unchecked fresh" {
		t.Errorf("log: %s", all)
	}
	// Alone, without entries: the check still happens.
	if _, err := raw.ExecContext(t.Context(), "UPDATE log_head SET authz_epoch = authz_epoch + 1"); err != nil {
		t.Fatal(err)
	}
	_, err := db.Commit(t.Context(), storage.Change{Epoch: epoch + 1, Apply: func(tx *storage.Tx) error { return put(tx, "alone") }})
	if !errors.Is(err, storage.ErrStaleEpoch) || has(t, db, "alone") {
		t.Errorf("alone: %v", err)
	}
}

func contextInQueue(t *testing.T, p Place) {
	db := create(t, p)
	release := hold(t, db)
	reason := errors.New("the client went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	withdrawn := submit(t, db, ctx, storage.Change{Entries: []storage.Entry{entry("withdrawn")}, Apply: func(tx *storage.Tx) error { return put(tx, "withdrawn") }})
	stays := submit(t, db, t.Context(), storage.Change{Entries: []storage.Entry{entry("stays")}})
	cancel(reason)
	if o := <-withdrawn; !errors.Is(o.err, reason) {
		t.Errorf("got %v", o)
	}
	if _, err := db.Commit(ctx, storage.Change{}); !errors.Is(err, reason) {
		t.Errorf("a context that is over: %v", err)
	}
	release()
	if o := <-stays; o.err != nil {
		t.Error(o.err)
	}
	if all := strings.Join(CheckLog(t, db), " "); all != "stays" || has(t, db, "withdrawn") {
		t.Errorf("log: %s", all)
	}
}

func contextInBatch(t *testing.T, p Place) {
	db := create(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	index, err := db.Commit(ctx, storage.Change{Entries: []storage.Entry{entry("a")}, Apply: func(tx *storage.Tx) error {
		cancel()
		return put(tx, "a")
	}})
	if index != 0 || err != nil {
		t.Errorf("the true outcome was a commit: %d, %v", index, err)
	}
	if !has(t, db, "a") {
		t.Error("the row is missing")
	}
}

func queueLimit(t *testing.T, p Place) {
	db := create(t, p)
	db.SetQueueLimit(2)
	release := hold(t, db)
	a := submit(t, db, t.Context(), storage.Change{Entries: []storage.Entry{entry("a")}})
	b := submit(t, db, t.Context(), storage.Change{Entries: []storage.Entry{entry("b")}})
	if _, err := db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{entry("c")}}); !errors.Is(err, key.ErrBusy) {
		t.Errorf("over the limit: %v", err)
	}
	release()
	if o := <-a; o.err != nil {
		t.Error(o.err)
	}
	if o := <-b; o.err != nil {
		t.Error(o.err)
	}
}
