// Package guard is the only door to a service. It identifies who asks, decides
// by policy, records, and only then grants.
//
// A service method takes a [Grant] and redeems it first; a zero, used, stale or
// foreign grant is refused. Reads and computations are done first, recorded,
// and released only when the record is durable. Changes of the store and their
// records are one transaction. Effects outside the store leave a durable
// intent before and an outcome after. When the log fails, nothing is released.
package guard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// maxDecisions bounds how often one request decides again because access was
// narrowed while it ran.
const maxDecisions = 8

// kindSystem is the service itself, in entries and created_by columns.
const kindSystem = "system"

// maxActs bounds the acts of one request.
const maxActs = 64

// Inventory says whether a certificate may identify anybody.
type Inventory interface {
	// Identity returns the SPIFFE ID of the unrevoked certificate with that
	// serial (lower-case hex, no leading zeros) from an issuer that
	// authenticates. Anything else is ErrUnauthenticated, saying why.
	Identity(ctx context.Context, serial string) (spiffeID string, err error)
}

// Authenticator makes and checks the MACs of rows that decide, so that writing
// to the database makes nobody an administrator.
type Authenticator interface {
	RowMAC(table string, columns ...any) []byte
	// CheckRow returns key.ErrIntegrity if mac is not RowMAC of the same.
	CheckRow(mac []byte, table string, columns ...any) error
}

// Config is what a door stands on.
type Config struct {
	DB        *storage.DB
	Rows      Authenticator
	Inventory Inventory // nil: no certificate identifies anybody (before the first issuer exists)
	Log       *audit.Log
}

// Door decides and records every act.
type Door struct {
	db        *storage.DB
	rows      Authenticator
	inventory Inventory
	log       *audit.Log
	state     atomic.Pointer[state]
	found     atomic.Pointer[error] // by the last Review; nil before the first
	refusals  *refusals
}

// Credential is what the connection proved, checked again for each request.
type Credential struct {
	Method   string    // "mtls"
	Serial   string    // of the client certificate, lower-case hex
	SPIFFEID string    // as the certificate says it; the inventory must agree
	NotAfter time.Time // a connection outlives its certificate; a request does not
}

// Act is one action on one object.
type Act struct {
	Action policy.Action
	Object policy.Object
	// Asked is how the caller named the object, where that is not its name: a
	// denial says this, because the name would tell that there is such an object.
	Asked string
}

// Request is one question to the door.
type Request struct {
	Credential Credential
	Source     netip.Addr // from the connection, never from a header
	Host       string     // as claimed by the caller
	// Resolve names the acts with fresh attributes. It runs once per decision,
	// so that a key disabled meanwhile is seen.
	Resolve   func(context.Context) ([]Act, error)
	Context   map[string]string // encryption context; recorded, never secret
	Reason    string
	RequestID string
	TraceID   string
	// Digest is the RequestDigest of the canonical request: what an approval
	// signs, and what a repeat must be equal to. Asked for only where needed.
	Digest func() string
	// IdempotencyKey makes the change of this request happen once; see Grant.Update.
	IdempotencyKey string
}

func (r *Request) digest() string {
	if r.Digest == nil {
		return ""
	}
	return r.Digest()
}

// ApprovalError is the outcome "needs approvals": who must sign which digest.
type ApprovalError struct {
	Digest string // hex SHA-256 of the canonical request
	Need   string // e.g. "2 of security"
}

func (e *ApprovalError) Error() string {
	return fmt.Sprintf("needs approval by %s of request %s", e.Need, e.Digest)
}

// Unwrap makes errors.Is(err, key.ErrNeedsApproval) hold.
func (e *ApprovalError) Unwrap() error { return key.ErrNeedsApproval }

// Open returns a door and loads the policy in force. Close it.
func Open(ctx context.Context, c Config) (*Door, error) {
	d := &Door{db: c.DB, rows: c.Rows, inventory: c.Inventory, log: c.Log}
	if _, err := d.current(ctx); err != nil {
		return nil, err
	}
	d.refusals = newRefusals(d.db)
	return d, nil
}

// Close records the refusals counted so far and stops.
func (d *Door) Close() error { return d.refusals.close() }

// Enter identifies, decides, runs act with a grant, records, and returns the
// index of the record. When err is not nil the caller must release nothing
// that act produced.
//
// act may run more than once: access narrowed while it ran makes the door
// decide again.
func (d *Door) Enter(ctx context.Context, req Request, act func(context.Context, Grant) error) (int64, error) {
	start := time.Now()
	for range maxDecisions {
		index, err := d.enter(ctx, &req, start, act)
		if !errors.Is(err, storage.ErrStaleEpoch) {
			return index, err
		}
		if _, err := d.db.RefreshEpoch(ctx); err != nil {
			return -1, err
		}
	}
	return -1, fmt.Errorf("%w: access rules keep changing: retry", key.ErrBusy)
}

// Refuse counts a refusal of somebody whom nobody knows. Such refusals are
// recorded per source and period, not one by one.
func (d *Door) Refuse(source netip.Addr, cause error) {
	if errors.Is(cause, key.ErrUnauthenticated) {
		d.refusals.count(source, cause)
	}
}

