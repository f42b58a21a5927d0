package ca

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

const (
	rootLifetime   = 10 * 365 * 24 * time.Hour
	issuerLifetime = 2 * 365 * 24 * time.Hour

	intentCreate = "pki.create-issuer"
)

// NewIssuer says what issuer to make.
type NewIssuer struct {
	Environment   string        // "" makes the root
	Authenticates bool          // its certificates may identify principals
	Owner         string        // of an issuer; "" is whoever asks
	Lifetime      time.Duration // zero: ten years for the root, two for an issuer
}

// effect is what an intent needs to be reconciled: the device key that may exist.
type effect struct {
	Issuer string `json:"issuer"`
	Key    key.ID `json:"key"`
	Label  string `json:"label"`
}

// Create makes a root (its key stays in the device: for dev, or where it was
// explicitly asked for) or the issuer of an environment under it. The grant is
// for pki:CreateIssuer on [IssuerObject]. It returns key.ErrExists when
// there is an active one.
func (s *Service) Create(ctx context.Context, g guard.Grant, in NewIssuer) (*Issuer, error) {
	use, err := s.config.Door.Redeem(g, policy.CreateIssuer, IssuerObject(in.Environment).Name)
	if err != nil {
		return nil, err
	}
	root, err := s.prepare(ctx, in)
	if err != nil {
		return nil, err
	}
	i := &Issuer{
		ID: key.NewID().String(), Environment: in.Environment, State: stateActive, Mode: modeDirect, Authenticates: in.Authenticates,
		Owner: cmp.Or(in.Owner, use.Principal.SPIFFEID), CreatedBy: use.Principal.SPIFFEID, CreatedAt: time.Now().UTC().Truncate(time.Microsecond),
	}
	if root != nil {
		i.Parent = root.ID
	}
	use.Created(i.Object())
	if err := s.generate(ctx, g, i); err != nil {
		return nil, err
	}
	if err := s.certify(i, root, in); err != nil {
		return nil, err
	}
	if err := s.store(ctx, g, i); err != nil {
		return nil, err
	}
	if _, err := s.load(ctx, s.issuers.Load()); err != nil {
		return nil, err
	}
	// Peers that check the whole chain want a CRL from the first handshake on.
	if err := s.makeCRL(ctx, i.ID, ""); err != nil {
		return nil, fmt.Errorf("the issuer of %s exists, but its first CRL could not be made; it will be tried again: %w", i.Name(), err)
	}
	return i, nil
}

// prepare checks everything that can be checked before the device acts.
func (s *Service) prepare(ctx context.Context, in NewIssuer) (root *Issuer, err error) {
	all, err := s.load(ctx, s.issuers.Load())
	if err != nil {
		return nil, err
	}
	if in.Environment == rootName {
		return nil, fmt.Errorf("%w: no environment may be called %s", key.ErrInvalid, rootName)
	}
	if have := all.active(in.Environment); have != nil {
		return nil, fmt.Errorf("%w: %s has an issuer, %s", key.ErrExists, have.Name(), have.ID)
	}
	if in.Lifetime < 0 {
		return nil, fmt.Errorf("%w: a CA lifetime of %s", key.ErrInvalid, in.Lifetime)
	}
	if in.Environment == "" {
		return nil, nil //nolint:nilnil // a root has no root above it
	}
	if _, err := pki.TrustDomain(in.Environment, s.config.Domain); err != nil {
		return nil, err
	}
	if root = all.active(""); root == nil {
		return nil, fmt.Errorf("%w: there is no root yet: create it first", key.ErrNotFound)
	}
	return root, root.usable()
}

// generate makes the issuer's key. The intent before it names the key, so that
// a crash leaves nothing in the device that nobody knows.
func (s *Service) generate(ctx context.Context, g guard.Grant, i *Issuer) error {
	e := effect{Issuer: i.ID, Key: key.NewID()}
	e.Label = "ca/" + i.Name() + "/" + i.ID
	if len(e.Label) > 64 { // the device's limit; the issuer's id makes it unique
		e.Label = "ca/" + i.ID
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding an intent: %w", err)
	}
	if err := g.Intent(ctx, intentCreate, i.Name(), data); err != nil {
		return err
	}
	i.ref, err = s.config.Device.Generate(ctx, key.Spec{ID: e.Key, Label: e.Label, Algorithm: key.ECDSAP256, Usage: key.UsageSign})
	if err != nil {
		return fmt.Errorf("generating the key of issuer %s: %w", i.Name(), err)
	}
	return nil
}

