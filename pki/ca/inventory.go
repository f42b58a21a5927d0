package ca

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

const (
	maxPage     = 1000
	defaultPage = 100
	maxScan     = 20 // pages looked at to fill one, when the caller may see few rows
)

// Filter chooses certificates; zero fields do not choose.
type Filter struct {
	Environment   string // also the object the door is asked about: see CertificatesObject
	Identity      string
	Issuer        string // id
	ExpiresAfter  time.Time
	ExpiresBefore time.Time
	Revoked       bool   // only the revoked
	After         string // what List returned as next
	Limit         int    // zero means 100; at most 1,000
}

// CertificatesObject is what listing is about: an environment, or all for "".
func CertificatesObject(environment string) policy.Object {
	if environment == "" {
		return policy.Object{Kind: policy.KindSystem, Name: "certificates"}
	}
	return policy.Object{Kind: policy.KindEnvironment, Name: environment, Attributes: map[string]string{"environment": environment}}
}

// Object is the certificate as policies and entries name it.
func (c *Certificate) Object() policy.Object {
	o := policy.Object{Kind: policy.KindCertificate, Name: c.Serial, Attributes: map[string]string{
		"environment": c.Environment, "profile": c.Profile, "issuer": c.Environment, "identity": c.Identity,
	}}
	if id, err := pki.ParseSPIFFEID(c.Identity); err == nil {
		o.Name, o.Attributes["service"] = c.Environment+id.Path, serviceOf(id)
	}
	return o
}

// ObjectOf returns what to ask the door about before Get and Revoke. It decides
// nothing and tells nothing but the object's name, which is the serial itself
// where no such certificate exists.
func (s *Service) ObjectOf(ctx context.Context, serial string) (policy.Object, error) {
	c, err := s.lookup(ctx, serial)
	if errors.Is(err, key.ErrNotFound) {
		c, err = &Certificate{Serial: serial}, nil
	}
	if err != nil {
		return policy.Object{}, err
	}
	return c.Object(), nil
}

// redeemFor redeems a grant for the certificate with that serial, and only then
// says whether there is one.
func (s *Service) redeemFor(ctx context.Context, g guard.Grant, action policy.Action, serial string) (*Certificate, guard.Use, error) {
	c, errLookup := s.lookup(ctx, serial)
	if c == nil {
		c = &Certificate{Serial: serial}
	}
	use, err := s.config.Door.Redeem(g, action, c.Object().Name)
	if err != nil {
		return nil, guard.Use{}, err
	}
	return c, use, errLookup
}

func (s *Service) lookup(ctx context.Context, serial string) (*Certificate, error) {
	if err := checkSerial(serial); err != nil {
		return nil, err
	}
	all, err := s.current(ctx)
	for fresh := range 2 {
		if fresh == 1 { // another server may just have made its issuer
			all, err = s.load(ctx, all)
		}
		if err != nil {
			return nil, err
		}
		c, err := s.scan(s.config.DB.QueryRow(ctx, selectCertificate+`WHERE c.serial = $1`, serial), all)
		switch {
		case noRows(err):
			return nil, fmt.Errorf("certificate %s: %w", serial, key.ErrNotFound)
		case err != nil:
			return nil, fmt.Errorf("reading the inventory: %w", err)
		case all.byID[c.Issuer] != nil:
			return c, nil
		}
	}
	return nil, fmt.Errorf("%w: certificate %s has no issuer", key.ErrIntegrity, serial)
}

// checkSerial accepts lower-case hex without leading zeros.
func checkSerial(serial string) error {
	if serial == "" || len(serial) > 40 || serial[0] == '0' || strings.Trim(serial, "0123456789abcdef") != "" {
		return fmt.Errorf("%w: serial %.60q: use up to 40 lower-case hex digits without leading zeros, as 'cert list' prints them", key.ErrInvalid, serial)
	}
	return nil
}

