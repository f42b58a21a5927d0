package audit

import (
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/key"
)

const (
	tileHeight = 8 // C2SP tlog-tiles: a tile is 256 hashes
	tileWidth  = 1 << tileHeight
	tileBytes  = tileWidth * tlog.HashSize
	tileLevels = 8 // of 8 bits each: more than an int64 of entries can fill
)

// tree is the growing right side of the log: what the next entry needs to know
// of all entries before it. A copy of a tree may be grown while the original
// stays as it was; both share the memory of their common hashes.
type tree struct {
	size  int64
	edge  []tlog.Hash             // roots of the perfect subtrees that make up the tree, largest first
	tiles [tileLevels][]tlog.Hash // the partial tile of each level: size>>8L & 255 hashes
}

// tileSink takes a tile that has just become full.
type tileSink func(level int, n int64, hashes []tlog.Hash)

// add appends one leaf hash.
func (t *tree) add(leaf tlog.Hash, full tileSink) {
	h := leaf
	for height := 0; ; height++ {
		if height%tileHeight == 0 {
			t.addToTile(height/tileHeight, h, full)
		}
		if t.size>>height&1 == 0 {
			break
		}
		last := len(t.edge) - 1
		h = tlog.NodeHash(t.edge[last], h)
		t.edge = t.edge[:last]
	}
	t.edge = append(t.edge, h)
	t.size++
}

func (t *tree) addToTile(level int, h tlog.Hash, full tileSink) {
	if t.tiles[level] == nil {
		t.tiles[level] = make([]tlog.Hash, 0, tileWidth)
	}
	t.tiles[level] = append(t.tiles[level], h)
	if len(t.tiles[level]) == tileWidth {
		full(level, t.size>>(tileHeight*(level+1)), t.tiles[level])
		t.tiles[level] = nil // a fresh one: a copy of this tree may still need the old
	}
}

// grow returns a copy to add to. Only the newest copy may be grown again:
// copies overwrite what an abandoned sibling appended.
func (t *tree) grow() *tree {
	next := *t
	next.edge = append(make([]tlog.Hash, 0, len(t.edge)+2), t.edge...)
	return &next
}

// root is the RFC 6962 tree hash.
func (t *tree) root() tlog.Hash { return edgeRoot(t.edge) }

func edgeRoot(edge []tlog.Hash) tlog.Hash {
	if len(edge) == 0 {
		h, _ := tlog.TreeHash(0, nil) // the hash of nothing reads nothing
		return h
	}
	h := edge[len(edge)-1]
	for i := len(edge) - 2; i >= 0; i-- {
		h = tlog.NodeHash(edge[i], h)
	}
	return h
}

// edgeOf computes the edge from the partial tiles of all levels.
func edgeOf(tiles *[tileLevels][]tlog.Hash) []tlog.Hash {
	var edge []tlog.Hash
	for level := tileLevels - 1; level >= 0; level-- {
		rest := tiles[level]
		for len(rest) > 0 {
			n := 1 << (bits.Len(uint(len(rest))) - 1)
			edge = append(edge, perfectRoot(rest[:n]))
			rest = rest[n:]
		}
	}
	return edge
}

// perfectRoot is the root over a power of two of hashes.
func perfectRoot(hashes []tlog.Hash) tlog.Hash {
	var buf [tileWidth]tlog.Hash
	n := copy(buf[:], hashes)
	for ; n > 1; n /= 2 {
		for i := 0; i < n/2; i++ {
			buf[i] = tlog.NodeHash(buf[2*i], buf[2*i+1])
		}
	}
	return buf[0]
}

// tileCount is how many hashes the level has in a tree of size, partial tiles included.
func tileCount(size int64, level int) int64 { return size >> (tileHeight * level) }

// encodeEdge is the form the head row keeps.
func encodeEdge(edge []tlog.Hash) []byte { return joinHashes(edge) }

// checkEdge refuses an edge that cannot be one of a tree of size.
func checkEdge(size int64, edge []byte) error {
	if size < 0 || len(edge) != bits.OnesCount64(uint64(size))*tlog.HashSize {
		return fmt.Errorf("%w: the log's head says %d entries with an edge of %d bytes", key.ErrIntegrity, size, len(edge))
	}
	return nil
}

func joinHashes(hashes []tlog.Hash) []byte {
	b := make([]byte, 0, len(hashes)*tlog.HashSize)
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}

// splitHashes ignores an incomplete last hash.
func splitHashes(data []byte) []tlog.Hash {
	hashes := make([]tlog.Hash, len(data)/tlog.HashSize)
	for i := range hashes {
		copy(hashes[i][:], data[i*tlog.HashSize:])
	}
	return hashes
}
