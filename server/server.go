// Package server is the native API: HTTP and JSON over TLS 1.3, callers known
// by their client certificates. It reads requests, asks the door, calls one
// service method and writes the answer; it decides nothing.
package server

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/storage"
)

// Limits of one server. Requests over them are refused, never queued for ever.
const (
	maxPublicInFlight = 128 // a crowd at the open doors leaves the others free
	maxHeaderBytes    = 16 << 10
	idleTimeout       = 2 * time.Minute
	answerTimeout     = 11 * time.Minute // longer than the longest route
)

// Store says whose house this is; it does not change while the service runs.
type Store struct {
	ID           string
	Mode         string // dev or production
	Domain       string
	OnlineRoot   bool
	Environments []string
}

// Device is one device and how it is called in status and metrics.
type Device struct {
	Name   string
	Kind   string // pkcs11 or tpm
	Device key.Device
}

// Config is what a server stands on.
type Config struct {
	Door    *guard.Door
	Keys    *kms.Service
	CA      *ca.Service
	Log     *audit.Log
	DB      *storage.DB
	Store   Store
	Devices []Device
	Roots   *x509.CertPool // whose client certificates are looked at
	Version string
	Logger  *slog.Logger

	InFlight      int           // requests at once; zero: 1024
	HeaderTimeout time.Duration // for a request's headers; zero: 10 s
	BodyTimeout   time.Duration // for a request's headers and body; zero: 30 s
}

func (c *Config) inFlight() int                { return cmp.Or(c.InFlight, 1024) }
func (c *Config) headerTimeout() time.Duration { return cmp.Or(c.HeaderTimeout, 10*time.Second) }
func (c *Config) bodyTimeout() time.Duration   { return cmp.Or(c.BodyTimeout, 30*time.Second) }

// Server answers requests. Its handlers are safe for concurrent use.
type Server struct {
	Config
	metrics        *metrics
	inFlight       chan struct{}
	parsing        chan struct{} // one slot: policies that a caller brings along
	verifying      chan struct{} // one slot: the whole log is read
	publicInFlight chan struct{}
	readiness      readiness
	openAPI        func() ([]byte, error)
}

// New returns a server; it listens nowhere.
func New(c Config) (*Server, error) {
	s := &Server{Config: c, inFlight: make(chan struct{}, c.inFlight()), publicInFlight: make(chan struct{}, maxPublicInFlight), parsing: make(chan struct{}, 1), verifying: make(chan struct{}, 1)}
	s.metrics = newMetrics(s)
	s.openAPI = openAPIOnce(c.Version)
	return s, nil
}

// HTTP returns an http.Server for the API on the given certificate source.
// Serve it with ServeTLS and empty file names.
func (s *Server) HTTP(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) (*http.Server, error) {
	handler, err := s.Handler()
	if err != nil {
		return nil, err
	}
	h := s.plain(handler)
	h.ConnContext = connContext
	h.TLSConfig = &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: certificate,
		// The certificate is verified by identify, which can say what is wrong
		// with it; a failed handshake could only break the connection.
		ClientAuth: tls.RequestClientCert,
	}
	return h, nil
}

// PublicHTTP returns an http.Server without TLS for the named public routes:
// what needs no caller and is no secret.
func (s *Server) PublicHTTP(patterns ...string) (*http.Server, error) {
	var routes []api.Route
	for _, p := range patterns {
		route, ok := api.LookupRoute(p)
		if !ok || !route.Public {
			return nil, fmt.Errorf("%w: %q is no public route", key.ErrInvalid, p)
		}
		routes = append(routes, route)
	}
	handler, err := s.handler(routes)
	if err != nil {
		return nil, err
	}
	return s.plain(handler), nil
}

func (s *Server) plain(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: s.headerTimeout(),
		ReadTimeout:       s.bodyTimeout(),
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug),
	}
}