// Get returns one certificate. The grant is for pki:ListCertificates on its Object.
func (s *Service) Get(ctx context.Context, g guard.Grant, serial string) (*Certificate, error) {
	c, _, err := s.redeemFor(ctx, g, policy.ListCertificates, serial)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// List returns a page of what the caller may see, by expiry, and where the next
// page begins, "" after the last. The grant is for pki:ListCertificates on
// CertificatesObject(f.Environment).
func (s *Service) List(ctx context.Context, g guard.Grant, f Filter) (page []Certificate, next string, err error) {
	use, err := s.config.Door.Redeem(g, policy.ListCertificates, CertificatesObject(f.Environment).Name)
	if err != nil {
		return nil, "", err
	}
	if f.Limit == 0 {
		f.Limit = defaultPage
	}
	if f.Limit < 1 || f.Limit > maxPage {
		return nil, "", fmt.Errorf("%w: a page of %d: ask for 1 to %d", key.ErrInvalid, f.Limit, maxPage)
	}
	all, err := s.load(ctx, s.issuers.Load())
	if err != nil {
		return nil, "", err
	}
	for range maxScan {
		rows, err := s.page(ctx, f, all)
		if err != nil {
			return nil, "", err
		}
		for _, c := range rows {
			if len(page) == f.Limit {
				return page, f.After, nil
			}
			f.After = cursor(&c)
			if use.May(policy.ListCertificates, c.Object()) {
				page = append(page, c)
			}
		}
		if len(rows) <= f.Limit {
			return page, "", nil
		}
	}
	return page, f.After, nil
}

// cursor is the last row of a page: expiry and serial, the order of the list.
func cursor(c *Certificate) string {
	return strconv.FormatInt(c.NotAfter.UnixMicro(), 36) + "." + c.Serial
}

func parseCursor(s string) (after int64, serial string, err error) {
	if s == "" {
		return 0, "", nil
	}
	at, serial, ok := strings.Cut(s, ".")
	after, err = strconv.ParseInt(at, 36, 64)
	if !ok || err != nil || checkSerial(serial) != nil {
		return 0, "", fmt.Errorf("%w: page %.80q: pass what the previous page returned as next", key.ErrInvalid, s)
	}
	return after, serial, nil
}

// page reads one row more than asked for, which tells whether there is a next page.
func (s *Service) page(ctx context.Context, f Filter, all *issuers) ([]Certificate, error) {
	after, serial, err := parseCursor(f.After)
	if err != nil {
		return nil, err
	}
	q := query{text: selectCertificate + "WHERE c.not_after >= "}
	q.arg(max(after, storage.Micros(f.ExpiresAfter)))
	if serial != "" {
		q.text += " AND (c.not_after > "
		q.arg(after)
		q.text += " OR c.serial > "
		q.arg(serial)
		q.text += ")"
	}
	if !f.ExpiresBefore.IsZero() {
		q.where("c.not_after < ", f.ExpiresBefore.UnixMicro())
	}
	if f.Identity != "" {
		q.where("c.identity = ", f.Identity)
	}
	if f.Issuer != "" {
		q.where("c.issuer = ", f.Issuer)
	}
	if f.Environment != "" {
		q.text += " AND c.issuer IN (SELECT id FROM issuer WHERE environment = "
		q.arg(f.Environment)
		q.text += ")"
	}
	if f.Revoked {
		q.text += " AND r.serial IS NOT NULL"
	}
	q.text += " ORDER BY c.not_after, c.serial LIMIT "
	q.arg(int64(f.Limit + 1))
	rows, err := s.config.DB.Query(ctx, q.text, q.args...)
	if err != nil {
		return nil, fmt.Errorf("listing certificates: %w", err)
	}
	defer rows.Close()
	var list []Certificate
	for rows.Next() {
		c, err := s.scan(rows, all)
		if err != nil {
			return nil, err
		}
		list = append(list, *c)
	}
	return list, rows.Err()
}

// query is SQL under construction; every value is an argument.
type query struct {
	text string
	args []any
}

func (q *query) arg(v any) {
	q.args = append(q.args, v)
	q.text += "$" + strconv.Itoa(len(q.args))
}

func (q *query) where(condition string, v any) {
	q.text += " AND " + condition
	q.arg(v)
}

const selectCertificate = `SELECT c.serial, c.issuer, c.profile, c.identity, c.names, c.spki, c.issued_by, c.not_before, c.not_after,
	COALESCE(r.reason, 0), COALESCE(r.not_after, 0), COALESCE(r.revoked_at, 0), COALESCE(r.revoked_by, ''), r.mac
	FROM certificate c LEFT JOIN revocation r ON r.issuer = c.issuer AND r.serial = c.serial `

func (s *Service) scan(row scanner, all *issuers) (*Certificate, error) {
	var c Certificate
	var before, after, listed, revoked int64
	var mac []byte
	err := row.Scan(&c.Serial, &c.Issuer, &c.Profile, &c.Identity, &c.Names, &c.SPKI, &c.IssuedBy, &before, &after, &c.Reason, &listed, &revoked, &c.RevokedBy, &mac)
	if err != nil {
		return nil, err
	}
	c.NotBefore, c.NotAfter, c.RevokedAt = time.UnixMicro(before).UTC(), time.UnixMicro(after).UTC(), storage.Time(revoked)
	if i := all.byID[c.Issuer]; i != nil {
		c.Environment = i.Environment
	}
	if revoked == 0 {
		return &c, nil
	}
	r := revocation{c.Issuer, c.Serial, c.Reason, listed, revoked, c.RevokedBy}
	return &c, s.checkRevocation(r, mac)
}

// Identity implements guard.Inventory: it returns the SPIFFE ID of the
// unrevoked, unexpired certificate with that serial from an issuer that
// authenticates. Everything else is key.ErrUnauthenticated.
//
// A revocation counts even where its row does not authenticate: that is the
// direction in which a changed row can do no harm.
func (s *Service) Identity(ctx context.Context, serial string) (string, error) {
	refuse := func(why string) (string, error) {
		return "", fmt.Errorf("%w: the client certificate %.40s %s", key.ErrUnauthenticated, serial, why)
	}
	if checkSerial(serial) != nil {
		return refuse("has no serial of ours")
	}
	all, err := s.current(ctx)
	if err != nil {
		return "", err
	}
	var issuer, identity string
	var rows, after, revoked int64
	// Inventory rows carry no MAC, so a second one of the same serial must not
	// lead around the first one's revocation. Serials are 126 random bits: whatever
	// issuer a revocation names, it means this certificate.
	err = s.config.DB.QueryRow(ctx, `SELECT COUNT(*), COALESCE(MIN(issuer), ''), COALESCE(MIN(identity), ''), COALESCE(MIN(not_after), 0),
		(SELECT COUNT(*) FROM revocation WHERE serial = $1 AND issuer IN (SELECT id FROM issuer)) FROM certificate WHERE serial = $1`, serial).Scan(&rows, &issuer, &identity, &after, &revoked)
	if err != nil {
		return "", fmt.Errorf("reading the inventory: %w", err)
	}
	if rows == 0 {
		return refuse("is not in the inventory")
	}
	i := all.byID[issuer]
	if i == nil {
		if all, err = s.load(ctx, all); err != nil {
			return "", err
		}
		i = all.byID[issuer]
	}
	switch {
	case rows > 1:
		return refuse("is in the inventory more than once")
	case revoked != 0:
		return refuse("is revoked: get a new one")
	case time.Now().UnixMicro() > after+time.Second.Microseconds():
		return refuse("expired: get a new one")
	case i == nil || !i.Authenticates:
		return refuse("is not from an issuer whose certificates identify anybody")
	case i.State == stateRevoked || !i.DisabledAt.IsZero():
		return refuse("is from an issuer that was switched off")
	case identity == "":
		return refuse("has no SPIFFE ID")
	}
	// An issuer's name constraint binds it to its environment, so a row that says
	// otherwise was moved to an issuer that did not sign it.
	if id, err := pki.ParseSPIFFEID(identity); err != nil || id.TrustDomain != i.Environment+"."+s.config.Domain {
		return refuse("names an identity outside its issuer's environment")
	}
	return identity, nil
}
