package ca_test

import (
	"crypto/x509"
	"net/netip"
	"testing"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/guard/guardtest"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/pki/ca"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/storage/postgres"
	"github.com/sealwright/sealwright/storage/storagetest"
)

// TestLife runs one life of a certificate authority on each device and each store.
func TestLife(t *testing.T) {
	t.Run("softhsm", func(t *testing.T) { live(t, empty(t, softhsmtest.Device(t))) })
	t.Run("swtpm", func(t *testing.T) { live(t, empty(t, softhsmtest.TPMDevice(t))) })
	t.Run("postgres", func(t *testing.T) {
		db, err := postgres.Create(t.Context(), storagetest.Postgres(t))
		must(t, err)
		t.Cleanup(func() { must(t, db.Close()) })
		live(t, empty(t, softhsmtest.Device(t), guardtest.WithDB(db)))
	})
}

func live(t *testing.T, h *house) {
	t.Helper()
	ctx := t.Context()
	must(t, h.ca.Reconcile(ctx))
	furnish(t, h)
	h.ca = h.open(t, ca.Config{}) // everything is found again
	h.Register(t, guard.Principal{SPIFFEID: "spiffe://dev.sealwright.test/service/orders", Roles: []string{"administrator"}})
	o := order(t, "service/orders")
	o.DNS, o.IPs = []string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	var last *ca.Issued
	for range 5 {
		last = h.issue(t, o)
	}
	roots, err := pki.ParseBundle(last.Root)
	must(t, err)
	chain, err := pki.ParseBundle(last.Chain)
	must(t, err)
	must(t, pki.Verify(append([]*x509.Certificate{last.Leaf}, chain...), roots, x509.ExtKeyUsageClientAuth, time.Now()))

	f, found := ca.Filter{Identity: last.Certificate.Identity, ExpiresAfter: time.Now(), ExpiresBefore: time.Now().Add(2 * time.Hour), Environment: "dev", Issuer: last.Certificate.Issuer, Limit: 2}, 0
	for {
		out, err := h.list(t, h.Admin, f)
		must(t, err)
		if found += len(out.page); out.next == "" {
			break
		}
		f.After = out.next
	}
	if found != 5 {
		t.Errorf("listed %d certificates of 5", found)
	}

	mine := guard.Credential{Method: "mtls", Serial: last.Certificate.Serial, SPIFFEID: last.Certificate.Identity, NotAfter: last.Leaf.NotAfter}
	if id, err := h.ca.Identity(ctx, mine.Serial); err != nil || id != mine.SPIFFEID {
		t.Errorf("identity %s, %v", id, err)
	}
	_, err = h.revoke(t, mine.Serial, 4)
	must(t, err)
	_, err = h.ca.Identity(ctx, mine.Serial)
	want(t, "identity of the revoked", err, key.ErrUnauthenticated)
	_, err = h.revoke(t, mine.Serial, 4)
	want(t, "revoking twice", err, key.ErrConflict)
	der, err := h.ca.CRL(ctx, "dev")
	must(t, err)
	if l := parseCRL(t, der); len(l.RevokedCertificateEntries) != 1 || l.CheckSignatureFrom(chain[0]) != nil {
		t.Errorf("the CRL lists %d", len(l.RevokedCertificateEntries))
	}
	out, err := h.list(t, h.Admin, ca.Filter{Revoked: true})
	if err != nil || len(out.page) != 1 || out.page[0].Reason != 4 {
		t.Errorf("revoked: %v, %v", out.page, err)
	}
}
