package audit_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/storage/sqlite"
)

// sql changes the store behind the log's back.
func (f *fixture) sql(t testing.TB, query string, args ...any) {
	t.Helper()
	err := f.db.Update(context.Background(), func(tx *storage.Tx) error {
		_, err := tx.Exec(query, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) blob(t testing.TB, query string, args ...any) (b []byte) {
	t.Helper()
	if err := f.db.QueryRow(context.Background(), query, args...).Scan(&b); err != nil {
		t.Fatal(err)
	}
	return b
}

// reopen forgets what the process knows; the state file stays.
func (f *fixture) reopen(t testing.TB) {
	t.Helper()
	f.Close()
	f.open(t)
}

func TestFlippedBytesInTheStoreAreNamed(t *testing.T) {
	f := newLog(t, p256(t))
	f.add(t, 599, 50)
	f.checkpoint(t)
	flips := 8
	if testing.Short() {
		flips = 2
	}
	try := func(read, write string, args []any, file string, index func(pos int) int64) {
		t.Helper()
		good := f.blob(t, read, args...)
		for i := range flips {
			pos := (i*len(good) + i) / flips % len(good)
			bad := bytes.Clone(good)
			bad[pos] ^= 1 << (i % 8)
			f.sql(t, write, append([]any{bad}, args...)...)
			r, err := f.VerifyStored(t.Context(), nil)
			if !errors.Is(err, key.ErrIntegrity) || r.Problems[0].File != file || r.Problems[0].Index != index(pos) {
				t.Errorf("%s %v byte %d: %+v, %v; want %d named", file, args, pos, r.Problems, err, index(pos))
			}
			f.sql(t, write, append([]any{good}, args...)...)
			f.reopen(t)
		}
	}
	for _, at := range []struct {
		index int64
		file  string
	}{{0, "000"}, {1, "000"}, {255, "000"}, {256, "001"}, {300, "001"}, {511, "001"}, {512, "002.p/88"}, {599, "002.p/88"}} {
		try("SELECT data FROM log_entry WHERE idx = $1", "UPDATE log_entry SET data = $1 WHERE idx = $2", []any{at.index}, "tile/entries/"+at.file, func(int) int64 { return at.index })
	}
	for n, file := range []string{"tile/0/000", "tile/0/001", "tile/0/002.p/88"} {
		try("SELECT data FROM log_tile WHERE level = 0 AND idx = $1", "UPDATE log_tile SET data = $1 WHERE level = 0 AND idx = $2", []any{n}, file, func(pos int) int64 { return int64(n*256 + pos/32) })
	}
	try("SELECT edge FROM log_head WHERE id = $1", "UPDATE log_head SET edge = $1 WHERE id = $2", []any{1}, "log_head", func(int) int64 { return -1 })
	try("SELECT note FROM log_checkpoint WHERE size = $1", "UPDATE log_checkpoint SET note = $1 WHERE size = $2", []any{600}, "log_checkpoint", func(int) int64 { return -1 })
	if r, err := f.VerifyStored(t.Context(), nil); err != nil {
		t.Errorf("restored: %+v, %v", r, err)
	}
}

func TestLostAndStrangeRowsAreNamed(t *testing.T) {
	f := newLog(t, p256(t))
	f.add(t, 599, 50)
	f.checkpoint(t)
	data := f.blob(t, "SELECT data FROM log_entry WHERE idx = 300")
	tile := f.blob(t, "SELECT data FROM log_tile WHERE level = 0 AND idx = 1")
	for name, c := range map[string]struct {
		spoil, mend string
		args        []any
		index       int64
		file        string
	}{
		"a lost entry":       {"DELETE FROM log_entry WHERE idx = 300", "INSERT INTO log_entry (idx, data) VALUES (300, $1)", []any{data}, 300, "tile/entries/001"},
		"a lost tile":        {"DELETE FROM log_tile WHERE level = 0 AND idx = 1", "INSERT INTO log_tile (level, idx, data) VALUES (0, 1, $1)", []any{tile}, 256, "tile/0/001"},
		"a strange entry":    {"INSERT INTO log_entry (idx, data) VALUES (600, 'x')", "DELETE FROM log_entry WHERE idx = 600", nil, -1, "log_entry"},
		"a negative entry":   {"INSERT INTO log_entry (idx, data) VALUES (-1, 'x')", "DELETE FROM log_entry WHERE idx = -1", nil, -1, "log_entry"},
		"a strange tile":     {"INSERT INTO log_tile (level, idx, data) VALUES (1, 1, 'x')", "DELETE FROM log_tile WHERE level = 1", nil, -1, "log_tile"},
		"no checkpoint":      {"DELETE FROM log_checkpoint", "SELECT 1", nil, -1, "log_checkpoint"},
		"a rewound head":     {"UPDATE log_head SET size = 599", "UPDATE log_head SET size = 600", nil, 599, "log_head"},
		"a head running off": {"UPDATE log_head SET size = 608", "UPDATE log_head SET size = 600", nil, 600, "log_entry"},
	} {
		f.checkpoint(t)
		f.sql(t, c.spoil)
		r, err := f.VerifyStored(t.Context(), nil)
		if !errors.Is(err, key.ErrIntegrity) || r.Problems[0].Index != c.index || r.Problems[0].File != c.file {
			t.Errorf("%s: %+v, %v", name, r.Problems, err)
		}
		f.sql(t, c.mend, c.args...)
		f.reopen(t)
	}
}

// TestFailedBatch: a batch that failed after Append leaves nothing behind, and
// the next one, as long but with other entries, gets the right tree.
func TestFailedBatch(t *testing.T) {
	f := newLog(t, p256(t))
	f.add(t, 254, 50)
	failing := &refusing{Log: f.Log}
	f.db.SetLog(failing)
	failing.refuse = true
	for range 3 {
		if _, err := f.db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{entry(7), entry(8), entry(9)}}); err == nil {
			t.Fatal("the batch was to fail")
		}
	}
	failing.refuse = false
	f.add(t, 3, 3)
	f.add(t, 300, 299)
	if r, err := f.VerifyStored(t.Context(), nil); err != nil || r.Entries != 558 {
		t.Errorf("%+v, %v", r, err)
	}
}

// refusing is a log whose batches fail after the work was done.
type refusing struct {
	*audit.Log
	refuse bool
}

func (r *refusing) Append(tx *storage.Tx, head storage.Head, entries []storage.Entry) ([]byte, error) {
	edge, err := r.Log.Append(tx, head, entries)
	if r.refuse && err == nil {
		err = errors.New("refused")
	}
	return edge, err
}

// TestAnotherServer: two logs on one store take turns; each notices that the head moved.
func TestAnotherServer(t *testing.T) {
	f := newLog(t, p256(t))
	cfg := f.config()
	cfg.StateDir, cfg.Signer = t.TempDir(), p256(t)
	second, err := audit.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	for i := range 20 {
		f.db.SetLog([]storage.Log{f.Log, second}[i%2])
		f.add(t, 37, 10)
	}
	if _, err := second.VerifyStored(t.Context(), nil); err != nil {
		t.Error(err)
	}
	c, signed := f.checkpoint(t)
	vkeys, err := f.Signers(t.Context())
	if err != nil || len(vkeys) != 2 || c.Size != 742 {
		t.Errorf("signers %v, %v; %d entries", vkeys, err, c.Size)
	}
	if _, err := audit.ParseCheckpoint(signed, vkeys...); err != nil {
		t.Error(err)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
}

// backup closes the store, copies it and opens it again.
func (f *fixture) backup(t testing.TB) string {
	t.Helper()
	f.stop(t)
	to := filepath.Join(t.TempDir(), "backup.db")
	copyFile(t, f.path, to)
	f.start(t)
	f.open(t)
	return to
}

func (f *fixture) stop(t testing.TB) {
	t.Helper()
	f.Close()
	if err := f.db.Close(); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) start(t testing.TB) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), f.path)
	if err != nil {
		t.Fatal(err)
	}
	f.db = db
}

