package guard

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// record writes down what was asked, what was decided and how it went.
func (t *ticket) record(outcome audit.Outcome, cause error) (storage.Entry, error) {
	e := audit.Entry{
		Time:        time.Now(),
		Principal:   t.who.SPIFFEID,
		Credential:  t.req.Credential.Serial,
		Method:      t.who.AuthMethod,
		Source:      t.req.Source,
		HostClaimed: t.req.Host,
		Action:      string(t.acts[0].Action),
		Context:     t.req.Context,
		Reason:      t.req.Reason,
		Outcome:     outcome,
		Latency:     max(0, time.Since(t.start)),
		Request:     t.req.RequestID,
		Trace:       t.req.TraceID,
	}
	t.mu.Lock()
	e.Details = t.details
	e.Objects = make([]audit.Object, len(t.acts))
	for i, a := range t.acts {
		e.Objects[i] = audit.Object{Kind: string(a.Object.Kind), ID: a.Object.ID, Name: a.Object.Name}
		if t.versions != nil {
			e.Objects[i].Version = t.versions[i]
		}
	}
	t.mu.Unlock()
	if t.set != nil {
		e.Decision = t.decided()
	}
	if cause != nil {
		e.Failure = failureClass(cause)
	}
	entry, err := e.Record()
	if err != nil && (outcome == audit.Denied || outcome == audit.Failed) {
		// Nothing the caller wrote may keep a refusal out of the log.
		e.HostClaimed, e.Reason, e.Context, e.Details = "", "", nil, map[string]string{"left_out": "the request's own words, which cannot be recorded"}
		for i := range e.Objects {
			e.Objects[i].Name = strings.ToValidUTF8(fmt.Sprintf("%.256s", e.Objects[i].Name), "?")
		}
		entry, err = e.Record()
	}
	return entry, err
}

// decided sums up the decisions: the one that stopped the request, or all that let it pass.
func (t *ticket) decided() audit.Decision {
	d := audit.Decision{Result: "allow", PolicyVersion: t.policyVersion, PolicyDigest: t.set.Digest()}
	for i, one := range t.decisions {
		if one.Outcome != policy.Allow {
			d.Result, d.Policies, d.Reason = one.Outcome.String(), one.Policies, one.Reason
			return d
		}
		if i == 0 {
			d.Policies = one.Policies
		} else {
			d.Policies = union(d.Policies, one.Policies)
		}
	}
	return d
}

// union leaves its arguments as they are: a policy set shares them between decisions.
func union(a, b []string) []string {
	all := append([]string(nil), a...)
next:
	for _, s := range b {
		for _, have := range all {
			if have == s {
				continue next
			}
		}
		all = append(all, s)
	}
	return all
}

// failureClass is a short name for the failure, from our own sentinels: an
// error's text may quote the request, and an entry must not.
func failureClass(err error) string {
	for _, c := range []struct {
		is   error
		name string
	}{
		{key.ErrInvalidCiphertext, "invalid-ciphertext"},
		{key.ErrNeedsApproval, "needs-approval"},
		{key.ErrUnauthenticated, "unauthenticated"},
		{key.ErrDenied, "denied"},
		{key.ErrNotFound, "not-found"},
		{key.ErrExists, "exists"},
		{key.ErrUnsupported, "unsupported"},
		{key.ErrDisabled, "disabled"},
		{key.ErrConflict, "conflict"},
		{key.ErrInvalid, "invalid"},
		{key.ErrIntegrity, "integrity"},
		{key.ErrAuth, "device-auth"},
		{key.ErrLockedOut, "device-locked-out"},
		{key.ErrFull, "disk-full"},
		{key.ErrBusy, "busy"},
		{key.ErrUnavailable, "unavailable"},
		{ErrGrant, "grant"},
	} {
		if errors.Is(err, c.is) {
			return c.name
		}
	}
	return "internal"
}
