package api

import "time"

// Status says what runs, and for whom it takes the caller.
type Status struct {
	Version      string         `json:"version"`
	Mode         string         `json:"mode"` // dev or production
	StoreID      string         `json:"store_id"`
	Domain       string         `json:"domain"`
	OnlineRoot   bool           `json:"online_root"` // the root was made in the service's own token, without a ceremony
	Environments []string       `json:"environments"`
	Devices      []DeviceStatus `json:"devices"`
	Log          LogStatus      `json:"log"`
	Policy       PolicyStatus   `json:"policy"`
	You          Principal      `json:"you"`
	Time         time.Time      `json:"time"`
}

// DeviceStatus is one device.
type DeviceStatus struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"` // pkcs11 or tpm
	Healthy bool   `json:"healthy"`
	Detail  string `json:"detail,omitempty"`
}

// LogStatus is the audit log.
type LogStatus struct {
	Origin     string `json:"origin"`
	Size       int64  `json:"size"`       // entries
	Checkpoint int64  `json:"checkpoint"` // entries under the newest signed checkpoint
}

// PolicyStatus names the active policy.
type PolicyStatus struct {
	Version int64  `json:"version"`
	Digest  string `json:"digest"` // SHA-256 of the text, hex
}

// Policy is a version of the policy.
type Policy struct {
	Version   int64     `json:"version"`
	Digest    string    `json:"digest"`
	Text      string    `json:"text"`
	Count     int       `json:"count"` // of policies in it
	CreatedBy string    `json:"created_by"`
	CreatedAt time.Time `json:"created_at"`
}

// ApplyPolicyRequest makes text the active policy.
type ApplyPolicyRequest struct {
	Name string `json:"name,omitempty"` // for messages: the file's name
	Text string `json:"text"`
	// Base is the version the text was made from; when another is active by now: ErrConflict. 0: whatever is active.
	Base int64 `json:"base,omitempty"`
}

// ExplainRequest asks what the policy would decide, and why.
type ExplainRequest struct {
	Principal string            `json:"principal"` // as SPIFFEID takes it; a short one is in the object's environment
	Action    string            `json:"action"`    // kms:Decrypt
	Object    string            `json:"object"`    // dev/payments/orders
	Kind      string            `json:"kind,omitempty"`
	Context   map[string]string `json:"context,omitempty"`
	Source    string            `json:"source,omitempty"`      // an IP address; the caller's by default
	Time      time.Time         `json:"time,omitzero"`         // now by default
	Text      string            `json:"text,omitempty"`        // decide under this text in place of the active policy
	Method    string            `json:"auth_method,omitempty"` // mtls by default
}

// ExplainResponse is the decision and its reasons.
type ExplainResponse struct {
	Outcome   string   `json:"outcome"`  // allow, deny or needs-approvals
	Policies  []string `json:"policies"` // ids of those that decided
	Reason    string   `json:"reason"`
	Approvals string   `json:"approvals,omitempty"`
	Text      string   `json:"text"` // the whole explanation, for people
}

// Principal is a registered identity.
type Principal struct {
	ID          string    `json:"id"`
	SPIFFEID    string    `json:"spiffe_id"`
	Environment string    `json:"environment"`
	Kind        string    `json:"kind"` // user, service or node
	Path        string    `json:"path"`
	Roles       []string  `json:"roles"`
	PersonID    string    `json:"person_id,omitempty"`
	CreatedBy   string    `json:"created_by,omitempty"`
	CreatedAt   time.Time `json:"created_at,omitzero"`
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
	DisabledAt  time.Time `json:"disabled_at,omitzero"`
}

// RegisterRequest makes an identity a principal.
type RegisterRequest struct {
	Identity    string    `json:"identity"`              // as SPIFFEID takes it
	Environment string    `json:"environment,omitempty"` // for a short identity
	Roles       []string  `json:"roles,omitempty"`
	PersonID    string    `json:"person_id,omitempty"` // for user/: who it is; the path by default
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
}

// PrincipalList is a page of principals, by SPIFFE ID.
type PrincipalList struct {
	Principals []Principal `json:"principals"`
	Next       string      `json:"next,omitempty"`
}
