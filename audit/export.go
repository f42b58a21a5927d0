package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/internal/durable"
	"github.com/sealwright/sealwright/key"
)

// Fetch returns one file of a log by its C2SP tlog-tiles path, like Log.Resource
// or an HTTP client of a server that offers it.
type Fetch func(ctx context.Context, path string) ([]byte, error)

// fetchers is how many files are under way at once.
const fetchers = 4

// Export makes a fresh checkpoint and writes the log it covers to dir. See the function Export.
func (l *Log) Export(ctx context.Context, dir string, progress func(done, total int64)) (Checkpoint, error) {
	if _, err := l.checkpoint(ctx); err != nil {
		return Checkpoint{}, err
	}
	return Export(ctx, dir, l.Resource, []string{l.vkey}, progress)
}

// Export writes a log to dir in C2SP tlog-tiles layout, for VerifyExport and any
// other C2SP tool. It writes only what dir does not have yet: an export can be
// resumed, and brought up to date. Each file appears whole or not at all; the
// checkpoint comes last. progress (nil: none) counts entries.
//
// key.ErrConflict: dir holds another log or something else. key.ErrIntegrity:
// the log does not extend the export in dir, which is evidence then: keep it.
func Export(ctx context.Context, dir string, fetch Fetch, vkeys []string, progress func(done, total int64)) (Checkpoint, error) {
	signed, err := fetch(ctx, checkpointPath)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("exporting the log: %w", err)
	}
	c, err := ParseCheckpoint(signed, vkeys...)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("exporting the log: %w", err)
	}
	x := &export{c: c, dir: dir, fetch: fetch, progress: orSilent(progress)}
	err = x.join(ctx, vkeys)
	if err == nil {
		err = x.copyAll(ctx)
	}
	if err == nil {
		err = durable.WriteFile(filepath.Join(dir, checkpointPath), signed, 0o600)
	}
	if err == nil {
		err = x.sweep()
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("exporting the log to %s: %w", dir, err)
	}
	return c, nil
}

type export struct {
	c        Checkpoint
	dir      string
	fetch    Fetch
	progress func(done, total int64)

	mu   sync.Mutex // guards done
	done int64
}

func (x *export) file(t tlog.Tile) string {
	return filepath.Join(x.dir, filepath.FromSlash(tilePath(t)))
}

// join makes sure that dir is empty or holds an export of this log.
func (x *export) join(ctx context.Context, vkeys []string) error {
	if err := os.MkdirAll(x.dir, 0o700); err != nil {
		return err
	}
	signed, err := os.ReadFile(filepath.Join(x.dir, checkpointPath))
	if errors.Is(err, fs.ErrNotExist) {
		return x.joinUnsigned(ctx)
	}
	if err != nil {
		return err
	}
	last, err := ParseCheckpoint(signed, vkeys...)
	if err == nil && last.Origin != x.c.Origin {
		err = fmt.Errorf("the log %s", last.Origin)
	}
	if err != nil {
		return fmt.Errorf("%w: the directory holds another log, or a spoiled export: choose an empty one (found: %w)", key.ErrConflict, err)
	}
	var proof []tlog.Hash
	if last.Size < x.c.Size {
		if proof, err = proveTree(&fetchedTiles{ctx, x.fetch}, x.c, last.Size); err != nil {
			return err
		}
	}
	return checkSuccessor(last, x.c, proof)
}

// joinUnsigned looks at a directory without checkpoint: an export that was
// interrupted has this log's first entries.
func (x *export) joinUnsigned(ctx context.Context) error {
	found, err := os.ReadDir(x.dir)
	if err != nil || len(found) == 0 {
		return err
	}
	other := fmt.Errorf("%w: the directory is not empty and holds no export of this log: choose an empty one", key.ErrConflict)
	if len(found) > 1 || found[0].Name() != "tile" || x.c.Size == 0 {
		return other
	}
	first := tileAt(x.c.Size, entriesLevel, 0)
	ours, err := x.fetch(ctx, tilePath(first))
	if err != nil {
		return err
	}
	first.W = tileWidth
	partials, err := filepath.Glob(x.file(first) + ".p/*")
	if err != nil {
		return err
	}
	for _, name := range append(partials, x.file(first)) {
		theirs, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if n := min(len(ours), len(theirs)); n == 0 || string(ours[:n]) != string(theirs[:n]) {
			return other
		}
		return nil
	}
	return x.emptyTree(other)
}

// emptyTree accepts a tile directory without any file: interrupted before the first one was whole.
func (x *export) emptyTree(other error) error {
	return filepath.WalkDir(filepath.Join(x.dir, "tile"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !isDraft(d.Name()) {
			return other
		}
		return err
	})
}

// isDraft recognises what durable.WriteFile leaves when it is killed.
func isDraft(name string) bool {
	return strings.HasPrefix(name, ".") && strings.Contains(name, ".tmp-")
}