// certify makes the certificate, self-signed without root.
func (s *Service) certify(i, root *Issuer, in NewIssuer) error {
	signer, err := key.NewSigner(s.config.Device, i.ref)
	if err != nil {
		return err
	}
	plan := pki.Plan{CommonName: commonName(i), Lifetime: in.Lifetime}
	if len(s.config.Domain) <= 64 {
		plan.Organization = s.config.Domain
	}
	var checked *pki.Checked
	if root == nil {
		plan.Lifetime = cmp.Or(plan.Lifetime, rootLifetime)
		checked, err = pki.CheckRoot(signer, plan, time.Now())
	} else {
		plan.Lifetime = cmp.Or(plan.Lifetime, issuerLifetime)
		domain, errDomain := pki.TrustDomain(i.Environment, s.config.Domain)
		if errDomain != nil {
			return errDomain
		}
		checked, err = root.issuer.CheckIssuer(signer.Public(), domain, plan, time.Now())
	}
	if err != nil {
		return err
	}
	if i.Certificate, err = checked.Sign(); err != nil {
		return err
	}
	if root != nil {
		i.Chain = pki.EncodePEM(i.Certificate)
	} else {
		i.Chain = []byte{}
	}
	return nil
}

// commonName differs for every CA ever made: verifiers choose CRLs by the
// issuer's name, and one CA's must not be taken for its successor's.
func commonName(i *Issuer) string {
	tail := " " + i.ID[:8]
	if i.Environment == "" {
		return "Sealwright root" + tail
	}
	head := "Sealwright issuer "
	return head + i.Environment[:min(len(i.Environment), 64-len(head)-len(tail))] + tail
}

func (s *Service) store(ctx context.Context, g guard.Grant, i *Issuer) error {
	columns := i.columns()
	columns = append(columns, s.config.Rows.RowMAC("issuer", columns...))
	row := rowOf(i.Certificate, cmp.Or(i.Parent, i.ID), "issuer", "", i.CreatedBy)
	return g.Update(ctx, func(tx *storage.Tx) error {
		var active int64
		err := tx.QueryRow(`SELECT COUNT(*) FROM issuer WHERE environment = $1 AND state = 'active' AND disabled_at = 0`, i.Environment).Scan(&active)
		if err != nil {
			return fmt.Errorf("storing an issuer: %w", err)
		}
		if active > 0 {
			return fmt.Errorf("%w: %s got an issuer meanwhile", key.ErrExists, i.Name())
		}
		_, err = tx.Exec(`INSERT INTO issuer (id, environment, parent, certificate, chain, ref, state, mode, authenticates, owner, created_by, created_at, expires_at, disabled_at, mac)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`, columns...)
		if err != nil {
			return err
		}
		return row.insert(tx)
	})
}

// Reconcile settles creations of issuers whose outcome a crash left open: the
// device key of an issuer that was never stored is destroyed. Call it at start,
// before anything is created.
func (s *Service) Reconcile(ctx context.Context) error {
	open, err := s.config.Door.Intents(ctx, intentCreate)
	if err != nil {
		return err
	}
	for _, intent := range open {
		var e effect
		if err := json.Unmarshal(intent.Data, &e); err != nil {
			return fmt.Errorf("%w: intent %s: %w", key.ErrIntegrity, intent.ID, err)
		}
		act := guard.Act{Action: policy.CreateIssuer, Object: policy.Object{Kind: policy.KindIssuer, Name: intent.Object, ID: e.Issuer}}
		err := s.config.Door.Reconcile(ctx, intent, act, func(ctx context.Context) (string, error) { return s.settle(ctx, e) })
		if err != nil {
			return err
		}
	}
	return nil
}

// settle finds out what became of a key. An open intent means that no issuer
// row was stored, because row and outcome are one transaction; that is looked
// up all the same before anything is destroyed.
func (s *Service) settle(ctx context.Context, e effect) (outcome string, err error) {
	all, err := s.load(ctx, s.issuers.Load())
	if err != nil {
		return "", err
	}
	for _, i := range all.list {
		if i.ID == e.Issuer || i.ref.ID == e.Key {
			return "", fmt.Errorf("%w: the key %s of an open intent serves the issuer of %s", key.ErrIntegrity, e.Label, i.Name())
		}
	}
	ref, err := s.config.Device.Find(ctx, e.Key)
	switch {
	case errors.Is(err, key.ErrNotFound):
		return "nothing was made", nil
	case err != nil:
		return "", fmt.Errorf("looking for device key %s: %w", e.Label, err)
	case ref.Label != e.Label:
		return "", fmt.Errorf("%w: the device key of an open intent is called %s there, not %s", key.ErrIntegrity, ref.Label, e.Label)
	}
	if err := s.config.Device.Destroy(ctx, ref); err != nil && !errors.Is(err, key.ErrNotFound) {
		return "", fmt.Errorf("destroying device key %s: %w", e.Label, err)
	}
	return "the unused key was destroyed", nil
}
