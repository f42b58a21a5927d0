package guard

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/storage"
)

const (
	refusalPeriod  = 10 * time.Second
	refusalSources = 256 // per period; what comes from further sources is counted together
)

// refusals counts unauthenticated refusals per source and records each count
// once per period, so that nobody can fill the log from outside.
type refusals struct {
	db   *storage.DB
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex // guards counts
	counts map[netip.Addr]*refusal
}

type refusal struct {
	times int
	first string // why the first was refused
	since time.Time
}

func newRefusals(db *storage.DB) *refusals {
	ctx, stop := context.WithCancel(context.Background())
	r := &refusals{db: db, stop: stop, done: make(chan struct{}), counts: map[netip.Addr]*refusal{}}
	go r.loop(ctx)
	return r
}

func (r *refusals) loop(ctx context.Context) {
	defer close(r.done)
	tick := time.NewTicker(refusalPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			// What cannot be recorded now stays counted and is recorded later.
			_ = r.flush(ctx)
		}
	}
}

func (r *refusals) count(source netip.Addr, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts[source]
	if c == nil && len(r.counts) >= refusalSources {
		source = netip.Addr{}
		c = r.counts[source]
	}
	if c == nil {
		c = &refusal{first: fmt.Sprintf("%.512s", why), since: time.Now()}
		r.counts[source] = c
	}
	c.times++
}

func (r *refusals) flush(ctx context.Context) error {
	r.mu.Lock()
	counts := r.counts
	r.counts = map[netip.Addr]*refusal{}
	r.mu.Unlock()
	if len(counts) == 0 {
		return nil
	}
	var entries []storage.Entry
	for source, c := range counts {
		e := audit.Entry{
			Time: time.Now(), Action: "authenticate", Source: source, Outcome: audit.Denied, Failure: "unauthenticated",
			Details: map[string]string{"refused": strconv.Itoa(c.times), "since": c.since.UTC().Format(time.RFC3339), "first": c.first},
		}
		record, err := e.Record()
		if err != nil {
			return err
		}
		entries = append(entries, record)
	}
	if _, err := r.db.Commit(ctx, storage.Change{Entries: entries}); err != nil {
		r.giveBack(counts)
		return fmt.Errorf("recording refusals: %w", err)
	}
	return nil
}

func (r *refusals) giveBack(counts map[netip.Addr]*refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for source, c := range counts {
		if newer := r.counts[source]; newer != nil {
			c.times += newer.times
		}
		r.counts[source] = c
	}
}

func (r *refusals) close() error {
	r.stop()
	<-r.done
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return r.flush(ctx)
}
