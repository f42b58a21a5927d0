package storagetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sealwright/sealwright/storage"
)

func concurrent(t *testing.T, p Place) {
	db := create(t, p)
	const callers, each = 64, 40
	type written struct {
		index int64
		text  string
	}
	var mu sync.Mutex
	var acknowledged []written
	var rows []string
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range each {
				text := fmt.Sprintf("%d/%d", caller, i)
				change := storage.Change{Epoch: db.Epoch(), Entries: []storage.Entry{entry(text)}}
				fails := false
				switch rand.IntN(4) {
				case 0:
					change.Apply = func(tx *storage.Tx) error { return put(tx, text) }
				case 1:
					fails = true
					change.Apply = func(tx *storage.Tx) error { return errors.Join(put(tx, text), errRefused) }
				}
				index, err := db.Commit(context.Background(), change)
				switch {
				case fails && !errors.Is(err, errRefused), !fails && err != nil:
					t.Errorf("change %s: %v", text, err)
				case err == nil:
					mu.Lock()
					acknowledged = append(acknowledged, written{index, text})
					if change.Apply != nil {
						rows = append(rows, text)
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	all := CheckLog(t, db)
	if len(all) != len(acknowledged) {
		t.Errorf("the log has %d entries, %d were acknowledged", len(all), len(acknowledged))
	}
	for _, w := range acknowledged {
		if w.index < 0 || w.index >= int64(len(all)) || all[w.index] != w.text {
			t.Fatalf("entry %q is not at its index %d", w.text, w.index)
		}
	}
	if n := count(t, db, "SELECT count(*) FROM nonce"); n != int64(len(rows)) {
		t.Errorf("%d rows, want %d", n, len(rows))
	}
}

func entriesOfAChange(t *testing.T, p Place) {
	db := create(t, p)
	got := together(t, db,
		storage.Change{Entries: []storage.Entry{entry("a0"), entry("a1")}},
		storage.Change{Apply: func(tx *storage.Tx) error { return put(tx, "none") }},
		storage.Change{Entries: []storage.Entry{entry("b0")}, Apply: func(tx *storage.Tx) error {
			tx.Append(entry("b1"))
			tx.Append(entry("b2"))
			return nil
		}},
		storage.Change{Apply: func(tx *storage.Tx) error { tx.Append(entry("c0")); return nil }},
	)
	want := []outcome{{0, nil}, {-1, nil}, {2, nil}, {5, nil}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if all := strings.Join(CheckLog(t, db), " "); all != "a0 a1 b0 b1 b2 c0" {
		t.Errorf("log: %s", all)
	}
}

func errorUndoesOneChange(t *testing.T, p Place) {
	db := create(t, p)
	got := together(t, db,
		storage.Change{Apply: func(tx *storage.Tx) error { return put(tx, "first") }, Entries: []storage.Entry{entry("first")}},
		storage.Change{Apply: func(tx *storage.Tx) error {
			tx.Append(entry("refused"))
			return errors.Join(put(tx, "refused"), errRefused)
		}, Entries: []storage.Entry{entry("refused")}},
		storage.Change{Apply: func(tx *storage.Tx) error { return put(tx, "first") }, Entries: []storage.Entry{entry("taken")}},
		storage.Change{Entries: []storage.Entry{entry("plain")}},
		storage.Change{Apply: func(tx *storage.Tx) error { return put(tx, "last") }, Entries: []storage.Entry{entry("last")}},
	)
	if got[0].err != nil || got[3].err != nil || got[4].err != nil {
		t.Errorf("good changes: %v, %v, %v", got[0].err, got[3].err, got[4].err)
	}
	if !errors.Is(got[1].err, errRefused) || got[2].err == nil {
		t.Errorf("bad changes: %v, %v", got[1].err, got[2].err)
	}
	if all := strings.Join(CheckLog(t, db), " "); all != "first plain last" {
		t.Errorf("log: %s", all)
	}
	if !has(t, db, "first") || !has(t, db, "last") || has(t, db, "refused") {
		t.Error("a good change is missing, or a refused one left a row")
	}
}

// errorAlone: a batch of one change does without a savepoint.
func errorAlone(t *testing.T, p Place) {
	db := create(t, p)
	for range 3 {
		err := db.Update(t.Context(), func(tx *storage.Tx) error { return errors.Join(put(tx, "refused"), errRefused) })
		if !errors.Is(err, errRefused) {
			t.Errorf("got %v", err)
		}
	}
	if has(t, db, "refused") {
		t.Error("a refused change left a row")
	}
	if err := db.Update(t.Context(), func(tx *storage.Tx) error { return put(tx, "good") }); err != nil {
		t.Error(err)
	}
}

func panicUndoesOneChange(t *testing.T, p Place) {
	db := create(t, p)
	got := together(t, db,
		storage.Change{Entries: []storage.Entry{entry("a")}},
		storage.Change{Apply: func(tx *storage.Tx) error { _ = put(tx, "panic"); panic("oh") }, Entries: []storage.Entry{entry("x")}},
		storage.Change{Apply: func(tx *storage.Tx) error { return put(tx, "b") }, Entries: []storage.Entry{entry("b")}},
	)
	if got[0].err != nil || got[2].err != nil || got[1].err == nil || !strings.Contains(got[1].err.Error(), "panicked") {
		t.Errorf("got %v", got)
	}
	if has(t, db, "panic") || !has(t, db, "b") {
		t.Error("the wrong rows are there")
	}
	if all := strings.Join(CheckLog(t, db), " "); all != "a b" {
		t.Errorf("log: %s", all)
	}
}

// goexitSparesTheStore: t.FailNow in a change must not leave its neighbours waiting for ever.
func goexitSparesTheStore(t *testing.T, p Place) {
	db := create(t, p)
	got := together(t, db,
		storage.Change{Entries: []storage.Entry{entry("a")}},
		storage.Change{Apply: func(*storage.Tx) error { runtime.Goexit(); return nil }},
	)
	if got[0].err == nil || got[1].err == nil {
		t.Errorf("got %v", got)
	}
	if _, err := db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{entry("b")}}); err != nil {
		t.Error(err)
	}
	if all := strings.Join(CheckLog(t, db), " "); all != "b" {
		t.Errorf("log: %s", all)
	}
}

// swallowedFailure: the engines differ in what they allow after a failed
// statement; a change that has one is refused on all of them.
func swallowedFailure(t *testing.T, p Place) {
	db := create(t, p)
	got := together(t, db,
		storage.Change{Apply: func(tx *storage.Tx) error { return put(tx, "a") }},
		storage.Change{Apply: func(tx *storage.Tx) error {
			_ = put(tx, "a")
			_ = put(tx, "b")
			return nil
		}},
		storage.Change{Apply: func(tx *storage.Tx) error { return put(tx, "c") }},
	)
	if got[0].err != nil || got[1].err == nil || got[2].err != nil {
		t.Errorf("got %v", got)
	}
	if has(t, db, "b") || !has(t, db, "c") {
		t.Error("the wrong rows are there")
	}
}

// manySavepoints is more than one PostgreSQL transaction should have.
func manySavepoints(t *testing.T, p Place) {
	db := create(t, p)
	var changes []storage.Change
	for i := range 200 {
		name := fmt.Sprintf("n%d", i)
		changes = append(changes, storage.Change{Apply: func(tx *storage.Tx) error { return put(tx, name) }, Entries: []storage.Entry{entry(name)}})
	}
	for i, o := range together(t, db, changes...) {
		if o.err != nil || o.index != int64(i) {
			t.Fatalf("change %d: index %d, %v", i, o.index, o.err)
		}
	}
	if n := len(CheckLog(t, db)); n != 200 {
		t.Errorf("%d entries", n)
	}
}

func runAgain(t *testing.T, p Place) {
	db := create(t, p)
	runs := 0
	got := together(t, db,
		storage.Change{Apply: func(tx *storage.Tx) error { return put(tx, "a") }, Entries: []storage.Entry{entry("a")}},
		storage.Change{Apply: func(tx *storage.Tx) error {
			tx.Append(entry("b"))
			if err := put(tx, "b"); err != nil {
				return err
			}
			if runs++; runs < 4 {
				return fmt.Errorf("changing: %w", p.Transient)
			}
			return nil
		}},
		storage.Change{Entries: []storage.Entry{entry("c")}},
	)
	for i, o := range got {
		if o.err != nil || o.index != int64(i) {
			t.Errorf("change %d: %v", i, o)
		}
	}
	if runs != 4 {
		t.Errorf("%d runs, want 4", runs)
	}
	if all := strings.Join(CheckLog(t, db), " "); all != "a b c" {
		t.Errorf("log: %s", all)
	}
}

// badLog fails as often as it is told to, after it has written.
type badLog struct {
	Log
	mu    sync.Mutex
	fails int
	how   func() error
}

func (l *badLog) Append(tx *storage.Tx, head storage.Head, entries []storage.Entry) ([]byte, error) {
	edge, err := l.Log.Append(tx, head, entries)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fails > 0 {
		l.fails--
		return nil, l.how()
	}
	return edge, err
}

func logFails(t *testing.T, p Place) {
	db := create(t, p)
	for name, how := range map[string]func() error{
		"error": func() error { return errRefused },
		"panic": func() error { panic("oh") },
	} {
		db.SetLog(&badLog{fails: 1, how: how})
		got := together(t, db,
			storage.Change{Entries: []storage.Entry{entry("x")}},
			storage.Change{Apply: func(tx *storage.Tx) error { return put(tx, "x") }},
		)
		if got[0].err == nil || got[1].err == nil || has(t, db, "x") {
			t.Errorf("%s: nothing may be released when the log fails: %v", name, got)
		}
		if _, err := db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{entry(name)}}); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
	db.SetLog(&badLog{fails: 2, how: func() error { return p.Transient }})
	if _, err := db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{entry("again")}}); err != nil {
		t.Errorf("a transient failure of the log: %v", err)
	}
	if n := len(CheckLog(t, db)); n != 3 {
		t.Errorf("%d entries, want 3", n)
	}
}
