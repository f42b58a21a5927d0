package policy

import (
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// scope is the head of a policy: permit (principal ..., action ..., resource ...).
type scope struct {
	principal, resource end
	actions             actionMask
}

// end is one side of a scope. The zero end matches everything.
type end struct {
	kind  types.EntityType // is: the type, or ""
	uid   types.EntityUID  // ==, in: the entity, or zero
	exact bool             // ==
}

func newScope(p *ast.Policy) scope {
	return scope{newEnd(p.Principal), newEnd(p.Resource), newActions(p.Action)}
}

func newEnd(n ast.IsScopeNode) end {
	switch n := n.(type) {
	case ast.ScopeTypeEq:
		return end{uid: n.Entity, exact: true}
	case ast.ScopeTypeIn:
		return end{uid: n.Entity}
	case ast.ScopeTypeIs:
		return end{kind: n.Type}
	case ast.ScopeTypeIsIn:
		return end{kind: n.Type, uid: n.Entity}
	default:
		return end{}
	}
}

func newActions(n ast.IsActionScopeNode) actionMask {
	masks := ours().masks
	switch n := n.(type) {
	case ast.ScopeTypeEq:
		return masks[n.Entity]
	case ast.ScopeTypeIn:
		return masks[n.Entity]
	case ast.ScopeTypeInSet:
		var m actionMask
		for _, e := range n.Entities {
			m |= masks[e]
		}
		return m
	default:
		return ^actionMask(0)
	}
}

// matches reports whether the entity, reached through its bucket, is of this
// end: the bucket vouches for in, not for == and is.
func (e *end) matches(self types.EntityUID) bool {
	return (e.kind == "" || e.kind == self.Type) && (!e.exact || e.uid == self)
}

// index finds the policies whose scope may match without looking at the others.
// Entities named in scopes get a small number, and each policy lies in the
// bucket of its two numbers, 0 standing for any.
type index struct {
	numbers map[types.EntityUID]uint32
	buckets map[uint64][]*compiled
}

func newIndex(policies []*compiled) index {
	ix := index{map[types.EntityUID]uint32{}, map[uint64][]*compiled{}}
	for _, c := range policies {
		b := bucket(ix.number(c.scope.principal.uid), ix.number(c.scope.resource.uid))
		ix.buckets[b] = append(ix.buckets[b], c)
	}
	return ix
}

func bucket(principal, resource uint32) uint64 { return uint64(principal)<<32 | uint64(resource) }

func (ix *index) number(uid types.EntityUID) uint32 {
	if uid.IsZero() {
		return 0
	}
	n, ok := ix.numbers[uid]
	if !ok {
		n = uint32(len(ix.numbers)) + 1
		ix.numbers[uid] = n
	}
	return n
}

// reach appends to into the numbers of 0 and of those uids that any policy names.
func (ix *index) reach(into []uint32, self types.EntityUID, above []types.EntityUID) []uint32 {
	into = append(into, 0)
	if n, ok := ix.numbers[self]; ok {
		into = append(into, n)
	}
next:
	for _, uid := range above {
		n, ok := ix.numbers[uid]
		if !ok {
			continue
		}
		for _, have := range into { // a principal given one role twice must not meet a policy twice
			if have == n {
				continue next
			}
		}
		into = append(into, n)
	}
	return into
}

// candidates appends every policy whose scope matches the request.
func (ix *index) candidates(into []*compiled, r *request) []*compiled {
	var pbuf, rbuf [8]uint32
	principals := ix.reach(pbuf[:0], r.principal, r.roles)
	resources := ix.reach(rbuf[:0], r.resource, r.within)
	for _, p := range principals {
		for _, q := range resources {
			for _, c := range ix.buckets[bucket(p, q)] {
				if c.scope.actions&r.action != 0 && c.scope.principal.matches(r.principal) && c.scope.resource.matches(r.resource) {
					into = append(into, c)
				}
			}
		}
	}
	return into
}
