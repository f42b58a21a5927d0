package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/client"
)

// acknowledged is what the service said it did. The checker holds it against
// what a restarted service shows.
type acknowledged struct {
	mu      sync.Mutex
	entries map[int64]string  // index of the entry: request id
	sealed  map[string]string // ciphertext: plaintext
	keys    []string
	serials []string
}

func newAcknowledged() *acknowledged {
	return &acknowledged{entries: map[int64]string{}, sealed: map[string]string{}}
}

func (a *acknowledged) note(answer client.Answer, f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.entries[answer.AuditIndex] = answer.RequestID
	if f != nil {
		f()
	}
}

// load calls the service from several goroutines until it dies or ctx ends.
func (a *acknowledged) load(ctx context.Context, s *service, round int) {
	c := s.client(1)
	defer c.Close()
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				var answer client.Answer
				watched := client.Watch(ctx, &answer)
				var err error
				switch {
				case worker == 0:
					name := fmt.Sprintf("dev/crash/k-%d-%d", round, i)
					if _, err = c.CreateKey(watched, api.CreateKeyRequest{Name: name}); err == nil {
						a.note(answer, func() { a.keys = append(a.keys, name) })
					}
				case worker == 1:
					var issued *client.Issued
					if issued, err = c.Issue(watched, api.IssueRequest{SPIFFE: "service/crash", DNS: []string{"localhost"}}); err == nil {
						a.note(answer, func() { a.serials = append(a.serials, issued.Info.Serial) })
					}
				default:
					plain := fmt.Sprintf("%d/%d/%d", round, worker, i)
					var out api.EncryptResponse
					if out, err = c.Encrypt(watched, "dev/crash/base", []byte(plain), map[string]string{"worker": fmt.Sprint(worker)}); err == nil {
						a.note(answer, func() {
							if len(a.sealed) < 2000 {
								a.sealed[out.Ciphertext] = plain
							}
						})
					}
				}
				if err != nil {
					return // it died, or is about to
				}
			}
		})
	}
	wg.Wait()
}

// check demands that nothing acknowledged is lost and that the log verifies.
func (a *acknowledged) check(t *testing.T, s *service) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := s.client(3)
	defer c.Close()
	report, err := c.AuditVerify(ctx)
	if err != nil || !report.OK {
		t.Fatalf("the log does not verify: %v %v", err, report.Problems)
	}
	found := map[int64]string{}
	lowest := int64(1 << 62)
	for index := range a.entries {
		lowest = min(lowest, index)
	}
	for before := int64(0); ; {
		page, err := c.AuditEntries(ctx, client.AuditFilter{Limit: api.MaxPage, Before: before})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			found[e.Index] = requestOf(e)
		}
		if before = page.Next; before == 0 || before <= lowest {
			break
		}
	}
	for index, request := range a.entries {
		if found[index] != request {
			t.Errorf("entry %d was acknowledged to request %s and is now that of %q", index, request, found[index])
		}
	}
	for _, name := range a.keys {
		if _, err := c.DescribeKey(ctx, name); err != nil {
			t.Errorf("key %s was acknowledged: %v", name, err)
		}
	}
	for _, serial := range a.serials {
		if _, err := c.Certificate(ctx, serial); err != nil {
			t.Errorf("certificate %s was acknowledged: %v", serial, err)
		}
	}
	tried := 0
	for ciphertext, plain := range a.sealed {
		if tried++; tried > 50 {
			break
		}
		var out api.DecryptResponse
		for worker := range 8 {
			if out, err = c.Decrypt(ctx, ciphertext, map[string]string{"worker": fmt.Sprint(worker)}); !errors.Is(err, api.ErrInvalidCiphertext) {
				break
			}
		}
		if err != nil || string(out.Plaintext) != plain {
			t.Errorf("an acknowledged ciphertext opens as %q, %v", out.Plaintext, err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	// What was checked need not be read again each round.
	a.entries = map[int64]string{}
	a.sealed = map[string]string{}
	a.keys, a.serials = nil, nil
}

func rounds(t *testing.T) int {
	if testing.Short() {
		return 5
	}
	return 50
}

// kill -9 at random under load: no acknowledged write is lost, the log verifies.
func TestKillUnderLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	s := start(t, dir)
	s.must("sealwright key create dev/crash/base")
	a := newAcknowledged()
	total := 0
	for round := range rounds(t) {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { a.load(ctx, s, round) })
		time.Sleep(time.Duration(30+rand.IntN(250)) * time.Millisecond)
		s.kill()
		cancel()
		wg.Wait()
		total += len(a.entries)
		s = start(t, dir)
		a.check(t, s)
	}
	s.stop()
	if total < 10*rounds(t) {
		t.Errorf("only %d acknowledged requests over %d kills: too little load to prove anything", total, rounds(t))
	}
	t.Logf("%d kills, %d acknowledged requests, none lost", rounds(t), total)
}

// Killed in the very system call that makes a batch durable.
func TestKillAtSync(t *testing.T) {
	strace := require(t, "strace", "strace")
	dir := filepath.Join(t.TempDir(), "dev")
	s := start(t, dir)
	s.must("sealwright key create dev/crash/base")
	s.stop()
	a := newAcknowledged()
	starting, killed, total := 0, 0, 0
	round := 0
	for ; killed < rounds(t) && round < rounds(t)*5/4; round++ {
		// when counts per thread, and start-up syncs too; so the n-th sync falls
		// now into start-up, now into the load.
		when := 1 + round%25
		wrap := []string{strace, "-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", fmt.Sprintf("inject=fsync,fdatasync:signal=KILL:when=%d", when)}
		s := launch(t, dir, wrap)
		for end := time.Now().Add(20 * time.Second); !s.ready() && !s.over() && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		if s.over() {
			starting++
		} else {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			a.load(ctx, s, 1000+round)
			cancel()
		}
		for end := time.Now().Add(time.Second); !s.over() && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		if s.over() {
			killed++
		}
		s.kill()
		total += len(a.entries)
		s = start(t, dir)
		a.check(t, s)
		s.kill()
	}
	if killed < rounds(t) || !testing.Short() && (starting == 0 || starting == killed) {
		t.Errorf("the sync call killed only %d of %d runs, %d of them while starting", killed, round, starting)
	}
	t.Logf("%d of %d runs killed in a sync, %d of them while starting, %d acknowledged requests, none lost", killed, round, starting, total)
}

// over reports whether the process has ended.
func (s *service) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func requestOf(e api.AuditEntry) string {
	var fields struct {
		Request string `json:"request"`
	}
	_ = json.Unmarshal(e.Entry, &fields)
	return fields.Request
}
