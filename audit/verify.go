package audit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/key"
)

// Report is what a verification found.
type Report struct {
	Checkpoint Checkpoint // what everything was compared with
	Note       []byte     // VerifyStored only: that checkpoint as signed
	Entries    int64      // how many entries were hashed and compared
	Uncovered  int64      // VerifyStored only: entries since the checkpoint, compared with the head instead
	Problems   []Problem  // none: every entry is the one that was recorded; at most 1000 are listed
	Omitted    int        // problems beyond those
}

// Problem is one thing that is not as the checkpoint says.
type Problem struct {
	Index int64  // the entry, or the first one beneath the hash in question; -1: no entry in particular
	File  string // tlog-tiles path of the tile or entry bundle
	What  string
}

func (p Problem) String() string { return p.File + ": " + p.What }

// errNotKept is the answer of a store that computes this tile when it needs it:
// no witness, and nothing amiss.
var errNotKept = errors.New("not kept")

// maxProblems bounds a report: a log replaced as a whole has as many as entries.
const maxProblems = 1000

// err is nil for a report without problems, else key.ErrIntegrity and the first of them.
func (r *Report) err() error {
	if len(r.Problems) == 0 {
		return nil
	}
	if n := len(r.Problems) + r.Omitted - 1; n > 0 {
		return fmt.Errorf("%w: %s (and %d more)", key.ErrIntegrity, r.Problems[0], n)
	}
	return fmt.Errorf("%w: %s", key.ErrIntegrity, r.Problems[0])
}

// opinions are what the three witnesses say about the nodes of one tile level:
// the tiles of that level themselves, the tiles one level below, and the entries.
// Whom to believe is decided from the root down.
type opinions struct {
	tiles, below, entries []tlog.Hash
}

func (o *opinions) at(from, to int64) [][]tlog.Hash {
	return [][]tlog.Hash{o.tiles[from:to], o.below[from:to], o.entries[from:to]}
}

// verifier re-hashes one log and compares it with its checkpoint.
type verifier struct {
	c        Checkpoint
	read     func(tlog.Tile) ([]byte, error) // tiles and bundles, as they are kept
	progress func(done, total int64)         // not nil
	levels   [tileLevels]opinions            // level 0 holds the partial tile alone, from index 0 on
	suspect  []bool                          // bundles to look at closely whatever their root says

	adrift bool // the right edge could not be settled

	mu       sync.Mutex // guards the fields below while bundles are hashed
	gone     map[tlog.Tile]bool
	problems []Problem
	omitted  int
	done     int64
	newer    int64 // entries since the checkpoint
}

// run verifies everything. The error is about verification itself (ctx, I/O);
// what is wrong with the log is in the problems. tail is the right side of the
// tree as the checkpoint vouches for it, nil if that could not be settled.
func (v *verifier) run(ctx context.Context) (tail *tree, err error) {
	full, partial := tilesOf(v.c.Size, 0)
	v.suspect, v.gone = make([]bool, full), map[tlog.Tile]bool{}
	v.levels[0].alloc(int64(partial))
	for level := 1; level < tileLevels; level++ {
		v.levels[level].alloc(tileCount(v.c.Size, level))
	}
	if err := v.hashEntries(ctx); err != nil {
		return nil, err
	}
	for level := 1; level < tileLevels; level++ {
		if err := v.hashTiles(ctx, level); err != nil {
			return nil, err
		}
	}
	truth, settled := v.settleEdge()
	if settled {
		tail = &tree{size: v.c.Size}
		for level := range tileLevels {
			full, _ := tilesOf(v.c.Size, level)
			if level == 0 {
				full = 0
			}
			tail.tiles[level] = append(make([]tlog.Hash, 0, tileWidth), truth[level][full*tileWidth:]...)
		}
		tail.edge = edgeOf(&tail.tiles)
	}
	for level := tileLevels - 1; level > 0; level-- {
		v.settleLevel(level, &truth)
	}
	return tail, v.settleEntries(ctx, &truth, settled)
}

func (o *opinions) alloc(n int64) {
	o.tiles, o.below, o.entries = make([]tlog.Hash, n), make([]tlog.Hash, n), make([]tlog.Hash, n)
}

