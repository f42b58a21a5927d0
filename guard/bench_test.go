package guard_test

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealwright/sealwright/guard/guardtest"
)

// BenchmarkEnter is the whole way of a computation through the door: identify,
// decide, record durably, release. 32 callers share batches.
func BenchmarkEnter(b *testing.B) {
	k := guardtest.New(b)
	do := use(k.Door, encrypt)
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	const callers = 32
	for range callers {
		wg.Go(func() {
			for range b.N / callers {
				if _, err := k.Enter(context.Background(), k.Admin, do, encrypt); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(float64(cpu.Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
}
