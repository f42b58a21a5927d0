// Package ca remembers what package pki builds: issuers whose keys live in a
// device, an inventory of every certificate, revocations and CRLs.
//
// Every method that takes a [guard.Grant] redeems it first and refuses any other
// than the one for its very act. A certificate is released only after its
// inventory row and its audit entry are durable, in one transaction. A
// revocation bumps the authorization epoch in its own transaction: as a
// credential a certificate ends with the next request, whatever its peers cache.
//
// Names of the objects at the door:
//
//	Issuer       root, or the environment: dev
//	Certificate  environment/kind/path of the identity: dev/service/payments;
//	             for an order also each host: dev/dns/www.example.org, dev/ip/192.0.2.1;
//	             for a certificate without identity its serial
package ca

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/storage"
)

// Config is what a certificate authority stands on.
type Config struct {
	DB     *storage.DB
	Door   *guard.Door
	Rows   guard.Authenticator // MACs of issuer and revocation rows
	Device key.Device          // holds the issuers' keys
	Domain string              // trust domains are <environment>.<Domain>
	// CRLBase is what peers fetch CRLs from, an http URL ending in a slash; the
	// issuer's id and .crl follow. It is written into certificates of seven
	// days and more; "" refuses such certificates.
	CRLBase string
	// Every is how often the service looks for CRLs that are due; zero means a minute.
	Every time.Duration
	Log   *slog.Logger // hears of CRLs that could not be made; nil is silent
}

func (c Config) every() time.Duration { return cmp.Or(c.Every, time.Minute) }
func (c Config) log() *slog.Logger    { return cmp.Or(c.Log, slog.New(slog.DiscardHandler)) }

// Service is a certificate authority. It is safe for concurrent use.
type Service struct {
	config Config // immutable after Open

	issuers atomic.Pointer[issuers] // replaced, never written to
	loading sync.Mutex              // held while issuers are read
	making  sync.Mutex              // held while a CRL is made: one signature serves all who wait

	stop    context.CancelFunc
	wake    chan struct{} // one slot: a CRL is due now
	running sync.WaitGroup
}

// Open reads the issuers, checks their rows and chains, and starts the loop
// that renews CRLs. A store without issuers is fine: create them. Close it
// before the door. ctx bounds only Open.
func Open(ctx context.Context, c Config) (*Service, error) {
	if err := pki.CheckDNS(c.Domain, false); err != nil {
		return nil, fmt.Errorf("domain of the certificate authority: %w", err)
	}
	if c.CRLBase != "" && (!strings.HasPrefix(c.CRLBase, "http://") || !strings.HasSuffix(c.CRLBase, "/")) {
		return nil, fmt.Errorf("%w: CRL address %q: use an http:// URL that ends in a slash; https would need a certificate to check a certificate", key.ErrInvalid, c.CRLBase)
	}
	s := &Service{config: c, wake: make(chan struct{}, 1)}
	if _, err := s.load(ctx, nil); err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.running.Go(func() { s.renewCRLs(background) })
	return s, nil
}

// Close stops renewing CRLs and waits.
func (s *Service) Close() error {
	s.stop()
	s.running.Wait()
	return nil
}
