package policy

import (
	"fmt"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// maxExplained bounds the policies an explanation names.
const maxExplained = 20

// Explain says for people what Decide decides about q and why: which policies
// apply, which come near and what keeps them from applying.
func (s *Set) Explain(q Query) string {
	var b strings.Builder
	d := s.Decide(q)
	r, problem := newRequest(&q)
	if problem != "" {
		return fmt.Sprintf("deny: %s\n", problem)
	}
	fmt.Fprintf(&b, "%s: %s asks for %s on %s\n", d.Outcome, r.principal, q.Action, r.resource)
	fmt.Fprintf(&b, "because: %s\n", d.Reason)
	r.needs = needs{everything, everything, everything}
	var near, rest []string
	for _, c := range s.policies {
		why, misses := c.verdict(r)
		if misses > 1 {
			continue // somebody else's policy about something else
		}
		line := fmt.Sprintf("  %s (%s) %s: %s\n", c.id, c.position, c.effect(), why)
		if misses == 0 {
			near = append(near, line)
		} else {
			rest = append(rest, line)
		}
	}
	lines := append(near, rest...)
	if len(lines) == 0 {
		b.WriteString("no policy is about this action on this object or for this principal\n")
		return b.String()
	}
	b.WriteString("policies:\n")
	for i, line := range lines {
		if i == maxExplained {
			fmt.Fprintf(&b, "  and %d more\n", len(lines)-i)
			break
		}
		b.WriteString(line)
	}
	return b.String()
}

func (c *compiled) effect() string {
	switch {
	case !c.permit:
		return "forbid"
	case c.approvals.count > 0:
		return "permit with approvals of " + c.approvals.String()
	default:
		return "permit"
	}
}

// verdict says what c makes of the request, and how many parts of its scope miss it.
func (c *compiled) verdict(r *request) (why string, misses int) {
	var missed []string
	if !c.scope.principal.within(r.principal, r.roles) {
		missed = append(missed, "it is for principal "+c.scope.principal.String())
	}
	if c.scope.actions&r.action == 0 {
		missed = append(missed, "it is about other actions")
	}
	if !c.scope.resource.within(r.resource, r.within) {
		missed = append(missed, "it is about resource "+c.scope.resource.String())
	}
	if len(missed) > 0 {
		return "does not apply: " + strings.Join(missed, "; "), len(missed)
	}
	if !c.windows.open(r.query.Now) {
		return "does not apply: outside its window", 0
	}
	ok, err := c.holds(r)
	switch {
	case err != nil && c.permit:
		return "does not apply: its condition failed: " + err.Error(), 0
	case err != nil:
		return "applies: its condition failed, which forbids: " + err.Error(), 0
	case !ok:
		return "does not apply: its condition is false", 0
	default:
		return "applies", 0
	}
}

// within is matches without the help of a bucket.
func (e *end) within(self types.EntityUID, above []types.EntityUID) bool {
	if !e.matches(self) {
		return false
	}
	if e.uid.IsZero() || e.uid == self {
		return true
	}
	for _, uid := range above {
		if e.uid == uid {
			return true
		}
	}
	return false
}

// String returns the end as Cedar writes it.
func (e *end) String() string {
	var parts []string
	if e.kind != "" {
		parts = append(parts, "is "+string(e.kind))
	}
	if !e.uid.IsZero() {
		operator := "in "
		if e.exact {
			operator = "== "
		}
		parts = append(parts, operator+e.uid.String())
	}
	return strings.Join(parts, " ")
}
