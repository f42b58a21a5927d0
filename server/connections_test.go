package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
)

func TestProtocols(t *testing.T) {
	h := newHouse(t)
	one, two := h.overHTTP1(t).must(200, "GET", "/v1/status", ""), h.admin.must(200, "GET", "/v1/status", "")
	if one.ProtoMajor != 1 || two.ProtoMajor != 2 {
		t.Errorf("spoke %s and %s", one.Proto, two.Proto)
	}
	if two.TLS.Version != tls.VersionTLS13 || two.TLS.CurveID != tls.X25519MLKEM768 {
		t.Errorf("TLS %x with %s, want 1.3 with the hybrid X25519MLKEM768", two.TLS.Version, two.TLS.CurveID)
	}
	_, err := tls.Dial("tcp", strings.TrimPrefix(h.url, "https://"), &tls.Config{RootCAs: h.roots, ServerName: "localhost", MaxVersion: tls.VersionTLS12})
	if err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: %v", err)
	}
	res, err := http.Get("http://" + strings.TrimPrefix(h.url, "https://") + "/livez")
	must(t, err)
	defer res.Body.Close()
	if res.StatusCode != 400 {
		t.Errorf("plain HTTP on the TLS port: %d", res.StatusCode)
	}
}

// dial opens a TLS connection as the administrator, to write what no client would.
func (h *house) dial(t testing.TB) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", strings.TrimPrefix(h.url, "https://"), &tls.Config{RootCAs: h.roots, ServerName: "localhost", Certificates: []tls.Certificate{*h.admin.pair}})
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestHeadersTooLarge(t *testing.T) {
	h := newHouse(t)
	// Beyond MaxHeaderBytes and what net/http adds to it.
	req, err := http.NewRequest("GET", h.url+"/livez", nil)
	must(t, err)
	req.Header.Set("X-Filler", strings.Repeat("x", 64<<10))
	for _, p := range []*person{h.admin, h.overHTTP1(t)} {
		if res, err := p.client.Do(req); err == nil {
			res.Body.Close()
			if res.StatusCode != 431 {
				t.Errorf("%s: %d", res.Proto, res.StatusCode)
			}
		}
	}
}

// Who sends headers or a body drop by drop is cut off.
func TestSlowCallersAreCutOff(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.HeaderTimeout, c.BodyTimeout = 300*time.Millisecond, 600*time.Millisecond })
	for name, start := range map[string]string{
		"headers": "GET /livez HTTP/1.1\r\nHost: localhost\r\n",
		"body":    "POST /v1/keys HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
	} {
		c := h.dial(t)
		_, err := io.WriteString(c, start)
		must(t, err)
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		began := time.Now()
		text, err := io.ReadAll(c)
		if took := time.Since(began); took > 10*time.Second || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("slow %s: the connection stayed for %s: %v", name, took, err)
		}
		if name == "body" && !strings.Contains(string(text), "the body ended early") {
			t.Errorf("slow body: %s", text)
		}
	}
}

// routed serves f as an extra route.
func (h *house) routed(t testing.TB, route api.Route, f func(*call) (any, error)) *person {
	t.Helper()
	route.Public, route.Status = true, 200
	return h.serving(t, h.plain(h.handle(&route, f)))
}

// serving runs a server without TLS until the test ends.
func (h *house) serving(t testing.TB, server *http.Server) *person {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return &person{t: t, url: "http://" + l.Addr().String(), client: &http.Client{Timeout: time.Minute}}
}

// A route with a long timeout outlives the deadline for reading its request,
// over HTTP/1 too; one that runs out of time says so.
func TestLongRequests(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.HeaderTimeout, c.BodyTimeout = 200*time.Millisecond, 200*time.Millisecond })
	wait := func(d time.Duration) func(*call) (any, error) {
		return func(c *call) (any, error) {
			select {
			case <-time.After(d):
				return text("done"), nil
			case <-c.r.Context().Done():
				return nil, fmt.Errorf("waiting: %w", context.Cause(c.r.Context()))
			}
		}
	}
	p := h.routed(t, api.Route{Name: "slow", Timeout: time.Minute}, wait(time.Second))
	p.must(200, "GET", "/", "")
	p = h.routed(t, api.Route{Name: "late", Timeout: 50 * time.Millisecond}, wait(time.Minute))
	if a := p.must(503, "GET", "/", ""); a.problem(t).Code != "busy" || a.Header.Get("Retry-After") == "" {
		t.Errorf("out of time: %s", a.body)
	}
}

