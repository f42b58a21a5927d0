// Package server is the native API: HTTP and JSON over TLS 1.3, callers known
// by their client certificates. It reads requests, asks the door, calls one
// service method and writes the answer; it decides nothing.
package server

import (
	"context"
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
	maxInFlight    = 1024
	maxHeaderBytes = 16 << 10
	headerTimeout  = 10 * time.Second
	bodyTimeout    = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	answerTimeout  = 11 * time.Minute // longer than the longest route
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
}

// Server answers requests. Its handlers are safe for concurrent use.
type Server struct {
	Config
	metrics  *metrics
	inFlight chan struct{}
	openAPI  func() ([]byte, error)
}

// New returns a server; it listens nowhere.
func New(c Config) (*Server, error) {
	s := &Server{Config: c, inFlight: make(chan struct{}, maxInFlight)}
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
	h := plain(handler, s.Logger)
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

// PublicHTTP returns an http.Server for what needs no caller: CRLs, CA
// certificates, health and metrics. They are no secrets and work without TLS.
func (s *Server) PublicHTTP() (*http.Server, error) {
	handler, err := s.handler(func(r api.Route) bool { return r.Public })
	if err != nil {
		return nil, err
	}
	return plain(handler, s.Logger), nil
}

func plain(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// Ready reports why the service could not serve now, or nil.
func (s *Server) Ready(ctx context.Context) error {
	if err := s.DB.Check(ctx); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := s.Log.Check(ctx); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	for _, d := range s.Devices {
		if err := d.Device.Health(ctx); err != nil {
			return fmt.Errorf("device %s: %w", d.Name, err)
		}
	}
	return nil
}