func TestRewoundAndForkedStoresAreRefused(t *testing.T) {
	f := newLog(t, p256(t))
	f.add(t, 300, 50)
	f.checkpoint(t)
	old := f.backup(t)
	f.add(t, 20, 5)
	_, remembered := f.checkpoint(t)
	f.stop(t)

	// The store is put back. The signer remembers.
	copyFile(t, old, f.path)
	f.start(t)
	if _, err := audit.Open(t.Context(), f.config()); !errors.Is(err, key.ErrIntegrity) || !strings.Contains(err.Error(), "rewound") || !strings.Contains(err.Error(), f.state) {
		t.Errorf("a rewound store: %v", err)
	}
	// With its memory taken away it can be led to go on; whoever kept a checkpoint sees it.
	kept := f.state
	f.state = t.TempDir()
	f.open(t)
	f.add(t, 30, 5)
	c, forked := f.checkpoint(t)
	proof, err := f.Consistency(t.Context(), 321, c.Size)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.CheckConsistency(remembered, forked, proof, f.VerifierKey()); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("a fork: %v", err)
	}
	f.stop(t)
	f.start(t)
	f.state = kept
	if _, err := audit.Open(t.Context(), f.config()); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("a forked store: %v", err)
	}
}

func TestRewindingUnderARunningLogIsSticky(t *testing.T) {
	f := newLog(t, p256(t))
	f.add(t, 20, 5)
	f.checkpoint(t)
	size, edge := 21, f.blob(t, "SELECT edge FROM log_head")
	f.add(t, 20, 5)
	f.checkpoint(t)
	now := f.blob(t, "SELECT edge FROM log_head")
	f.sql(t, "DELETE FROM log_entry WHERE idx >= $1", size)
	f.sql(t, "UPDATE log_head SET size = $1, edge = $2", size, edge)
	if _, err := f.Checkpoint(t.Context()); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("checkpoint of a rewound store: %v", err)
	}
	// Even if it is put right again: somebody must look first.
	f.sql(t, "UPDATE log_head SET size = $1, edge = $2", 41, now)
	if _, err := f.Checkpoint(t.Context()); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("checkpoint afterwards: %v", err)
	}
	if err := f.Check(t.Context()); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("readiness afterwards: %v", err)
	}
	if _, err := f.db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{entry(1)}}); err == nil {
		t.Error("an entry was appended afterwards")
	}
}

