package ca_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/policy"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

func (h *house) tryCreate(t *testing.T, in ca.NewIssuer) error {
	t.Helper()
	_, err := h.Door.System(t.Context(), "test", []guard.Act{{Action: policy.CreateIssuer, Object: ca.IssuerObject(in.Environment)}}, func(ctx context.Context, g guard.Grant) error {
		_, err := h.ca.Create(ctx, g, in)
		return err
	})
	return err
}

func TestCreateRefused(t *testing.T) {
	h := empty(t, softhsmtest.Device(t))
	want(t, "an issuer before the root", h.tryCreate(t, ca.NewIssuer{Environment: "dev"}), key.ErrNotFound)
	must(t, h.tryCreate(t, ca.NewIssuer{}))
	want(t, "a second root", h.tryCreate(t, ca.NewIssuer{}), key.ErrExists)
	must(t, h.tryCreate(t, ca.NewIssuer{Environment: "dev"}))
	want(t, "a second issuer", h.tryCreate(t, ca.NewIssuer{Environment: "dev"}), key.ErrExists)
	want(t, "an environment root", h.tryCreate(t, ca.NewIssuer{Environment: "root"}), key.ErrInvalid)
	want(t, "an upper-case environment", h.tryCreate(t, ca.NewIssuer{Environment: "Dev"}), key.ErrInvalid)
	want(t, "longer than the root", h.tryCreate(t, ca.NewIssuer{Environment: "ops", Lifetime: 11 * 365 * 24 * time.Hour}), key.ErrInvalid)
	want(t, "a negative life", h.tryCreate(t, ca.NewIssuer{Environment: "ops", Lifetime: -time.Hour}), key.ErrInvalid)
	must(t, h.tryCreate(t, ca.NewIssuer{Environment: strings.Repeat("e", 63)}))
	for name, c := range map[string]ca.Config{"https": {CRLBase: "https://x/"}, "no slash": {CRLBase: "http://x"}, "no domain": {Domain: "-"}} {
		c.DB, c.Door, c.Rows, c.Device = h.DB, h.Door, h.Rows, h.device
		if c.Domain == "" {
			c.Domain = "x.test"
		}
		_, err := ca.Open(t.Context(), c)
		want(t, name, err, key.ErrInvalid)
	}
}

// TestReopen: a second process of the same store finds everything, and one that
// was there before finds what another made.
func TestReopen(t *testing.T) {
	h := empty(t, softhsmtest.Device(t))
	early := h.open(t, ca.Config{})
	furnish(t, h)
	h.ca = early
	h.issue(t, order(t, "service/payments"))
	h.ca = h.open(t, ca.Config{})
	h.issue(t, order(t, "service/payments"))
	if list := h.allIssuers(t); len(list) != 4 || list[0].Name() != "root" || list[1].Name() != "dev" || !list[1].Authenticates || list[2].Authenticates {
		t.Errorf("issuers %v", list)
	}
}

// crashing is a device that dies at a chosen step of a creation.
type crashing struct {
	key.Device
	before, after error // Generate fails before or after the key exists
}

func (d *crashing) Generate(ctx context.Context, spec key.Spec) (key.Ref, error) {
	if d.before != nil {
		return key.Ref{}, d.before
	}
	ref, err := d.Device.Generate(ctx, spec)
	if d.after != nil {
		return key.Ref{}, d.after
	}
	return ref, err
}

// TestReconcile: whatever step a creation dies at, the next start leaves no key
// that nobody knows and no open intent, and the creation succeeds.
func TestReconcile(t *testing.T) {
	gone := fmt.Errorf("%w: pulled out", key.ErrUnavailable)
	for name, c := range map[string]struct{ before, after error }{
		"before the key exists": {before: gone}, "after the key exists": {after: gone},
	} {
		t.Run(name, func(t *testing.T) {
			device := &crashing{Device: softhsmtest.Device(t)}
			h := empty(t, device)
			device.before, device.after = c.before, c.after
			if err := h.tryCreate(t, ca.NewIssuer{}); !errors.Is(err, key.ErrUnavailable) {
				t.Fatalf("creating with a dead device: %v", err)
			}
			open := h.intents(t)
			if len(open) != 1 {
				t.Fatalf("%d open intents", len(open))
			}
			device.before, device.after = nil, nil
			must(t, h.ca.Reconcile(t.Context()))
			if left := h.intents(t); len(left) != 0 {
				t.Errorf("%d intents stay open", len(left))
			}
			id := between(string(open[0].Data), `"key":"`, `"`)
			parsed, err := key.ParseID(id)
			must(t, err)
			if _, err := device.Find(t.Context(), parsed); !errors.Is(err, key.ErrNotFound) {
				t.Errorf("the key of the failed creation: %v", err)
			}
			must(t, h.tryCreate(t, ca.NewIssuer{}))
			must(t, h.ca.Reconcile(t.Context()))
			if got := len(h.allIssuers(t)); got != 1 {
				t.Errorf("%d issuers", got)
			}
		})
	}
}

