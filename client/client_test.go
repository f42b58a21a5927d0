package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/client"
)

func TestEncrypt(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var in api.EncryptRequest
		if err := api.Decode(r.Body, 1<<20, &in); err != nil {
			refuse(w, err)
			return
		}
		w.Header().Set(api.HeaderAuditIndex, "42")
		w.Header().Set(api.HeaderRequestID, "r-7")
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"ciphertext":"sw1:%s/%s/%s","version":3,"a_newer_field":{}}`, r.URL.Path, in.Plaintext, r.TLS.PeerCertificates[0].URIs[0])
	})
	var answer client.Answer
	out, err := c.Encrypt(client.Watch(t.Context(), &answer), "dev/payments/orders", []byte("hi"), map[string]string{"tenant": "42"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "sw1:/v1/keys/dev/payments/orders/encrypt/hi/spiffe://ops.example/user/ada"; out.Ciphertext != want || out.Version != 3 {
		t.Errorf("%+v, want %s", out, want)
	}
	if answer != (client.Answer{RequestID: "r-7", AuditIndex: 42, Attempts: 1}) {
		t.Errorf("%+v", answer)
	}
	if _, err := c.Encrypt(t.Context(), "dev/payments", nil, nil); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a wrong name: %v", err)
	}
}

func TestErrorsAreSentinels(t *testing.T) {
	for _, sentinel := range []error{api.ErrDenied, api.ErrNeedsApproval, api.ErrNotFound, api.ErrInvalidCiphertext, api.ErrUnauthenticated, api.ErrInternal, api.ErrIntegrity, api.ErrDisabled} {
		calls := 0
		c := serve(t, func(w http.ResponseWriter, r *http.Request) { calls++; refuse(w, sentinel) })
		_, err := c.DescribeKey(t.Context(), "dev/a/b")
		var p *api.Problem
		if !errors.Is(err, sentinel) || !errors.As(err, &p) || p.RequestID != "r-1" {
			t.Errorf("%v came back as %v", sentinel, err)
		}
		if calls != 1 {
			t.Errorf("%v was tried %d times", sentinel, calls)
		}
	}
}

// What may pass is tried again, under one idempotency key.
func TestRetries(t *testing.T) {
	keys := map[string]bool{}
	calls := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls++
		keys[r.Header.Get(api.HeaderIdempotencyKey)] = true
		body, _ := io.ReadAll(r.Body)
		if !strings.Contains(string(body), "dev/a/b") {
			t.Errorf("attempt %d: body %q", calls, body)
		}
		switch calls {
		case 1:
			refuse(w, api.ErrBusy)
		case 2:
			refuse(w, api.ErrUnavailable)
		default:
			reply(w, api.Key{Name: "dev/a/b"})
		}
	})
	var answer client.Answer
	if _, err := c.CreateKey(client.Watch(t.Context(), &answer), api.CreateKeyRequest{Name: "dev/a/b"}); err != nil {
		t.Fatal(err)
	}
	if answer.Attempts != 3 || len(keys) != 1 || keys[""] {
		t.Errorf("%d attempts under idempotency keys %v", answer.Attempts, keys)
	}
}

func TestRetriesEnd(t *testing.T) {
	calls := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { calls++; refuse(w, api.ErrUnavailable) }, func(c *client.Config) { c.Attempts = 2 })
	if _, err := c.Status(t.Context()); !errors.Is(err, api.ErrUnavailable) || calls != 2 {
		t.Errorf("%d calls, %v", calls, err)
	}
	// The wait that the server asks for does not fit: its answer is the error, at once.
	calls = 0
	c = serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls++
		w.Header().Set("Retry-After", "20")
		refuse(w, api.ErrBusy)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := c.Status(ctx); !errors.Is(err, api.ErrBusy) || calls != 1 || ctx.Err() != nil {
		t.Errorf("%d calls, %v", calls, err)
	}
}

// A connection that breaks before the answer is tried again.
func TestRetriesBrokenConnections(t *testing.T) {
	var calls atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) <= 2 {
			connection, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				connection.Close()
			}
			return
		}
		reply(w, api.Key{Name: "dev/a/b"})
	})
	if out, err := c.RotateKey(t.Context(), "dev/a/b"); err != nil || out.Name != "dev/a/b" {
		t.Errorf("%+v, %v after %d calls", out, err, calls.Load())
	}
}

func TestNobodyThere(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) {}, func(c *client.Config) { c.Attempts = 2 })
	c.server.Close()
	if _, err := c.Status(t.Context()); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestContextEnds(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestForeignAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"a redirect":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, "302"},
		"a web page":  {func(w http.ResponseWriter, r *http.Request) { http.Error(w, "<html>", http.StatusNotFound) }, "is it a Sealwright server?"},
		"no JSON":     {func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") }, "reading the answer"},
		"without end": {func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 17<<20)) }, "is over"},
		"half problem": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", api.ProblemType)
			w.WriteHeader(400)
			io.WriteString(w, "{")
		}, "without saying why"},
	} {
		if _, err := serve(t, c.handler).Status(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestTLS(t *testing.T) {
	ok := func(w http.ResponseWriter, r *http.Request) { reply(w, api.Status{}) }

	t.Run("another root", func(t *testing.T) {
		c := serve(t, ok, func(c *client.Config) {
			dir := t.TempDir()
			newAuthority(t).write(t, dir, "x", time.Now().Add(time.Hour))
			c.CA = filepath.Join(dir, "ca.pem")
		})
		if _, err := c.Status(t.Context()); err == nil || errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), client.EnvCA) {
			t.Errorf("%v", err)
		}
	})
	t.Run("certificate of another root", func(t *testing.T) {
		c := serve(t, ok)
		newAuthority(t).write(t, c.dir, "eve", time.Now().Add(time.Hour))
		if _, err := c.Status(t.Context()); err == nil || !errors.Is(err, api.ErrUnauthenticated) && !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("%v", err)
		}
	})
	t.Run("ended certificate", func(t *testing.T) {
		c := serve(t, ok)
		c.ca.write(t, c.dir, "ada", time.Now().Add(-time.Minute))
		if _, err := c.Status(t.Context()); !errors.Is(err, api.ErrUnauthenticated) || !strings.Contains(err.Error(), "renew") {
			t.Errorf("%v", err)
		}
	})
	t.Run("renewed certificate", func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			reply(w, api.Status{Version: r.TLS.PeerCertificates[0].URIs[0].Path})
		})
		for _, who := range []string{"ada", "bob"} {
			c.ca.write(t, c.dir, who, time.Now().Add(time.Hour))
			c.Close() // the next call shakes hands again
			if out, err := c.Status(t.Context()); err != nil || out.Version != "/user/"+who {
				t.Errorf("%+v, %v; want %s", out, err, who)
			}
		}
	})
	t.Run("older TLS", func(t *testing.T) {
		c := serve(t, ok)
		c.server.TLS.MinVersion, c.server.TLS.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		if _, err := c.Status(t.Context()); err == nil {
			t.Error("spoke TLS 1.2")
		}
		own, err := client.New(client.Config{Address: c.server.URL, TLS: &tls.Config{MinVersion: tls.VersionTLS10}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := own.Status(t.Context()); err == nil {
			t.Error("spoke TLS 1.2 with a tls.Config of the caller's")
		}
	})
	t.Run("no TLS", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go http.Serve(listener, http.NotFoundHandler())
		defer listener.Close()
		c := serve(t, ok, func(c *client.Config) { c.Address = listener.Addr().String() })
		if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "Sealwright server?") {
			t.Errorf("%v", err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	newAuthority(t).write(t, dir, "ada", time.Now().Add(time.Hour))
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(file("empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := client.Config{Address: "localhost:8470", Certificate: file("cert.pem"), Key: file("key.pem"), CA: file("ca.pem")}
	if _, err := client.New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*client.Config){
		"long reason":    func(c *client.Config) { c.Reason = strings.Repeat("x", 257) },
		"broken reason":  func(c *client.Config) { c.Reason = "a\r\nb" },
		"no address":     func(c *client.Config) { c.Address = "" },
		"no TLS":         func(c *client.Config) { c.Address = "http://localhost" },
		"a path":         func(c *client.Config) { c.Address = "https://localhost/v1" },
		"a password":     func(c *client.Config) { c.Address = "https://a:b@localhost" },
		"no roots":       func(c *client.Config) { c.CA = "" },
		"empty roots":    func(c *client.Config) { c.CA = file("empty") },
		"missing roots":  func(c *client.Config) { c.CA = file("missing") },
		"no key":         func(c *client.Config) { c.Key = "" },
		"key for a cert": func(c *client.Config) { c.Key = file("cert.pem") },
		"missing cert":   func(c *client.Config) { c.Certificate = file("missing") },
	} {
		c := good
		change(&c)
		if _, err := client.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// An argument stays in its place in the path.
func TestPaths(t *testing.T) {
	var got string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { got = r.RequestURI; reply(w, struct{}{}) })
	if _, err := c.Certificate(t.Context(), "ab/../../status?x#"); err != nil || got != "/v1/certificates/ab%2F..%2F..%2Fstatus%3Fx%23" {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := c.AuditTile(t.Context(), "tile/entries/x001/234.p/5"); err != nil || got != "/v1/audit/tile/entries/x001/234.p/5" {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{"", ".", "..", "tile/../policy", "tile//0"} {
		if _, err := c.AuditTile(t.Context(), bad); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("tile %q: %v", bad, err)
		}
	}
	if _, err := c.Certificate(t.Context(), ".."); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("serial ..: %v", err)
	}
}

func TestQueries(t *testing.T) {
	var got string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { got = r.RequestURI; reply(w, struct{}{}) }, func(c *client.Config) { c.Reason = "test" })
	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for want, call := range map[string]func() error{
		"/v1/keys": func() error { _, err := c.ListKeys(t.Context(), "", client.Page{}); return err },
		"/v1/keys?after=dev%2Fa%2Fb&environment=dev&limit=5": func() error {
			_, err := c.ListKeys(t.Context(), "dev", client.Page{After: "dev/a/b", Limit: 5})
			return err
		},
		"/v1/certificates?expires_before=2026-11-23T00%3A00%3A00Z&identity=spiffe%3A%2F%2Fx": func() error { _, err := c.ListCertificates(t.Context(), "spiffe://x", at, client.Page{}); return err },
		"/v1/audit/entries?action=kms%3AEncrypt&before=9&limit=3": func() error {
			_, err := c.AuditEntries(t.Context(), client.AuditFilter{Limit: 3, Before: 9, Action: "kms:Encrypt"})
			return err
		},
		"/v1/keys/a/b/c/public-key?version=2": func() error { _, err := c.PublicKey(t.Context(), "a/b/c", 2); return err },
		"/crl/root.crl":                       func() error { _, err := c.CRL(t.Context(), "root"); return err },
	} {
		if err := call(); err != nil || got != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
}

func TestIssue(t *testing.T) {
	var ca *authority
	signer := func(sign func(csr *x509.CertificateRequest) []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var in api.IssueRequest
			if err := api.Decode(r.Body, 1<<20, &in); err != nil {
				refuse(w, err)
				return
			}
			block, _ := pem.Decode([]byte(in.CSR))
			csr, err := x509.ParseCertificateRequest(block.Bytes)
			if err != nil || csr.CheckSignature() != nil {
				t.Errorf("the CSR: %v", err)
				return
			}
			reply(w, api.IssueResponse{Certificate: api.Certificate{Serial: "1"}, PEM: string(sign(csr)), CA: string(ca.pem)})
		}
	}
	c := serve(t, signer(func(csr *x509.CertificateRequest) []byte {
		return ca.sign(t, csr.PublicKey, "x", time.Now().Add(time.Hour))
	}))
	ca = c.ca
	issued, err := c.Issue(t.Context(), api.IssueRequest{SPIFFE: "user/x", TTL: api.Duration(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if !issued.Key.PublicKey.Equal(issued.Leaf.PublicKey) {
		t.Error("the certificate is for another key")
	}
	if _, err := issued.TLS(); err != nil {
		t.Error(err)
	}
	if _, err := c.Issue(t.Context(), api.IssueRequest{CSR: "x"}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("with a CSR: %v", err)
	}
	// A certificate for somebody else's key is not handed on.
	c = serve(t, signer(func(csr *x509.CertificateRequest) []byte {
		return ca.sign(t, ca.key.Public(), "x", time.Now().Add(time.Hour))
	}))
	ca = c.ca
	if _, err := c.Issue(t.Context(), api.IssueRequest{}); !errors.Is(err, api.ErrIntegrity) {
		t.Errorf("another key: %v", err)
	}
	// Nor one of another CA.
	other := newAuthority(t)
	c = serve(t, signer(func(csr *x509.CertificateRequest) []byte {
		return other.sign(t, csr.PublicKey, "x", time.Now().Add(time.Hour))
	}))
	ca = c.ca
	if _, err := c.Issue(t.Context(), api.IssueRequest{}); !errors.Is(err, api.ErrIntegrity) {
		t.Errorf("another CA: %v", err)
	}
}
