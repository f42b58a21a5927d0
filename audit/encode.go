package audit

import (
	"encoding/hex"
	"fmt"
	"net/netip"

	"github.com/sealwright/sealwright/internal/canon"
	"github.com/sealwright/sealwright/key"
)

// formatVersion is the "v" of every entry; a reader refuses versions it does not know.
const formatVersion = 1

// timeForm is RFC 3339 in UTC with exactly six decimals, so that a time has one form and sorts as text.
const timeForm = "2006-01-02T15:04:05.000000Z"

// Append appends the canonical encoding of e to buf. Errors are key.ErrInvalid.
func (e *Entry) Append(buf []byte) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	start := len(buf)
	w := canon.NewEncoder(buf)
	e.encode(&w)
	out, err := w.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding audit entry for %.80s: %w", e.Action, err)
	}
	if n := len(out) - start; n > MaxEntry {
		return nil, fmt.Errorf("%w: audit entry for %.80s has %d bytes, the limit is %d: shorten its context or reason", key.ErrInvalid, e.Action, n, MaxEntry)
	}
	return out, nil
}

// encode writes the fields in ascending order of their keys; canon refuses another order.
func (e *Entry) encode(w *canon.Encoder) {
	w.BeginObject()
	text(w, "action", e.Action)
	if len(e.Approvals) > 0 {
		w.Key("approvals")
		w.BeginArray()
		for _, a := range e.Approvals {
			w.BeginObject()
			text(w, "by", a.By)
			text(w, "digest", a.Digest)
			w.EndObject()
		}
		w.EndArray()
	}
	if len(e.BodyMAC) > 0 {
		w.Key("body_hmac")
		w.String(hex.EncodeToString(e.BodyMAC))
	}
	text(w, "change_request", e.ChangeRequest)
	texts(w, "context", e.Context)
	text(w, "credential", e.Credential)
	e.Decision.encode(w)
	texts(w, "details", e.Details)
	text(w, "failure", e.Failure)
	text(w, "host_claimed", e.HostClaimed)
	text(w, "host_proved", e.HostProved)
	text(w, "incident", e.Incident)
	number(w, "latency_us", e.Latency.Microseconds())
	text(w, "method", e.Method)
	e.encodeObjects(w)
	text(w, "outcome", string(e.Outcome))
	text(w, "principal", e.Principal)
	text(w, "reason", e.Reason)
	text(w, "request", e.Request)
	if e.Source.IsValid() {
		w.Key("source")
		w.String(sourceText(e.Source))
	}
	var at [len(timeForm)]byte
	w.Key("time")
	w.String(string(e.Time.UTC().AppendFormat(at[:0], timeForm)))
	text(w, "trace", e.Trace)
	number(w, "v", formatVersion)
	w.EndObject()
}

func (e *Entry) encodeObjects(w *canon.Encoder) {
	if len(e.Objects) == 0 {
		return
	}
	w.Key("objects")
	w.BeginArray()
	for _, o := range e.Objects {
		w.BeginObject()
		text(w, "id", o.ID)
		text(w, "kind", o.Kind)
		text(w, "name", o.Name)
		number(w, "version", o.Version)
		w.EndObject()
	}
	w.EndArray()
}

func (d *Decision) encode(w *canon.Encoder) {
	if d.Result == "" && d.PolicyVersion == 0 && d.PolicyDigest == "" && len(d.Policies) == 0 && d.Reason == "" {
		return
	}
	w.Key("decision")
	w.BeginObject()
	text(w, "digest", d.PolicyDigest)
	if len(d.Policies) > 0 {
		w.Key("policies")
		w.Strings(d.Policies)
	}
	text(w, "reason", d.Reason)
	text(w, "result", d.Result)
	number(w, "version", d.PolicyVersion)
	w.EndObject()
}

func text(w *canon.Encoder, k, v string) {
	if v != "" {
		w.Key(k)
		w.String(v)
	}
}

func texts(w *canon.Encoder, k string, m map[string]string) {
	if len(m) > 0 {
		w.Key(k)
		w.StringMap(m)
	}
}

func number(w *canon.Encoder, k string, n int64) {
	if n != 0 {
		w.Key(k)
		w.Int(n)
	}
}

// sourceText writes an IPv4 address in one way, whichever socket it came through.
func sourceText(a netip.Addr) string { return a.Unmap().String() }
