// Package policy decides who may do what. Policies are Cedar text, checked
// against our schema when they are read, and asked once per request.
//
// Nothing is allowed that no permit allows; one forbid outweighs every permit;
// every answer names the policies that gave it. The package knows no store and
// no request: guard asks, and does what Decide says.
package policy

import (
	"net/netip"
	"time"
)

// Principal is who asks, as the registry knows it.
type Principal struct {
	SPIFFEID    string   `json:"spiffe_id"`
	Environment string   `json:"environment"`
	Kind        string   `json:"kind"` // user, service or node
	Path        string   `json:"path"` // what follows the kind in the SPIFFE ID, like payments
	Roles       []string `json:"roles,omitempty"`
	PersonID    string   `json:"person_id,omitempty"` // several certificates of one person are one person
	ID          string   `json:"id,omitempty"`
	AuthMethod  string   `json:"auth_method,omitempty"` // how it proved itself, like mtls
}

// The kinds of principals.
const (
	KindUser    = "user"    // a person: User::"admin"
	KindService = "service" // a service: Service::"dev/payments"
	KindNode    = "node"    // a machine: Node::"dev/host1"
)

// Object is what is asked about. Name is what policies know it by; a Key's is
// environment/service/name.
type Object struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
	ID   string `json:"id,omitempty"` // immutable id; for the record, not for policies
	// Attributes are the attributes of the schema; one that is missing reads as "".
	// "environment" and "service" also place the object in its Environment and
	// ServiceScope; where they are missing, a Key, Certificate or Principal
	// takes them from its name.
	Attributes map[string]string `json:"attributes,omitempty"`
}

// Query is one question.
type Query struct {
	Principal Principal
	Action    Action
	Object    Object
	Context   map[string]string // the encryption context
	Source    netip.Addr        // where the request came from; the zero Addr reads as ip("::")
	Now       time.Time         // required
}

// Outcome is what the door is to do.
type Outcome int

// The outcomes. The zero value denies.
const (
	Deny Outcome = iota
	Allow
	NeedsApprovals
)

// String returns deny, allow or needs-approvals.
func (o Outcome) String() string {
	switch o {
	case Allow:
		return "allow"
	case NeedsApprovals:
		return "needs-approvals"
	default:
		return "deny"
	}
}

// Decision answers a Query. Its slices are shared: do not write to them.
type Decision struct {
	Outcome   Outcome
	Policies  []string // ids of the policies that decided, in the order of the text; the first 16
	Reason    string   // one line for people
	Approvals string   // with NeedsApprovals: "2 of security"
}
