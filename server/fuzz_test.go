package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/api"
)

func contextOf(source netip.Addr) context.Context {
	return context.WithValue(context.Background(), connKey{}, &conn{source: source})
}

// adminState is the administrator's connection, for requests without a network.
func (h *house) adminState(t testing.TB) *tls.ConnectionState {
	t.Helper()
	state := &tls.ConnectionState{Version: tls.VersionTLS13}
	for _, der := range h.admin.pair.Certificate {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		state.PeerCertificates = append(state.PeerCertificates, c)
	}
	return state
}

// FuzzHandler sends the whole handler, as the administrator, whatever method,
// path, query, headers and body: it never panics and never answers 500.
func FuzzHandler(f *testing.F) {
	h := newHouse(f)
	all := h.examples(f)
	for _, r := range api.Routes() {
		method, _, _ := strings.Cut(r.Pattern, " ")
		path, query, _ := strings.Cut(all[r.Name].path, "?")
		f.Add(method, path, query, "k", "why", []byte(all[r.Name].body))
	}
	f.Add("GET", "/v1/keys/dev/a/%2e%2e", "limit=1&after=%00", "\x00", "\xff", []byte("null"))
	f.Add("POST", "/v1/decrypt", "", "", "", []byte(`{"ciphertext":"sw1:U"}`))
	f.Add("POST", "/v1/certificates", "", "", "", []byte(`{"csr":"-----BEGIN CERTIFICATE REQUEST-----\nAA==\n-----END CERTIFICATE REQUEST-----","spiffe":"service/x"}`))
	handler, err := h.Handler()
	must(f, err)
	state := h.adminState(f)
	f.Fuzz(func(t *testing.T, method, path, query, idempotency, reason string, body []byte) {
		u := &url.URL{Path: path, RawQuery: query}
		if method == "" || !strings.HasPrefix(path, "/") {
			return // net/http refuses these before us
		}
		r := &http.Request{Method: method, URL: u, RequestURI: u.RequestURI(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "localhost", TLS: state,
			Header: http.Header{"Content-Type": {"application/json"}, api.HeaderIdempotencyKey: {idempotency}, api.HeaderReason: {reason}},
			Body:   http.NoBody, RemoteAddr: "127.0.0.1:1"}
		if len(body) > 0 {
			withBody := httptest.NewRequest("POST", "/", strings.NewReader(string(body)))
			r.Body, r.ContentLength = withBody.Body, withBody.ContentLength
		}
		r = r.WithContext(contextOf(netip.MustParseAddr("127.0.0.1")))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code < 200 || w.Code >= 500 {
			t.Errorf("%s %s?%s: %d: %s", method, path, query, w.Code, w.Body)
		}
		if w.Header().Get(api.HeaderRequestID) == "" {
			t.Errorf("%s %s: %d without a request id", method, path, w.Code)
		}
	})
}