// hashEntries hashes every entry and every level-0 tile, on all processors.
func (v *verifier) hashEntries(ctx context.Context) error {
	full, partial := tilesOf(v.c.Size, 0)
	total := full
	if partial > 0 {
		total++
	}
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var workers sync.WaitGroup
	for range min(int64(runtime.GOMAXPROCS(0)), total) {
		workers.Go(func() {
			for n := next.Add(1) - 1; n < total && failed.Load() == nil; n = next.Add(1) - 1 {
				err := ctx.Err()
				if err == nil {
					err = v.hashBundle(n)
				}
				if err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	workers.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (v *verifier) hashBundle(n int64) error {
	t := tileAt(v.c.Size, 0, n)
	tile, bundle, err := v.readPair(n)
	if err != nil {
		return err
	}
	leaves, broken := bundleLeaves(bundle, t.W)
	if tile == nil {
		tile = leaves
	}
	if broken >= 0 || len(tile) != t.W {
		leaves = tile
	}
	if t.W < tileWidth {
		if tile != nil {
			copy(v.levels[0].tiles, tile)
			copy(v.levels[0].entries, leaves)
			copy(v.levels[0].below, leaves)
		}
	} else {
		v.suspect[n] = broken >= 0
		if tile != nil {
			v.levels[1].below[n], v.levels[1].entries[n] = perfectRoot(tile), perfectRoot(leaves)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.done += int64(t.W)
	v.progress(v.done, v.c.Size)
	return nil
}

// readPair reads a level-0 tile and its entries; either is nil if it is missing or has the wrong size.
func (v *verifier) readPair(n int64) (tile []tlog.Hash, bundle []byte, err error) {
	t := tileAt(v.c.Size, 0, n)
	if tile, err = v.readTile(t); err != nil {
		return nil, nil, err
	}
	t.L = entriesLevel
	bundle, err = v.read(t)
	return tile, bundle, v.absent(t, err)
}

func (v *verifier) readTile(t tlog.Tile) ([]tlog.Hash, error) {
	data, err := v.read(t)
	if errors.Is(err, errNotKept) {
		v.gone[t] = true // only hashTiles, which runs alone, reads tiles that may not be kept
		return nil, nil
	}
	if err == nil && len(data) != t.W*tlog.HashSize {
		v.lost(t, firstEntry(t), fmt.Sprintf("%d bytes where %d are due: truncated or overwritten", len(data), t.W*tlog.HashSize))
		return nil, nil
	}
	if err := v.absent(t, err); err != nil || data == nil {
		return nil, err
	}
	return splitHashes(data), nil
}

// absent reports what is not there and passes on errors that say nothing about the log.
func (v *verifier) absent(t tlog.Tile, err error) error {
	var entry *missingEntryError
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		v.lost(t, firstEntry(t), "missing")
	case errors.As(err, &entry):
		v.lost(t, entry.index, err.Error())
	case errors.Is(err, key.ErrIntegrity):
		v.lost(t, firstEntry(t), err.Error())
	default:
		return fmt.Errorf("reading %s: %w", tilePath(t), err)
	}
	return nil
}

func (v *verifier) lost(t tlog.Tile, index int64, what string) {
	v.report(index, t, what)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.gone[t] = true
}

// bundleLeaves hashes the w entries of a bundle. broken is the first entry that
// cannot be read, or -1; the hashes before it are returned. It overwrites the
// length prefixes, which spares copying each entry behind RFC 6962's zero byte.
func bundleLeaves(bundle []byte, w int) (leaves []tlog.Hash, broken int) {
	leaves = make([]tlog.Hash, 0, w)
	for len(leaves) < w {
		if len(bundle) < 2 {
			return leaves, len(leaves)
		}
		end := 2 + int(bundle[0])<<8 + int(bundle[1])
		if end > len(bundle) {
			return leaves, len(leaves)
		}
		bundle[1] = 0
		leaves = append(leaves, sha256.Sum256(bundle[1:end]))
		bundle = bundle[end:]
	}
	if len(bundle) > 0 {
		return leaves, w
	}
	return leaves, -1
}

// hashTiles collects the opinions about one level above the entries.
func (v *verifier) hashTiles(ctx context.Context, level int) error {
	o := &v.levels[level]
	copy(o.tiles, o.below) // where a tile is missing
	full, partial := tilesOf(v.c.Size, level)
	total := full
	if partial > 0 {
		total++
	}
	for n := range total {
		if err := ctx.Err(); err != nil {
			return err
		}
		t := tileAt(v.c.Size, level, n)
		hashes, err := v.readTile(t)
		if err != nil {
			return err
		}
		from := n * tileWidth
		copy(o.tiles[from:], hashes)
		if t.W == tileWidth {
			above := &v.levels[level+1]
			above.below[n] = perfectRoot(o.tiles[from : from+tileWidth])
			above.entries[n] = perfectRoot(o.entries[from : from+tileWidth])
		}
	}
	return nil
}

func (v *verifier) report(index int64, t tlog.Tile, what string) {
	v.reportAt(index, tilePath(t), what)
}

func (v *verifier) reportAt(index int64, file, what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := Problem{index, file, what}
	switch {
	case slices.Contains(v.problems, p): // a bundle may be read twice
	case len(v.problems) == maxProblems:
		v.omitted++
	default:
		v.problems = append(v.problems, p)
	}
}

// result sorts the problems: entries first, by index.
func (v *verifier) result() Report {
	slices.SortStableFunc(v.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(uint64(a.Index), uint64(b.Index)), cmp.Compare(a.File, b.File))
	})
	return Report{Checkpoint: v.c, Entries: v.done, Uncovered: v.newer, Problems: v.problems, Omitted: v.omitted}
}

// firstEntry is the first entry beneath a tile.
func firstEntry(t tlog.Tile) int64 {
	return t.N * tileWidth << (tileHeight * max(t.L, 0))
}
