package ca_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/guard/guardtest"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/policy"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// house is a door with a certificate authority behind it: a root and the
// issuers of dev and ops, keys in a device.
type house struct {
	*guardtest.Kit
	ca     *ca.Service
	device key.Device
}

// inventory lets the door ask a certificate authority that is opened after it,
// and the kit's own credentials.
type inventory struct {
	guard.Inventory
	ca *ca.Service
}

func (i *inventory) Identity(ctx context.Context, serial string) (string, error) {
	if id, err := i.Inventory.Identity(ctx, serial); err == nil || i.ca == nil {
		return id, err
	}
	return i.ca.Identity(ctx, serial)
}

// empty is a house without issuers.
func empty(t testing.TB, device key.Device, options ...guardtest.Option) *house {
	t.Helper()
	inv := &inventory{}
	options = append(options, func(c *guard.Config) { inv.Inventory, c.Inventory = c.Inventory, inv })
	h := &house{device: device, Kit: guardtest.New(t, options...)}
	h.ca = h.open(t, ca.Config{})
	inv.ca = h.ca
	return h
}

func (h *house) open(t testing.TB, c ca.Config) *ca.Service {
	t.Helper()
	c.DB, c.Door, c.Rows, c.Device, c.Domain, c.CRLBase = h.DB, h.Door, h.Rows, h.device, guardtest.Domain, "http://127.0.0.1:8471/crl/"
	s, err := ca.Open(t.Context(), c)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func build(t testing.TB) *house {
	t.Helper()
	return furnish(t, empty(t, softhsmtest.Device(t)))
}

func furnish(t testing.TB, h *house) *house {
	t.Helper()
	for _, in := range []ca.NewIssuer{{}, {Environment: "dev", Authenticates: true}, {Environment: "ops", Authenticates: true}, {Environment: "lab"}} {
		h.create(t, in)
	}
	return h
}

func (h *house) create(t testing.TB, in ca.NewIssuer) {
	t.Helper()
	h.System(t, guard.Act{Action: policy.CreateIssuer, Object: ca.IssuerObject(in.Environment)}, func(ctx context.Context, g guard.Grant) error {
		_, err := h.ca.Create(ctx, g, in)
		return err
	})
}

// enter asks the door and returns what act made.
func enter[T any](t testing.TB, h *house, who guard.Credential, acts []guard.Act, act func(context.Context, guard.Grant) (T, error)) (T, error) {
	t.Helper()
	var out T
	_, err := h.Enter(t.Context(), who, func(ctx context.Context, g guard.Grant) (err error) {
		out, err = act(ctx, g)
		return err
	}, acts...)
	return out, err
}

func (h *house) issueAs(t testing.TB, who guard.Credential, o ca.Order) (*ca.Issued, error) {
	t.Helper()
	acts, err := h.ca.Acts(o)
	if err != nil {
		return nil, err
	}
	return enter(t, h, who, acts, func(ctx context.Context, g guard.Grant) (*ca.Issued, error) { return h.ca.Issue(ctx, g, o) })
}

func (h *house) issue(t testing.TB, o ca.Order) *ca.Issued {
	t.Helper()
	out, err := h.issueAs(t, h.Admin, o)
	must(t, err)
	return out
}

func (h *house) revoke(t testing.TB, serial string, reason int) (*ca.Certificate, error) {
	t.Helper()
	object, err := h.ca.ObjectOf(t.Context(), serial)
	if err != nil {
		return nil, err
	}
	return enter(t, h, h.Admin, []guard.Act{{Action: policy.RevokeCertificate, Object: object}}, func(ctx context.Context, g guard.Grant) (*ca.Certificate, error) {
		return h.ca.Revoke(ctx, g, serial, reason)
	})
}

func (h *house) get(t testing.TB, who guard.Credential, serial string) (*ca.Certificate, error) {
	t.Helper()
	object, err := h.ca.ObjectOf(t.Context(), serial)
	if err != nil {
		return nil, err
	}
	return enter(t, h, who, []guard.Act{{Action: policy.ListCertificates, Object: object}}, func(ctx context.Context, g guard.Grant) (*ca.Certificate, error) {
		return h.ca.Get(ctx, g, serial)
	})
}

type listed struct {
	page []ca.Certificate
	next string
}

func (h *house) list(t testing.TB, who guard.Credential, f ca.Filter) (listed, error) {
	t.Helper()
	return enter(t, h, who, []guard.Act{{Action: policy.ListCertificates, Object: ca.CertificatesObject(f.Environment)}}, func(ctx context.Context, g guard.Grant) (out listed, err error) {
		out.page, out.next, err = h.ca.List(ctx, g, f)
		return out, err
	})
}

// allow puts a policy in force beside the default one.
func (h *house) allow(t testing.TB, text string) {
	t.Helper()
	h.System(t, guard.Act{Action: policy.ApplyPolicy, Object: guard.RulesObject()}, func(ctx context.Context, g guard.Grant) error {
		_, err := h.Door.Apply(ctx, g, guard.NewRules{Text: policy.Default().Text() + text})
		return err
	})
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

func csr(t testing.TB, signer crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, signer)
	must(t, err)
	return der
}

// order asks for a service's certificate with a new key.
func order(t testing.TB, identity string) ca.Order {
	t.Helper()
	return ca.Order{CSR: csr(t, newKey(t)), Environment: "dev", Identity: identity, TTL: time.Hour}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: %v, want %v", what, err, kind)
	}
}
