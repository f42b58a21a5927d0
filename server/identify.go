package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
)

// conn is what is known about a connection. Its certificate chain is verified
// once; whether the certificate still counts is asked for each request.
type conn struct {
	source netip.Addr

	once       sync.Once
	credential guard.Credential
	err        error
}

type connKey struct{}

func connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, &conn{source: addrOf(c.RemoteAddr().String())})
}

func connOf(ctx context.Context) *conn {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return c
	}
	return &conn{}
}

func addrOf(hostport string) netip.Addr {
	a, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// identify returns what the connection's client certificate proves.
func (c *call) identify() (guard.Credential, error) {
	conn := connOf(c.r.Context())
	conn.once.Do(func() { conn.credential, conn.err = credential(c.r.TLS, c.Roots) })
	return conn.credential, conn.err
}

func credential(state *tls.ConnectionState, roots *x509.CertPool) (guard.Credential, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return guard.Credential{}, fmt.Errorf("%w: present a client certificate", key.ErrUnauthenticated)
	}
	leaf := state.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	now := time.Now()
	at := now
	if now.After(leaf.NotAfter) {
		// Verified as of when it was good, so that the answer can be "expired"
		// and not merely "unknown"; the door refuses it by its NotAfter.
		at = leaf.NotAfter
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return guard.Credential{}, fmt.Errorf("%w: the client certificate does not chain to this service's root: use one it issued, with its chain", key.ErrUnauthenticated)
	}
	if len(leaf.URIs) != 1 {
		return guard.Credential{}, fmt.Errorf("%w: the client certificate names no SPIFFE ID", key.ErrUnauthenticated)
	}
	return guard.Credential{Method: "mtls", Serial: leaf.SerialNumber.Text(16), SPIFFEID: leaf.URIs[0].String(), NotAfter: leaf.NotAfter}, nil
}

// requestID is the caller's, if it is one, or a fresh one.
func requestID(r *http.Request) string {
	id := r.Header.Get(api.HeaderRequestID)
	ok := len(id) >= 1 && len(id) <= 64
	for i := 0; ok && i < len(id); i++ {
		b := id[i]
		ok = b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_' || b == '.'
	}
	if ok {
		return id
	}
	return rand.Text()
}

// traceID is the trace id of a W3C traceparent header, or nothing.
func traceID(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) != 4 || len(parts[1]) != 32 || strings.Trim(parts[1], "0123456789abcdef") != "" {
		return ""
	}
	return parts[1]
}

func checkMedia(contentType string) error {
	if contentType == "application/json" {
		return nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil || media != "application/json" {
		return fmt.Errorf("%w: send Content-Type: application/json", api.ErrMedia)
	}
	return nil
}
