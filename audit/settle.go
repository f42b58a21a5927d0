package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// How verification names the culprit.
//
// A checkpoint fixes one root. From it, every hash beneath is either what the
// root demands or altered, but a stored hash alone does not show which; so each
// node has up to three witnesses (opinions), and a set of nodes is settled when
// one choice among their opinions hashes to the value already known above. A
// witness that differs from the settled value is the altered one. What no choice
// settles was altered beyond telling, and is reported as that.

// maxChoices bounds the search when witnesses disagree about several nodes at once.
const maxChoices = 4096

// settle returns the choice among the opinions about each node for which ok
// holds. All opinions have the same length.
func settle(opinions [][]tlog.Hash, ok func([]tlog.Hash) bool) ([]tlog.Hash, bool) {
	for _, o := range opinions {
		if ok(o) {
			return o, true
		}
	}
	var open []int            // nodes the witnesses disagree about
	var options [][]tlog.Hash // what they say about each
	choices := 1
	for i := range opinions[0] {
		distinct := opinions[0][i : i+1 : i+1]
		for _, o := range opinions[1:] {
			if !contains(distinct, o[i]) {
				distinct = append(distinct, o[i])
			}
		}
		if len(distinct) > 1 {
			open, options = append(open, i), append(options, distinct)
			if choices *= len(distinct); choices > maxChoices {
				return nil, false
			}
		}
	}
	try := append([]tlog.Hash(nil), opinions[0]...)
	for choice := range choices {
		for k, i := range open {
			try[i] = options[k][choice%len(options[k])]
			choice /= len(options[k])
		}
		if ok(try) {
			return try, true
		}
	}
	return nil, false
}

func contains(list []tlog.Hash, h tlog.Hash) bool {
	for i := range list {
		if list[i] == h {
			return true
		}
	}
	return false
}

// truths are the settled nodes of each tile level; level 0 holds the partial tile alone.
type truths [tileLevels][]tlog.Hash

// settleEdge settles the partial tiles of all levels together: only they hash to the root.
func (v *verifier) settleEdge() (truths, bool) {
	var truth truths
	var start [tileLevels]int64 // of the partial tile among its level's nodes
	all := make([][]tlog.Hash, 3)
	for level := range tileLevels {
		o := &v.levels[level]
		truth[level] = append([]tlog.Hash(nil), o.tiles...)
		if level > 0 {
			full, _ := tilesOf(v.c.Size, level)
			start[level] = full * tileWidth
		}
		for i, opinion := range o.at(start[level], int64(len(o.tiles))) {
			all[i] = append(all[i], opinion...)
		}
	}
	settled, ok := settle(all, func(nodes []tlog.Hash) bool {
		var tiles [tileLevels][]tlog.Hash
		for level := range tileLevels {
			n := int64(len(truth[level])) - start[level]
			tiles[level], nodes = nodes[:n], nodes[n:]
		}
		return edgeRoot(edgeOf(&tiles)) == v.c.Root
	})
	if !ok {
		v.reportAt(-1, checkpointPath, fmt.Sprintf("the tree of these %d entries and tiles is not the one the checkpoint signs: the log was replaced, or altered at its right edge beyond telling where", v.c.Size))
		v.adrift = true
		return truth, false
	}
	for level := range tileLevels {
		settled = settled[copy(truth[level][start[level]:], settled):]
		if level > 0 {
			v.compareTile(level, start[level], int64(len(truth[level])), truth[level])
		}
	}
	return truth, true
}

// settleLevel settles the full tiles of one level by the level above.
func (v *verifier) settleLevel(level int, truth *truths) {
	o := &v.levels[level]
	full, _ := tilesOf(v.c.Size, level)
	for n := range full {
		from, to := n*tileWidth, (n+1)*tileWidth
		want := truth[level+1][n]
		settled, ok := settle(o.at(from, to), func(nodes []tlog.Hash) bool { return perfectRoot(nodes) == want })
		if !ok {
			v.report(from<<(tileHeight*level), tileAt(v.c.Size, level, n), "neither this tile nor what lies beneath hashes to the value above it: altered in several places, or replaced")
			copy(truth[level][from:to], o.below[from:to]) // let what is beneath be compared with itself
			continue
		}
		copy(truth[level][from:to], settled)
		v.compareTile(level, from, to, truth[level])
	}
}

// compareTile names the hashes of a tile that differ from the settled nodes.
func (v *verifier) compareTile(level int, from, to int64, truth []tlog.Hash) {
	t := tileAt(v.c.Size, level, from/tileWidth)
	if v.gone[t] {
		return // reported as missing
	}
	for i := from; i < to; i++ {
		if v.levels[level].tiles[i] == truth[i] {
			continue
		}
		first := i << (tileHeight * level)
		v.report(first, t, fmt.Sprintf("hash %d is wrong (it stands for the entries %d to %d)", i%tileWidth, first, first+1<<(tileHeight*level)-1))
	}
}

