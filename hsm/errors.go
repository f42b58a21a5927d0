package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/key"
)

// damage says how much of what we know about a token an error makes void. The
// larger one includes the smaller.
type damage int

const (
	intact  damage = iota // the error is about the operation, not about the token
	unsure                // some modules answer so for bad input as well as for a dead token: ask the token
	handles               // sessions or handles are void, the login may stand
	login                 // the token no longer knows that we logged in
	library               // only C_Finalize and C_Initialize help
)

// code returns the CK_RV inside err; CKR_OK if err did not come from the module.
func code(err error) pkcs11.Error {
	var rv pkcs11.Error
	if errors.As(err, &rv) {
		return rv
	}
	return pkcs11.CKR_OK
}

func assess(err error) damage {
	switch code(err) {
	case pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_DEVICE_MEMORY,
		pkcs11.CKR_FUNCTION_CANCELED, pkcs11.CKR_OPERATION_ACTIVE, pkcs11.CKR_OPERATION_NOT_INITIALIZED:
		return unsure
	case pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED,
		pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID:
		return handles
	case pkcs11.CKR_USER_NOT_LOGGED_IN:
		return login
	case pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED,
		pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_SLOT_ID_INVALID:
		return library
	}
	return intact
}

// kind turns what the module said into an error of package key. Errors that
// already are of package key, or of a ctx, pass.
func kind(err error) error {
	if err == nil || known(err) {
		return err
	}
	switch code(err) {
	case pkcs11.CKR_OK:
		return err
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE:
		return fmt.Errorf("%w and it will not be tried again: correct the PIN and open the device anew (%w)", key.ErrAuth, err)
	case pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_USER_PIN_NOT_INITIALIZED:
		return fmt.Errorf("%w: set a new user PIN with the token's own tool (%w)", key.ErrAuth, err)
	case pkcs11.CKR_PIN_LOCKED:
		return fmt.Errorf("%w: too many wrong PINs; its security officer must unlock it with the token's own tool (%w)", key.ErrLockedOut, err)
	case pkcs11.CKR_SESSION_COUNT:
		return fmt.Errorf("%w: the token has no session left; other programs hold them (%w)", key.ErrBusy, err)
	case pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_KEY_SIZE_RANGE,
		pkcs11.CKR_CURVE_NOT_SUPPORTED, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_KEY_TYPE_INCONSISTENT,
		pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
		pkcs11.CKR_TOKEN_WRITE_PROTECTED, pkcs11.CKR_ACTION_PROHIBITED:
		return fmt.Errorf("%w by this token: %w", key.ErrUnsupported, err)
	}
	return fmt.Errorf("%w: the token answers %w", key.ErrUnavailable, err)
}

// known reports an error that already says what the caller may do about it.
func known(err error) bool {
	for _, sentinel := range []error{
		key.ErrUnavailable, key.ErrIntegrity, key.ErrAuth, key.ErrLockedOut, key.ErrNotFound,
		key.ErrExists, key.ErrUnsupported, key.ErrInvalid, key.ErrInvalidCiphertext,
	} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}

// refusesPIN reports an error after which no further login may be tried.
func refusesPIN(err error) bool {
	err = kind(err)
	return errors.Is(err, key.ErrAuth) || errors.Is(err, key.ErrLockedOut)
}

// waited turns the end of a wait into the error the caller sees.
func waited(what string, err error) error {
	switch {
	case errors.Is(err, errShut):
		return fmt.Errorf("%w: the device is closed", key.ErrUnavailable)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: waiting for %s: %w", key.ErrBusy, what, err)
	}
	return err
}
