package audit

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// Config says where the log lives and who signs for it.
type Config struct {
	DB     *storage.DB
	Signer crypto.Signer // a device key: ECDSA P-256 or Ed25519
	Origin string        // the log's name for ever, like sealwright.example.org/log
	// StateDir is an existing directory outside the database, private to this
	// signer. The last checkpoint is kept there: a store that was rewound or
	// forked behind it gets no signature any more.
	StateDir string
	Every    time.Duration // between checkpoints when there is something new; 0: one second
	Logger   *slog.Logger  // nil: silent
}

func (c Config) every() time.Duration { return cmp.Or(c.Every, time.Second) }
func (c Config) logger() *slog.Logger { return cmp.Or(c.Logger, slog.New(slog.DiscardHandler)) }

// Log is the audit log in a store. Its methods are safe for concurrent use.
type Log struct {
	db       *storage.DB // immutable, like the fields up to the blank line
	origin   string
	vkey     string
	verifier []note.Verifier
	signer   *noteSigner
	file     string // the last checkpoint, outside the database
	logger   *slog.Logger
	roots    *rootCache
	adopted  *Checkpoint             // by whichever key, where this signer has no memory of its own
	broken   atomic.Pointer[error]   // set once: the store is not what was signed
	overdue  atomic.Pointer[overdue] // the checkpoint loop is failing
	found    atomic.Pointer[error]   // by the last VerifyStored; nil before the first

	appending sync.Mutex // guards the fields below; held within a batch
	current   *tree      // after the newest Append, whose batch may have failed
	before    *tree      // before it
	digest    hash.Hash
	args      []any
	access    accessBatch

	signed    atomic.Pointer[signedHead] // the newest one, whoever saw it; nil: none yet
	signing   chan struct{}              // one slot: the right to sign; it guards published
	published bool                       // signed is in the store, too

	stop context.CancelFunc
	done chan struct{}
}

// Open joins the log of cfg.DB, gives itself to DB.SetLog, and starts signing
// checkpoints. ctx bounds Open only; Close ends what it started.
//
// key.ErrIntegrity: the store is not a successor of the last checkpoint this
// signer signed, and nothing may be appended to it. key.ErrInvalid,
// key.ErrNotFound, key.ErrUnsupported: the configuration.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if cfg.DB == nil || cfg.Signer == nil {
		return nil, fmt.Errorf("%w: the audit log needs a store and a signer", key.ErrInvalid)
	}
	vkey, err := VerifierKey(cfg.Origin, cfg.Signer.Public())
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	verifiers, err := parseVerifierKeys([]string{vkey})
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	if info, err := os.Stat(cfg.StateDir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%w: the directory %q that keeps the last checkpoint: create it", key.ErrNotFound, cfg.StateDir)
	}
	id := verifiers[0].KeyHash()
	l := &Log{
		db: cfg.DB, origin: cfg.Origin, vkey: vkey, verifier: verifiers,
		signer: &noteSigner{cfg.Origin, id, cfg.Signer},
		file:   filepath.Join(cfg.StateDir, fmt.Sprintf("checkpoint-%08x", id)),
		logger: cfg.logger(), roots: &rootCache{},
		digest: sha256.New(), signing: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := l.resume(ctx); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	cfg.DB.SetLog(l)
	if err := l.announce(ctx, cfg.Signer); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	running, stop := context.WithCancel(context.Background())
	l.stop = stop
	go l.run(running, cfg.every())
	return l, nil
}

// VerifierKey returns the vkey that verifies this log's checkpoints.
func (l *Log) VerifierKey() string { return l.vkey }

// Close signs what is new, stops the checkpoint loop and waits for it. The
// store stays open.
func (l *Log) Close() error {
	l.stop()
	<-l.done
	return nil
}

// Check is the readiness test: key.ErrIntegrity once the store was found not to
// extend what was signed, what the last VerifyStored found, and the reason when
// checkpoints have been failing.
func (l *Log) Check(context.Context) error {
	if err := l.refusal(); err != nil {
		return err
	}
	if found := l.found.Load(); found != nil && *found != nil {
		return *found
	}
	if o := l.overdue.Load(); o != nil && time.Since(o.since) > patience {
		return fmt.Errorf("no audit checkpoint since %s: %w", o.since.UTC().Format(time.RFC3339), o.err)
	}
	return nil
}

func (l *Log) refusal() error {
	if err := l.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// condemn remembers for good that the store is not what was signed.
func (l *Log) condemn(err error) error {
	if errors.Is(err, key.ErrIntegrity) && l.broken.CompareAndSwap(nil, &err) {
		l.roots.clear()
		l.logger.Error("the audit log refuses to go on", "error", err)
	}
	return err
}

const tileInsert = "INSERT INTO log_tile (level, idx, data)"

// Append implements storage.Log: it hashes the entries into the tree and writes
// their rows, the tiles they complete and the index, in the batch's transaction.
func (l *Log) Append(tx *storage.Tx, head storage.Head, entries []storage.Entry) ([]byte, error) {
	if err := l.refusal(); err != nil {
		return nil, err
	}
	l.appending.Lock()
	defer l.appending.Unlock()
	base, err := l.base(tx, head)
	if err != nil {
		return nil, err
	}
	next := base.grow()
	var tiles []any
	full := func(level int, n int64, hashes []tlog.Hash) {
		tiles = append(tiles, level, n, joinHashes(hashes))
	}
	l.access.reset()
	for i := range entries {
		l.args = append(l.args, next.size, entries[i].Data)
		next.add(l.leaf(entries[i].Data), full)
		l.access.add(entries[i].Uses)
	}
	err = tx.InsertRows("INSERT INTO log_entry (idx, data)", "", 2, l.args)
	clear(l.args) // hold no entry longer than its batch
	l.args = l.args[:0]
	if err == nil && tiles != nil {
		err = tx.InsertRows(tileInsert, "ON CONFLICT (level, idx) DO UPDATE SET data = excluded.data", 3, tiles)
	}
	if err == nil {
		err = l.access.write(tx)
	}
	if err != nil {
		return nil, fmt.Errorf("writing %d log entries: %w", len(entries), err)
	}
	l.before, l.current = base, next
	return encodeEdge(next.edge), nil
}

// base returns the tree that the locked head describes: the newest one known,
// the one before if that batch failed, or else (another server moved the head)
// one read from the rows.
func (l *Log) base(tx *storage.Tx, head storage.Head) (*tree, error) {
	for _, t := range []*tree{l.current, l.before} {
		if t != nil && t.size == head.Size && bytes.Equal(encodeEdge(t.edge), head.Edge) {
			return t, nil
		}
	}
	return loadTree(&storedTiles{q: tx}, head.Size, head.Edge)
}

// leaf is tlog.RecordHash without its allocations.
func (l *Log) leaf(data []byte) (h tlog.Hash) {
	l.digest.Reset()
	l.digest.Write([]byte{0})
	l.digest.Write(data)
	l.digest.Sum(h[:0])
	return h
}