// settleEntries looks closely at the bundles and level-0 tiles that are not as the level above says.
func (v *verifier) settleEntries(ctx context.Context, truth *truths, settled bool) error {
	full, partial := tilesOf(v.c.Size, 0)
	for n := range full {
		want := truth[1][n]
		if !v.suspect[n] && v.levels[1].below[n] == want && v.levels[1].entries[n] == want {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		err := v.diagnose(n, func(leaves []tlog.Hash) bool { return perfectRoot(leaves) == want })
		if err != nil {
			return err
		}
	}
	if partial == 0 {
		return nil
	}
	return v.diagnose(full, func(leaves []tlog.Hash) bool { return settled && slices.Equal(leaves, truth[0]) })
}

// diagnose compares one bundle with its level-0 tile, entry by entry.
func (v *verifier) diagnose(n int64, ok func([]tlog.Hash) bool) error {
	t := tileAt(v.c.Size, 0, n)
	tile, bundle, err := v.readPair(n)
	if err != nil {
		return err
	}
	noTile, noBundle := tile == nil, bundle == nil
	whole := bytes.Clone(bundle)
	leaves, broken := bundleLeaves(bundle, t.W)
	if broken >= 0 && !noTile {
		leaves, broken = rereadBundle(whole, tile)
	}
	if noTile && (noBundle || len(leaves) < t.W) {
		v.report(n*tileWidth, t, "neither the tile nor its entries can be read in full: these entries are lost")
		return nil
	}
	if noTile {
		tile = leaves
	}
	filled := append(append(make([]tlog.Hash, 0, t.W), leaves...), tile[len(leaves):]...)
	truth, settled := settle([][]tlog.Hash{tile, filled}, ok)
	if !settled {
		v.undecided(t, tile, filled)
		return nil
	}
	for i, h := range truth {
		if index := n*tileWidth + int64(i); tile[i] != h && !noTile {
			v.report(index, t, fmt.Sprintf("the hash of entry %d is wrong", index))
		}
	}
	if !noBundle {
		v.compareEntries(t, truth, leaves, broken)
	}
	return nil
}

// maxSearches bounds the looks for a lost length in one bundle; one costs milliseconds.
const maxSearches = 8

// rereadBundle hashes the entries of a bundle whose lengths do not add up. Where
// a length was altered it finds the right one by the hash the tile has, so that
// one altered byte does not hide the entries behind it. The entry whose length
// was altered gets the zero hash.
func rereadBundle(bundle []byte, tile []tlog.Hash) (leaves []tlog.Hash, broken int) {
	searches := 0
	for i, want := range tile {
		if len(bundle) < 2 {
			return leaves, i
		}
		end, h := 2+int(bundle[0])<<8+int(bundle[1]), tlog.Hash{}
		if end <= len(bundle) {
			h = tlog.RecordHash(bundle[2:end])
		}
		if h != want && searches < maxSearches {
			searches++
			if n := findLength(bundle[2:], want); n >= 0 {
				end, h = 2+n, tlog.Hash{}
			}
		}
		if end > len(bundle) {
			return leaves, i
		}
		leaves, bundle = append(leaves, h), bundle[end:]
	}
	if len(bundle) > 0 {
		return leaves, len(tile)
	}
	return leaves, -1
}

// findLength returns how many of data's first bytes hash to the leaf, or -1.
func findLength(data []byte, leaf tlog.Hash) int {
	digest := sha256.New()
	digest.Write([]byte{0})
	var sum tlog.Hash
	for n := 0; ; n++ {
		if digest.Sum(sum[:0]); sum == leaf {
			return n
		}
		if n == len(data) || n == MaxEntry {
			return -1
		}
		digest.Write(data[n : n+1])
	}
}

// compareEntries names the entries of a bundle that do not hash to the settled leaves.
func (v *verifier) compareEntries(t tlog.Tile, truth, leaves []tlog.Hash, broken int) {
	first := t.N * tileWidth
	t.L = entriesLevel
	for i := range leaves {
		if leaves[i] == truth[i] {
			continue
		}
		index := first + int64(i)
		if broken >= 0 {
			v.report(index, t, fmt.Sprintf("entry %d was altered, length included: the entries after it in this file cannot be read", index))
			return
		}
		v.report(index, t, fmt.Sprintf("entry %d was altered", index))
	}
	switch {
	case broken == t.W:
		v.report(first+int64(t.W)-1, t, fmt.Sprintf("bytes after the last entry, %d", first+int64(t.W)-1))
	case broken >= 0:
		index := first + int64(broken)
		v.report(index, t, fmt.Sprintf("entry %d cannot be read: truncated, or its length was altered", index))
	}
}

// undecided reports a bundle and a tile of which neither belongs to the hash above.
func (v *verifier) undecided(t tlog.Tile, tile, leaves []tlog.Hash) {
	first, found := t.N*tileWidth, false
	for i := range tile {
		if tile[i] != leaves[i] {
			found = true
			index := first + int64(i)
			v.report(index, t, fmt.Sprintf("entry %d or its hash was altered, and more besides: neither fits the tree", index))
		}
	}
	if !found && !v.unsettled(t) {
		v.report(first, t, fmt.Sprintf("the entries %d to %d and their hashes agree with each other but not with the tree: at least one was rewritten together with its hash", first, first+int64(t.W)-1))
	}
}

// unsettled: the tile stands at a right edge about which nothing is known for sure, and that is reported.
func (v *verifier) unsettled(t tlog.Tile) bool { return t.W < tileWidth && v.adrift }
