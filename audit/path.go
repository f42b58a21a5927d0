package audit

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/key"
)

// checkpointPath is where C2SP tlog-tiles puts the checkpoint.
const checkpointPath = "checkpoint"

// entriesLevel is tlog's level of the tiles that hold entries instead of hashes.
const entriesLevel = -1

// tilePath is the C2SP tlog-tiles path of a tile or, at entriesLevel, of an
// entry bundle: tile/<L>/<N>[.p/<W>]. tlog's own form names the height too and
// calls entries data.
func tilePath(t tlog.Tile) string {
	t.H = tileHeight
	rest := strings.TrimPrefix(t.Path(), fmt.Sprintf("tile/%d/", tileHeight))
	if t.L == entriesLevel {
		rest = "entries" + strings.TrimPrefix(rest, "data")
	}
	return path.Join("tile", rest)
}

// parseTilePath reads the form of tilePath.
func parseTilePath(p string) (tlog.Tile, error) {
	rest, ok := strings.CutPrefix(p, "tile/")
	if entries, is := strings.CutPrefix(rest, "entries/"); is {
		rest = "data/" + entries
	}
	t, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", tileHeight, rest))
	if !ok || err != nil || len(p) > 80 || t.L >= tileLevels || tilePath(t) != p {
		return tlog.Tile{}, fmt.Errorf("%w: %.100q is no path of a tiled log (checkpoint, tile/<L>/<N>[.p/<W>] or tile/entries/<N>[.p/<W>])", key.ErrInvalid, p)
	}
	return t, nil
}

// tilesOf lists the tiles of one level in a log of size, entry bundles at
// entriesLevel; the last may be partial.
func tilesOf(size int64, level int) (full int64, partial int) {
	n := tileCount(size, max(level, 0))
	return n / tileWidth, int(n % tileWidth)
}

// tileAt is tile n of its level in a log of size.
func tileAt(size int64, level int, n int64) tlog.Tile {
	full, partial := tilesOf(size, level)
	w := tileWidth
	if n >= full {
		w = partial
	}
	return tlog.Tile{H: tileHeight, L: level, N: n, W: w}
}

// belongs reports whether a log of size has exactly this tile.
func belongs(size int64, t tlog.Tile) bool {
	full, _ := tilesOf(size, t.L)
	return t.N <= full && t.W > 0 && t == tileAt(size, t.L, t.N)
}
