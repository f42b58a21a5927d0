package guard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// ErrGrant: the grant is zero, used, of another request, or of another door.
// It is a defect of the caller, never of a user's request.
var ErrGrant = errors.New("no valid grant")

// Grant is the proof that the door let this request through. Only a door makes
// one; it is good for the acts it was asked for, once each, until the request ends.
type Grant struct{ t *ticket }

// Use is one redeemed act.
type Use struct {
	Principal policy.Principal
	Object    policy.Object
	ticket    *ticket
	act       int
}

// ticket is the door's side of one request.
type ticket struct {
	door  *Door
	epoch int64 // the decisions' authz_epoch; 0 for the service itself
	who   policy.Principal
	acts  []Act
	req   *Request
	start time.Time
	set   *policy.Set // what decided; nil for the service itself

	policyVersion int64

	decisions []policy.Decision

	mu        sync.Mutex // guards what follows
	spent     uint64     // bit i: act i was redeemed
	redeemed  int
	versions  []int64 // what each act touched, noted for the entry; nil: none did
	details   map[string]string
	closed    bool
	committed bool
	index     int64
	intent    string
}

// Redeem spends one act of g. The object is known by its name, as it was asked for.
func (d *Door) Redeem(g Grant, action policy.Action, object string) (Use, error) {
	t := g.t
	if t == nil {
		return Use{}, fmt.Errorf("%w: it is empty", ErrGrant)
	}
	if t.door != d {
		return Use{}, fmt.Errorf("%w: it is of another door", ErrGrant)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return Use{}, fmt.Errorf("%w: its request has ended", ErrGrant)
	}
	known := false
	for i, a := range t.acts {
		if a.Action != action || a.Object.Name != object {
			continue
		}
		known = true
		if t.spent&(1<<i) == 0 {
			t.spent |= 1 << i
			t.redeemed++
			return Use{Principal: t.who, Object: a.Object, ticket: t, act: i}, nil
		}
	}
	if known {
		return Use{}, fmt.Errorf("%w: %s on %s is used up", ErrGrant, action, object)
	}
	return Use{}, fmt.Errorf("%w: it is not for %s on %s", ErrGrant, action, object)
}

// Context returns the encryption context that was decided on and is recorded.
// A service binds to this one, so that no entry can tell of another.
func (u Use) Context() map[string]string { return u.ticket.req.Context }

// Touched notes which version of the object was used, for the entry and the index.
func (u Use) Touched(version int64) {
	u.ticket.mu.Lock()
	defer u.ticket.mu.Unlock()
	if u.ticket.versions == nil {
		u.ticket.versions = make([]int64, len(u.ticket.acts))
	}
	u.ticket.versions[u.act] = version
}

// Detail notes a fact for the entry's readers: never a secret.
func (u Use) Detail(name, value string) {
	u.ticket.detail(name, value)
}

func (t *ticket) detail(name, value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.details == nil {
		t.details = map[string]string{}
	}
	t.details[name] = value
}

// Created notes the id and attributes an object got by this act.
func (u Use) Created(object policy.Object) {
	u.ticket.mu.Lock()
	defer u.ticket.mu.Unlock()
	u.ticket.acts[u.act].Object = object
}

// Update makes the change and its entry in one transaction: both or neither.
// It returns when they are durable. A grant is good for one Update; apply is
// SQL only and may run more than once.
func (g Grant) Update(ctx context.Context, apply func(*storage.Tx) error) error {
	t := g.t
	if err := t.usable(); err != nil {
		return err
	}
	entry, err := t.record(audit.OK, nil)
	if err != nil {
		return err
	}
	change := storage.Change{Epoch: t.epoch, Entries: []storage.Entry{entry}, Apply: apply}
	t.mu.Lock()
	intent := t.intent
	t.mu.Unlock()
	if intent != "" {
		// The effect has happened: its outcome is recorded whatever was narrowed since.
		change.Epoch = 0
		ctx = context.WithoutCancel(ctx)
	}
	change.Apply = func(tx *storage.Tx) error {
		if err := t.claimIdempotency(tx); err != nil {
			return err
		}
		if intent != "" {
			if err := resolveIntent(tx, intent, "ok"); err != nil {
				return err
			}
		}
		return apply(tx)
	}
	index, err := t.door.db.Commit(ctx, change)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.committed, t.index = true, index
	t.mu.Unlock()
	return nil
}

// usable refuses a grant that no act was redeemed from, or that has ended.
func (t *ticket) usable() error {
	if t == nil {
		return fmt.Errorf("%w: it is empty", ErrGrant)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return fmt.Errorf("%w: its request has ended", ErrGrant)
	case t.committed:
		return fmt.Errorf("%w: its change is already made", ErrGrant)
	case t.redeemed != len(t.acts):
		return fmt.Errorf("%w: a change before all its acts were redeemed", ErrGrant)
	}
	return nil
}
