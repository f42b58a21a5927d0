package guard

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// Principal is a registered identity. A certificate alone is not a principal.
type Principal struct {
	ID         string
	SPIFFEID   string
	PersonID   string // two certificates of one person are one person
	Roles      []string
	CreatedBy  string
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	DisabledAt time.Time // zero: enabled
}

// ParseSPIFFE splits spiffe://<environment>.<domain>/{user,service,node}/<path>.
// People live in ops. (SPIFFE-ID, section 2; each path segment obeys key.CheckSegment.)
func ParseSPIFFE(id string) (environment, kind, path string, err error) {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	domain, tail, ok2 := strings.Cut(rest, "/")
	environment, _, ok3 := strings.Cut(domain, ".")
	kind, path, ok4 := strings.Cut(tail, "/")
	if !ok || !ok2 || !ok3 || !ok4 || len(id) > 2048 || !slices.Contains([]string{"user", "service", "node"}, kind) {
		return "", "", "", fmt.Errorf("%w: SPIFFE ID %.200q: use spiffe://<environment>.<domain>/{user,service,node}/<name>", key.ErrInvalid, id)
	}
	for _, s := range append(strings.Split(domain, "."), strings.Split(path, "/")...) {
		if err := key.CheckSegment(s); err != nil {
			return "", "", "", fmt.Errorf("SPIFFE ID %.200q: %w", id, err)
		}
	}
	if kind == "user" && environment != "ops" {
		return "", "", "", fmt.Errorf("%w: SPIFFE ID %.200q: people live in the environment ops", key.ErrInvalid, id)
	}
	return environment, kind, path, nil
}

// Object is the principal as policies and entries name it.
func (p Principal) Object() policy.Object { return PrincipalObject(p.SPIFFEID) }

// PrincipalObject names a principal by its SPIFFE ID.
func PrincipalObject(spiffeID string) policy.Object {
	environment, kind, path, err := ParseSPIFFE(spiffeID)
	if err != nil {
		return policy.Object{Kind: policy.KindPrincipal, Name: spiffeID}
	}
	return policy.Object{Kind: policy.KindPrincipal, Name: environment + "/" + kind + "/" + path, Attributes: map[string]string{"environment": environment, "kind": kind}}
}

func (p Principal) policyForm() policy.Principal {
	environment, kind, path, _ := ParseSPIFFE(p.SPIFFEID)
	return policy.Principal{ID: p.ID, SPIFFEID: p.SPIFFEID, Environment: environment, Kind: kind, Path: path, Roles: p.Roles, PersonID: p.PersonID}
}

// columns are the deciding columns, in the order the MAC covers them.
func (p Principal) columns() []any {
	return []any{p.ID, p.SPIFFEID, p.PersonID, strings.Join(p.Roles, ","), p.CreatedBy, p.CreatedAt.UnixMicro(), storage.Micros(p.ExpiresAt), storage.Micros(p.DisabledAt)}
}

// Register makes an identity a principal. Roles that must not meet in one
// person are refused in combination.
func (d *Door) Register(ctx context.Context, g Grant, p Principal) (Principal, error) {
	use, err := d.Redeem(g, policy.RegisterPrincipal, p.Object().Name)
	if err != nil {
		return Principal{}, err
	}
	if _, _, _, err := ParseSPIFFE(p.SPIFFEID); err != nil {
		return Principal{}, err
	}
	slices.Sort(p.Roles)
	p.Roles = slices.Compact(p.Roles)
	for _, r := range p.Roles {
		if err := key.CheckSegment(r); err != nil {
			return Principal{}, fmt.Errorf("role: %w", err)
		}
	}
	if err := policy.CheckRoles(p.Roles); err != nil {
		return Principal{}, err
	}
	if len(p.PersonID) > 200 || len(p.Roles) > 32 {
		return Principal{}, fmt.Errorf("%w: a person id has at most 200 bytes and a principal at most 32 roles", key.ErrInvalid)
	}
	p.ID = key.NewID().String()
	if p.PersonID == "" {
		p.PersonID = p.ID
	}
	p.CreatedBy, p.CreatedAt, p.DisabledAt = use.Principal.SPIFFEID, time.Now().UTC().Truncate(time.Microsecond), time.Time{}
	created := p.Object()
	created.ID = p.ID
	use.Created(created)
	err = g.Update(ctx, func(tx *storage.Tx) error {
		if err := d.checkPerson(tx, p); err != nil {
			return err
		}
		c := p.columns()
		n, err := tx.Exec(`INSERT INTO principal (id, spiffe_id, person_id, roles, created_by, created_at, expires_at, disabled_at, mac)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (spiffe_id) DO NOTHING`, append(c, d.rows.RowMAC("principal", c...))...)
		if err == nil && n == 0 {
			err = fmt.Errorf("registering %s: %w", p.SPIFFEID, key.ErrExists)
		}
		return err
	})
	return p, err
}

