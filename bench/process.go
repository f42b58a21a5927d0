package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server that is measured.
type process struct {
	cmd     *exec.Cmd
	dir     string
	url     string
	started time.Duration // from exec to ready
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// cpu is the processor time the process has used, user and system.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

func (p *process) residentMiB() float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				return -1
			}
			return kib / 1024
		}
	}
	return -1
}

// startDev creates a dev directory, stops, and starts again: the second start is the one timed.
func startDev(bin, dir string) (*process, error) {
	for again := false; ; again = true {
		_ = os.Remove(filepath.Join(dir, "ready"))
		start := time.Now()
		cmd := exec.Command(bin, "dev", "--dir", dir, "--listen", "127.0.0.1:0")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		p := &process{cmd: cmd, dir: dir}
		address, err := waitReady(p, 30*time.Second)
		if err != nil {
			p.stop()
			return nil, err
		}
		p.started, p.url = time.Since(start), "https://"+address
		if again {
			time.Sleep(2 * time.Second) // idle before its memory is read
			return p, nil
		}
		p.stop()
	}
}

func waitReady(p *process, limit time.Duration) (string, error) {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if err := p.cmd.Process.Signal(syscall.Signal(0)); err != nil {
			return "", errors.New("sealwrightd ended before it was ready")
		}
		if address, err := os.ReadFile(filepath.Join(p.dir, "ready")); err == nil && len(address) > 0 {
			return strings.TrimSpace(string(address)), nil
		}
	}
	return "", errors.New("sealwrightd did not become ready")
}

// serveNoop is the limit: the same TLS, the same reading of a body and an
// answer of the same size, and nothing in between.
func serveNoop(certificate, ready string) {
	pair, err := tls.LoadX509KeyPair(certificate, certificate)
	if err != nil {
		panic(err)
	}
	answer := []byte(`{"ciphertext":"` + strings.Repeat("x", 160) + `"}`)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert})
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(ready, []byte(listener.Addr().String()), 0o600); err != nil {
		panic(err)
	}
	panic(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})))
}

func startNoop(d *process) (*process, error) {
	dir := filepath.Join(d.dir, "noop")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	file := filepath.Join(dir, "pair.pem")
	if err := os.WriteFile(file, both, 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, "-noop", file, filepath.Join(dir, "ready")), dir: dir}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	address, err := waitReady(p, 5*time.Second)
	if err != nil {
		p.stop()
		return nil, err
	}
	p.url = "https://" + address
	return p, nil
}

// rows are what is measured; the first is the limit of the others.
func rows(d, noop *process) []row {
	config, err := clientTLS(d.dir)
	if err != nil {
		panic(err)
	}
	client := newClient(config, 1)
	defer client.CloseIdleConnections()
	must := func(path string, in map[string]any) map[string]any {
		body, _ := json.Marshal(in)
		answer, err := post(client, d.url+path, body)
		if err != nil {
			panic(err)
		}
		var out map[string]any
		if err := json.Unmarshal(answer, &out); err != nil {
			panic(err)
		}
		return out
	}
	must("/v1/keys", map[string]any{"name": "dev/bench/encrypt"})
	plaintext := base64.StdEncoding.EncodeToString(make([]byte, 32))
	encrypt, _ := json.Marshal(map[string]any{"plaintext": plaintext, "context": map[string]string{"tenant": "42"}})
	sealed := must("/v1/keys/dev/bench/encrypt/encrypt", map[string]any{"plaintext": plaintext, "context": map[string]string{"tenant": "42"}})["ciphertext"]
	decrypt, _ := json.Marshal(map[string]any{"ciphertext": sealed, "context": map[string]string{"tenant": "42"}})
	datakey, _ := json.Marshal(map[string]any{"plaintext": true})

	insecure := config.Clone()
	insecure.InsecureSkipVerify = true // the no-op's certificate is its own
	return []row{
		{name: "TLS no-op (the limit)", server: noop, url: noop.url + "/", body: encrypt, tls: insecure},
		{name: "encrypt 32 B", server: d, url: d.url + "/v1/keys/dev/bench/encrypt/encrypt", body: encrypt, tls: config},
		{name: "decrypt 32 B", server: d, url: d.url + "/v1/decrypt", body: decrypt, tls: config},
		{name: "data key", server: d, url: d.url + "/v1/keys/dev/bench/encrypt/datakey", body: datakey, tls: config},
		{name: "certificate from CSR (SoftHSM2)", server: d, url: d.url + "/v1/certificates", body: certificateRequest(), tls: config},
	}
}

func certificateRequest() []byte {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	if err != nil {
		panic(err)
	}
	body, _ := json.Marshal(map[string]any{
		"csr":     string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		"profile": "service", "spiffe": "service/bench", "dns": []string{"localhost"}, "ttl": "1h",
	})
	return body
}
