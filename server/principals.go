package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
)

func principal(p guard.Principal) api.Principal {
	environment, kind, path, _ := guard.ParseSPIFFE(p.SPIFFEID)
	return api.Principal{
		ID: p.ID, SPIFFEID: p.SPIFFEID, Environment: environment, Kind: kind, Path: path, Roles: append([]string{}, p.Roles...), PersonID: p.PersonID,
		CreatedBy: p.CreatedBy, CreatedAt: p.CreatedAt, ExpiresAt: p.ExpiresAt, DisabledAt: p.DisabledAt,
	}
}

func (c *call) registerPrincipal() (any, error) {
	var in api.RegisterRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	id, err := c.spiffeID(in.Identity, in.Environment)
	if err != nil {
		return nil, err
	}
	p := guard.Principal{SPIFFEID: id, PersonID: in.PersonID, Roles: in.Roles, ExpiresAt: in.ExpiresAt}
	err = c.enter(on(guard.Act{Action: policy.RegisterPrincipal, Object: p.Object()}), nil, func(ctx context.Context, g guard.Grant) (err error) {
		p, err = c.Door.Register(ctx, g, p)
		return err
	})
	return principal(p), err
}

func (c *call) listPrincipals() (any, error) {
	after, limit, err := c.page()
	if err != nil {
		return nil, err
	}
	var list []guard.Principal
	act := guard.Act{Action: policy.ListPrincipals, Object: guard.PrincipalsObject()}
	err = c.enter(on(act), nil, func(ctx context.Context, g guard.Grant) (err error) {
		list, err = c.Door.List(ctx, g, after, limit)
		return err
	})
	out := api.PrincipalList{Principals: []api.Principal{}}
	for _, p := range list {
		out.Principals = append(out.Principals, principal(p))
	}
	if len(list) == limit {
		out.Next = list[len(list)-1].SPIFFEID
	}
	return out, err
}

func (c *call) disablePrincipal() (any, error) {
	id := c.r.PathValue("id")
	if _, err := key.ParseID(id); err != nil {
		return nil, fmt.Errorf("%w: a principal is named by its id, as 'principal list' prints it", key.ErrInvalid)
	}
	var p guard.Principal
	var missing error
	err := c.enter(func(ctx context.Context) (_ []guard.Act, err error) {
		// Only who may disable learns what exists.
		missing = nil
		if p, err = c.Door.PrincipalByID(ctx, id); isNotFound(err) {
			p.SPIFFEID, missing, err = id, err, nil
		}
		return []guard.Act{{Action: policy.DisablePrincipal, Object: guard.PrincipalObject(p.SPIFFEID), Asked: "principal " + id}}, err
	}, nil, func(ctx context.Context, g guard.Grant) (err error) {
		if missing != nil {
			return missing
		}
		p, err = c.Door.Disable(ctx, g, p.SPIFFEID)
		return err
	})
	return principal(p), err
}

func isNotFound(err error) bool { return errors.Is(err, key.ErrNotFound) }

// decode reads the request's body.
func (c *call) decode(v any) error { return api.DecodeBytes(c.body, v) }

// page reads after and limit of a list.
func (c *call) page() (after string, limit int, err error) {
	limit = api.DefaultPage
	if text := c.query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > api.MaxPage {
			return "", 0, fmt.Errorf("%w: limit: use 1 to %d", key.ErrInvalid, api.MaxPage)
		}
	}
	return c.query.Get("after"), limit, nil
}
