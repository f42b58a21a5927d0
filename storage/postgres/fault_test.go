package postgres_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/storage/postgres"
	"github.com/sealwright/sealwright/storage/storagetest"
)

func TestDoomed(t *testing.T) { storagetest.Doomed(t, postgres.Open) }

func TestKill(t *testing.T) {
	dsn := storagetest.Postgres(t)
	db, err := postgres.Create(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var fate storagetest.Fate
	n := 20
	if testing.Short() {
		n = 2
	}
	for range n {
		fate.Crash(t, dsn, nil, time.Duration(rand.IntN(100))*time.Millisecond)
		// The server may be at work on what the dead process sent last: its locks end with it.
		if err := db.Update(t.Context(), func(tx *storage.Tx) error { tx.BumpEpoch(); return nil }); err != nil {
			t.Fatal(err)
		}
		fate.Check(t, db)
	}
	t.Logf("%d changes acknowledged before %d kills", len(fate.Done), fate.Ends)
}

// proxy stands between the store and the server and cuts connections in COMMIT.
type proxy struct {
	listener net.Listener
	server   string // unix socket
	how      atomic.Int32
	cuts     atomic.Int64
}

// What the proxy does with the next COMMIT.
const (
	pass    = iota
	swallow // cut before the server hears of it
	hurry   // pass it on and cut at once, so that it is still at work
	mute    // wait for the answer, and cut instead of passing it on
)

// commitName is the name under which pgx prepares the COMMIT of the store.
func commitName() []byte {
	digest := sha256.Sum256([]byte("COMMIT"))
	return []byte("stmt_" + hex.EncodeToString(digest[:24]))
}

func startProxy(t *testing.T, dsn string) (*proxy, string) {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	p := &proxy{listener: listener, server: fmt.Sprintf("%s/.s.PGSQL.%d", config.Host, config.Port)}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	port := listener.Addr().(*net.TCPAddr).Port
	return p, fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable", port, config.User, config.Database)
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	var muted atomic.Bool
	go func() {
		defer client.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil || muted.Load() {
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	name := commitName()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		// A Bind message: preparing it, at the start, is no COMMIT.
		if bytes.Contains(buf[:n], append([]byte{0}, name...)) {
			switch how := p.how.Swap(pass); how {
			case pass:
			case swallow:
				p.cuts.Add(1)
				return
			case hurry, mute:
				p.cuts.Add(1)
				muted.Store(how == mute)
				_, _ = server.Write(buf[:n])
				if how == mute {
					time.Sleep(20 * time.Millisecond)
				}
				return
			}
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// TestCutInCommit: whenever the connection dies in COMMIT, the batch id tells
// what became of it: each change holds exactly once and no caller notices.
func TestCutInCommit(t *testing.T) {
	p, dsn := startProxy(t, storagetest.Postgres(t))
	db, err := postgres.Create(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetLog(storagetest.Log{})
	for how, name := range map[int32]string{swallow: "swallow", hurry: "hurry", mute: "mute"} {
		t.Run(name, func(t *testing.T) {
			p.cuts.Store(0)
			before := len(storagetest.CheckLog(t, db))
			written := underLoad(t, db, name, func() {
				for range 10 {
					cut := p.cuts.Load()
					p.how.Store(how)
					for deadline := time.Now().Add(20 * time.Second); p.cuts.Load() == cut; {
						if time.Now().After(deadline) {
							t.Error("no COMMIT came")
							return
						}
						time.Sleep(time.Millisecond)
					}
				}
			})
			all := storagetest.CheckLog(t, db)
			if len(all)-before != len(written) {
				t.Errorf("%d entries, %d acknowledged", len(all)-before, len(written))
			}
			for text, index := range written {
				if all[index] != text {
					t.Errorf("entry %q is not at its index %d", text, index)
				}
			}
			t.Logf("%d changes, %d cuts", len(written), p.cuts.Load())
		})
	}
}

// underLoad runs disturb while 16 callers write, and returns what they were told.
func underLoad(t *testing.T, db *storage.DB, name string, disturb func()) map[string]int64 {
	t.Helper()
	var mu sync.Mutex
	written := map[string]int64{}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for caller := range 16 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				text := fmt.Sprintf("%s-%d-%d", name, caller, i)
				c := storage.Change{Entries: []storage.Entry{{Data: []byte(text)}}}
				if i%2 == 0 {
					// A second run of a change that held would meet its own row.
					c.Apply = func(tx *storage.Tx) error {
						_, err := tx.Exec("INSERT INTO nonce (nonce, expires_at) VALUES ($1, 1)", text)
						return err
					}
				}
				index, err := db.Commit(context.Background(), c)
				if err != nil {
					t.Errorf("%s: %v", text, err)
					return
				}
				mu.Lock()
				written[text] = index
				mu.Unlock()
			}
		})
	}
	disturb()
	stop()
	wg.Wait()
	return written
}

// TestBackendsKilled: an administrator ends the store's connections under load.
func TestBackendsKilled(t *testing.T) {
	dsn := storagetest.Postgres(t)
	db, err := postgres.Create(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetLog(storagetest.Log{})
	admin := raw(t, dsn)
	admin.SetMaxOpenConns(1)
	written := underLoad(t, db, "killed", func() {
		for range 10 {
			time.Sleep(20 * time.Millisecond)
			_, err := admin.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
			if err != nil {
				t.Error(err)
			}
		}
	})
	if n := len(storagetest.CheckLog(t, db)); n != len(written) {
		t.Errorf("%d entries, %d acknowledged", n, len(written))
	}
}

// TestDeadlock: a real one, with another client, of which the batch is the victim.
func TestDeadlock(t *testing.T) {
	dsn := storagetest.Postgres(t)
	db, err := postgres.Create(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	update := func(tx *storage.Tx, name string) error {
		_, err := tx.Exec("UPDATE nonce SET expires_at = expires_at + 1 WHERE nonce = $1", name)
		return err
	}
	err = db.Update(t.Context(), func(tx *storage.Tx) error {
		return tx.InsertRows("INSERT INTO nonce (nonce, expires_at)", "", 2, []any{"a", 0, "b", 0})
	})
	if err != nil {
		t.Fatal(err)
	}
	other, err := raw(t, dsn).Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback()
	// The other waits for ever, so it is the batch that finds the deadlock.
	for _, query := range []string{"SET LOCAL deadlock_timeout = '1min'", "UPDATE nonce SET expires_at = 100 WHERE nonce = 'b'"} {
		if _, err := other.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	runs := 0
	ended := make(chan error, 1)
	err = db.Update(t.Context(), func(tx *storage.Tx) error {
		runs++
		if err := update(tx, "a"); err != nil {
			return err
		}
		if runs == 1 {
			go func() {
				_, err := other.Exec("UPDATE nonce SET expires_at = 100 WHERE nonce = 'a'")
				ended <- errors.Join(err, other.Commit())
			}()
			time.Sleep(50 * time.Millisecond)
		}
		return update(tx, "b")
	})
	if err != nil || runs < 2 {
		t.Errorf("%d runs: %v", runs, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	var a, b int
	if err := db.QueryRow(t.Context(), "SELECT min(expires_at), max(expires_at) FROM nonce").Scan(&a, &b); err != nil || a != 101 || b != 101 {
		t.Errorf("%d and %d, want 101: %v", a, b, err)
	}
}

// TestDiskFull puts the log's rows on a real file system of 2 MB.
func TestDiskFull(t *testing.T) {
	dsn := storagetest.Postgres(t)
	dir, err := os.MkdirTemp("", "sealwright-full-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := user.Lookup(config.User)
	if err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("size=2m,mode=0700,uid=%s,gid=%s", owner.Uid, owner.Gid)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		storagetest.Need(t, "diskfull", fmt.Sprintf("mounting a small file system takes root: %v", err))
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	db, err := postgres.Create(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetLog(storagetest.Log{})
	admin := raw(t, dsn)
	space := "tiny" + strconv.Itoa(os.Getpid())
	for _, query := range []string{"CREATE TABLESPACE " + space + " LOCATION '" + dir + "'", "ALTER TABLE log_entry SET TABLESPACE " + space} {
		if _, err := admin.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	random := rand.NewChaCha8([32]byte{1}) // PostgreSQL compresses what it can
	large := func() storage.Change {
		data := make([]byte, 60000)
		_, _ = io.ReadFull(random, data)
		return storage.Change{Entries: []storage.Entry{{Data: data}}}
	}
	var full error
	for i := 0; i < 100 && full == nil; i++ {
		_, full = db.Commit(t.Context(), storage.Change{
			Entries: large().Entries,
			Apply: func(tx *storage.Tx) error {
				_, err := tx.Exec("INSERT INTO nonce (nonce, expires_at) VALUES ($1, 1)", fmt.Sprint(i))
				return err
			},
		})
	}
	if !errors.Is(full, storage.ErrFull) {
		t.Fatalf("got %v", full)
	}
	entries := len(storagetest.CheckLog(t, db))
	var rows int
	if err := db.QueryRow(t.Context(), "SELECT count(*) FROM nonce").Scan(&rows); err != nil || rows != entries {
		t.Errorf("%d rows, %d entries: %v", rows, entries, err)
	}
	if _, err := admin.Exec("ALTER TABLE log_entry SET TABLESPACE pg_default"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Commit(t.Context(), large()); err != nil {
		t.Errorf("when there is space: %v", err)
	}
	if _, err := admin.Exec("DROP TABLESPACE " + space); err != nil {
		t.Errorf("cleaning up: %v", err)
	}
}
