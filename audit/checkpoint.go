package audit

import (
	"bytes"
	"context"
	"crypto"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/internal/durable"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

const (
	patience   = 30 * time.Second // checkpoints may fail this long before readiness shows it
	lastWords  = 5 * time.Second  // for the checkpoint at Close
	pruneEvery = 10 * time.Minute
	keepAll    = time.Hour // of checkpoints; of older ones the last of each hour stays
)

// overdue says since when the checkpoint loop has been failing, and why.
type overdue struct {
	since time.Time
	err   error
}

// signedHead is a checkpoint and its note.
type signedHead struct {
	Checkpoint
	note   []byte
	leaves []tlog.Hash // the last, partial tile of level 0
}

// Checkpoint returns a checkpoint, a C2SP signed note, that covers everything
// committed before the call. It signs only when there is something new, and
// only after proving from the stored tree that it extends the last checkpoint
// signed; otherwise key.ErrIntegrity, now and for ever.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	signed, err := l.checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(signed.note), nil
}

func (l *Log) checkpoint(ctx context.Context) (*signedHead, error) {
	select {
	case l.signing <- struct{}{}:
		defer func() { <-l.signing }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for the checkpoint signer: %w", key.ErrBusy, context.Cause(ctx))
	}
	if err := l.refusal(); err != nil {
		return nil, err
	}
	last := l.signed.Load()
	next, leaves, err := l.examine(ctx, l.baseline())
	if err != nil {
		return nil, l.condemn(fmt.Errorf("checkpointing the audit log: %w", err))
	}
	if last == nil || next.Size > last.Size {
		signed, err := signCheckpoint(next, l.signer, l.vkey)
		if err != nil {
			return nil, err
		}
		// Remember before anybody sees it: after a crash the signer must know what it signed.
		if err := durable.WriteFile(l.file, signed, 0o600); err != nil {
			return nil, fmt.Errorf("remembering checkpoint of %d entries: %w", next.Size, err)
		}
		last = &signedHead{next, signed, leaves}
		l.signed.Store(last)
		l.published = false
	}
	if !l.published {
		if err := l.publish(ctx, last); err != nil {
			return nil, err
		}
		l.published = true
	}
	return last, nil
}

// baseline is what the stored tree must extend, nil at the very first start.
func (l *Log) baseline() *Checkpoint {
	if last := l.signed.Load(); last != nil {
		return &last.Checkpoint
	}
	return l.adopted
}

// examine reads the head of the stored tree, checks that the rows belong to it,
// and proves it a successor of last.
func (l *Log) examine(ctx context.Context, last *Checkpoint) (next Checkpoint, leaves []tlog.Hash, err error) {
	err = l.db.Snapshot(ctx, func(tx *storage.ReadTx) error {
		size, edge, err := readHead(tx)
		if err != nil {
			return err
		}
		if last != nil && size < last.Size {
			return checkSuccessor(*last, Checkpoint{Origin: l.origin, Size: size}, nil)
		}
		tiles := &storedTiles{tx, l.roots}
		t, err := loadTree(tiles, size, edge)
		if err != nil {
			return err
		}
		next, leaves = Checkpoint{Origin: l.origin, Size: size, Root: t.root()}, t.tiles[0]
		if last == nil {
			return nil
		}
		proof, err := proveTree(tiles, next, last.Size)
		if err != nil {
			return err
		}
		return checkSuccessor(*last, next, proof)
	})
	if errors.Is(err, key.ErrIntegrity) {
		err = fmt.Errorf("%w (last signed: %s; if this store was restored from a backup on purpose, keep that file as evidence, move it away and start again)", err, l.file)
	}
	return next, leaves, err
}

// proveTree proves that the tree c extends its first size entries, from tiles
// that are checked against c.Root.
func proveTree(tiles tlog.TileReader, c Checkpoint, size int64) ([]tlog.Hash, error) {
	if size == 0 || size == c.Size {
		return nil, nil
	}
	proof, err := tlog.ProveTree(c.Size, size, tlog.TileHashReader(tlog.Tree{N: c.Size, Hash: c.Root}, tiles))
	return proof, tilesError(err)
}

// tilesError gives tlog's own complaint, tiles that do not belong to the root, its kind.
func tilesError(err error) error {
	if err != nil && err.Error() == "downloaded inconsistent tile" {
		return fmt.Errorf("%w: stored tiles do not belong to the tree's root: run sealwright audit verify", key.ErrIntegrity)
	}
	return err
}

func (l *Log) publish(ctx context.Context, signed *signedHead) error {
	at := time.Now().UnixMicro()
	err := l.db.Update(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec("INSERT INTO log_checkpoint (size, note, at) VALUES ($1, $2, $3) ON CONFLICT (size) DO NOTHING", signed.Size, signed.note, at)
		if err != nil || len(signed.leaves) == 0 {
			return err
		}
		// The tile may have grown meanwhile: a longer one stays.
		_, err = tx.Exec(tileInsert+" VALUES (0, $1, $2) ON CONFLICT (level, idx) DO UPDATE SET data = excluded.data WHERE length(log_tile.data) < length(excluded.data)",
			signed.Size/tileWidth, joinHashes(signed.leaves))
		return err
	})
	if err != nil {
		return fmt.Errorf("storing checkpoint of %d entries: %w", signed.Size, err)
	}
	return nil
}