func TestTooManyRequests(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.InFlight = 1 })
	h.inFlight <- struct{}{} // somebody's request that takes its time
	a := h.admin.must(503, "GET", "/v1/status", "")
	if a.problem(t).Code != "busy" || a.Header.Get("Retry-After") != "1" {
		t.Errorf("%v: %s", a.Header, a.body)
	}
	h.admin.must(200, "GET", "/livez", "") // a supervisor must not kill who is merely busy
	<-h.inFlight
	h.admin.must(200, "GET", "/v1/status", "")
	if len(h.inFlight) != 0 || len(h.publicInFlight) != 0 {
		t.Error("a slot was not given back")
	}
}

func TestPanics(t *testing.T) {
	h := newHouse(t)
	p := h.routed(t, api.Route{Name: "panic", Timeout: time.Minute}, func(*call) (any, error) { panic("the inside") })
	a := p.must(500, "GET", "/", "")
	if problem := a.problem(t); problem.Code != "internal" || strings.Contains(string(a.body), "inside") || !strings.Contains(logged.String(), problem.RequestID) {
		t.Errorf("%s", a.body)
	}
	p.must(500, "GET", "/", "")
	if len(h.publicInFlight) != 0 {
		t.Error("a panic kept its slot")
	}
}

// Errors of the inside do not show it.
func TestErrorsTellNothingOfTheInside(t *testing.T) {
	h := newHouse(t)
	for _, inner := range []error{errors.New("slot 7 pin 1234"), fmt.Errorf("pin 1234: %w", key.ErrAuth), fmt.Errorf("pin 1234: %w", key.ErrUnavailable), guard.ErrGrant} {
		p := h.routed(t, api.Route{Name: "broken", Timeout: time.Minute}, func(*call) (any, error) { return nil, inner })
		if a := p.do("GET", "/", ""); a.StatusCode < 500 || strings.Contains(string(a.body), "1234") || strings.Contains(string(a.body), "grant") {
			t.Errorf("%d: %s", a.StatusCode, a.body)
		}
	}
}

// What is under way finishes, and nothing new is let in.
func TestGracefulShutdown(t *testing.T) {
	h := newHouse(t)
	c := h.dial(t)
	body := `{"name":"dev/example/last"}`
	_, err := fmt.Fprintf(c, "POST /v1/keys HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:5])
	must(t, err)
	for deadline := time.Now().Add(10 * time.Second); len(h.inFlight) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the request did not begin")
		}
	}
	done := make(chan error, 1)
	go func() { done <- h.http.Shutdown(context.Background()) }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if fresh, err := net.Dial("tcp", strings.TrimPrefix(h.url, "https://")); err != nil {
			break
		} else if fresh.Close(); time.Now().After(deadline) {
			t.Fatal("new connections are still let in")
		}
	}
	_, err = io.WriteString(c, body[5:])
	must(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(t, err)
	defer res.Body.Close()
	if res.StatusCode != 201 {
		t.Errorf("the request under way got %d", res.StatusCode)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A certificate or a principal ends with the next request, on the same connection.
func TestRevocationOnOneConnection(t *testing.T) {
	h := newHouse(t)
	for name, end := range map[string]func(*person) answer{
		"own certificate revoked": func(p *person) answer { return p.do("POST", "/v1/certificates/"+p.serial+"/revoke", `{}`) },
		"own principal disabled": func(p *person) answer {
			var s api.Status
			decode(t, p.must(200, "GET", "/v1/status", "").body, &s)
			return p.do("POST", "/v1/principals/"+s.You.ID+"/disable", "")
		},
		"revoked by another": func(p *person) answer { return h.admin.do("POST", "/v1/certificates/"+p.serial+"/revoke", `{}`) },
	} {
		p := h.enrol(t, "user", "user/"+strings.ReplaceAll(name, " ", "-"), "administrator")
		connections := 0
		transport := p.client.Transport.(*http.Transport)
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			connections++
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		p.must(200, "GET", "/v1/status", "")
		if a := end(p); a.StatusCode != 200 {
			t.Errorf("%s: %d: %s", name, a.StatusCode, a.body)
		}
		p.must(401, "GET", "/v1/status", "")
		if connections != 1 {
			t.Errorf("%s: %d connections", name, connections)
		}
	}
}
