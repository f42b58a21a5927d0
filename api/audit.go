package api

import "encoding/json"

// AuditEntry is one record of the log.
type AuditEntry struct {
	Index int64           `json:"index"`
	Entry json.RawMessage `json:"entry"` // for reading; the leaf's very bytes are in AuditProof
}

// AuditList is a page of the log, newest first.
type AuditList struct {
	Entries []AuditEntry `json:"entries"`
	Next    int64        `json:"next,omitempty"` // give it as before for the next page; 0 at the end
}

// AuditProof shows that an entry is in the log, offline and for ever.
type AuditProof struct {
	Index int64  `json:"index"`
	Entry []byte `json:"entry"` // the leaf
	Proof string `json:"proof"` // C2SP tlog-proof, with its checkpoint
}

// AuditConsistency shows that a log of size Old grew into Checkpoint.
type AuditConsistency struct {
	Old        int64    `json:"old"`
	Proof      [][]byte `json:"proof"`      // RFC 6962 hashes
	Checkpoint string   `json:"checkpoint"` // a signed note
}

// AuditKeys are the keys that sign checkpoints, as signed-note verifier keys.
type AuditKeys struct {
	Origin string   `json:"origin"`
	Keys   []string `json:"keys"`
}

// AuditReport is what the server found when it read its whole log.
type AuditReport struct {
	OK         bool     `json:"ok"`
	Size       int64    `json:"size"` // entries checked
	Root       []byte   `json:"root"` // the tree's hash over them
	Checkpoint string   `json:"checkpoint"`
	Problems   []string `json:"problems,omitempty"` // each says which entry
}
