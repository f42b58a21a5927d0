package key

import (
	"errors"
	"fmt"
)

// The kinds of failure that every caller of a device or a service can tell
// apart with errors.Is. Each is wrapped with what was being done.
var (
	// ErrUnavailable: the device or store cannot be reached now; retry later.
	ErrUnavailable = errors.New("unavailable")
	// ErrBusy: the queue's deadline passed before a session was free; retry later.
	ErrBusy = fmt.Errorf("%w: busy", ErrUnavailable)
	// ErrFull: the store's disk is full; nothing of the change was written.
	ErrFull = fmt.Errorf("%w: the store's disk is full", ErrUnavailable)
	// ErrIntegrity: a product of the device or a row of the store failed its check; do not retry, investigate.
	ErrIntegrity = errors.New("integrity check failed")
	// ErrAuth: the PIN or authorisation value was refused. Never retried: tokens lock.
	ErrAuth = errors.New("device refused the PIN")
	// ErrLockedOut: the device refuses every PIN until it is unlocked or time has passed.
	ErrLockedOut = errors.New("device is locked out")
	// ErrNotFound: no such key, device or object.
	ErrNotFound = errors.New("not found")
	// ErrExists: the label, id or name is taken.
	ErrExists = errors.New("already exists")
	// ErrUnsupported: this device or key cannot do that, now or ever.
	ErrUnsupported = errors.New("unsupported")
	// ErrInvalid: the caller's input is outside the grammar or the limits.
	ErrInvalid = errors.New("invalid")
	// ErrInvalidCiphertext: malformed, truncated, of another key or context, or altered. One error, no oracle.
	ErrInvalidCiphertext = errors.New("invalid ciphertext")
	// ErrDisabled: the key, principal or issuer exists and is switched off.
	ErrDisabled = errors.New("disabled")
	// ErrUnauthenticated: nobody, or nobody known, is asking.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrDenied: the door refused.
	ErrDenied = errors.New("denied")
	// ErrNeedsApproval: the door wants approvals first.
	ErrNeedsApproval = errors.New("needs approval")
	// ErrConflict: the object changed meanwhile, or an idempotency key was used for another request.
	ErrConflict = errors.New("conflict")
)
