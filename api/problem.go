// Package api is the wire form of the native API: the requests and responses,
// the table of routes, and the one table that turns errors into problems and
// back. Server and client both read it, so neither can say what the other does
// not understand.
//
// Bytes are standard base64, times RFC 3339, durations Go's ("1h30m"). A server
// refuses unknown fields in requests; a client ignores them in responses.
package api

import (
	"errors"
	"net/http"

	"github.com/sealwright/sealwright/key"
)

// The errors a call may end with, for errors.Is on either side of the wire.
var (
	ErrUnavailable       = key.ErrUnavailable
	ErrBusy              = key.ErrBusy
	ErrFull              = key.ErrFull
	ErrIntegrity         = key.ErrIntegrity
	ErrAuth              = key.ErrAuth
	ErrLockedOut         = key.ErrLockedOut
	ErrNotFound          = key.ErrNotFound
	ErrExists            = key.ErrExists
	ErrUnsupported       = key.ErrUnsupported
	ErrInvalid           = key.ErrInvalid
	ErrInvalidCiphertext = key.ErrInvalidCiphertext
	ErrDisabled          = key.ErrDisabled
	ErrDenied            = key.ErrDenied
	ErrNeedsApproval     = key.ErrNeedsApproval
	ErrConflict          = key.ErrConflict
	ErrUnauthenticated   = key.ErrUnauthenticated

	// ErrTooLarge: the body is over the route's limit.
	ErrTooLarge = errors.New("request too large")
	// ErrMedia: the body is not application/json.
	ErrMedia = errors.New("unsupported media type")
	// ErrMethod: the path exists, the method does not.
	ErrMethod = errors.New("method not allowed")
	// ErrRate: too many requests; retry later.
	ErrRate = errors.New("too many requests")
	// ErrInternal: a fault of the server; its log has the request id.
	ErrInternal = errors.New("internal error")
)

// Problem is the body of every refusal: RFC 9457, application/problem+json.
// A *Problem is an error and unwraps to the sentinel of its code.
type Problem struct {
	Type      string `json:"type"`   // "urn:sealwright:problem:" and the code
	Title     string `json:"title"`  // the code for people, the same for every occurrence
	Status    int    `json:"status"` // the HTTP status
	Code      string `json:"code"`   // what programs decide by
	Detail    string `json:"detail,omitempty"`
	RequestID string `json:"request_id,omitempty"`

	// With code needs_approval:
	Digest    string `json:"digest,omitempty"`    // of the canonical request, hex: what approvers sign
	Approvals string `json:"approvals,omitempty"` // what is missing, like "2 of security"
}

// ProblemType is the media type of a Problem.
const ProblemType = "application/problem+json"

const problemURN = "urn:sealwright:problem:"

// kind is one row of the table of errors.
type kind struct {
	err    error
	code   string
	status int
	title  string
	detail string // said instead of the error's own text, which may tell too much
}

