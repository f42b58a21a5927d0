package audit

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/internal/canon"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// Entries returns up to limit entries in order, the first one at index from;
// fewer at the end of the log. Entries are read as stored: a proof, not this,
// shows that they are what was recorded.
func (l *Log) Entries(ctx context.Context, from int64, limit int) ([]Entry, error) {
	if from < 0 || limit < 0 {
		return nil, fmt.Errorf("%w: %d entries from %d", key.ErrInvalid, limit, from)
	}
	var list []Entry
	err := l.db.Snapshot(ctx, func(tx *storage.ReadTx) error {
		size, _, err := readHead(tx)
		if err != nil || from >= size {
			return err
		}
		return eachEntry(tx, from, min(size, from+int64(limit)), func(index int64, data []byte) error {
			e, err := ParseEntry(data)
			if err != nil {
				return fmt.Errorf("%w: stored entry %d: %w", key.ErrIntegrity, index, err)
			}
			list = append(list, e)
			return nil
		})
	})
	return list, err
}

// Filter says which entries List returns; empty fields match everything.
type Filter struct {
	Principal string
	Action    string
	Object    string // an object's id or name
	Outcome   Outcome
	Since     time.Time // entries of this time and later
	Before    int64     // indices below; 0: the newest
	Limit     int       // 0: 100
}

// Recorded is an entry with its place in the log.
type Recorded struct {
	Index int64
	Entry Entry
}

const (
	maxScan    = 100_000 // entries that one List looks at
	scanStep   = 1000
	clockSlack = 10 * time.Minute // entries are ordered by commit, not by their time
)

// List returns matching entries, newest first, and where to go on: the Before
// of the next call, or 0 when nothing older can match. It looks at a bounded
// number of entries, so a page may hold fewer than Limit, even none.
func (l *Log) List(ctx context.Context, f Filter) (page []Recorded, before int64, err error) {
	if f.Limit == 0 {
		f.Limit = 100
	}
	if f.Limit < 0 || f.Before < 0 {
		return nil, 0, fmt.Errorf("%w: limit %d, before %d", key.ErrInvalid, f.Limit, f.Before)
	}
	match, err := f.matcher()
	if err != nil {
		return nil, 0, err
	}
	err = l.db.Snapshot(ctx, func(tx *storage.ReadTx) error {
		size, _, err := readHead(tx)
		if err != nil {
			return err
		}
		before = size
		if f.Before > 0 {
			before = min(before, f.Before)
		}
		for floor := max(0, before-maxScan); before > floor && len(page) < f.Limit; {
			if page, before, err = scanDown(tx, page, before, max(floor, before-scanStep), f, match); err != nil {
				return err
			}
		}
		return nil
	})
	return page, before, err
}

// scanDown looks at entries before-1 down to floor. It returns the index it got to.
func scanDown(tx querier, page []Recorded, before, floor int64, f Filter, match func([]byte) bool) ([]Recorded, int64, error) {
	rows, err := tx.Query("SELECT idx, data FROM log_entry WHERE idx >= $1 AND idx < $2 ORDER BY idx DESC", floor, before)
	if err != nil {
		return nil, 0, fmt.Errorf("listing entries: %w", err)
	}
	defer rows.Close()
	var data []byte
	for rows.Next() && len(page) < f.Limit {
		if err := rows.Scan(&before, &data); err != nil {
			return nil, 0, fmt.Errorf("listing entries: %w", err)
		}
		if !match(data) && f.Since.IsZero() {
			continue
		}
		e, err := ParseEntry(data)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: stored entry %d: %w", key.ErrIntegrity, before, err)
		}
		if e.Time.Before(f.Since.Add(-clockSlack)) {
			return page, 0, nil
		}
		if f.matches(&e) {
			page = append(page, Recorded{before, e})
		}
	}
	if len(page) < f.Limit {
		before = floor
	}
	return page, before, rows.Err()
}

// matcher sorts out most entries by their bytes, which saves parsing them.
func (f *Filter) matcher() (func([]byte) bool, error) {
	var needles [][]byte
	for _, m := range []struct{ name, value string }{{"principal", f.Principal}, {"action", f.Action}, {"outcome", string(f.Outcome)}, {"", f.Object}} {
		if m.value == "" {
			continue
		}
		w := canon.NewEncoder(nil)
		w.String(m.value)
		needle, err := w.Bytes()
		if err != nil {
			return nil, err
		}
		if m.name != "" {
			needle = append([]byte(`"`+m.name+`":`), needle...)
		}
		needles = append(needles, needle)
	}
	return func(data []byte) bool {
		for _, n := range needles {
			if !bytes.Contains(data, n) {
				return false
			}
		}
		return true
	}, nil
}

