package ca_test

import (
	"context"
	"errors"
	"testing"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

func (h *house) tryExec(t *testing.T, sql string) {
	t.Helper()
	must(t, h.DB.Update(t.Context(), func(tx *storage.Tx) error { _, err := tx.Exec(sql); return err }))
}

// TestGrants: every method refuses a grant that is zero, used, stale, foreign,
// or for something else.
func TestGrants(t *testing.T) {
	h := build(t)
	foreign := furnish(t, empty(t, h.device))
	o := order(t, "service/payments")
	serial := h.issue(t, o).Certificate.Serial
	object, err := h.ca.ObjectOf(t.Context(), serial)
	must(t, err)
	acts, err := h.ca.Acts(o)
	must(t, err)
	issuer := guard.Act{Action: policy.CreateIssuer, Object: ca.IssuerObject("new")}
	for name, m := range map[string]struct {
		acts []guard.Act
		call func(context.Context, guard.Grant) error
	}{
		"Create": {[]guard.Act{issuer}, func(ctx context.Context, g guard.Grant) error {
			_, err := h.ca.Create(ctx, g, ca.NewIssuer{Environment: "new"})
			return err
		}},
		"Issue": {acts, func(ctx context.Context, g guard.Grant) error { _, err := h.ca.Issue(ctx, g, o); return err }},
		"Get":   {[]guard.Act{{Action: policy.ListCertificates, Object: object}}, func(ctx context.Context, g guard.Grant) error { _, err := h.ca.Get(ctx, g, serial); return err }},
		"List": {[]guard.Act{{Action: policy.ListCertificates, Object: ca.CertificatesObject("")}}, func(ctx context.Context, g guard.Grant) error {
			_, _, err := h.ca.List(ctx, g, ca.Filter{})
			return err
		}},
		"Revoke":  {[]guard.Act{{Action: policy.RevokeCertificate, Object: object}}, func(ctx context.Context, g guard.Grant) error { _, err := h.ca.Revoke(ctx, g, serial, 1); return err }},
		"Issuers": {[]guard.Act{{Action: policy.DescribeIssuer, Object: ca.IssuersObject()}}, func(ctx context.Context, g guard.Grant) error { _, err := h.ca.Issuers(ctx, g); return err }},
	} {
		refused := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, guard.ErrGrant) {
				t.Errorf("%s with a %s grant: %v, want ErrGrant", name, what, err)
			}
		}
		ctx := t.Context()
		refused("zero", m.call(ctx, guard.Grant{}))
		_, err := foreign.Enter(ctx, foreign.Admin, func(ctx context.Context, g guard.Grant) error { return m.call(ctx, g) }, m.acts...)
		refused("foreign", err)
		other := guard.Act{Action: policy.SystemStatus, Object: policy.Object{Kind: policy.KindSystem, Name: "status"}}
		_, err = h.Enter(ctx, h.Admin, func(ctx context.Context, g guard.Grant) error { return m.call(ctx, g) }, other)
		refused("mismatched", err)
		var kept guard.Grant
		_, err = h.Enter(ctx, h.Admin, func(ctx context.Context, g guard.Grant) error {
			kept = g
			if err := m.call(ctx, g); err != nil {
				return err
			}
			refused("used", m.call(ctx, g))
			return nil
		}, m.acts...)
		if err != nil {
			t.Errorf("%s with a good grant: %v", name, err)
		}
		refused("stale", m.call(ctx, kept))
	}
}
