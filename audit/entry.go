// Package audit is the record of every act: canonical entries in an RFC 6962
// Merkle tree that nobody, the operator included, can rewrite unseen by a
// holder of an older checkpoint.
//
// [Log] appends inside the store's own transactions and signs checkpoints with
// a device key. The formats are C2SP's: tlog-tiles, tlog-checkpoint, tlog-proof.
// [VerifyProof], [VerifyExport] and [CheckConsistency] need a public key and
// nothing else: no server, no store, no network.
//
// What it cannot show: that entries were deleted together with every checkpoint
// that covered them. For that somebody else must have kept a checkpoint.
package audit

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// MaxEntry is the longest entry in bytes: tlog-tiles prefixes entries with 16 bits of length.
const MaxEntry = 65535

// Outcome says how an act ended.
type Outcome string

// The outcomes.
const (
	OK     Outcome = "ok"
	Denied Outcome = "denied" // the door refused
	Failed Outcome = "failed" // allowed, and then an error
	Intent Outcome = "intent" // about to act outside the store; another entry tells how it ended
)

// Entry is one audit record. It never holds a secret or a plaintext. Empty
// fields are left out of the encoding; Time, Action and Outcome are mandatory.
type Entry struct {
	Time        time.Time // UTC; microseconds are kept
	Principal   string    // SPIFFE ID, or "system"
	Credential  string    // id of the credential shown: a certificate's serial, a token's id
	Method      string    // how it authenticated: "mtls", …
	Source      netip.Addr
	HostClaimed string // the host the caller named
	HostProved  string // the host its credential or attestation proved

	Action  string            // "kms:Decrypt"
	Objects []Object          // what was acted on, in the action's own order
	Context map[string]string // encryption context: logged in clear by definition
	Details map[string]string // other facts of the act for readers: a policy's digest, a signer's key

	Decision      Decision
	Approvals     []Approval
	Reason        string // the caller's own words
	ChangeRequest string
	Incident      string

	Outcome Outcome
	Failure string        // class of the failure, never its text: "integrity", "unavailable", …
	Latency time.Duration // whole microseconds are kept
	Request string
	Trace   string
	BodyMAC []byte // HMAC of the request body under a sealed log key
}

// Object is one thing an act touched.
type Object struct {
	Kind    string // "Key", "Certificate", …
	ID      string // immutable id, if it has one; the log itself, say, has neither id nor name
	Name    string // dev/payments/orders
	Version int64
}

// IndexKey is the object's name in the principal→object index: by its immutable
// id if it has one, because names can be used again.
func (o Object) IndexKey() string {
	if o.ID != "" {
		return o.Kind + ":" + o.ID
	}
	return o.Kind + ":" + o.Name
}

// Decision is what the policy said.
type Decision struct {
	Result        string // "allow", "deny", "needs-approvals"
	PolicyVersion int64
	PolicyDigest  string
	Policies      []string // ids of the policies that decided
	Reason        string
}

// Approval names who approved and what exactly: the digest of the signed approval.
type Approval struct {
	By     string
	Digest string
}

// Record returns the entry as the store takes it: canonical bytes, and for a
// successful act one index row per object. key.ErrInvalid says which rule the
// entry breaks; an entry over MaxEntry bytes is one.
func (e *Entry) Record() (storage.Entry, error) {
	data, err := e.Append(make([]byte, 0, 768))
	if err != nil {
		return storage.Entry{}, err
	}
	return storage.Entry{Data: data, Uses: e.uses()}, nil
}

func (e *Entry) uses() []storage.Access {
	if e.Outcome != OK || e.Principal == "" || len(e.Objects) == 0 {
		return nil
	}
	uses := make([]storage.Access, 0, len(e.Objects))
	for _, o := range e.Objects {
		use := storage.Access{Principal: e.Principal, Object: o.IndexKey(), Version: o.Version, Host: e.HostProved, At: e.Time}
		if !slices.Contains(uses, use) {
			uses = append(uses, use)
		}
	}
	return uses
}

// check refuses what could not be read back as it is.
func (e *Entry) check() error {
	switch {
	case e.Time.IsZero():
		return fmt.Errorf("%w: audit entry without time", key.ErrInvalid)
	case e.Time.Year() < 1970 || e.Time.Year() > 9999:
		return fmt.Errorf("%w: audit entry of the year %d: check the clock", key.ErrInvalid, e.Time.Year())
	case e.Action == "":
		return fmt.Errorf("%w: audit entry without action", key.ErrInvalid)
	case e.Latency < 0:
		return fmt.Errorf("%w: audit entry with latency %v", key.ErrInvalid, e.Latency)
	}
	switch e.Outcome {
	case OK, Denied, Failed, Intent:
	default:
		return fmt.Errorf("%w: audit entry with outcome %.40q", key.ErrInvalid, string(e.Outcome))
	}
	for _, o := range e.Objects {
		if o.Kind == "" {
			return fmt.Errorf("%w: audit entry for %.80s names an object without kind", key.ErrInvalid, e.Action)
		}
	}
	return nil
}