// TestForgedIntents: who can write to the database cannot have a device key
// destroyed, neither one of an issuer nor any other in the device.
func TestForgedIntents(t *testing.T) {
	h := build(t)
	other, err := h.device.Generate(t.Context(), key.Spec{ID: key.NewID(), Label: "somebody/else", Algorithm: key.ECDSAP256, Usage: key.UsageSign})
	must(t, err)
	for name, data := range map[string]string{
		"made up": fmt.Sprintf(`{"issuer":"%s","key":"%s","label":"somebody/else"}`, key.NewID(), other.ID),
		"empty":   "",
	} {
		h.tryExec(t, `DELETE FROM intent WHERE resolved_at = 0`)
		h.tryExec(t, `INSERT INTO intent (id, kind, object, data, principal, created_at, resolved_at, outcome) VALUES ('f', 'pki.create-issuer', 'root', x'`+hex.EncodeToString([]byte(data))+`', 'system', 1, 0, '')`)
		want(t, name, h.ca.Reconcile(t.Context()), key.ErrIntegrity)
	}
	h.tryExec(t, `DELETE FROM intent WHERE id = 'f'`)
	h.tryExec(t, `UPDATE intent SET resolved_at = 0, outcome = ''`)
	want(t, "opened again", h.ca.Reconcile(t.Context()), key.ErrIntegrity)
	_, err = h.device.Find(t.Context(), other.ID)
	must(t, err)
	h.issue(t, order(t, "service/payments"))
}

func (h *house) intents(t *testing.T) []guard.Intent {
	t.Helper()
	open, err := h.Door.Intents(t.Context(), "pki.create-issuer")
	must(t, err)
	return open
}

func between(s, a, b string) string {
	_, s, _ = strings.Cut(s, a)
	s, _, _ = strings.Cut(s, b)
	return s
}

// TestChangedRows: who can write to the database cannot make or change an
// issuer, nor a revocation.
func TestChangedRows(t *testing.T) {
	h := build(t)
	serial := h.issue(t, order(t, "service/payments")).Certificate.Serial
	_, err := h.revoke(t, serial, 1)
	must(t, err)
	opens := func() error {
		s, err := ca.Open(t.Context(), ca.Config{DB: h.DB, Door: h.Door, Rows: h.Rows, Device: h.device, Domain: "sealwright.test"})
		if err == nil {
			must(t, s.Close())
		}
		return err
	}
	must(t, opens())
	for name, change := range map[string][2]string{
		"identifies":  {`UPDATE issuer SET authenticates = 1 WHERE environment = 'lab'`, `UPDATE issuer SET authenticates = 0 WHERE environment = 'lab'`},
		"state":       {`UPDATE issuer SET state = 'tainted' WHERE environment = 'lab'`, `UPDATE issuer SET state = 'active' WHERE environment = 'lab'`},
		"environment": {`UPDATE issuer SET environment = 'prod' WHERE environment = 'lab'`, `UPDATE issuer SET environment = 'lab' WHERE environment = 'prod'`},
		"disabled":    {`UPDATE issuer SET disabled_at = 1 WHERE environment = 'dev'`, `UPDATE issuer SET disabled_at = 0 WHERE environment = 'dev'`},
	} {
		h.tryExec(t, change[0])
		want(t, name, opens(), key.ErrIntegrity)
		h.tryExec(t, change[1])
		must(t, opens())
	}
	h.tryExec(t, `UPDATE revocation SET reason = 5`)
	_, err = h.get(t, h.Admin, serial)
	want(t, "a changed revocation, read", err, key.ErrIntegrity)
	_, err = h.ca.Identity(t.Context(), serial)
	want(t, "a changed revocation, as credential", err, key.ErrUnauthenticated)
	_, err = h.revoke(t, h.issue(t, order(t, "service/payments")).Certificate.Serial, 1)
	must(t, err) // it stands, though no CRL can be made from a list with a forged row
	der, err := h.ca.CRL(t.Context(), "dev")
	must(t, err)
	if n := len(parseCRL(t, der).RevokedCertificateEntries); n != 1 {
		t.Errorf("the CRL was made again from forged rows: %d entries", n)
	}
}
