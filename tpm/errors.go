package tpm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/sealwright/sealwright/key"
)

// verdict is what a failure means: for the caller, for the generation it
// happened in, and for a second try.
type verdict struct {
	kind  error // one of package key, nil where the error already is
	hint  string
	stale bool // the generation is of no more use
	again bool // the TPM certainly performed nothing, and a fresh generation may serve
}

var kinds = []error{
	key.ErrUnavailable, key.ErrIntegrity, key.ErrAuth, key.ErrLockedOut, key.ErrNotFound, key.ErrExists,
	key.ErrUnsupported, key.ErrInvalid, key.ErrInvalidCiphertext,
}

// judge says what err, which is not nil, means.
func judge(err error) verdict {
	if slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) }) {
		return verdict{}
	}
	switch {
	case errors.Is(err, errNotSent):
		return verdict{kind: key.ErrUnavailable, stale: true, again: true}
	case errors.Is(err, errLost):
		return verdict{kind: key.ErrUnavailable, stale: true, hint: "whether the TPM performed it is not known"}
	}
	var rc tpm2.TPMRC
	if errors.As(err, &rc) {
		return judgeCode(rc)
	}
	// go-tpm could not read the response, or its authentication code is wrong.
	return verdict{kind: key.ErrIntegrity, stale: true, hint: "what answers is not a healthy TPM, or something sits between"}
}

// judgeCode says what a response code means (TPM 2.0 Part 2, 6.6).
func judgeCode(rc tpm2.TPMRC) verdict {
	is := func(codes ...tpm2.TPMRC) bool {
		return slices.ContainsFunc(codes, func(code tpm2.TPMRC) bool { return errors.Is(rc, code) })
	}
	switch {
	case is(tpm2.TPMRCLockout):
		return verdict{kind: key.ErrLockedOut, hint: "wait out the lockout time that tpm2_getcap properties-variable shows, or clear it with tpm2_dictionarylockout --clear-lockout"}
	case is(tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth):
		// An earlier refusal that an interposer invented leaves the session's nonces
		// apart, which looks the same: a fresh session tells, at the next call.
		return verdict{kind: key.ErrAuth, stale: true, hint: "check auth-source; it was not tried again"}
	case is(tpm2.TPMRCInitialize, tpm2.TPMRCReboot), lostHandle(rc):
		return verdict{kind: key.ErrUnavailable, stale: true, again: true, hint: "the TPM was reset"}
	case is(tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionHandles, tpm2.TPMRCContextGap):
		return verdict{kind: key.ErrBusy, stale: true, again: true, hint: "other software fills the TPM's slots: address it as /dev/tpmrm0"}
	case is(tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate, tpm2.TPMRCCanceled):
		return verdict{kind: key.ErrBusy}
	case is(tpm2.TPMRCNVUnavailable):
		return verdict{kind: key.ErrUnavailable}
	case is(tpm2.TPMRCFailure, tpm2.TPMRCUpgrade):
		return verdict{kind: key.ErrUnavailable, hint: "the TPM stopped itself: power-cycle the machine"}
	case is(tpm2.TPMRCHierarchy, tpm2.TPMRCDisabled):
		return verdict{kind: key.ErrUnavailable, hint: "enable the TPM's owner hierarchy in the firmware setup"}
	case is(tpm2.TPMRCCommandCode, tpm2.TPMRCCurve, tpm2.TPMRCScheme, tpm2.TPMRCSymmetric, tpm2.TPMRCAsymmetric, tpm2.TPMRCHash, tpm2.TPMRCKeySize):
		return verdict{kind: key.ErrUnsupported}
	}
	return verdict{kind: key.ErrIntegrity, stale: true}
}

// lostHandle reports whether rc complains of a handle or a session that the
// TPM gave us earlier and now does not know.
func lostHandle(rc tpm2.TPMRC) bool {
	if rc >= tpm2.TPMRCReferenceH0 && rc <= tpm2.TPMRCReferenceS6 {
		return true
	}
	var fmt1 tpm2.TPMFmt1Error
	if !errors.As(rc, &fmt1) || !errors.Is(rc, tpm2.TPMRCHandle) && !errors.Is(rc, tpm2.TPMRCValue) {
		return false
	}
	ofHandle, _ := fmt1.Handle()
	ofSession, _ := fmt1.Session()
	return ofHandle || ofSession
}

// explain makes err one of the kinds of package key.
func (v verdict) explain(err error) error {
	switch {
	case v.kind == nil:
		return err
	case v.hint == "":
		return fmt.Errorf("%w: %w", v.kind, err)
	}
	return fmt.Errorf("%w: %w: %s", v.kind, err, v.hint)
}

// refused reports whether err is the TPM's refusal of a blob as such, not a
// failure that another try, time or authorisation could mend.
func refused(err error) bool {
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) {
		return false
	}
	kind := judgeCode(rc).kind
	return errors.Is(kind, key.ErrIntegrity) || errors.Is(kind, key.ErrUnsupported)
}
