package policy

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	"github.com/cedar-policy/cedar-go"
)

// noPolicy is the reason of a denial that no policy spoke for.
const noPolicy = "no policy allows it"

// maxNamed bounds the ids in a decision, which all go into one audit entry.
const maxNamed = 16

// Decide answers q. It never fails: what it cannot understand it denies, and
// the reason says so. A forbid whose condition cannot be evaluated forbids;
// such a permit does not allow.
func (s *Set) Decide(q Query) Decision {
	r, problem := newRequest(&q)
	if problem != "" {
		return Decision{Reason: problem}
	}
	var buf, matched [16]*compiled
	applying := matched[:0]
	candidates := s.index.candidates(buf[:0], r)
	for _, c := range candidates {
		r.needs.union(c.needs)
	}
	for _, c := range candidates {
		if c.windows.open(q.Now) {
			if ok, err := c.holds(r); ok || err != nil && !c.permit {
				applying = append(applying, c)
			}
		}
	}
	return conclude(applying)
}

// conclude weighs the policies that apply.
func conclude(applying []*compiled) Decision {
	forbid, plain := false, false
	for _, c := range applying {
		forbid = forbid || !c.permit
		plain = plain || c.permit && c.approvals.count == 0
	}
	if len(applying) == 0 {
		return Decision{Reason: noPolicy}
	}
	// Only the policies of the outcome's own sort decide.
	deciding := applying[:0]
	for _, c := range applying {
		switch {
		case forbid && !c.permit, !forbid && plain && c.approvals.count == 0, !forbid && !plain:
			deciding = append(deciding, c)
		}
	}
	slices.SortFunc(deciding, func(a, b *compiled) int { return cmp.Compare(a.order, b.order) })
	d := Decision{Policies: deciding[0].ids, Reason: deciding[0].reason}
	if len(deciding) > 1 {
		d.Policies = make([]string, min(len(deciding), maxNamed))
		for i := range d.Policies {
			d.Policies[i] = deciding[i].id
		}
		d.Reason = fmt.Sprintf("%s and %d more", d.Reason, len(deciding)-1)
	}
	switch {
	case forbid:
	case plain:
		d.Outcome = Allow
	default:
		d.Outcome = NeedsApprovals
		least := slices.MinFunc(deciding, func(a, b *compiled) int { return cmp.Compare(a.approvals.count, b.approvals.count) })
		d.Approvals = least.approvals.String()
		d.Reason += ", with approvals: " + d.Approvals
	}
	return d
}

// holds evaluates the conditions of a policy whose scope matched.
func (c *compiled) holds(r *request) (bool, error) {
	if c.condition == nil {
		return true, nil
	}
	decision, diag := cedar.Authorize(c, r, *r.cedar())
	if len(diag.Errors) > 0 {
		return false, fmt.Errorf("%s", diag.Errors[0].Message)
	}
	return decision == cedar.Allow, nil
}

// All implements cedar.PolicyIterator with the condition alone.
func (c *compiled) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		yield("", c.condition)
	}
}