// checkPerson refuses roles that must not meet in one person, who may be
// registered under several identities.
func (d *Door) checkPerson(tx *storage.Tx, p Principal) error {
	rows, err := tx.Query(principalColumns+`WHERE person_id = $1 AND disabled_at = 0`, p.PersonID)
	if err != nil {
		return err
	}
	defer rows.Close()
	roles := slices.Clone(p.Roles)
	for rows.Next() {
		other, err := d.scanPrincipal(rows)
		if err != nil {
			return err
		}
		roles = append(roles, other.Roles...)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	slices.Sort(roles)
	if err := policy.CheckRoles(slices.Compact(roles)); err != nil {
		return fmt.Errorf("all roles of person %s together: %w", p.PersonID, err)
	}
	return nil
}

// Disable switches a principal off: not for one more request. The last one who
// could apply a policy is refused with key.ErrConflict: register another first.
func (d *Door) Disable(ctx context.Context, g Grant, spiffeID string) (Principal, error) {
	if _, err := d.Redeem(g, policy.DisablePrincipal, PrincipalObject(spiffeID).Name); err != nil {
		return Principal{}, err
	}
	p, err := d.Principal(ctx, spiffeID)
	if err != nil {
		return Principal{}, err
	}
	if !p.DisabledAt.IsZero() {
		return Principal{}, fmt.Errorf("%s: %w already", spiffeID, key.ErrDisabled)
	}
	if g.t.set != nil {
		if err := d.checkWayBack(ctx, g.t.set, g.t, p.ID); err != nil {
			return Principal{}, fmt.Errorf("%w: without %s nobody could apply a policy: register another administrator first", key.ErrConflict, spiffeID)
		}
	}
	was := d.rows.RowMAC("principal", p.columns()...)
	p.DisabledAt = time.Now().UTC().Truncate(time.Microsecond)
	mac := d.rows.RowMAC("principal", p.columns()...)
	return p, g.Update(ctx, func(tx *storage.Tx) error {
		tx.BumpEpoch()
		n, err := tx.Exec(`UPDATE principal SET disabled_at = $1, mac = $2 WHERE id = $3 AND mac = $4`, storage.Micros(p.DisabledAt), mac, p.ID, was)
		if err == nil && n != 1 {
			err = fmt.Errorf("disabling %s: %w: it changed meanwhile: retry", spiffeID, key.ErrConflict)
		}
		return err
	})
}

const principalColumns = `SELECT id, spiffe_id, person_id, roles, created_by, created_at, expires_at, disabled_at, mac FROM principal `

type scanner interface{ Scan(...any) error }

func (d *Door) scanPrincipal(row scanner) (Principal, error) {
	var p Principal
	var roles string
	var created, expires, disabled int64
	var mac []byte
	if err := row.Scan(&p.ID, &p.SPIFFEID, &p.PersonID, &roles, &p.CreatedBy, &created, &expires, &disabled, &mac); err != nil {
		return Principal{}, err
	}
	if roles != "" {
		p.Roles = strings.Split(roles, ",")
	}
	p.CreatedAt, p.ExpiresAt, p.DisabledAt = time.UnixMicro(created).UTC(), storage.Time(expires), storage.Time(disabled)
	if err := d.rows.CheckRow(mac, "principal", p.columns()...); err != nil {
		return Principal{}, fmt.Errorf("principal %s: %w", p.SPIFFEID, err)
	}
	return p, nil
}

func (d *Door) principalBySPIFFE(ctx context.Context, spiffeID string) (Principal, error) {
	return d.scanPrincipal(d.db.QueryRow(ctx, principalColumns+`WHERE spiffe_id = $1`, spiffeID))
}
