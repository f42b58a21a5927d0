package guard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
)

// Principal returns one registration, or key.ErrNotFound. It decides nothing:
// the caller has passed the door.
func (d *Door) Principal(ctx context.Context, spiffeID string) (Principal, error) {
	p, err := d.principalBySPIFFE(ctx, spiffeID)
	if errors.Is(err, sql.ErrNoRows) {
		return Principal{}, fmt.Errorf("principal %s: %w", spiffeID, key.ErrNotFound)
	}
	return p, err
}

// PrincipalByID is Principal by the registration's id.
func (d *Door) PrincipalByID(ctx context.Context, id string) (Principal, error) {
	p, err := d.scanPrincipal(d.db.QueryRow(ctx, principalColumns+`WHERE id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return Principal{}, fmt.Errorf("principal %.80q: %w", id, key.ErrNotFound)
	}
	return p, err
}

// principalsObject is what principal:List is about.
var principalsObject = policy.Object{Kind: policy.KindSystem, Name: "principals"}

// PrincipalsObject returns the one object that principal:List is about.
func PrincipalsObject() policy.Object { return principalsObject }

// List returns registrations in the order of their SPIFFE IDs, after the given one.
func (d *Door) List(ctx context.Context, g Grant, after string, limit int) ([]Principal, error) {
	if _, err := d.Redeem(g, policy.ListPrincipals, principalsObject.Name); err != nil {
		return nil, err
	}
	rows, err := d.db.Query(ctx, principalColumns+`WHERE spiffe_id > $1 ORDER BY spiffe_id LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("listing principals: %w", err)
	}
	defer rows.Close()
	var list []Principal
	for rows.Next() {
		p, err := d.scanPrincipal(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, rows.Err()
}

// May reports whether the caller of this use may also do action on object:
// lists show only what the caller may describe.
func (u Use) May(action policy.Action, object policy.Object) bool {
	t := u.ticket
	if t.who.Kind == kindSystem {
		return true // the service itself
	}
	return t.set.Decide(t.query(action, object)).Outcome == policy.Allow
}