func (d *Door) enter(ctx context.Context, req *Request, start time.Time, act func(context.Context, Grant) error) (int64, error) {
	st, err := d.current(ctx)
	if err != nil {
		return -1, err
	}
	who, err := d.identify(ctx, st, req.Credential)
	if err != nil {
		d.Refuse(req.Source, err)
		return -1, err
	}
	acts, err := req.Resolve(ctx)
	if err != nil {
		return -1, err
	}
	t := &ticket{door: d, epoch: st.epoch, who: who, acts: acts, req: req, start: start, set: st.set, policyVersion: st.version}
	if err := t.decide(); err != nil {
		return t.refuse(ctx, err)
	}
	if err := t.repeated(ctx); err != nil {
		return t.recordRepeat(ctx, err)
	}
	return t.run(ctx, act)
}

// System runs an act of the service itself: creation, reconciliation, a CRL
// that is due. It is recorded like any other. Nothing a network peer sends may
// choose the act.
func (d *Door) System(ctx context.Context, reason string, acts []Act, act func(context.Context, Grant) error) (int64, error) {
	if len(acts) == 0 || len(acts) > maxActs {
		return -1, fmt.Errorf("%w: %d acts; 1 to %d at once", key.ErrInvalid, len(acts), maxActs)
	}
	req := &Request{Reason: reason}
	t := &ticket{door: d, who: policy.Principal{ID: kindSystem, SPIFFEID: kindSystem, Kind: kindSystem}, acts: slices.Clone(acts), req: req, start: time.Now()}
	return t.run(ctx, act)
}

// decide asks the policy about every act; the first that is not allowed decides.
func (t *ticket) decide() error {
	if len(t.acts) == 0 {
		return fmt.Errorf("%w: a request without an act", ErrGrant)
	}
	if len(t.acts) > maxActs {
		return fmt.Errorf("%w: %d acts in one request; at most %d", key.ErrInvalid, len(t.acts), maxActs)
	}
	for _, a := range t.acts {
		decision := t.set.Decide(t.query(a.Action, a.Object))
		t.decisions = append(t.decisions, decision)
		switch decision.Outcome {
		case policy.Allow:
		case policy.NeedsApprovals:
			return &ApprovalError{Digest: t.req.digest(), Need: decision.Approvals}
		default:
			return fmt.Errorf("%w: %s may not %s on %s: %s", key.ErrDenied, t.who.SPIFFEID, a.Action, cmp.Or(a.Asked, a.Object.Name), decision.Reason)
		}
	}
	return nil
}

func (t *ticket) query(action policy.Action, object policy.Object) policy.Query {
	return policy.Query{Principal: t.who, Action: action, Object: object, Context: t.req.Context, Source: t.req.Source, Now: t.start}
}

// refuse records the denial, then refuses.
func (t *ticket) refuse(ctx context.Context, cause error) (int64, error) {
	entry, err := t.record(audit.Denied, cause)
	if err != nil {
		return -1, err
	}
	// Who hangs up before the answer has asked all the same.
	index, err := t.door.db.Commit(context.WithoutCancel(ctx), storage.Change{Entries: []storage.Entry{entry}})
	if err != nil {
		return -1, fmt.Errorf("recording a refusal: %w", err)
	}
	return index, cause
}

// run performs the act and sees to it that it is recorded before it is released.
func (t *ticket) run(ctx context.Context, act func(context.Context, Grant) error) (int64, error) {
	err := act(ctx, Grant{t})
	t.mu.Lock()
	t.closed = true
	committed, index, redeemed := t.committed, t.index, t.redeemed
	t.mu.Unlock()
	switch {
	case errors.Is(err, storage.ErrStaleEpoch):
		return -1, err
	case err != nil && !committed:
		return t.recordFailure(ctx, err)
	case err != nil || committed:
		return index, err
	case redeemed != len(t.acts):
		return -1, fmt.Errorf("%w: %d of %d acts were performed under it", ErrGrant, redeemed, len(t.acts))
	}
	entry, err := t.record(audit.OK, nil)
	if err != nil {
		return -1, err
	}
	index, err = t.door.db.Commit(ctx, storage.Change{Epoch: t.epoch, Entries: []storage.Entry{entry}})
	if err != nil {
		return -1, fmt.Errorf("recording: %w", err)
	}
	return index, nil
}

// recordFailure notes an allowed act that failed. The failure is what the
// caller learns, unless even that cannot be recorded.
func (t *ticket) recordFailure(ctx context.Context, cause error) (int64, error) {
	entry, err := t.record(audit.Failed, cause)
	if err != nil {
		return -1, err
	}
	change := storage.Change{Epoch: t.epoch, Entries: []storage.Entry{entry}}
	t.mu.Lock()
	if t.intent != "" {
		// An intent stays open: whether its effect happened, only reconciliation can
		// say. Another try could make it happen twice.
		change.Epoch = 0
	}
	t.mu.Unlock()
	// The caller may be gone; the record is owed all the same. How an act fails is
	// an answer too: who was switched off meanwhile does not get it.
	index, err := t.door.db.Commit(context.WithoutCancel(ctx), change)
	if err != nil {
		return -1, fmt.Errorf("recording a failure: %w", err)
	}
	return index, cause
}
