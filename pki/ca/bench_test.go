package ca_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/pki/ca"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/storage"
)

// BenchmarkIssue issues certificates through the door, with inventory and
// durable audit, on a SoftHSM2 key, and prints the ratio to the limit measured
// in the same run: a loop of CSR check and x509.CreateCertificate with a key of
// the same device at the same concurrency. The two take turns, so that a busy
// machine slows both.
func BenchmarkIssue(b *testing.B) {
	h := furnish(b, empty(b, softhsmtest.Device(b)))
	request := csr(b, newKey(b))
	o := ca.Order{CSR: request, Environment: "dev", Identity: "service/payments", DNS: []string{"localhost"}, TTL: time.Hour}
	acts, err := h.ca.Acts(o)
	must(b, err)
	issue := func() error {
		_, err := h.Enter(context.Background(), h.Admin, func(ctx context.Context, g guard.Grant) error {
			_, err := h.ca.Issue(ctx, g, o)
			return err
		}, slices.Clone(acts)...)
		return err
	}
	limit := rawLoop(b, h.device, request)
	must(b, issue())
	must(b, limit())
	for _, callers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			const turn = 400
			var ours, theirs time.Duration
			var times []time.Duration
			n := 0
			var ourCPU, theirCPU time.Duration
			for b.Loop() {
				start := cpu(b)
				d, _ := together(b, callers, turn, limit)
				theirs += d
				middle := cpu(b)
				theirCPU += middle - start
				d, each := together(b, callers, turn, issue)
				ours += d
				ourCPU += cpu(b) - middle
				times = append(times, each...)
				n += turn
			}
			slices.Sort(times)
			b.ReportMetric(float64(n)/ours.Seconds(), "certificates/s")
			b.ReportMetric(float64(n)/theirs.Seconds(), "limit/s")
			b.ReportMetric(100*theirs.Seconds()/ours.Seconds(), "%ofLimit")
			b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(ourCPU.Microseconds())/float64(n), "cpu-µs")
			b.ReportMetric(float64(theirCPU.Microseconds())/float64(n), "limit-cpu-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpu is the CPU time this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rawLoop is the limit: what anybody must do who checks a request and signs a certificate.
func rawLoop(b *testing.B, device key.Device, request []byte) func() error {
	b.Helper()
	ref, err := device.Generate(b.Context(), key.Spec{ID: key.NewID(), Label: "bench", Algorithm: key.ECDSAP256, Usage: key.UsageSign})
	must(b, err)
	signer, err := key.NewSigner(device, ref)
	must(b, err)
	checked, err := pki.CheckRoot(signer, pki.Plan{CommonName: "limit", Lifetime: 24 * time.Hour}, time.Now())
	must(b, err)
	parent, err := checked.Sign()
	must(b, err)
	return func() error {
		r, err := x509.ParseCertificateRequest(request)
		if err != nil {
			return err
		}
		if err := r.CheckSignature(); err != nil {
			return err
		}
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
		if err != nil {
			return err
		}
		template := &x509.Certificate{
			SerialNumber: serial, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, DNSNames: []string{"localhost"},
		}
		_, err = x509.CreateCertificate(rand.Reader, template, parent, r.PublicKey, signer)
		return err
	}
}

// together runs n calls on so many callers; it returns the time of all and of each.
func together(b *testing.B, callers, n int, call func() error) (time.Duration, []time.Duration) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	times := make([]time.Duration, n)
	var running sync.WaitGroup
	start := time.Now()
	for range callers {
		running.Go(func() {
			for {
				i := left.Add(-1)
				if i < 0 {
					return
				}
				begin := time.Now()
				if err := call(); err != nil {
					b.Error(err)
					return
				}
				times[i] = time.Since(begin)
			}
		})
	}
	running.Wait()
	return time.Since(start), times
}

// BenchmarkList reads a page of a hundred from ten thousand.
func BenchmarkList(b *testing.B) {
	h := furnish(b, empty(b, softhsmtest.Device(b)))
	const rows = 10_000
	h.fill(b, rows)
	for name, f := range map[string]ca.Filter{"by expiry": {}, "of an identity": {Identity: "spiffe://dev.sealwright.test/service/s7"}, "revoked": {Revoked: true}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := h.list(b, h.Admin, f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fill writes rows of certificates that were never made.
func (h *house) fill(b *testing.B, rows int) {
	b.Helper()
	issuer := h.issue(b, order(b, "service/payments")).Certificate.Issuer
	now := time.Now().UnixMicro()
	must(b, h.DB.Update(b.Context(), func(tx *storage.Tx) error {
		var args []any
		for n := range rows {
			args = append(args, fmt.Sprintf("1%031x", n), issuer, "service", fmt.Sprintf("spiffe://dev.sealwright.test/service/s%d", n%100), "", "", int64(0), "bench", now, now+int64(n)*1000)
		}
		return tx.InsertRows("INSERT INTO certificate (serial, issuer, profile, identity, names, spki, shard, issued_by, not_before, not_after)", "", 10, args)
	}))
}