func TestALostStateFileIsAdoptedFromTheStore(t *testing.T) {
	f := newLog(t, p256(t))
	f.add(t, 20, 5)
	c, _ := f.checkpoint(t)
	f.Close()
	f.state = t.TempDir()
	f.open(t)
	if again, _ := f.checkpoint(t); again != c {
		t.Errorf("checkpoint %+v, want the stored one, %+v", again, c)
	}
	// What was adopted binds: also a new key signs no rewound store.
	f.Close()
	f.sql(t, "DELETE FROM log_entry WHERE idx >= 16")
	f.sql(t, "UPDATE log_head SET size = 16, edge = $1", bytes.Repeat([]byte{1}, 32))
	f.state, f.signer = t.TempDir(), p256(t)
	if _, err := audit.Open(t.Context(), f.config()); !errors.Is(err, key.ErrIntegrity) || !strings.Contains(err.Error(), "rewound") {
		t.Errorf("a new key on a rewound store: %v", err)
	}
}

// broken is a device that can be switched off.
type broken struct {
	crypto.Signer
	off bool
}

func (b *broken) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if b.off {
		return nil, fmt.Errorf("%w: the device is off", key.ErrUnavailable)
	}
	return b.Signer.Sign(random, digest, opts)
}

// TestWithoutTheDevice: entries go on, checkpoints wait, and verification covers
// what no checkpoint covers yet as well as it can be.
func TestWithoutTheDevice(t *testing.T) {
	device := &broken{Signer: p256(t)}
	f := newLog(t, device)
	f.add(t, 100, 9)
	f.checkpoint(t)
	device.off = true
	f.add(t, 300, 9)
	if _, err := f.Checkpoint(t.Context()); !errors.Is(err, key.ErrUnavailable) || errors.Is(err, key.ErrIntegrity) {
		t.Errorf("checkpoint: %v", err)
	}
	if _, err := f.Prove(t.Context(), 50); err != nil {
		t.Errorf("an entry that is covered: %v", err)
	}
	if _, err := f.Prove(t.Context(), 350); !errors.Is(err, key.ErrUnavailable) {
		t.Errorf("an entry that is not: %v", err)
	}
	r, err := f.VerifyStored(t.Context(), nil)
	if err != nil || r.Entries != 101 || r.Uncovered != 300 {
		t.Errorf("%+v, %v", r, err)
	}
	good := f.blob(t, "SELECT data FROM log_entry WHERE idx = 390")
	f.sql(t, "UPDATE log_entry SET data = 'x' WHERE idx = 390")
	r, err = f.VerifyStored(t.Context(), nil)
	if !errors.Is(err, key.ErrIntegrity) || r.Problems[0].Index != 101 || !strings.Contains(r.Problems[0].What, "101 to 400") {
		t.Errorf("an altered entry without checkpoint: %+v, %v", r.Problems, err)
	}
	f.sql(t, "UPDATE log_entry SET data = $1 WHERE idx = 390", good)
	device.off = false
	f.reopen(t) // it was condemned
	if r, err = f.VerifyStored(t.Context(), nil); err != nil || r.Entries != 401 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestConsistency(t *testing.T) {
	f := newLog(t, p256(t))
	var notes [][]byte
	var sizes []int64
	for _, n := range []int{0, 1, 5, 200, 60, 300, 1} {
		f.add(t, n, 20)
		c, signed := f.checkpoint(t)
		notes, sizes = append(notes, signed), append(sizes, c.Size)
	}
	for i := range notes {
		for j := range notes {
			if sizes[i] > sizes[j] {
				if _, err := audit.CheckConsistency(notes[i], notes[j], nil, f.VerifierKey()); !errors.Is(err, key.ErrIntegrity) {
					t.Errorf("from %d back to %d: %v", sizes[i], sizes[j], err)
				}
				continue
			}
			proof, err := f.Consistency(t.Context(), sizes[i], sizes[j])
			if err != nil {
				t.Fatal(err)
			}
			if c, err := audit.CheckConsistency(notes[i], notes[j], proof, f.VerifierKey()); err != nil || c.Size != sizes[j] {
				t.Errorf("from %d to %d: %v", sizes[i], sizes[j], err)
			}
			if len(proof) > 0 {
				proof[0][0] ^= 1
				if _, err := audit.CheckConsistency(notes[i], notes[j], proof, f.VerifierKey()); !errors.Is(err, key.ErrIntegrity) {
					t.Errorf("a spoiled proof from %d to %d: %v", sizes[i], sizes[j], err)
				}
			}
		}
	}
	if _, err := audit.CheckConsistency(nil, notes[3], nil, f.VerifierKey()); err != nil {
		t.Errorf("first contact: %v", err)
	}
	for _, bad := range [][2]int64{{-1, 5}, {5, 4}, {5, 100000}} {
		if _, err := f.Consistency(t.Context(), bad[0], bad[1]); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("Consistency(%v): %v", bad, err)
		}
	}
}

