package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// row is one measurement: requests of one kind against one server.
type row struct {
	name   string
	server *process
	url    string
	body   []byte
	tls    *tls.Config
}

type result struct {
	rate     float64
	p50, p99 time.Duration
	cpu      float64 // server CPU, µs per operation
}

// clientTLS reads the administrator's certificate of a dev directory.
func clientTLS(dir string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "admin", "cert.pem"), filepath.Join(dir, "admin", "key.pem"))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(filepath.Join(dir, "admin", "ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "localhost"}, nil
}

func newClient(config *tls.Config, connections int) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, DisableCompression: true}, Timeout: 30 * time.Second}
}

func post(c *http.Client, url string, body []byte) ([]byte, error) {
	resp, err := c.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return answer, nil
}

// measure keeps the connections busy for the length and reads the server's
// processor time before and after. A second is given to warm up.
func measure(r row, connections int, length time.Duration) (result, error) {
	client := newClient(r.tls, connections)
	defer client.CloseIdleConnections()
	if _, _, err := load(client, r, connections, time.Second); err != nil {
		return result{}, err
	}
	before, err := r.server.cpu()
	if err != nil {
		return result{}, err
	}
	start := time.Now()
	times, failures, err := load(client, r, connections, length)
	if err != nil {
		return result{}, fmt.Errorf("%d failures, the first: %w", failures, err)
	}
	elapsed := time.Since(start)
	after, err := r.server.cpu()
	if err != nil {
		return result{}, err
	}
	slices.Sort(times)
	n := len(times)
	return result{
		rate: float64(n) / elapsed.Seconds(),
		p50:  times[n/2],
		p99:  times[n*99/100],
		cpu:  float64((after - before).Microseconds()) / float64(n),
	}, nil
}

func load(client *http.Client, r row, connections int, length time.Duration) ([]time.Duration, int, error) {
	var mu sync.Mutex
	var all []time.Duration
	var failures int
	var first error
	var wg sync.WaitGroup
	end := time.Now().Add(length)
	for range connections {
		wg.Go(func() {
			var mine []time.Duration
			var bad int
			var why error
			for time.Now().Before(end) {
				start := time.Now()
				if _, err := post(client, r.url, r.body); err != nil {
					bad++
					why = err
					break
				}
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
			failures += bad
			if first == nil {
				first = why
			}
		})
	}
	wg.Wait()
	return all, failures, first
}

// fsyncRate is the disk's own limit: 4 KiB appended and synced, one after the other.
func fsyncRate(dir string, length time.Duration) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	block := make([]byte, 4096)
	start := time.Now()
	n := 0
	for ; time.Since(start) < length; n++ {
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}
