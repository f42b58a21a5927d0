package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/kms/keyring"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/server"
)

// serverLifetime is how long the service's own certificate lives; a new one is
// made at two thirds, and its key dies with the process.
const serverLifetime = 24 * time.Hour

// serveConfig is 'sealwrightd serve'.
func serveConfig(ctx context.Context, c Config, problems io.Writer) error {
	logger := newLogger(c, problems)
	h, err := openHouse(ctx, c, logger)
	if err != nil {
		return err
	}
	err = h.serve(ctx, logger, func(address string) { logger.Info("serving", "address", address, "store", h.store.id.String()) })
	return errors.Join(err, h.close())
}

func newLogger(c Config, out io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // checked with the configuration
	options := &slog.HandlerOptions{Level: level}
	if f, ok := out.(*os.File); ok && cli.IsTerminal(f) {
		return slog.New(slog.NewTextHandler(out, options))
	}
	return slog.New(slog.NewJSONHandler(out, options))
}

// garbage is how much a collection waits for, in percent of what lives. Ten
// megabytes live and each request leaves some kilobytes: Go's usual 100 would
// spend a tenth of the processor on collecting. GOGC in the environment overrides.
const garbage = 400

// serve listens until ctx ends, then lets requests in flight finish. ready is
// called with the API's address once it answers.
func (h *house) serve(ctx context.Context, logger *slog.Logger, ready func(address string)) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	s, err := h.server(ctx, logger)
	if err != nil {
		return err
	}
	own := &ownCertificate{house: h}
	if err := own.renew(ctx); err != nil {
		return fmt.Errorf("making the service's own certificate: %w", err)
	}
	native, err := s.HTTP(own.get)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	listener, err := net.Listen("tcp", h.config.Listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	serve := func(server *http.Server, run func() error) {
		group.Go(func() error {
			if err := run(); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving: %w", err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			grace, cancel := context.WithTimeout(context.Background(), h.config.ShutdownGrace)
			defer cancel()
			if err := server.Shutdown(grace); err != nil {
				_ = server.Close()
				return fmt.Errorf("some requests did not finish within %s: %w", h.config.ShutdownGrace, err)
			}
			return nil
		})
	}
	public, err := h.public(s)
	if err != nil {
		_ = listener.Close()
		return err
	}
	for _, p := range public {
		serve(p.server, func() error { return p.server.Serve(p.listener) })
	}
	serve(native, func() error { return native.ServeTLS(listener, "", "") })
	group.Go(func() error { own.run(ctx, logger); return nil })
	group.Go(func() error { review(ctx, s, logger); return nil })
	notify("READY=1\nSTATUS=serving on " + listener.Addr().String())
	ready(listener.Addr().String())
	group.Go(func() error { <-ctx.Done(); notify("STOPPING=1"); return nil })
	return group.Wait()
}

// plainHTTP is one listener without TLS.
type plainHTTP struct {
	server   *http.Server
	listener net.Listener
}

// public opens the plain HTTP listeners: CRLs on one, metrics on another, and
// neither shows what the other is for.
func (h *house) public(s *server.Server) (all []plainHTTP, err error) {
	defer func() {
		if err != nil {
			for _, p := range all {
				_ = p.listener.Close()
			}
		}
	}()
	add := func(open net.Listener, address string, routes ...string) error {
		if open == nil && address == "" {
			return nil
		}
		plain, err := s.PublicHTTP(routes...)
		if err != nil {
			return err
		}
		if open == nil {
			if open, err = net.Listen("tcp", address); err != nil {
				return fmt.Errorf("listening: %w", err)
			}
		}
		all = append(all, plainHTTP{plain, open})
		return nil
	}
	if err := add(h.config.crl, h.config.CRLListen, api.RouteCRL, api.RouteCA); err != nil {
		return all, err
	}
	return all, add(nil, h.config.MetricsListen, api.RouteMetrics, api.RouteLive, api.RouteReady)
}

func (h *house) server(ctx context.Context, logger *slog.Logger) (*server.Server, error) {
	trusted, _, err := h.ca.Trust(ctx)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	for _, r := range trusted {
		roots.AddCert(r)
	}
	return server.New(server.Config{
		Door: h.door, Keys: h.keys, CA: h.ca, Log: h.log, DB: h.db,
		Store:   server.Store{ID: h.store.id.String(), Mode: h.store.mode, Domain: h.store.domain, OnlineRoot: h.store.onlineRoot, Environments: h.rings.Environments()},
		Devices: []server.Device{{Name: "main", Kind: deviceKind(h.config.Device), Device: h.device}},
		Roots:   roots, Version: version, Logger: logger,
	})
}

// review verifies the log and compares what decides with it, now and once a day. It goes
// on in the background, because a long log takes a while to read.
func review(ctx context.Context, s *server.Server, logger *slog.Logger) {
	for {
		if err := s.Review(ctx); err != nil && ctx.Err() == nil {
			logger.Error("comparing the store with its log", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(24 * time.Hour):
		}
	}
}

// ownCertificate is the service's TLS certificate. Its key lives in memory only.
type ownCertificate struct {
	house   *house
	current atomic.Pointer[tls.Certificate]
	renewal sync.Mutex
}

func (o *ownCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return o.current.Load(), nil
}

func (o *ownCertificate) renew(ctx context.Context) error {
	o.renewal.Lock()
	defer o.renewal.Unlock()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	if err != nil {
		return err
	}
	order := ca.Order{
		CSR: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), Profile: "server", Environment: keyring.Ops, TTL: serverLifetime,
	}
	for _, name := range o.house.config.Names {
		if ip, err := netip.ParseAddr(name); err == nil {
			order.IPs = append(order.IPs, ip)
		} else {
			order.DNS = append(order.DNS, name)
		}
	}
	issued, err := o.house.issue(ctx, "the service's own TLS certificate", order)
	if err != nil {
		return err
	}
	pair := &tls.Certificate{PrivateKey: private, Certificate: [][]byte{issued.Leaf.Raw}, Leaf: issued.Leaf}
	chain, err := pki.ParseBundle(issued.Chain)
	if err != nil {
		return err
	}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	o.current.Store(pair)
	return nil
}

// run renews at two thirds of the life, and tries again each minute while that fails.
func (o *ownCertificate) run(ctx context.Context, logger *slog.Logger) {
	for wait := serverLifetime * 2 / 3; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = serverLifetime * 2 / 3
		if err := o.renew(ctx); err != nil {
			logger.Error("renewing the service's own certificate", "error", err)
			wait = time.Minute
		}
	}
}

// issue has a certificate issued for the service itself, or for whoever the
// operator of the host names; no network peer can ask for it.
func (h *house) issue(ctx context.Context, why string, order ca.Order) (issued *ca.Issued, err error) {
	acts, err := h.ca.Acts(order)
	if err != nil {
		return nil, err
	}
	_, err = h.door.System(ctx, why, acts, func(ctx context.Context, g guard.Grant) (err error) {
		issued, err = h.ca.Issue(ctx, g, order)
		return err
	})
	return issued, err
}

// notify tells systemd how it stands with us (sd_notify(3)); without systemd, nobody.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}
