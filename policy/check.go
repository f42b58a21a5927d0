package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/key"
)

// Administrator is the role that must always be able to apply a policy.
const Administrator = "administrator"

const defaultText = `// Administrators may do everything; nobody else may do anything.
// Replace this by policies of your own: sealwright policy apply FILE
@id("administrators")
permit (principal in Role::"administrator", action, resource);
`

// Default returns the policy of a new store: everything for administrators, nothing for others.
func Default() *Set {
	s, err := Parse("default", []byte(defaultText))
	if err != nil {
		panic("policy: the default policy: " + err.Error())
	}
	return s
}

// apart are the roles that one principal must not combine: who writes the
// software, who runs it and who watches both.
var apart = []string{"developer", "operator", "security"}

// CheckRoles accepts the roles of one principal: each a name of key.CheckSegment,
// none twice, and at most one of developer, operator and security.
func CheckRoles(roles []string) error {
	var held []string
	for i, r := range roles {
		if err := key.CheckSegment(r); err != nil {
			return fmt.Errorf("checking role: %w", err)
		}
		if slices.Contains(roles[:i], r) {
			return fmt.Errorf("%w: role %q is given twice", key.ErrInvalid, r)
		}
		if slices.Contains(apart, r) {
			held = append(held, r)
		}
	}
	if len(held) > 1 {
		return fmt.Errorf("%w: roles %s must not meet in one principal: register a second one for another person",
			key.ErrInvalid, strings.Join(held, " and "))
	}
	return nil
}

// CheckApply refuses a policy under which none of the holders with role
// administrator could apply a policy: nobody could ever repair it. An allow
// that needs approvals does not count, because approvers may leave; one that
// is open only at some hours of the week does. Source and authMethod are those
// of whoever applies the policy now.
func (s *Set) CheckApply(now time.Time, source netip.Addr, authMethod string, holders []Principal) error {
	for _, at := range s.edges(now) {
		for _, p := range holders {
			if !slices.Contains(p.Roles, Administrator) {
				continue
			}
			p.AuthMethod = authMethod
			d := s.Decide(Query{Principal: p, Action: ApplyPolicy, Object: Object{Kind: KindPolicySet, Name: "active"}, Source: source, Now: at})
			if d.Outcome == Allow {
				return nil
			}
		}
	}
	return fmt.Errorf("%w: under this policy no registered administrator could apply a policy again, so nobody could repair it: "+
		`add permit (principal in Role::"administrator", action == Action::"policy:Apply", resource); or narrow what forbids it`, key.ErrInvalid)
}

// edges returns now and, of the coming week, every minute at which some
// policy's window opens or closes: between them no answer changes but by
// conditions on the clock.
func (s *Set) edges(now time.Time) []time.Time {
	at := []time.Time{now}
	seen := map[int]bool{}
	utc := now.UTC()
	monday := time.Date(utc.Year(), utc.Month(), utc.Day()-(int(utc.Weekday())+6)%7, 0, 0, 0, 0, time.UTC)
	for _, c := range s.policies {
		for _, w := range c.windows {
			for _, m := range [...]int{w.from % minutesPerWeek, w.to % minutesPerWeek} {
				if seen[m] {
					continue
				}
				seen[m] = true
				t := monday.Add(time.Duration(m) * time.Minute)
				if t.Before(now) {
					t = t.AddDate(0, 0, 7)
				}
				at = append(at, t)
			}
		}
	}
	return at
}
