package policy

import (
	"net/netip"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// request is a Query in Cedar's words. It answers for the entities it is
// about, so that they are built only when a condition looks at them.
type request struct {
	query     *Query
	action    actionMask
	principal types.EntityUID
	roles     []types.EntityUID
	resource  types.EntityUID
	within    []types.EntityUID // ServiceScope and Environment of the resource
	env       string            // of the object
	service   string            // of the object
	needs     needs             // what the conditions of all candidates look at

	// Built when first looked at.
	actor, object, encryption types.Entity
	asked                     cedar.Request

	roleRoom   [4]types.EntityUID
	withinRoom [2]types.EntityUID
}

var encryptionUID = types.NewEntityUID("EncryptionContext", "request")

// newRequest translates q, or says why nothing can be decided about it.
func newRequest(q *Query) (*request, string) {
	h := ours()
	bit, known := h.bits[q.Action]
	switch {
	case !known:
		return nil, "no such action: " + string(q.Action)
	case !h.applies[q.Action][q.Object.Kind]:
		return nil, string(q.Action) + " does not apply to a " + string(q.Object.Kind)
	case q.Object.Name == "":
		return nil, "the object has no name"
	case q.Now.IsZero():
		return nil, "the question has no time"
	}
	r := &request{query: q, action: 1 << bit}
	var ok bool
	if r.principal, ok = principalUID(&q.Principal); !ok {
		return nil, "the principal is incomplete"
	}
	if len(q.Principal.Roles) > 0 {
		r.roles = r.roleRoom[:0]
		for _, role := range q.Principal.Roles {
			r.roles = append(r.roles, types.NewEntityUID("Role", types.String(role)))
		}
	}
	r.resource = types.NewEntityUID(types.EntityType(q.Object.Kind), types.String(q.Object.Name))
	r.place(&q.Object)
	return r, ""
}

func principalUID(p *Principal) (uid types.EntityUID, ok bool) {
	if p.Path == "" || p.Environment == "" {
		return uid, false
	}
	switch p.Kind {
	case KindUser:
		return types.NewEntityUID("User", types.String(p.Path)), true
	case KindService:
		return types.NewEntityUID("Service", types.String(p.Environment+"/"+p.Path)), true
	case KindNode:
		return types.NewEntityUID("Node", types.String(p.Environment+"/"+p.Path)), true
	default:
		return uid, false
	}
}

// place finds the environment and the service the object lies in.
func (r *request) place(o *Object) {
	r.env, r.service = o.Attributes["environment"], o.Attributes["service"]
	first, rest, _ := strings.Cut(o.Name, "/")
	switch o.Kind {
	case KindKey, KindCertificate, KindPrincipal:
		if r.env == "" && rest != "" {
			r.env = first
		}
	case KindIssuer:
	default:
		return // lies nowhere
	}
	second, third, _ := strings.Cut(rest, "/")
	switch {
	case r.service != "":
	case o.Kind == KindKey:
		r.service = second
	case o.Kind == KindCertificate && second == KindService:
		r.service, _, _ = strings.Cut(third, "/")
	}
	if r.env == "" {
		return
	}
	r.within = r.withinRoom[:0]
	if r.service != "" && (o.Kind == KindKey || o.Kind == KindCertificate) {
		scope := r.env + "/" + r.service
		r.within = append(r.within, types.NewEntityUID("ServiceScope", types.String(scope)))
	}
	r.within = append(r.within, types.NewEntityUID("Environment", types.String(r.env)))
}

// Get implements types.EntityGetter. What it built it keeps: one condition
// often looks at an entity twice.
func (r *request) Get(uid types.EntityUID) (types.Entity, bool) {
	switch {
	case uid == encryptionUID:
		if r.encryption.UID.IsZero() {
			tags := make(types.RecordMap, len(r.query.Context))
			for k, v := range r.query.Context {
				tags[types.String(k)] = types.String(v)
			}
			r.encryption = types.Entity{UID: uid, Tags: types.NewRecord(tags)}
		}
		return r.encryption, true
	case uid == r.principal:
		if r.actor.UID.IsZero() {
			r.actor = types.Entity{UID: uid, Parents: types.NewEntityUIDSet(r.roles...), Attributes: r.record(uid.Type, r.needs.principal, r.principalAttribute)}
		}
		return r.actor, true
	case uid == r.resource:
		if r.object.UID.IsZero() {
			r.object = types.Entity{UID: uid, Parents: types.NewEntityUIDSet(r.within...), Attributes: r.record(uid.Type, r.needs.resource, r.resourceAttribute)}
		}
		return r.object, true
	case len(r.within) == 2 && uid == r.within[0]: // a service scope lies in its environment
		return types.Entity{UID: uid, Parents: types.NewEntityUIDSet(r.within[1])}, true
	}
	action, ok := ours().resolved.Actions[uid]
	return action.Entity, ok
}

// record builds those attributes of the schema's entity type that are needed.
func (r *request) record(kind types.EntityType, needed attributes, value func(string) string) types.Record {
	names := ours().attributes[kind]
	if needed == 0 || len(names) == 0 {
		return types.Record{}
	}
	m := make(types.RecordMap, 2)
	for _, name := range names {
		if needed.has(name) {
			m[types.String(name)] = types.String(value(name))
		}
	}
	return types.NewRecord(m)
}

func (r *request) principalAttribute(name string) string {
	p := &r.query.Principal
	switch name {
	case "environment":
		return p.Environment
	case "path":
		return p.Path
	case "spiffe":
		return p.SPIFFEID
	default: // person
		return p.PersonID
	}
}

func (r *request) resourceAttribute(name string) string {
	switch name {
	case "environment":
		return r.env
	case "service":
		return r.service
	default:
		return r.query.Object.Attributes[name]
	}
}

// cedar returns the request as conditions see it, the context only as far as needed.
func (r *request) cedar() *cedar.Request {
	if r.asked.Principal.IsZero() {
		m := make(types.RecordMap, 4)
		if r.needs.context.has("source") {
			m["source"] = ipValue(r.query.Source)
		}
		if r.needs.context.has("now") {
			m["now"] = types.NewDatetime(r.query.Now)
		}
		if r.needs.context.has("authMethod") {
			m["authMethod"] = types.String(r.query.Principal.AuthMethod)
		}
		if r.needs.context.has("encryption") {
			m["encryption"] = encryptionUID
		}
		r.asked = cedar.Request{Principal: r.principal, Action: actionUID(r.query.Action), Resource: r.resource, Context: types.NewRecord(m)}
	}
	return &r.asked
}

// ipValue gives policies one form of each address: IPv4 as IPv4, without a zone.
func ipValue(a netip.Addr) types.IPAddr {
	if !a.IsValid() {
		a = netip.IPv6Unspecified()
	}
	a = a.Unmap().WithZone("")
	return types.IPAddr(netip.PrefixFrom(a, a.BitLen()))
}

// attributes is a set of attribute names, a bit each.
type attributes uint32

// everything stands for a variable that is used as a whole.
const everything = ^attributes(0)

// attributeNames gives each name its bit; the schema has no others.
var attributeNames = [...]string{
	"environment", "path", "spiffe", "person", "service", "tier", "algorithm", "classification", "owner",
	"profile", "issuer", "identity", "mode", "kind", "source", "now", "authMethod", "encryption",
}

func (a attributes) has(name string) bool {
	for i, n := range attributeNames {
		if n == name {
			return a&(1<<i) != 0
		}
	}
	return false
}

func (a *attributes) add(name string) {
	for i, n := range attributeNames {
		if n == name {
			*a |= 1 << i
		}
	}
}

// needs is what conditions look at.
type needs struct{ principal, resource, context attributes }

// union adds what other looks at.
func (n *needs) union(other needs) {
	n.principal |= other.principal
	n.resource |= other.resource
	n.context |= other.context
}

func findNeeds(conditions []ast.ConditionType) needs {
	var n needs
	for _, c := range conditions {
		n.look(c.Body)
	}
	return n
}

// look walks an expression. A variable whose attribute is read, or that is only
// compared, is understood; in any other place all of it is needed.
func (n *needs) look(node ast.IsNode) {
	ast.Inspect(ast.NewNode(node), func(node ast.IsNode) bool {
		switch v := node.(type) {
		case ast.NodeTypeAccess:
			return !n.attribute(v.Arg, string(v.Value))
		case ast.NodeTypeHas:
			return !n.attribute(v.Arg, string(v.Value))
		case ast.NodeTypeIn:
			return n.compared(v.BinaryNode)
		case ast.NodeTypeEquals:
			return n.compared(v.BinaryNode)
		case ast.NodeTypeNotEquals:
			return n.compared(v.BinaryNode)
		case ast.NodeTypeIs:
			return !isEntityVariable(v.Left)
		case ast.NodeTypeVariable:
			if set := n.of(v); set != nil {
				*set = everything
			}
		}
		return true
	})
}

func (n *needs) of(v ast.NodeTypeVariable) *attributes {
	switch v.Name {
	case "principal":
		return &n.principal
	case "resource":
		return &n.resource
	case "context":
		return &n.context
	default:
		return nil
	}
}

// attribute notes that name is read from node, if node is a variable.
func (n *needs) attribute(node ast.IsNode, name string) bool {
	v, ok := node.(ast.NodeTypeVariable)
	if !ok {
		return false
	}
	if set := n.of(v); set != nil {
		set.add(name)
	}
	return true
}

// compared looks at both sides of a comparison but for entity variables, whose
// identity and parents need no attributes.
func (n *needs) compared(b ast.BinaryNode) bool {
	for _, side := range [...]ast.IsNode{b.Left, b.Right} {
		if !isEntityVariable(side) {
			n.look(side)
		}
	}
	return false
}

func isEntityVariable(node ast.IsNode) bool {
	v, ok := node.(ast.NodeTypeVariable)
	return ok && v.Name != "context"
}
