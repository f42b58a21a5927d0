package audit

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// VerifyStored re-hashes the whole log as the store keeps it and compares it
// with the newest checkpoint this signer signed, made afresh if it still can:
// entries, tiles, head and stored checkpoint. progress (nil: none) counts
// entries. When anything is wrong the error is key.ErrIntegrity and the report
// names each entry or hash, and Check reports it until a verification finds it
// mended; other errors say that the verification did not finish.
func (l *Log) VerifyStored(ctx context.Context, progress func(done, total int64)) (Report, error) {
	_, refused := l.checkpoint(ctx)
	c := l.signed.Load()
	if c == nil {
		return Report{}, fmt.Errorf("verifying the stored log: %w", refused)
	}
	v := &verifier{c: c.Checkpoint, progress: orSilent(progress)}
	v.read = func(t tlog.Tile) ([]byte, error) {
		if t.L > 0 && t.W < tileWidth {
			return nil, errNotKept
		}
		return storedResource(pooled{ctx, l.db}, nil, t)
	}
	if err := l.verifyAll(ctx, v); err != nil {
		return Report{}, fmt.Errorf("verifying the stored log: %w", err)
	}
	if len(v.problems) == 0 && errors.Is(refused, key.ErrIntegrity) {
		v.reportAt(-1, checkpointPath, refused.Error())
	}
	r := v.result()
	r.Note = bytes.Clone(c.note)
	found := r.err()
	l.found.Store(&found)
	return r, found
}

func (l *Log) verifyAll(ctx context.Context, v *verifier) error {
	size, _, err := readHead(pooled{ctx, l.db})
	if err != nil {
		return err
	}
	if size < v.c.Size {
		v.reportAt(size, "log_head", fmt.Sprintf("the store has %d entries, but %d were signed: it was rewound", size, v.c.Size))
		return nil
	}
	tail, err := v.run(ctx)
	if err != nil {
		return err
	}
	return l.db.Snapshot(ctx, func(tx *storage.ReadTx) error {
		if err := v.verifyHead(tx, tail); err != nil {
			return err
		}
		return l.verifyNewestNote(tx, v)
	})
}

// verifyHead extends the verified tree by what came after the checkpoint and
// compares it with the head row. It also looks for rows that no head covers.
func (v *verifier) verifyHead(q querier, tail *tree) error {
	size, edge, err := readHead(q)
	if err != nil {
		return err
	}
	if tail != nil {
		if err := v.verifyTail(q, tail, size, edge); err != nil {
			return err
		}
	}
	return v.verifyRange(q, size)
}

func (v *verifier) verifyTail(q querier, tail *tree, size int64, edge []byte) error {
	v.newer = size - tail.size
	next := tail.grow()
	full := map[tlog.Tile][]byte{} // compared afterwards: one connection reads one result at a time
	err := eachEntry(q, tail.size, size, func(_ int64, data []byte) error {
		next.add(tlog.RecordHash(data), func(level int, n int64, hashes []tlog.Hash) {
			full[tlog.Tile{H: tileHeight, L: level, N: n, W: tileWidth}] = joinHashes(hashes)
		})
		return nil
	})
	var entry *missingEntryError
	switch {
	case errors.As(err, &entry):
		v.reportAt(entry.index, "log_entry", err.Error())
		return nil
	case err != nil:
		return err
	case bytes.Equal(encodeEdge(next.edge), edge):
	case size == tail.size:
		v.reportAt(-1, "log_head", "the edge is not the one of the stored entries")
	default:
		v.reportAt(tail.size, "log_head", fmt.Sprintf("the edge is not the one of the stored entries: it, or one of the entries %d to %d, was altered", tail.size, size-1))
	}
	for t, want := range full {
		row, err := (&storedTiles{q: q}).row(t.L, t.N)
		if err != nil && !errors.Is(err, key.ErrIntegrity) {
			return err
		}
		if !bytes.Equal(row, want) {
			v.report(firstEntry(t), t, "the tile does not belong to its entries, which no checkpoint covers yet")
		}
	}
	return nil
}

