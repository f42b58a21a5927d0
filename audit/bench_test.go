package audit_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/storage"
)

// timed is a log that measures its Append alone: the batch around it is the store's.
type timed struct {
	*audit.Log
	spent   time.Duration
	entries int
}

func (l *timed) Append(tx *storage.Tx, head storage.Head, entries []storage.Entry) ([]byte, error) {
	start := time.Now()
	edge, err := l.Log.Append(tx, head, entries)
	l.spent += time.Since(start)
	l.entries += len(entries)
	return edge, err
}

// BenchmarkAppend appends batches of 30 entries by 30 principals. append-µs/entry
// is this package's part: hashing, rows, tiles and index; ns/op is the whole
// batch with its fsync.
func BenchmarkAppend(b *testing.B) {
	f := newLog(b, p256(b))
	l := &timed{Log: f.Log}
	f.db.SetLog(l)
	var batch []storage.Entry
	for i := range 30 {
		e := decryption()
		e.Principal += strconv.Itoa(i)
		r, err := e.Record()
		if err != nil {
			b.Fatal(err)
		}
		batch = append(batch, r)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.db.Commit(context.Background(), storage.Change{Entries: batch}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(l.spent.Microseconds())/float64(l.entries), "append-µs/entry")
}

// benchEntries is the size of the logs that the benchmarks read; SEALWRIGHT_BENCH_ENTRIES changes it.
func benchEntries(b *testing.B) int {
	n, err := strconv.Atoi(os.Getenv("SEALWRIGHT_BENCH_ENTRIES"))
	if err != nil {
		return 20_000
	}
	return n
}

func BenchmarkLargeLog(b *testing.B) {
	n := benchEntries(b)
	f := newLog(b, p256(b))
	f.add(b, n-1, 1000)
	f.checkpoint(b)
	dir := filepath.Join(b.TempDir(), "export")
	start := time.Now()
	if _, err := f.Export(b.Context(), dir, nil); err != nil {
		b.Fatal(err)
	}
	b.Logf("exported %d entries in %v", n, time.Since(start).Round(time.Millisecond))
	perSecond := func(b *testing.B) {
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	}
	b.Run(fmt.Sprintf("VerifyExport/%d", n), func(b *testing.B) {
		for b.Loop() {
			if _, err := f.verify(b, dir); err != nil {
				b.Fatal(err)
			}
		}
		perSecond(b)
	})
	b.Run(fmt.Sprintf("VerifyStored/%d", n), func(b *testing.B) {
		for b.Loop() {
			if _, err := f.VerifyStored(context.Background(), nil); err != nil {
				b.Fatal(err)
			}
		}
		perSecond(b)
	})
	b.Run(fmt.Sprintf("Prove/%d", n), func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := f.Prove(context.Background(), int64(i*7919%n)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run(fmt.Sprintf("Checkpoint/%d", n), func(b *testing.B) {
		for b.Loop() {
			f.add(b, 1, 1)
			f.checkpoint(b)
		}
	})
	file, err := f.Prove(b.Context(), 1)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("VerifyProof", func(b *testing.B) {
		for b.Loop() {
			if _, err := audit.VerifyProof(file, f.VerifierKey()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
