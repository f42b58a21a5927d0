package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
)

// onRules is one action on the policy.
func onRules(action policy.Action) guard.Act {
	return guard.Act{Action: action, Object: guard.RulesObject()}
}

func (c *call) wireRules(r guard.Rules) (api.Policy, error) {
	set, err := c.Door.Parsed(c.r.Context(), r)
	if err != nil {
		return api.Policy{}, err
	}
	return api.Policy{Version: r.Version, Digest: r.Digest, Text: r.Text, Count: set.Len(), CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt}, nil
}

func (c *call) applyPolicy() (any, error) {
	var in api.ApplyPolicyRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	var rules guard.Rules
	err := c.enter(on(onRules(policy.ApplyPolicy)), nil, func(ctx context.Context, g guard.Grant) (err error) {
		rules, err = c.Door.Apply(ctx, g, guard.NewRules{Name: in.Name, Text: in.Text, Base: in.Base})
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.wireRules(rules)
}

func (c *call) getPolicy() (any, error) {
	var rules guard.Rules
	err := c.enter(on(onRules(policy.ReadPolicy)), nil, func(ctx context.Context, g guard.Grant) (err error) {
		if _, err = c.Door.Redeem(g, policy.ReadPolicy, guard.RulesObject().Name); err != nil {
			return err
		}
		rules, err = c.Door.Rules(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.wireRules(rules)
}

func (c *call) explain() (any, error) {
	var in api.ExplainRequest
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	q, err := c.question(in)
	if err != nil {
		return nil, err
	}
	var out api.ExplainResponse
	err = c.enter(on(onRules(policy.ExplainPolicy)), nil, func(ctx context.Context, g guard.Grant) error {
		if _, err := c.Door.Redeem(g, policy.ExplainPolicy, guard.RulesObject().Name); err != nil {
			return err
		}
		set, err := c.askedAbout(ctx, in.Text)
		if err != nil {
			return err
		}
		note, err := c.complete(ctx, &q)
		if err != nil {
			return err
		}
		d := set.Decide(q)
		out = api.ExplainResponse{Outcome: d.Outcome.String(), Policies: append([]string{}, d.Policies...), Reason: d.Reason, Approvals: d.Approvals, Text: set.Explain(q) + note}
		return nil
	})
	return out, err
}

// askedAbout parses the policies that a question brought along, or returns those
// in force. Parsing the largest text takes half a minute of a processor, so the
// questions of all callers together get one.
func (c *call) askedAbout(ctx context.Context, text string) (*policy.Set, error) {
	if text == "" {
		rules, err := c.Door.Rules(ctx)
		if err != nil {
			return nil, err
		}
		return c.Door.Parsed(ctx, rules)
	}
	select {
	case c.parsing <- struct{}{}:
		defer func() { <-c.parsing }()
	default:
		return nil, fmt.Errorf("%w: somebody else's policies are being read: retry", key.ErrBusy)
	}
	return policy.Parse("policy", []byte(text))
}

// question reads who, what and where of an explain request.
func (c *call) question(in api.ExplainRequest) (policy.Query, error) {
	q := policy.Query{Action: policy.Action(in.Action), Context: in.Context, Source: c.source(), Now: time.Now()}
	if in.Object == "" || in.Action == "" || in.Principal == "" {
		return q, fmt.Errorf("%w: name principal, action and object", key.ErrInvalid)
	}
	if err := api.CheckContext(in.Context); err != nil {
		return q, err
	}
	if !in.Time.IsZero() {
		q.Now = in.Time
	}
	if in.Source != "" {
		var err error
		if q.Source, err = netip.ParseAddr(in.Source); err != nil {
			return q, fmt.Errorf("%w: source %.60q: write an IP address", key.ErrInvalid, in.Source)
		}
	}
	kind, err := kindOf(q.Action, policy.Kind(in.Kind))
	if err != nil {
		return q, err
	}
	q.Object = policy.Object{Kind: kind, Name: in.Object}
	environment, _, _ := strings.Cut(in.Object, "/")
	id, err := c.spiffeID(in.Principal, environment)
	if err != nil {
		return q, err
	}
	env, principalKind, path, err := guard.ParseSPIFFE(id)
	if err != nil {
		return q, err
	}
	q.Principal = policy.Principal{SPIFFEID: id, Environment: env, Kind: principalKind, Path: path, AuthMethod: in.Method}
	if in.Method == "" {
		q.Principal.AuthMethod = "mtls"
	}
	return q, nil
}

// kindOf is the kind of object an action is about: the one asked for, or the
// first that the table of actions names.
func kindOf(action policy.Action, asked policy.Kind) (policy.Kind, error) {
	for _, a := range policy.Actions() {
		switch {
		case a.Action != action:
		case asked == "":
			return a.Kinds[0], nil
		case slices.Contains(a.Kinds, asked):
			return asked, nil
		default:
			return "", fmt.Errorf("%w: %s is never about a %.40s", key.ErrInvalid, action, asked)
		}
	}
	return "", fmt.Errorf("%w: there is no action %.60q: 'sealwright policy schema' lists them", key.ErrInvalid, action)
}

// complete adds what the registry and the services know about the question's
// principal and object, and says what they do not.
func (c *call) complete(ctx context.Context, q *policy.Query) (note string, err error) {
	p, err := c.Door.Principal(ctx, q.Principal.SPIFFEID)
	switch {
	case err == nil:
		q.Principal.Roles, q.Principal.PersonID, q.Principal.ID = p.Roles, p.PersonID, p.ID
		if !p.DisabledAt.IsZero() {
			note = "Whatever the policy says, this principal is disabled: every request is refused.\n"
		}
	case isNotFound(err):
		note = "This principal is not registered: every request is refused until it is ('sealwright principal register').\n"
	default:
		return "", err
	}
	if q.Object.Kind == policy.KindKey {
		if q.Object, err = c.Keys.Lookup(ctx, q.Object.Name); err != nil {
			return "", err
		}
	}
	return note, nil
}

// spiffeID completes a short identity, kind/path, with an environment, and
// refuses one of another domain.
func (c *call) spiffeID(identity, environment string) (string, error) {
	id, err := api.SPIFFEID(identity, environment, c.Store.Domain)
	if err != nil {
		return "", err
	}
	if environment, _, _, err = guard.ParseSPIFFE(id); err != nil {
		return "", err
	}
	if !strings.HasPrefix(id, "spiffe://"+environment+"."+c.Store.Domain+"/") {
		return "", fmt.Errorf("%w: %.200q is of another domain; this service's is %s", key.ErrInvalid, id, c.Store.Domain)
	}
	return id, nil
}