// kinds is in order of errors.Is: what wraps another stands before it.
var kinds = []kind{
	{ErrInvalidCiphertext, "invalid_ciphertext", http.StatusBadRequest, "Invalid ciphertext",
		"invalid ciphertext: it is malformed or altered, belongs to another key, or the encryption context differs from the one it was made with"},
	{ErrUnauthenticated, "unauthenticated", http.StatusUnauthorized, "Not authenticated", ""},
	{ErrDenied, "denied", http.StatusForbidden, "Denied", ""},
	{ErrNeedsApproval, "needs_approval", http.StatusAccepted, "Needs approval", ""},
	{ErrTooLarge, "too_large", http.StatusRequestEntityTooLarge, "Request too large", ""},
	{ErrMedia, "unsupported_media_type", http.StatusUnsupportedMediaType, "Unsupported media type", ""},
	{ErrMethod, "method_not_allowed", http.StatusMethodNotAllowed, "Method not allowed", ""},
	{ErrRate, "too_many_requests", http.StatusTooManyRequests, "Too many requests", ""},
	{ErrDisabled, "disabled", http.StatusConflict, "Disabled", ""},
	{ErrExists, "exists", http.StatusConflict, "Already exists", ""},
	{ErrConflict, "conflict", http.StatusConflict, "Conflict", ""},
	{ErrNotFound, "not_found", http.StatusNotFound, "Not found", ""},
	{ErrUnsupported, "unsupported", http.StatusUnprocessableEntity, "Unsupported", ""},
	{ErrInvalid, "invalid", http.StatusBadRequest, "Invalid request", ""},
	{ErrBusy, "busy", http.StatusServiceUnavailable, "Busy", "the device or the store has more to do than it can queue: retry later"},
	{ErrFull, "disk_full", http.StatusServiceUnavailable, "Disk full", "the service's disk is full, nothing was written: an operator must free space; then retry"},
	{ErrLockedOut, "locked_out", http.StatusServiceUnavailable, "Device locked out", "the device refuses every PIN: an operator must unlock it"},
	{ErrAuth, "device_auth", http.StatusServiceUnavailable, "Device refused the PIN", "the device refused the service's PIN: an operator must correct it; it is never retried"},
	{ErrUnavailable, "unavailable", http.StatusServiceUnavailable, "Unavailable", "the device or the store cannot be reached now: retry later"},
	{ErrIntegrity, "integrity", http.StatusInternalServerError, "Integrity check failed", "a product of the device or a row of the store failed its check: do not retry; tell the operators the request id"},
	{ErrInternal, "internal", http.StatusInternalServerError, "Internal error", "a fault of the server: its log has the request id"},
}

// Code is one row of the table of errors, for documents.
type Code struct {
	Code   string
	Status int
	Title  string
}

// Codes returns the codes a Problem may have.
func Codes() []Code {
	all := make([]Code, len(kinds))
	for i, k := range kinds {
		all[i] = Code{k.code, k.status, k.title}
	}
	return all
}

// FromError returns the problem that stands for err: the row of the first kind
// err is, or internal. The caller adds the request id.
func FromError(err error) Problem {
	var p *Problem
	if errors.As(err, &p) {
		return *p
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k.problem(err)
		}
	}
	return kinds[len(kinds)-1].problem(err)
}

func (k kind) problem(err error) Problem {
	p := Problem{Type: problemURN + k.code, Title: k.title, Status: k.status, Code: k.code, Detail: k.detail}
	if k.detail == "" {
		p.Detail = err.Error()
	}
	return p
}

// Err returns p as an error that errors.Is knows by its code. A code this
// version does not know is told by the status.
func (p Problem) Err() error { return &p }

// Error returns what happened and the request id.
func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	if text == "" {
		text = http.StatusText(p.Status)
	}
	if p.RequestID != "" {
		text += " (request " + p.RequestID + ")"
	}
	return text
}

// Unwrap returns the sentinel of the code.
func (p *Problem) Unwrap() error {
	for _, k := range kinds {
		if k.code == p.Code {
			return k.err
		}
	}
	// A newer server, or something between us and it that speaks no problems.
	switch p.Status {
	case http.StatusUnauthorized:
		return ErrUnauthenticated
	case http.StatusForbidden:
		return ErrDenied
	case http.StatusAccepted:
		return ErrNeedsApproval
	case http.StatusNotFound:
		return ErrNotFound
	case http.StatusMethodNotAllowed:
		return ErrMethod
	case http.StatusConflict:
		return ErrConflict
	case http.StatusRequestEntityTooLarge:
		return ErrTooLarge
	case http.StatusUnsupportedMediaType:
		return ErrMedia
	case http.StatusTooManyRequests:
		return ErrRate
	case http.StatusServiceUnavailable:
		return ErrUnavailable
	}
	if p.Status >= 400 && p.Status < 500 {
		return ErrInvalid
	}
	return ErrInternal
}

// Retryable reports whether the same request may succeed later without anybody
// doing anything: unavailable, busy, too many requests.
func (p *Problem) Retryable() bool {
	return p.Code == "unavailable" || p.Code == "busy" || p.Code == "disk_full" || p.Code == "too_many_requests" ||
		p.Code == "" && (p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests)
}
