package storagetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealwright/sealwright/storage"
)

// entrySize is that of a usual audit record, in bytes.
const entrySize = 500

// Bench measures durable updates: plain entries, and changes that also update a
// row, at 1, 8, 32 and 64 callers. It reports operations per second, their ratio
// to the fdatasync calls per second of the same disk in the same run, latencies,
// and the CPU time of this process.
func Bench(b *testing.B, fresh func(testing.TB) Place) {
	for _, kind := range []struct {
		name   string
		change func(caller int) storage.Change
	}{
		{"plain", func(int) storage.Change {
			return storage.Change{Entries: []storage.Entry{{Data: make([]byte, entrySize)}}}
		}},
		{"apply", func(caller int) storage.Change {
			name := fmt.Sprint(caller)
			return storage.Change{Entries: []storage.Entry{{Data: make([]byte, entrySize)}}, Apply: func(tx *storage.Tx) error {
				_, err := tx.Exec("UPDATE nonce SET expires_at = expires_at + 1 WHERE nonce = $1", name)
				return err
			}}
		}},
	} {
		for _, callers := range []int{1, 8, 32, 64} {
			b.Run(fmt.Sprintf("%s/callers=%d", kind.name, callers), func(b *testing.B) {
				db := create(b, fresh(b))
				for caller := range callers {
					if err := db.Update(b.Context(), func(tx *storage.Tx) error { return put(tx, fmt.Sprint(caller)) }); err != nil {
						b.Fatal(err)
					}
				}
				measure(b, db, callers, kind.change)
			})
		}
	}
}

func measure(b *testing.B, db *storage.DB, callers int, change func(int) storage.Change) {
	syncs := SyncRate(b)
	latencies := make([]time.Duration, b.N)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	used := cpuTime()
	for caller := range callers {
		wg.Go(func() {
			c := change(caller)
			for {
				i := next.Add(1) - 1
				if i >= int64(b.N) {
					return
				}
				began := time.Now()
				if _, err := db.Commit(context.Background(), c); err != nil {
					b.Error(err)
					return
				}
				latencies[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	used = cpuTime() - used
	b.StopTimer()
	syncs = (syncs + SyncRate(b)) / 2 // the disk of a shared machine has moods
	rate := float64(b.N) / b.Elapsed().Seconds()
	slices.Sort(latencies)
	b.ReportMetric(rate, "op/s")
	b.ReportMetric(rate/syncs, "op/fdatasync")
	b.ReportMetric(float64(latencies[b.N/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(latencies[b.N*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
	b.ReportMetric(0, "ns/op")
}

// cpuTime is what this process has used so far, in user and system mode.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// SyncRate measures how often per second one caller can append a frame of a
// write-ahead log to a file and have it on the disk: the limit that group commit
// works against.
func SyncRate(t testing.TB) float64 {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	frame := make([]byte, 4096+24)
	n := 0
	began := time.Now()
	for time.Since(began) < 200*time.Millisecond {
		if _, err := f.Write(frame); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return float64(n) / time.Since(began).Seconds()
}