// copyAll copies what is missing: entry bundles first, then the tiles from level 0 up.
func (x *export) copyAll(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fetchers)
	for level := entriesLevel; level < tileLevels; level++ {
		full, partial := tilesOf(x.c.Size, level)
		if partial > 0 {
			full++
		}
		for n := range full {
			if ctx.Err() != nil {
				break
			}
			group.Go(func() error { return x.copyOne(ctx, tileAt(x.c.Size, level, n)) })
		}
	}
	return group.Wait()
}

func (x *export) copyOne(ctx context.Context, t tlog.Tile) error {
	name := x.file(t)
	_, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		var data []byte
		if data, err = x.fetch(ctx, tilePath(t)); err == nil {
			if err = os.MkdirAll(filepath.Dir(name), 0o700); err == nil {
				err = durable.WriteFile(name, data, 0o600)
			}
		}
	}
	if err != nil || t.L != entriesLevel {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.done += int64(t.W)
	x.progress(x.done, x.c.Size)
	return nil
}

// sweep removes partial tiles of earlier checkpoints and drafts of interrupted
// exports. Nothing else: what is not ours, or should not be there, stays for
// VerifyExport to name.
func (x *export) sweep() error {
	root := filepath.Join(x.dir, "tile")
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreMissing(err)
		}
		rel, err := filepath.Rel(x.dir, name)
		if err != nil {
			return err
		}
		t, err := parseTilePath(filepath.ToSlash(rel))
		if full, _ := tilesOf(x.c.Size, t.L); err == nil && t.W < tileWidth && (t.N < full || t.N == full && t.W < tileAt(x.c.Size, t.L, t.N).W) || isDraft(d.Name()) {
			if err := os.Remove(name); err != nil {
				return err
			}
			os.Remove(filepath.Dir(name)) // the .p directory, if it is empty now
		}
		return nil
	})
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// fetchedTiles is a tlog.TileReader on a Fetch.
type fetchedTiles struct {
	ctx   context.Context
	fetch Fetch
}

func (f *fetchedTiles) Height() int                     { return tileHeight }
func (f *fetchedTiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (f *fetchedTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	all := make([][]byte, len(tiles))
	for i, t := range tiles {
		data, err := f.fetch(f.ctx, tilePath(t))
		if err != nil {
			return nil, fmt.Errorf("fetching %s: %w", tilePath(t), err)
		}
		all[i] = data
	}
	return all, nil
}

// VerifyExport verifies an export with nothing but the log's public keys: it
// re-hashes every entry and every tile and compares them with the checkpoint in
// dir. progress (nil: none) counts entries. When anything is wrong the error is
// key.ErrIntegrity and the report names each altered entry or hash, and what is
// missing, truncated or no part of the log. Other errors say that the
// verification did not finish. What entries came after the checkpoint it cannot know.
func VerifyExport(ctx context.Context, dir string, vkeys []string, progress func(done, total int64)) (Report, error) {
	signed, err := readFile(filepath.Join(dir, checkpointPath))
	if errors.Is(err, fs.ErrNotExist) {
		return Report{}, fmt.Errorf("%w: %s holds no checkpoint: not an export, or one that was interrupted (run it again)", key.ErrNotFound, dir)
	}
	if err != nil {
		return Report{}, fmt.Errorf("verifying the export: %w", err)
	}
	c, err := ParseCheckpoint(signed, vkeys...)
	if err != nil {
		return Report{}, fmt.Errorf("verifying the export %s: %w", dir, err)
	}
	v := &verifier{c: c, progress: orSilent(progress)}
	v.read = func(t tlog.Tile) ([]byte, error) {
		return readFile(filepath.Join(dir, filepath.FromSlash(tilePath(t))))
	}
	if _, err := v.run(ctx); err != nil {
		return Report{}, fmt.Errorf("verifying the export %s: %w", dir, err)
	}
	if err := v.findStrangers(dir); err != nil {
		return Report{}, fmt.Errorf("verifying the export %s: %w", dir, err)
	}
	r := v.result()
	return r, r.err()
}

// findStrangers reports files under tile/ that are no part of the log.
func (v *verifier) findStrangers(dir string) error {
	return filepath.WalkDir(filepath.Join(dir, "tile"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreMissing(err)
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if t, err := parseTilePath(rel); err != nil || !belongs(v.c.Size, t) {
			v.reportAt(-1, rel, fmt.Sprintf("no part of the log of %d entries: remove it, or run an interrupted export again", v.c.Size))
		}
		return nil
	})
}

// maxFile is the largest entry bundle there can be.
const maxFile = tileWidth * (2 + MaxEntry)

// readFile reads one file of an export; more than any of them can hold is cut off, and then found wrong.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: not a regular file", fs.ErrNotExist)
	}
	data := make([]byte, min(info.Size(), maxFile+1))
	n, err := io.ReadFull(f, data)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return data[:n], err
}
