package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/pki/ca"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// TestNginx: Debian's nginx serves mTLS with a certificate of ours, lets a
// client of ours in, and refuses one that was revoked, one that expired and one
// of another house. It checks the CRLs of the whole chain.
func TestNginx(t *testing.T) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = "/usr/sbin/nginx" // not on everybody's PATH
		_, err = os.Stat(program)
	}
	softhsmtest.Require(t, "nginx", err == nil, "there is no program nginx")
	h := build(t)
	web := startNginx(t, program, h)

	good, goodKey := h.client(t, time.Hour)
	short, shortKey := h.client(t, time.Second)
	bad, badKey := h.client(t, time.Hour)
	stranger, strangerKey := build(t).client(t, time.Hour)

	if status, body := web.get(t, bad, badKey); status != 200 || body != "SUCCESS CN=service:payments" {
		t.Errorf("a good client: %d %q", status, body)
	}
	if _, err := h.revoke(t, bad.Certificate.Serial, 1); err != nil {
		t.Fatal(err)
	}
	web.publish(t, h)
	if err := web.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		status, body := web.get(t, bad, badKey)
		if status == 400 && strings.Contains(body, "SSL certificate error") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a revoked client: %d %q\n%s", status, body, web.log.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
	if status, body := web.get(t, good, goodKey); status != 200 {
		t.Errorf("another client after the revocation: %d %q", status, body)
	}
	time.Sleep(time.Until(short.Leaf.NotAfter.Add(1100 * time.Millisecond)))
	if status, body := web.get(t, short, shortKey); status != 400 || !strings.Contains(body, "SSL certificate error") {
		t.Errorf("an expired client: %d %q", status, body)
	}
	if status, body := web.get(t, stranger, strangerKey); status != 400 {
		t.Errorf("a client of another house: %d %q", status, body)
	}
	if status, body := web.get(t, nil, nil); status != 400 || !strings.Contains(body, "No required SSL certificate") {
		t.Errorf("no client certificate: %d %q", status, body)
	}
	web.stop(t)
	for _, reason := range []string{"(23:certificate revoked)", "(10:certificate has expired)"} {
		if !strings.Contains(web.log.String(), reason) {
			t.Errorf("nginx never said %s:\n%s", reason, web.log.String())
		}
	}
}

func (h *house) client(t *testing.T, ttl time.Duration) (*ca.Issued, *ecdsa.PrivateKey) {
	t.Helper()
	k := newKey(t)
	return h.issue(t, ca.Order{CSR: csr(t, k), Environment: "dev", Identity: "service/payments", TTL: ttl}), k
}

type nginx struct {
	dir, address string
	roots        *x509.CertPool
	cmd          *exec.Cmd
	log          bytes.Buffer
	stopped      bool
}

func startNginx(t *testing.T, program string, h *house) *nginx {
	t.Helper()
	k := newKey(t)
	server := h.issue(t, ca.Order{CSR: csr(t, k), Profile: "server", Environment: "dev", DNS: []string{"localhost"}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, TTL: time.Hour})
	w := &nginx{dir: t.TempDir(), address: freeAddress(t), roots: x509.NewCertPool()}
	w.roots.AppendCertsFromPEM(server.Root)
	w.file(t, "cert.pem", append(pki.EncodePEM(server.Leaf), server.Chain...))
	w.file(t, "key.pem", keyPEM(t, k))
	w.file(t, "ca.pem", server.Root)
	w.publish(t, h)
	w.file(t, "nginx.conf", fmt.Appendf(nil, `
daemon off;
user root;
pid nginx.pid;
worker_processes 1;
error_log stderr info;
events {}
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	server {
		listen %s ssl;
		ssl_protocols TLSv1.3;
		ssl_certificate cert.pem;
		ssl_certificate_key key.pem;
		ssl_client_certificate ca.pem;
		ssl_verify_client on;
		ssl_verify_depth 2;
		ssl_crl crls.pem;
		location / { return 200 "$ssl_client_verify $ssl_client_s_dn"; }
	}
}
`, w.address))
	w.cmd = exec.Command(program, "-p", w.dir, "-c", filepath.Join(w.dir, "nginx.conf"), "-e", "stderr")
	w.cmd.Stderr = &w.log
	must(t, w.cmd.Start())
	t.Cleanup(func() { w.stop(t) })
	for range 100 {
		if c, err := net.Dial("tcp", w.address); err == nil {
			must(t, c.Close())
			return w
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.stop(t)
	t.Fatalf("nginx did not start:\n%s", w.log.String())
	return nil
}

// publish writes the CRLs of the issuer and of the root into one file.
func (w *nginx) publish(t *testing.T, h *house) {
	t.Helper()
	var text []byte
	for _, name := range []string{"dev", "root"} {
		der, err := h.ca.CRL(t.Context(), name)
		must(t, err)
		text = append(text, pki.EncodeCRL(der)...)
	}
	w.file(t, "crls.pem", text)
}

func (w *nginx) file(t *testing.T, name string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(w.dir, name), data, 0o600))
}

func (w *nginx) stop(t *testing.T) {
	t.Helper()
	if w.stopped {
		return
	}
	w.stopped = true
	_ = w.cmd.Process.Signal(syscall.SIGTERM) // it may be gone already
	_ = w.cmd.Wait()
}

// get makes one request on a connection of its own.
func (w *nginx) get(t *testing.T, client *ca.Issued, k *ecdsa.PrivateKey) (status int, body string) {
	t.Helper()
	config := &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS13}
	if client != nil {
		pair, err := tls.X509KeyPair(append(pki.EncodePEM(client.Leaf), client.Chain...), keyPEM(t, k))
		must(t, err)
		config.Certificates = []tls.Certificate{pair}
		// Whatever CAs the server names: a stranger shows its certificate too.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get("https://" + w.address + "/")
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(t, err)
	return answer.StatusCode, string(text)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func keyPEM(t *testing.T, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