// resume finds the last checkpoint this signer signed and checks that the store extends it.
func (l *Log) resume(ctx context.Context) error {
	signed, err := os.ReadFile(l.file)
	switch {
	case err == nil:
		c, err := openCheckpoint(signed, l.verifier)
		if err != nil {
			return fmt.Errorf("reading the last checkpoint in %s: %w", l.file, err)
		}
		l.signed.Store(&signedHead{Checkpoint: c, note: signed})
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("reading the last checkpoint: %w", err)
	default:
		if err := l.adopt(ctx); err != nil {
			return err
		}
	}
	_, _, err = l.examine(ctx, l.baseline())
	return err
}

// adopt starts from the newest stored checkpoint when the file is missing: a new
// server, a new key, or a lost directory. What the store forgot, it cannot know.
func (l *Log) adopt(ctx context.Context) error {
	vkeys, err := l.Signers(ctx)
	if err != nil {
		return err
	}
	verifiers, err := parseVerifierKeys(append(vkeys, l.vkey))
	if err != nil {
		return err
	}
	rows, err := l.db.Query(ctx, "SELECT note FROM log_checkpoint ORDER BY size DESC")
	if err != nil {
		return fmt.Errorf("reading stored checkpoints: %w", err)
	}
	defer rows.Close()
	for rows.Next() && l.adopted == nil {
		var signed []byte
		if err := rows.Scan(&signed); err != nil {
			return fmt.Errorf("reading stored checkpoints: %w", err)
		}
		if c, err := openCheckpoint(signed, verifiers); err == nil && c.Origin == l.origin {
			l.adopted = &c
			l.logger.Warn("no checkpoint outside the database: trusting the newest one inside", "file", l.file, "entries", c.Size)
		}
	}
	return rows.Err()
}

// announce records the signer's public key in the log, once.
func (l *Log) announce(ctx context.Context, signer crypto.Signer) error {
	name := fmt.Sprintf("%s+%08x", l.origin, l.signer.id) // several keys may sign for one origin
	var vkey string
	err := l.db.QueryRow(ctx, "SELECT vkey FROM log_signer WHERE name = $1", name).Scan(&vkey)
	if err == nil && vkey == l.vkey {
		return nil
	}
	if err == nil {
		return fmt.Errorf("%w: the store lists another key as signer %s", key.ErrIntegrity, name)
	}
	if !isNoRows(err) {
		return fmt.Errorf("reading checkpoint signers: %w", err)
	}
	ref := []byte{}
	if device, ok := signer.(*key.Signer); ok {
		ref = device.Ref().Encode()
	}
	now := time.Now()
	entry := Entry{
		Time: now, Principal: "system", Method: "internal", Action: "audit:AnnounceSigner", Outcome: OK,
		Details: map[string]string{"vkey": l.vkey},
	}
	record, err := entry.Record()
	if err != nil {
		return err
	}
	_, err = l.db.Commit(ctx, storage.Change{
		Apply: func(tx *storage.Tx) error {
			added, err := tx.Exec("INSERT INTO log_signer (name, vkey, ref, added_at) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING", name, l.vkey, ref, now.UnixMicro())
			if err == nil && added > 0 { // else another server announced it just now
				tx.Append(record)
			}
			return err
		},
	})
	if err != nil {
		return fmt.Errorf("announcing the checkpoint signer: %w", err)
	}
	return nil
}

// run signs checkpoints until ctx ends, and once more then.
func (l *Log) run(ctx context.Context, every time.Duration) {
	defer close(l.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var pruned time.Time
	for {
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.Background(), lastWords)
			defer cancel()
			l.attempt(ctx)
			return
		case <-tick.C:
		}
		l.attempt(ctx)
		if now := time.Now(); now.Sub(pruned) >= pruneEvery {
			pruned = now
			if err := l.prune(ctx, now); err != nil && ctx.Err() == nil {
				l.logger.Warn("pruning audit checkpoints", "error", err)
			}
		}
	}
}

// attempt makes a checkpoint and remembers for Check when it cannot. It logs the first failure of a row.
func (l *Log) attempt(ctx context.Context) {
	_, err := l.Checkpoint(ctx)
	failing := l.overdue.Load()
	switch {
	case err == nil && failing != nil:
		l.overdue.Store(nil)
		l.logger.Info("audit checkpoints work again", "failed_since", failing.since)
	case err != nil && ctx.Err() == nil && failing == nil:
		l.overdue.Store(&overdue{time.Now(), err})
		l.logger.Warn("making an audit checkpoint", "error", err)
	}
}

// prune keeps every checkpoint of the last hour, and of earlier hours the last one.
func (l *Log) prune(ctx context.Context, now time.Time) error {
	return l.db.Update(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec("DELETE FROM log_checkpoint WHERE at < $1 AND size NOT IN (SELECT MAX(size) FROM log_checkpoint GROUP BY at / $2)",
			now.Add(-keepAll).UnixMicro(), time.Hour.Microseconds())
		return err
	})
}

func isNoRows(err error) bool { return errors.Is(err, sql.ErrNoRows) }