// verifyRange reports rows beyond the head: nothing vouches for them.
func (v *verifier) verifyRange(q querier, size int64) error {
	var first, last sql.NullInt64
	if err := q.QueryRow("SELECT MIN(idx), MAX(idx) FROM log_entry").Scan(&first, &last); err != nil {
		return fmt.Errorf("reading the range of entries: %w", err)
	}
	if first.Int64 < 0 || last.Int64 >= size && last.Valid {
		v.reportAt(-1, "log_entry", fmt.Sprintf("there are entries from %d to %d, the log has 0 to %d", first.Int64, last.Int64, size-1))
	}
	rows, err := q.Query("SELECT level, MIN(idx), MAX(idx) FROM log_tile GROUP BY level")
	if err != nil {
		return fmt.Errorf("reading the range of tiles: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var level int
		var first, last int64
		if err := rows.Scan(&level, &first, &last); err != nil {
			return fmt.Errorf("reading the range of tiles: %w", err)
		}
		if level < 0 || level >= tileLevels || first < 0 || last*tileWidth >= tileCount(size, level) {
			v.reportAt(-1, "log_tile", fmt.Sprintf("level %d has tiles from %d to %d, which a log of %d entries does not have", level, first, last, size))
		}
	}
	return rows.Err()
}

// verifyNewestNote checks the newest stored checkpoint against the stored keys and the verified tree.
func (l *Log) verifyNewestNote(q querier, v *verifier) error {
	var signed []byte
	err := q.QueryRow("SELECT note FROM log_checkpoint ORDER BY size DESC LIMIT 1").Scan(&signed)
	if isNoRows(err) {
		v.reportAt(-1, "log_checkpoint", "no checkpoint is stored, although some were signed")
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the newest stored checkpoint: %w", err)
	}
	vkeys, err := readSigners(q)
	if err != nil {
		return err
	}
	c, err := ParseCheckpoint(signed, append(vkeys, l.vkey)...)
	if err != nil {
		v.reportAt(-1, "log_checkpoint", fmt.Sprintf("the newest stored checkpoint: %v", err))
		return nil
	}
	older, newer := c, v.c
	if c.Size > v.c.Size { // another server signed in the meantime
		older, newer = v.c, c
	}
	proof, err := proveTree(&storedTiles{q: q}, newer, older.Size)
	if err == nil {
		err = checkSuccessor(older, newer, proof)
	}
	if errors.Is(err, key.ErrIntegrity) && len(v.problems) == 0 {
		v.reportAt(-1, "log_checkpoint", fmt.Sprintf("the newest stored checkpoint, of %d entries: %v", c.Size, err))
	} else if err != nil && !errors.Is(err, key.ErrIntegrity) {
		return err
	}
	return nil
}

// Signers returns the vkeys of all checkpoint signers that the store lists. The
// store is no authority for them: verifiers get their keys by another way.
func (l *Log) Signers(ctx context.Context) ([]string, error) {
	return readSigners(pooled{ctx, l.db})
}

func readSigners(q querier) ([]string, error) {
	rows, err := q.Query("SELECT vkey FROM log_signer ORDER BY added_at, name")
	if err != nil {
		return nil, fmt.Errorf("reading checkpoint signers: %w", err)
	}
	defer rows.Close()
	var vkeys []string
	for rows.Next() {
		var vkey string
		if err := rows.Scan(&vkey); err != nil {
			return nil, fmt.Errorf("reading checkpoint signers: %w", err)
		}
		vkeys = append(vkeys, vkey)
	}
	return vkeys, rows.Err()
}

// pooled reads rows that never change, so it needs no snapshot and several may read at once.
type pooled struct {
	ctx context.Context
	db  *storage.DB
}

func (p pooled) Query(query string, args ...any) (*sql.Rows, error) {
	return p.db.Query(p.ctx, query, args...)
}

func (p pooled) QueryRow(query string, args ...any) *sql.Row {
	return p.db.QueryRow(p.ctx, query, args...)
}

func orSilent(progress func(done, total int64)) func(done, total int64) {
	if progress == nil {
		return func(int64, int64) {}
	}
	return progress
}
