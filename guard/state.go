package guard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
)

// state is what decisions of one authz_epoch are made with. It is replaced,
// never changed, when the epoch moves on; within an epoch access only widens,
// and what widens is looked up, never remembered as absent.
type state struct {
	epoch   int64
	version int64 // of the policy
	set     *policy.Set

	principals  cache[policyPrincipal] // by SPIFFE ID
	credentials cache[string]          // SPIFFE ID by serial
}

type policyPrincipal struct {
	policy.Principal
	expires time.Time // zero: never
}

// cacheLimit bounds each of a state's caches: a million principals need no
// million entries, and one that overflows starts again.
const cacheLimit = 100_000

type cache[V any] struct {
	m sync.Map
	n atomic.Int64
}

func (c *cache[V]) get(k string) (V, bool) {
	v, ok := c.m.Load(k)
	if !ok {
		var zero V
		return zero, false
	}
	return v.(V), true
}

func (c *cache[V]) put(k string, v V) {
	if c.n.Add(1) > cacheLimit {
		c.m.Clear()
		c.n.Store(1)
	}
	c.m.Store(k, v)
}

// current returns the state of the newest epoch this process knows. Another
// process may know a newer one: then the batch refuses, and Enter asks again.
func (d *Door) current(ctx context.Context) (*state, error) {
	epoch := d.db.Epoch()
	if st := d.state.Load(); st != nil && st.epoch == epoch {
		return st, nil
	}
	// The epoch is read before the rows: rows that are newer than it only mean
	// that the batch will refuse and this runs once more.
	st := &state{epoch: epoch}
	var err error
	if st.version, st.set, err = d.loadPolicy(ctx); err != nil {
		return nil, err
	}
	d.state.Store(st)
	return st, nil
}

// identify returns the registered principal behind a credential.
func (d *Door) identify(ctx context.Context, st *state, c Credential) (policy.Principal, error) {
	if c.Serial == "" {
		return policy.Principal{}, fmt.Errorf("%w: present a client certificate", key.ErrUnauthenticated)
	}
	now := time.Now()
	if now.After(c.NotAfter) {
		return policy.Principal{}, fmt.Errorf("%w: the client certificate expired at %s: get a new one", key.ErrUnauthenticated, c.NotAfter.UTC().Format(time.RFC3339))
	}
	id, ok := st.credentials.get(c.Serial)
	if !ok {
		if d.inventory == nil {
			return policy.Principal{}, fmt.Errorf("%w: no issuer authenticates yet", key.ErrUnauthenticated)
		}
		var err error
		if id, err = d.inventory.Identity(ctx, c.Serial); err != nil {
			return policy.Principal{}, err
		}
		st.credentials.put(c.Serial, id)
	}
	if id == "" || id != c.SPIFFEID {
		return policy.Principal{}, fmt.Errorf("%w: the certificate names no SPIFFE ID that the inventory knows", key.ErrUnauthenticated)
	}
	p, ok := st.principals.get(id)
	if !ok {
		var err error
		if p, err = d.loadPrincipal(ctx, id); err != nil {
			return policy.Principal{}, err
		}
		st.principals.put(id, p)
	}
	if !p.expires.IsZero() && now.After(p.expires) {
		return policy.Principal{}, fmt.Errorf("%w: the registration of %s expired", key.ErrUnauthenticated, id)
	}
	who := p.Principal
	who.AuthMethod = c.Method
	return who, nil
}

func (d *Door) loadPrincipal(ctx context.Context, spiffeID string) (policyPrincipal, error) {
	p, err := d.principalBySPIFFE(ctx, spiffeID)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return policyPrincipal{}, fmt.Errorf("%w: %s is not a registered principal: an administrator registers it with 'sealwright principal register'", key.ErrUnauthenticated, spiffeID)
	case err != nil:
		return policyPrincipal{}, err
	case !p.DisabledAt.IsZero():
		return policyPrincipal{}, fmt.Errorf("%w: %s is disabled", key.ErrUnauthenticated, spiffeID)
	}
	return policyPrincipal{p.policyForm(), p.ExpiresAt}, nil
}