func TestSpoiledStoreGetsNoProofAndNoCheckpoint(t *testing.T) {
	f := newLog(t, p256(t))
	f.add(t, 300, 50)
	f.checkpoint(t)
	f.sql(t, "UPDATE log_entry SET data = $1 WHERE idx = 10", entry(1).Data)
	if _, err := f.Prove(t.Context(), 10); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("proof of an altered entry: %v", err)
	}
	if _, err := f.Prove(t.Context(), 11); err != nil {
		t.Errorf("proof of its neighbour, which is whole: %v", err)
	}
	tile := f.blob(t, "SELECT data FROM log_tile WHERE level = 0 AND idx = 0")
	tile[11*32] ^= 1
	f.sql(t, "UPDATE log_tile SET data = $1 WHERE level = 0 AND idx = 0", tile)
	f.reopenRefused(t)
}

func (f *fixture) reopenRefused(t testing.TB) {
	t.Helper()
	f.Close()
	if _, err := audit.Open(t.Context(), f.config()); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("opening on a spoiled tile: %v", err)
	}
}

func TestProofRefusals(t *testing.T) {
	f := newLog(t, p256(t))
	f.add(t, 300, 50)
	file, err := f.Prove(t.Context(), 123)
	if err != nil {
		t.Fatal(err)
	}
	for pos := range file {
		bad := bytes.Clone(file)
		bad[pos] ^= 1
		if _, err := audit.VerifyProof(bad, f.VerifierKey()); err == nil {
			t.Errorf("byte %d of %d flipped (%q): the proof holds", pos, len(file), file[max(0, pos-10):pos+1])
		}
		if _, err := audit.VerifyProof(file[:pos], f.VerifierKey()); err == nil {
			t.Errorf("truncated to %d of %d bytes: the proof holds", pos, len(file))
		}
	}
	other, err := audit.VerifierKey(origin, p256(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.VerifyProof(file, other); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("under another key: %v", err)
	}
	if _, err := audit.VerifyProof(file); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("without key: %v", err)
	}
	for name, c := range map[string]struct {
		old, new string
		want     error
	}{
		"another index":  {"index 123", "index 124", key.ErrIntegrity},
		"leading zero":   {"index 123", "index 0123", key.ErrInvalid},
		"beyond":         {"index 123", "index 1230", key.ErrIntegrity},
		"no entry":       {"extra ", "extra", key.ErrInvalid},
		"another header": {"@v1", "@v2", key.ErrInvalid},
	} {
		if _, err := audit.VerifyProof([]byte(strings.Replace(string(file), c.old, c.new, 1)), f.VerifierKey()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestExportRefusals(t *testing.T) {
	f, dir := exported(t, 300)
	g, _ := exported(t, 300)
	if _, err := g.Export(t.Context(), dir, nil); !errors.Is(err, key.ErrConflict) {
		t.Errorf("onto another log: %v", err)
	}
	os.Remove(filepath.Join(dir, "checkpoint"))
	if _, err := g.Export(t.Context(), dir, nil); !errors.Is(err, key.ErrConflict) {
		t.Errorf("onto another log's interrupted export: %v", err)
	}
	home := t.TempDir()
	os.WriteFile(filepath.Join(home, "thesis.txt"), []byte("x"), 0o600)
	if _, err := f.Export(t.Context(), home, nil); !errors.Is(err, key.ErrConflict) {
		t.Errorf("into somebody's directory: %v", err)
	}
	// Its own interrupted export it completes; drafts and old partial tiles go.
	os.Remove(filepath.Join(dir, "tile", "0", "000"))
	os.WriteFile(filepath.Join(dir, "tile", "0", ".000.tmp-1"), []byte("x"), 0o600)
	f.add(t, 300, 50)
	if _, err := f.Export(t.Context(), dir, nil); err != nil {
		t.Fatal(err)
	}
	if r, err := f.verify(t, dir); err != nil || r.Entries != 600 {
		t.Errorf("%+v, %v", r, err)
	}
	// An older log than the export: replayed.
	first := f.blob(t, "SELECT note FROM log_checkpoint ORDER BY size LIMIT 1")
	replay := func(ctx context.Context, path string) ([]byte, error) {
		if path == "checkpoint" {
			return first, nil
		}
		return f.Resource(ctx, path)
	}
	if _, err := audit.Export(t.Context(), dir, replay, []string{f.VerifierKey()}, nil); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("a replayed old checkpoint: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Export(ctx, t.TempDir(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestResource(t *testing.T) {
	f := newLog(t, p256(t))
	f.add(t, 599, 50)
	f.checkpoint(t)
	for _, good := range []string{"checkpoint", "tile/0/000", "tile/0/002.p/88", "tile/0/002.p/3", "tile/1/000.p/2", "tile/entries/001", "tile/entries/002.p/88"} {
		if b, err := f.Resource(t.Context(), good); err != nil || len(b) == 0 {
			t.Errorf("%s: %d bytes, %v", good, len(b), err)
		}
	}
	for bad, want := range map[string]error{"tile/0/002": key.ErrNotFound, "tile/0/002.p/89": key.ErrNotFound, "tile/1/000": key.ErrNotFound, "tile/entries/003.p/1": key.ErrNotFound,
		"tile/7/x999/x999/x999/x999/x999/999": key.ErrNotFound, "../etc/passwd": key.ErrInvalid, "": key.ErrInvalid, "tile/9/000": key.ErrInvalid} {
		if _, err := f.Resource(t.Context(), bad); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", bad, err, want)
		}
	}
}

func TestList(t *testing.T) {
	f := newLog(t, p256(t))
	for i := range 50 {
		e := decryption()
		e.Time = e.Time.Add(time.Duration(i) * time.Minute)
		e.Principal = []string{"alice", "bob"}[i%2]
		e.Action = []string{"kms:Encrypt", "kms:Decrypt", "kms:Sign"}[i%3]
		e.Outcome = []audit.Outcome{audit.OK, audit.OK, audit.OK, audit.OK, audit.Denied}[i%5]
		e.Reason = `"principal":"alice"` // must not be taken for the field
		e.Objects[0].Name = []string{"dev/a/a", "dev/a/b", "dev/a/c", "dev/a/d"}[i%4]
		r, err := e.Record()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{r}}); err != nil {
			t.Fatal(err)
		}
	}
	base := decryption().Time
	for name, c := range map[string]struct {
		filter audit.Filter
		want   int
	}{
		"everything": {audit.Filter{}, 51},
		"principal":  {audit.Filter{Principal: "alice"}, 25},
		"action":     {audit.Filter{Action: "kms:Sign"}, 16},
		"outcome":    {audit.Filter{Outcome: audit.Denied}, 10},
		"object":     {audit.Filter{Object: "dev/a/a"}, 13},
		"object id":  {audit.Filter{Object: decryption().Objects[0].ID}, 50},
		"since":      {audit.Filter{Since: base.Add(40 * time.Minute)}, 10}, // not the signer's, of today but far below
		"all":        {audit.Filter{Principal: "alice", Outcome: audit.OK, Since: base.Add(30 * time.Minute)}, 8},
		"nothing":    {audit.Filter{Principal: "carol"}, 0},
	} {
		for _, limit := range []int{0, 3, 1} {
			got, last, pages := 0, int64(1<<62), 0
			for filter := c.filter; ; pages++ {
				filter.Limit = limit
				page, before, err := f.List(t.Context(), filter)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range page {
					if r.Index >= last {
						t.Fatalf("%s: entry %d after %d", name, r.Index, last)
					}
					last = r.Index
				}
				got += len(page)
				if before == 0 {
					break
				}
				filter.Before = before
			}
			if got != c.want {
				t.Errorf("%s, %d a page: %d entries on %d pages, want %d", name, limit, got, pages, c.want)
			}
		}
	}
	for _, bad := range []audit.Filter{{Limit: -1}, {Before: -1}, {Principal: "\xff"}} {
		if _, _, err := f.List(t.Context(), bad); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestUses(t *testing.T) {
	f := newLog(t, p256(t))
	f.add(t, 30, 4) // the same principal and object, later and later
	e := decryption()
	e.Principal, e.Outcome = "mallory", audit.Denied
	denied, _ := e.Record()
	e.Principal, e.Outcome, e.Time = "bob", audit.OK, e.Time.Add(-time.Hour)
	e.Objects = append(e.Objects, audit.Object{Kind: "Key", Name: "dev/payments/new", Version: 1})
	two, _ := e.Record()
	if _, err := f.db.Commit(t.Context(), storage.Change{Entries: []storage.Entry{denied, two}}); err != nil {
		t.Fatal(err)
	}
	object := decryption().Objects[0].IndexKey()
	uses, err := f.UsesOf(t.Context(), object, 10)
	if err != nil || len(uses) != 2 || uses[0].Count != 30 || uses[0].Principal != decryption().Principal || uses[1].Principal != "bob" {
		t.Fatalf("%+v, %v", uses, err)
	}
	base := decryption().Time
	if u := uses[0]; !u.First.Equal(base.Add(time.Second)) || !u.Last.Equal(base.Add(30*time.Second)) || u.Version != 3 || u.Host != decryption().HostProved {
		t.Errorf("%+v", u)
	}
	if uses, err = f.UsesBy(t.Context(), "bob", 10); err != nil || len(uses) != 2 {
		t.Errorf("%+v, %v", uses, err)
	}
	if uses, err = f.UsesBy(t.Context(), "mallory", 10); err != nil || len(uses) != 0 {
		t.Errorf("a denied use is listed: %+v, %v", uses, err)
	}
	if _, err = f.UsesBy(t.Context(), "bob", 0); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("limit 0: %v", err)
	}
}
