package audit

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/key"
)

// hashes is tlog's own storage.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	list := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		list[i] = h[x]
	}
	return list, nil
}

// TestTreeIsTlogs: root, edge, partial and full tiles are those of tlog's reference at every size.
func TestTreeIsTlogs(t *testing.T) {
	const n = 1100
	var reference hashes
	full := map[tileID][]byte{}
	mine := &tree{}
	for size := int64(0); ; size++ {
		want, err := tlog.TreeHash(size, reference)
		if err != nil {
			t.Fatal(err)
		}
		if got := mine.root(); got != want || mine.size != size {
			t.Fatalf("size %d: root %v, tlog says %v", size, got, want)
		}
		if !bytes.Equal(encodeEdge(edgeOf(&mine.tiles)), encodeEdge(mine.edge)) {
			t.Fatalf("size %d: the partial tiles have another edge", size)
		}
		if err := checkEdge(size, encodeEdge(mine.edge)); err != nil {
			t.Fatal(err)
		}
		for level := range tileLevels {
			all, partial := tilesOf(size, level)
			for i := range all {
				tile := tlog.Tile{H: tileHeight, L: level, N: i, W: tileWidth}
				if data, err := tlog.ReadTileData(tile, reference); err != nil || !bytes.Equal(data, full[tileID{level, i}]) {
					t.Fatalf("size %d: %s differs (%v)", size, tilePath(tile), err)
				}
			}
			if len(mine.tiles[level]) != partial {
				t.Fatalf("size %d: partial tile of level %d has %d hashes, want %d", size, level, len(mine.tiles[level]), partial)
			}
			if partial > 0 {
				data, err := tlog.ReadTileData(tlog.Tile{H: tileHeight, L: level, N: all, W: partial}, reference)
				if err != nil || !bytes.Equal(data, joinHashes(mine.tiles[level])) {
					t.Fatalf("size %d: partial tile of level %d differs (%v)", size, level, err)
				}
			}
		}
		if size == n {
			return
		}
		data := bytes.Repeat([]byte{byte(size), byte(size >> 8)}, int(size%40))
		stored, err := tlog.StoredHashes(size, data, reference)
		if err != nil {
			t.Fatal(err)
		}
		reference = append(reference, stored...)
		mine = mine.grow()
		mine.add(tlog.RecordHash(data), func(level int, i int64, list []tlog.Hash) { full[tileID{level, i}] = joinHashes(list) })
	}
}

// TestAbandonedGrowth: what a failed batch added does not reach the next one.
func TestAbandonedGrowth(t *testing.T) {
	leaf := func(s string) tlog.Hash { return tlog.RecordHash([]byte(s)) }
	ignore := func(int, int64, []tlog.Hash) {}
	base := &tree{}
	for range 250 {
		base.add(leaf("base"), ignore)
	}
	grow := func(word string) (*tree, []tlog.Hash) {
		next := base.grow()
		var tile []tlog.Hash
		for range 20 {
			next.add(leaf(word), func(_ int, _ int64, list []tlog.Hash) { tile = append(tile, list...) })
		}
		return next, tile
	}
	want, wantTile := grow("kept")
	wantRoot := want.root()
	wantTile = append([]tlog.Hash(nil), wantTile...)
	grow("abandoned")
	got, gotTile := grow("kept")
	if got.root() != wantRoot || !bytes.Equal(joinHashes(gotTile), joinHashes(wantTile)) || !bytes.Equal(encodeEdge(edgeOf(&got.tiles)), encodeEdge(got.edge)) {
		t.Error("an abandoned batch left traces")
	}
}

func TestPaths(t *testing.T) {
	for path, want := range map[string]tlog.Tile{
		"tile/0/000":                    {H: 8, L: 0, N: 0, W: 256},
		"tile/3/x001/x234/067.p/44":     {H: 8, L: 3, N: 1234067, W: 44},
		"tile/entries/000.p/1":          {H: 8, L: -1, N: 0, W: 1},
		"tile/entries/x001/x234/067":    {H: 8, L: -1, N: 1234067, W: 256},
		"tile/0/x999/x999/x999/999.p/9": {H: 8, L: 0, N: 999999999999, W: 9},
	} {
		got, err := parseTilePath(path)
		if err != nil || got != want || tilePath(got) != path {
			t.Errorf("%s reads as %+v, %v, and writes as %s", path, got, err, tilePath(got))
		}
	}
	for _, bad := range []string{"", "tile", "tile/", "tile/0", "tile/0/0", "tile/8/000", "tile/-1/000", "tile/00/000", "tile/data/000", "tile/entries", "/tile/0/000", "tile/0/../000",
		"tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/x000/000", "tile/0/000/", "tile/8/0/000", "checkpoint", "tile/0/x999/x999/x999/x999/x999/x999/x999/999"} {
		if got, err := parseTilePath(bad); err == nil {
			t.Errorf("%q reads as %+v", bad, got)
		}
	}
}

func FuzzTilePath(f *testing.F) {
	f.Add("tile/0/x001/000.p/3")
	f.Fuzz(func(t *testing.T, path string) {
		if tile, err := parseTilePath(path); err == nil && tilePath(tile) != path {
			t.Errorf("%q reads as %+v", path, tile)
		}
	})
}

func FuzzProof(f *testing.F) {
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra YQ==\nindex 7\nsFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=\n\nexample.org/log\n9\nsFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=\n\n— example.org/log AAAAAAA=\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		if p, err := parseProof(file); err == nil && !bytes.Equal(p.format(), file) {
			t.Errorf("%q writes as %q", file, p.format())
		}
	})
}

func FuzzCheckpointText(f *testing.F) {
	f.Add("example.org/log\n9\nsFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=\n")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := parseCheckpointText(text); err == nil && c.text() != text {
			t.Errorf("%q writes as %q", text, c.text())
		}
	})
}

func FuzzBundle(f *testing.F) {
	f.Add([]byte{0, 1, 'a', 0, 0, 0, 2, 'b', 'c'}, 3)
	f.Fuzz(func(t *testing.T, bundle []byte, w int) {
		if w < 0 || w > tileWidth {
			return
		}
		whole := bytes.Clone(bundle)
		leaves, broken := bundleLeaves(bundle, w)
		again, stillBroken := rereadBundle(whole, append(leaves, make([]tlog.Hash, w-len(leaves))...))
		if (broken < 0) != (len(leaves) == w && stillBroken < 0) || len(again) < len(leaves) {
			t.Errorf("%q: %d leaves, broken at %d; again %d, broken at %d", whole, len(leaves), broken, len(again), stillBroken)
		}
	})
}

func TestReadinessShowsOverdueCheckpoints(t *testing.T) {
	l := &Log{}
	l.overdue.Store(&overdue{time.Now(), key.ErrUnavailable})
	if err := l.Check(t.Context()); err != nil {
		t.Errorf("a moment ago: %v", err)
	}
	l.overdue.Store(&overdue{time.Now().Add(-2 * patience), key.ErrUnavailable})
	if err := l.Check(t.Context()); !errors.Is(err, key.ErrUnavailable) {
		t.Errorf("a while ago: %v", err)
	}
}
