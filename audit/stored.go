package audit

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/key"
)

// querier is what a batch's transaction and a snapshot have in common.
type querier interface {
	Query(query string, args ...any) (*sql.Rows, error)
	QueryRow(query string, args ...any) *sql.Row
}

// readHead reads the log's head row.
func readHead(q querier) (size int64, edge []byte, err error) {
	if err := q.QueryRow("SELECT size, edge FROM log_head WHERE id = 1").Scan(&size, &edge); err != nil {
		return 0, nil, fmt.Errorf("reading the log's head: %w", err)
	}
	return size, edge, nil
}

// eachEntry calls use for the stored entries from..to-1. A gap is key.ErrIntegrity.
// The bytes are valid during the call.
func eachEntry(q querier, from, to int64, use func(index int64, data []byte) error) error {
	rows, err := q.Query("SELECT idx, data FROM log_entry WHERE idx >= $1 AND idx < $2 ORDER BY idx", from, to)
	if err != nil {
		return fmt.Errorf("reading entries %d to %d: %w", from, to-1, err)
	}
	defer rows.Close()
	next := from
	var data sql.RawBytes
	for rows.Next() {
		var index int64
		if err := rows.Scan(&index, &data); err != nil {
			return fmt.Errorf("reading entry %d: %w", next, err)
		}
		if index != next {
			return missingEntry(next)
		}
		if err := use(index, data); err != nil {
			return err
		}
		next++
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading entry %d: %w", next, err)
	}
	if next != to {
		return missingEntry(next)
	}
	return nil
}

func missingEntry(index int64) error { return &missingEntryError{index} }

// missingEntryError is a key.ErrIntegrity that names the entry.
type missingEntryError struct{ index int64 }

func (e *missingEntryError) Error() string {
	return fmt.Sprintf("entry %d is missing from the store", e.index)
}

func (e *missingEntryError) Unwrap() error { return key.ErrIntegrity }

// storedTiles reads tiles from the store's rows: full tiles as they are, partial
// ones computed from what is beneath. It is a tlog.TileReader, so its answers
// are checked against a tree hash before use. Roots of full tiles are
// remembered, which spares a checkpoint the reading of 255 tiles per level.
type storedTiles struct {
	q     querier
	roots *rootCache
}

func (s *storedTiles) Height() int { return tileHeight }

// SaveTiles implements tlog.TileReader; the store keeps them already.
func (s *storedTiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (s *storedTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	all := make([][]byte, len(tiles))
	for i, t := range tiles {
		data, err := s.tile(t)
		if err != nil {
			return nil, err
		}
		all[i] = data
	}
	return all, nil
}

// tile returns t's hashes. Missing or short rows are key.ErrIntegrity.
func (s *storedTiles) tile(t tlog.Tile) ([]byte, error) {
	data, err := s.row(t.L, t.N)
	switch {
	case err != nil:
		return nil, err
	case len(data) >= t.W*tlog.HashSize:
		return data[:t.W*tlog.HashSize], nil
	case t.W == tileWidth:
		return nil, fmt.Errorf("%w: %s is missing from the store, or truncated", key.ErrIntegrity, tilePath(t))
	case t.L == 0:
		return s.leaves(t)
	}
	data = make([]byte, 0, t.W*tlog.HashSize)
	for i := range int64(t.W) {
		root, err := s.root(t.L-1, t.N*tileWidth+i)
		if err != nil {
			return nil, err
		}
		data = append(data, root[:]...)
	}
	return data, nil
}

// row reads a tile's row, nil if there is none. The last tile of level 0 has a
// row as of the last checkpoint, so that verification knows the hash of each
// recent entry as well.
func (s *storedTiles) row(level int, n int64) (data []byte, err error) {
	err = s.q.QueryRow("SELECT data FROM log_tile WHERE level = $1 AND idx = $2", level, n).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading tile %d of level %d: %w", n, level, err)
	}
	if len(data)%tlog.HashSize != 0 || len(data) > tileBytes {
		return nil, fmt.Errorf("%w: tile %d of level %d has %d bytes in the store", key.ErrIntegrity, n, level, len(data))
	}
	return data, nil
}

func (s *storedTiles) leaves(t tlog.Tile) ([]byte, error) {
	from := t.N * tileWidth
	data := make([]byte, 0, t.W*tlog.HashSize)
	err := eachEntry(s.q, from, from+int64(t.W), func(_ int64, entry []byte) error {
		h := tlog.RecordHash(entry)
		data = append(data, h[:]...)
		return nil
	})
	return data, err
}

// root is the hash of a full tile, the way it stands in the tile above.
func (s *storedTiles) root(level int, n int64) (tlog.Hash, error) {
	if h, ok := s.roots.get(level, n); ok {
		return h, nil
	}
	data, err := s.tile(tlog.Tile{H: tileHeight, L: level, N: n, W: tileWidth})
	if err != nil {
		return tlog.Hash{}, err
	}
	h := perfectRoot(splitHashes(data))
	s.roots.put(level, n, h)
	return h, nil
}

// rootCache remembers roots of full tiles. The zero value and nil remember nothing yet, or ever.
type rootCache struct {
	mu sync.Mutex
	m  map[tileID]tlog.Hash
}

type tileID struct {
	level int
	n     int64
}

// maxRoots bounds the cache at about half a megabyte; the right edge of a log needs up to 255 per level.
const maxRoots = 4096

func (c *rootCache) get(level int, n int64) (tlog.Hash, bool) {
	if c == nil {
		return tlog.Hash{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.m[tileID{level, n}]
	return h, ok
}

func (c *rootCache) put(level int, n int64, h tlog.Hash) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxRoots {
		c.m = make(map[tileID]tlog.Hash)
	}
	c.m[tileID{level, n}] = h
}

// clear forgets everything: after a failed check the store may have been changed underneath.
func (c *rootCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m = nil
}

// treeOf reads the growing side of the log as it was at size.
func treeOf(tiles *storedTiles, size int64) (*tree, error) {
	t := &tree{size: size}
	for level := range tileLevels {
		full, partial := tilesOf(size, level)
		if partial == 0 {
			continue
		}
		data, err := tiles.tile(tlog.Tile{H: tileHeight, L: level, N: full, W: partial})
		if err != nil {
			return nil, fmt.Errorf("loading the log's right edge: %w", err)
		}
		t.tiles[level] = append(make([]tlog.Hash, 0, tileWidth), splitHashes(data)...)
	}
	t.edge = edgeOf(&t.tiles)
	return t, nil
}

// loadTree is treeOf the stored log, checked against the edge its head row holds.
func loadTree(tiles *storedTiles, size int64, edge []byte) (*tree, error) {
	if err := checkEdge(size, edge); err != nil {
		return nil, err
	}
	t, err := treeOf(tiles, size)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(encodeEdge(t.edge), edge) {
		return nil, fmt.Errorf("%w: the log's head does not belong to its %d stored entries: run sealwright audit verify", key.ErrIntegrity, size)
	}
	return t, nil
}
