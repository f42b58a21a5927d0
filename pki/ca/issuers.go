package ca

import (
	"cmp"
	"context"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// rootName is the name of the root among issuers; no environment may have it.
const rootName = "root"

const (
	stateActive  = "active"
	stateRevoked = "revoked"
	modeDirect   = "direct"
)

// Issuer is one CA of the house.
type Issuer struct {
	ID            string
	Environment   string // "" for a root
	Parent        string // id; "" for a root
	Certificate   *x509.Certificate
	Chain         []byte // PEM, to be sent after a leaf: leaf-first, without the root
	State         string // active, prepared, tainted, revoked
	Mode          string // direct: the device signs each certificate
	Authenticates bool   // its certificates may identify principals
	Owner         string
	CreatedBy     string
	CreatedAt     time.Time
	DisabledAt    time.Time // zero: enabled

	ref    key.Ref
	issuer *pki.Issuer
}

// Name is the issuer's name at the door: root, or its environment.
func (i *Issuer) Name() string { return cmp.Or(i.Environment, rootName) }

// Object is the issuer as policies and entries name it.
func (i *Issuer) Object() policy.Object {
	o := IssuerObject(i.Environment)
	o.ID = i.ID
	o.Attributes["mode"], o.Attributes["owner"] = i.Mode, i.Owner
	return o
}

// IssuerObject names the issuer of an environment, the root for "".
func IssuerObject(environment string) policy.Object {
	return policy.Object{Kind: policy.KindIssuer, Name: cmp.Or(environment, rootName), Attributes: map[string]string{"environment": environment, "mode": modeDirect}}
}

// IssuersObject returns the one object that reading all issuers is about.
func IssuersObject() policy.Object { return policy.Object{Kind: policy.KindSystem, Name: "issuers"} }

// usable refuses an issuer that may not sign now.
func (i *Issuer) usable() error {
	switch {
	case !i.DisabledAt.IsZero():
		return fmt.Errorf("%w: the issuer of %s is switched off", key.ErrDisabled, i.Name())
	case i.State != stateActive:
		return fmt.Errorf("%w: the issuer of %s is %s", key.ErrDisabled, i.Name(), i.State)
	case time.Now().After(i.Certificate.NotAfter):
		return fmt.Errorf("%w: the issuer of %s expired at %s: make a new one", key.ErrDisabled, i.Name(), i.Certificate.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// columns are the issuer's columns in the order of the table; the MAC covers all.
func (i *Issuer) columns() []any {
	return []any{
		i.ID, i.Environment, i.Parent, i.Certificate.Raw, i.Chain, i.ref.Encode(), i.State, i.Mode, flag(i.Authenticates), i.Owner, i.CreatedBy,
		i.CreatedAt.UnixMicro(), i.Certificate.NotAfter.UnixMicro(), storage.Micros(i.DisabledAt),
	}
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// issuers is what this process knows of one authz_epoch.
type issuers struct {
	epoch int64
	list  []*Issuer // roots first, then by environment
	byID  map[string]*Issuer
}

func (all *issuers) active(environment string) *Issuer {
	for _, i := range all.list {
		if i.Environment == environment && i.State == stateActive && i.DisabledAt.IsZero() {
			return i
		}
	}
	return nil
}

// current returns the issuers, read again when access was narrowed since, for
// then an issuer may have been switched off, here or on another server.
func (s *Service) current(ctx context.Context) (*issuers, error) {
	have := s.issuers.Load()
	if have.epoch == s.config.DB.Epoch() {
		return have, nil
	}
	return s.load(ctx, have)
}

// find looks for the active issuer of an environment, and once more in the
// store: another server may just have made it.
func (s *Service) find(ctx context.Context, environment string) (*Issuer, error) {
	all, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	if i := all.active(environment); i != nil {
		return i, i.usable()
	}
	if all, err = s.load(ctx, all); err != nil {
		return nil, err
	}
	if i := all.active(environment); i != nil {
		return i, i.usable()
	}
	return nil, fmt.Errorf("%w: there is no issuer for %s: there are %s", key.ErrNotFound, cmp.Or(environment, "the "+rootName), all.names())
}

func (all *issuers) names() string {
	text := ""
	for _, i := range all.list {
		if text != "" {
			text += ", "
		}
		text += i.Name()
	}
	return cmp.Or(text, "none")
}

// load reads all issuers, unless somebody replaced old meanwhile.
func (s *Service) load(ctx context.Context, old *issuers) (*issuers, error) {
	s.loading.Lock()
	defer s.loading.Unlock()
	if have := s.issuers.Load(); have != old && have.epoch == s.config.DB.Epoch() {
		return have, nil
	}
	// The epoch before the rows: rows newer than it only mean reading once more.
	next := &issuers{epoch: s.config.DB.Epoch(), byID: map[string]*Issuer{}}
	rows, err := s.config.DB.Query(ctx, selectIssuer)
	if err != nil {
		return nil, fmt.Errorf("reading issuers: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		i, err := s.scanIssuer(rows)
		if err != nil {
			return nil, err
		}
		next.list = append(next.list, i)
		next.byID[i.ID] = i
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading issuers: %w", err)
	}
	for _, i := range next.list {
		if err := s.join(i, next, old); err != nil {
			return nil, fmt.Errorf("issuer %s (%s): %w", i.Name(), i.ID, err)
		}
	}
	s.issuers.Store(next)
	return next, nil
}

const selectIssuer = `SELECT id, environment, parent, certificate, chain, ref, state, mode, authenticates, owner, created_by, created_at, expires_at, disabled_at, mac
	FROM issuer ORDER BY environment, created_at`

type scanner interface{ Scan(...any) error }

func (s *Service) scanIssuer(row scanner) (*Issuer, error) {
	var i Issuer
	var der, ref, mac []byte
	var authenticates, created, expires, disabled int64
	err := row.Scan(&i.ID, &i.Environment, &i.Parent, &der, &i.Chain, &ref, &i.State, &i.Mode, &authenticates, &i.Owner, &i.CreatedBy, &created, &expires, &disabled, &mac)
	if err != nil {
		return nil, fmt.Errorf("reading an issuer: %w", err)
	}
	// The MAC before anything is parsed.
	err = s.config.Rows.CheckRow(mac, "issuer", i.ID, i.Environment, i.Parent, der, i.Chain, ref, i.State, i.Mode, authenticates, i.Owner, i.CreatedBy, created, expires, disabled)
	if err != nil {
		return nil, fmt.Errorf("issuer %s: %w", i.ID, err)
	}
	i.Authenticates, i.CreatedAt, i.DisabledAt = authenticates != 0, time.UnixMicro(created).UTC(), storage.Time(disabled)
	if i.Certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("%w: certificate of issuer %s: %w", key.ErrIntegrity, i.ID, err)
	}
	if i.ref, err = key.DecodeRef(ref); err != nil {
		return nil, fmt.Errorf("%w: issuer %s: %w", key.ErrIntegrity, i.ID, err)
	}
	return &i, nil
}

// join gives an issuer its key, and checks whose child it is. What was joined
// before is kept, with what it remembers of shapes that zlint passed.
func (s *Service) join(i *Issuer, all, old *issuers) error {
	if old != nil {
		if known := old.byID[i.ID]; known != nil && known.Certificate.Equal(i.Certificate) {
			i.issuer = known.issuer
			return nil
		}
	}
	var parent *x509.Certificate
	if i.Parent != "" {
		p := all.byID[i.Parent]
		if p == nil {
			return fmt.Errorf("%w: its parent %s is missing", key.ErrIntegrity, i.Parent)
		}
		parent = p.Certificate
	}
	if _, err := pki.ParseIssuer(i.Certificate.Raw, parent); err != nil {
		return err
	}
	signer, err := key.NewSigner(s.config.Device, i.ref)
	if err != nil {
		return err
	}
	crlURL := ""
	if s.config.CRLBase != "" {
		crlURL = s.config.CRLBase + i.ID + ".crl"
	}
	i.issuer, err = pki.NewIssuer(i.Certificate, signer, crlURL)
	return err
}

// Issuers returns all issuers, roots first.
func (s *Service) Issuers(ctx context.Context, g guard.Grant) ([]Issuer, error) {
	if _, err := s.config.Door.Redeem(g, policy.DescribeIssuer, IssuersObject().Name); err != nil {
		return nil, err
	}
	all, err := s.load(ctx, s.issuers.Load())
	if err != nil {
		return nil, err
	}
	list := make([]Issuer, len(all.list))
	for n, i := range all.list {
		list[n] = *i
	}
	return list, nil
}

// Trust returns what peers need to verify certificates of this house: public
// material for the wiring of servers, which asks no door.
func (s *Service) Trust(ctx context.Context) (roots, below []*x509.Certificate, err error) {
	all, err := s.current(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, i := range all.list {
		switch {
		case i.State == stateRevoked:
		case i.Parent == "":
			roots = append(roots, i.Certificate)
		default:
			below = append(below, i.Certificate)
		}
	}
	return roots, below, nil
}

// byName finds an issuer by id, by environment, or the root by its name.
func (s *Service) byName(ctx context.Context, name string) (*Issuer, error) {
	for fresh := range 2 {
		all, err := s.current(ctx)
		if fresh == 1 {
			all, err = s.load(ctx, all)
		}
		if err != nil {
			return nil, err
		}
		if i := all.byID[name]; i != nil {
			return i, nil
		}
		n := slices.IndexFunc(all.list, func(i *Issuer) bool { return i.Name() == name && i.State == stateActive })
		if n >= 0 {
			return all.list[n], nil
		}
	}
	return nil, fmt.Errorf("issuer %.80q: %w", name, key.ErrNotFound)
}

func noRows(err error) bool { return errors.Is(err, sql.ErrNoRows) }