func (f *Filter) matches(e *Entry) bool {
	if f.Principal != "" && e.Principal != f.Principal || f.Action != "" && e.Action != f.Action ||
		f.Outcome != "" && e.Outcome != f.Outcome || e.Time.Before(f.Since) {
		return false
	}
	if f.Object == "" {
		return true
	}
	for _, o := range e.Objects {
		if o.ID == f.Object || o.Name == f.Object {
			return true
		}
	}
	return false
}

// Prove returns a C2SP tlog-proof of one entry, the entry included as its extra
// data: a file that VerifyProof checks with a public key alone. A fresh
// checkpoint is made if none covers the entry. key.ErrNotFound: no such entry.
func (l *Log) Prove(ctx context.Context, index int64) ([]byte, error) {
	if index < 0 {
		return nil, fmt.Errorf("%w: entry %d", key.ErrInvalid, index)
	}
	c := l.signed.Load()
	if c == nil || c.Size <= index {
		var err error
		if c, err = l.checkpoint(ctx); err != nil {
			return nil, err
		}
		if c.Size <= index {
			return nil, fmt.Errorf("%w: entry %d: the log has %d entries, numbered from 0", key.ErrNotFound, index, c.Size)
		}
	}
	p := &proofFile{index: index, checkpoint: c.note}
	err := l.db.Snapshot(ctx, func(tx *storage.ReadTx) error {
		err := eachEntry(tx, index, index+1, func(_ int64, data []byte) error {
			p.extra = bytes.Clone(data)
			return nil
		})
		if err != nil {
			return err
		}
		tiles := tlog.TileHashReader(tlog.Tree{N: c.Size, Hash: c.Root}, &storedTiles{tx, l.roots})
		p.hashes, err = tlog.ProveRecord(c.Size, index, tiles)
		return tilesError(err)
	})
	if err != nil {
		return nil, fmt.Errorf("proving entry %d: %w", index, err)
	}
	if tlog.CheckRecord(p.hashes, c.Size, c.Root, index, tlog.RecordHash(p.extra)) != nil {
		return nil, fmt.Errorf("%w: stored entry %d is not the one that was recorded", key.ErrIntegrity, index)
	}
	return p.format(), nil
}

// Consistency proves that the log at newer entries extends the log at older
// entries, for CheckConsistency. Both must be sizes of checkpoints; newer may be
// at most the size of the newest one.
func (l *Log) Consistency(ctx context.Context, older, newer int64) ([]tlog.Hash, error) {
	if c := l.signed.Load(); older < 0 || older > newer || c == nil || newer > c.Size {
		return nil, fmt.Errorf("%w: no checkpoints of %d and %d entries", key.ErrInvalid, older, newer)
	}
	var proof []tlog.Hash
	err := l.db.Snapshot(ctx, func(tx *storage.ReadTx) error {
		tiles := &storedTiles{tx, l.roots}
		t, err := treeOf(tiles, newer)
		if err != nil {
			return err
		}
		proof, err = proveTree(tiles, Checkpoint{Size: newer, Root: t.root()}, older)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("proving consistency of %d with %d entries: %w", older, newer, err)
	}
	return proof, nil
}

// Resource returns one file of the log in C2SP tlog-tiles layout: "checkpoint",
// "tile/<L>/<N>[.p/<W>]" or "tile/entries/<N>[.p/<W>]". A server that offers
// these paths offers the whole log to Export and to any C2SP client.
// key.ErrInvalid: no such path. key.ErrNotFound: beyond the newest checkpoint.
func (l *Log) Resource(ctx context.Context, path string) ([]byte, error) {
	c := l.signed.Load()
	if c == nil {
		return nil, fmt.Errorf("%w: the log has no checkpoint yet", key.ErrNotFound)
	}
	if path == checkpointPath {
		return bytes.Clone(c.note), nil
	}
	t, err := parseTilePath(path)
	if err != nil {
		return nil, err
	}
	if end := t.N*tileWidth + int64(t.W); t.N > c.Size || end > tileCount(c.Size, max(t.L, 0)) {
		return nil, fmt.Errorf("%w: %s lies beyond the log's %d entries", key.ErrNotFound, path, c.Size)
	}
	var data []byte
	err = l.db.Snapshot(ctx, func(tx *storage.ReadTx) (err error) {
		data, err = storedResource(tx, l.roots, t)
		return err
	})
	return data, err
}

// storedResource reads a tile or, at entriesLevel, an entry bundle.
func storedResource(q querier, roots *rootCache, t tlog.Tile) ([]byte, error) {
	if t.L != entriesLevel {
		return (&storedTiles{q, roots}).tile(t)
	}
	from := t.N * tileWidth
	bundle := make([]byte, 0, t.W*512)
	err := eachEntry(q, from, from+int64(t.W), func(_ int64, data []byte) error {
		bundle = append(bundle, byte(len(data)>>8), byte(len(data)))
		bundle = append(bundle, data...)
		return nil
	})
	return bundle, err
}
