package audit_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	formatslog "github.com/transparency-dev/formats/log"
	formatsnote "github.com/transparency-dev/formats/note"
	formatsproof "github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/storage/sqlite"
)

const origin = "sealwright.example.org/log"

// fixture is a log in a fresh SQLite store, with its signer and state directory.
type fixture struct {
	*audit.Log
	db     *storage.DB
	path   string
	state  string
	signer crypto.Signer
}

func p256(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newLog makes a log that checkpoints only on demand.
func newLog(t testing.TB, signer crypto.Signer) *fixture {
	t.Helper()
	f := &fixture{path: filepath.Join(t.TempDir(), "store.db"), state: t.TempDir(), signer: signer}
	db, err := sqlite.Create(t.Context(), f.path)
	if err != nil {
		t.Fatal(err)
	}
	f.db = db
	t.Cleanup(func() { f.db.Close() })
	f.open(t)
	return f
}

func (f *fixture) config() audit.Config {
	return audit.Config{DB: f.db, Signer: f.signer, Origin: origin, StateDir: f.state, Every: time.Hour}
}

func (f *fixture) open(t testing.TB) {
	t.Helper()
	l, err := audit.Open(context.WithoutCancel(t.Context()), f.config())
	if err != nil {
		t.Fatal(err)
	}
	f.Log = l
	t.Cleanup(func() { l.Close() })
}

// entry is the i-th of a test's entries.
func entry(i int) storage.Entry {
	e := decryption()
	e.Time = e.Time.Add(time.Duration(i) * time.Second)
	e.Request = fmt.Sprintf("request-%d", i)
	e.Context["tenant"] = fmt.Sprint(i % 7)
	r, err := e.Record()
	if err != nil {
		panic(err)
	}
	return r
}

// add appends n entries in changes of step.
func (f *fixture) add(t testing.TB, n, step int) {
	t.Helper()
	for n > 0 {
		var change storage.Change
		for range min(n, step) {
			change.Entries = append(change.Entries, entry(n))
			n--
		}
		if _, err := f.db.Commit(context.Background(), change); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *fixture) checkpoint(t testing.TB) (audit.Checkpoint, []byte) {
	t.Helper()
	signed, err := f.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c, err := audit.ParseCheckpoint(signed, f.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	return c, signed
}

func TestCheckpointVerifiesElsewhere(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, signer := range map[string]crypto.Signer{"P-256": p256(t), "Ed25519": ed} {
		t.Run(name, func(t *testing.T) {
			f := newLog(t, signer)
			f.add(t, 300, 7)
			c, signed := f.checkpoint(t)

			theirs, err := formatsnote.NewVerifier(f.VerifierKey())
			if err != nil {
				t.Fatal(err)
			}
			n, err := note.Open(signed, note.VerifierList(theirs))
			if err != nil {
				t.Fatal(err)
			}
			var cp formatslog.Checkpoint
			if _, err := cp.Unmarshal([]byte(n.Text)); err != nil || cp.Origin != origin || int64(cp.Size) != c.Size || tlog.Hash(cp.Hash) != c.Root {
				t.Errorf("transparency-dev reads %+v, %v; we wrote %+v", cp, err, c)
			}

			file, err := f.Prove(t.Context(), 17)
			if err != nil {
				t.Fatal(err)
			}
			var p formatsproof.TLogProof
			if err := p.Unmarshal(file); err != nil {
				t.Fatal(err)
			}
			var hashes []tlog.Hash
			for _, h := range p.Hashes {
				hashes = append(hashes, h)
			}
			if err := tlog.CheckRecord(hashes, c.Size, c.Root, int64(p.Index), tlog.RecordHash(p.ExtraData)); err != nil || p.Index != 17 || string(p.Checkpoint) != string(signed) {
				t.Errorf("transparency-dev's proof of %d: %v", p.Index, err)
			}
			if again := string(p.Marshal()); again != string(file) {
				t.Errorf("transparency-dev writes\n%s\nwe wrote\n%s", again, file)
			}
		})
	}
}

func TestEveryEntryIsProved(t *testing.T) {
	f := newLog(t, p256(t))
	f.add(t, 520, 13)
	entries, err := f.Entries(t.Context(), 0, 1000)
	if err != nil || len(entries) != 521 { // and the one that announces the signer
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	if e := entries[0]; e.Action != "audit:AnnounceSigner" || e.Details["vkey"] != f.VerifierKey() {
		t.Errorf("first entry %+v", e)
	}
	for i := range entries {
		file, err := f.Prove(t.Context(), int64(i))
		if err != nil {
			t.Fatal(err)
		}
		p, err := audit.VerifyProof(file, f.VerifierKey())
		if err != nil || p.Index != int64(i) || p.Entry.Request != entries[i].Request {
			t.Fatalf("entry %d: %+v, %v", i, p, err)
		}
	}
	if _, err := f.Prove(t.Context(), 521); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("proof of an entry that does not exist: %v", err)
	}
	if _, err := f.Prove(t.Context(), -1); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("proof of entry -1: %v", err)
	}
}

func TestConcurrentAppendsAndCheckpoints(t *testing.T) {
	f := newLog(t, p256(t))
	var adders, watchers sync.WaitGroup
	for range 8 {
		adders.Go(func() { f.add(t, 100, 3) })
	}
	done := make(chan struct{})
	for range 2 {
		watchers.Go(func() {
			var last []byte
			var lastSize int64
			for stop := false; !stop; {
				select {
				case <-done:
					stop = true
				default:
				}
				signed, err := f.Checkpoint(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				c, _ := audit.ParseCheckpoint(signed, f.VerifierKey())
				proof, err := f.Consistency(context.Background(), lastSize, c.Size)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := audit.CheckConsistency(last, signed, proof, f.VerifierKey()); err != nil {
					t.Error(err)
					return
				}
				last, lastSize = signed, c.Size
			}
		})
	}
	adders.Wait()
	close(done)
	watchers.Wait()
	if c, _ := f.checkpoint(t); c.Size != 801 {
		t.Errorf("%d entries, want 801", c.Size)
	}
}

func TestLoopSignsAndCloseSigns(t *testing.T) {
	f := newLog(t, p256(t))
	f.Close()
	cfg := f.config()
	cfg.Every = 5 * time.Millisecond
	l, err := audit.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.Log = l
	f.add(t, 10, 1)
	size := func() (n int64) {
		if err := f.db.QueryRow(context.Background(), "SELECT MAX(size) FROM log_checkpoint").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for deadline := time.Now().Add(10 * time.Second); size() != 11; {
		if time.Now().After(deadline) {
			t.Fatal("the loop signs nothing")
		}
		time.Sleep(time.Millisecond)
	}
	if err := l.Check(t.Context()); err != nil {
		t.Error(err)
	}
	l.Close()
	f.open(t)
	f.add(t, 3, 1)
	f.Close()
	if size() != 14 {
		t.Errorf("after Close the newest checkpoint has %d entries, want 14", size())
	}
}

func TestOpenRefuses(t *testing.T) {
	f := newLog(t, p256(t))
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*audit.Config)
		want   error
	}{
		"an origin with spaces": {func(c *audit.Config) { c.Origin = "a b" }, key.ErrInvalid},
		"no signer":             {func(c *audit.Config) { c.Signer = nil }, key.ErrInvalid},
		"no store":              {func(c *audit.Config) { c.DB = nil }, key.ErrInvalid},
		"no origin":             {func(c *audit.Config) { c.Origin = "" }, key.ErrInvalid},
		"another curve":         {func(c *audit.Config) { c.Signer = p384 }, key.ErrUnsupported},
		"no state directory":    {func(c *audit.Config) { c.StateDir = filepath.Join(f.state, "missing") }, key.ErrNotFound},
	} {
		cfg := f.config()
		c.change(&cfg)
		if _, err := audit.Open(t.Context(), cfg); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	f.Close()
	files, _ := filepath.Glob(filepath.Join(f.state, "checkpoint-*"))
	if len(files) != 1 {
		t.Fatalf("state files %v", files)
	}
	if err := os.WriteFile(files[0], []byte("spoiled"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(t.Context(), f.config()); !errors.Is(err, key.ErrIntegrity) || !strings.Contains(err.Error(), files[0]) {
		t.Errorf("a spoiled state file: %v", err)
	}
}
