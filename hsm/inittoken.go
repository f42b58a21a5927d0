package hsm

import (
	"context"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/key"
)

// InitToken makes a token in a free slot of the module at modulePath, with
// its PINs, and returns its serial number. It never touches a slot that holds
// a token: key.ErrExists if the label (1 to 32 bytes) is taken.
//
// It works in this process, because SoftHSM2 does not see tokens that another
// program made after C_Initialize.
func InitToken(ctx context.Context, modulePath, label string, officerPIN, pin []byte) (serial string, err error) {
	if len(label) == 0 || len(label) > 32 || !validLabel(label) {
		return "", fmt.Errorf("%w: token label %.80q: use 1 to 32 of the characters a-z, 0-9, \".\", \"/\" and \"-\"", key.ErrInvalid, label)
	}
	if checkPIN(officerPIN) != nil || checkPIN(pin) != nil {
		return "", fmt.Errorf("%w: initialising token %s: a PIN is empty or holds characters no token takes", key.ErrInvalid, label)
	}
	m, err := acquireModule(modulePath)
	if err != nil {
		return "", fmt.Errorf("initialising token %s: %w", label, err)
	}
	defer func() {
		if end := m.release(); err == nil {
			err = end
		}
	}()
	if err := m.lock(ctx); err != nil {
		return "", fmt.Errorf("initialising token %s: %w", label, err)
	}
	defer m.unlock()
	if err := m.gate.quiesce(ctx); err != nil {
		return "", fmt.Errorf("initialising token %s: %w", label, waited("the PKCS#11 module to fall silent", err))
	}
	defer m.gate.reopen()
	if serial, err = m.initToken(label, string(officerPIN), string(pin)); err != nil {
		return "", fmt.Errorf("initialising token %s: %w", label, kind(err))
	}
	return serial, nil
}

// initToken has the module's gate empty.
func (m *module) initToken(label, officerPIN, pin string) (serial string, err error) {
	slot, err := m.freeSlot(label)
	if err != nil {
		return "", err
	}
	if err := m.lib.InitToken(slot, officerPIN, label); err != nil {
		return "", err
	}
	// SoftHSM2 numbers its slots anew when they are listed after C_InitToken.
	slot, info, err := m.find(URI{Token: label})
	if err != nil {
		return "", err
	}
	session, err := m.lib.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return "", err
	}
	err = m.lib.Login(session, pkcs11.CKU_SO, officerPIN)
	if err == nil {
		err = m.lib.InitPIN(session, pin)
	}
	if end := m.lib.CloseSession(session); err == nil { // the last one: the token logs out with it
		err = end
	}
	return info.SerialNumber, err
}

func (m *module) freeSlot(label string) (uint, error) {
	slots, err := m.lib.GetSlotList(true)
	if err != nil {
		return 0, err
	}
	free, found := uint(0), false
	for _, slot := range slots {
		info, err := m.lib.GetTokenInfo(slot)
		if err != nil {
			continue // a token that has gone
		}
		initialised := info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0
		if initialised && info.Label == label {
			return 0, fmt.Errorf("%w: the module has a token of this label; initialising it would destroy its keys", key.ErrExists)
		}
		if !initialised {
			free, found = slot, true
		}
	}
	if !found {
		return 0, fmt.Errorf("%w: the module has no free slot; initialise a token with its own tool", key.ErrUnsupported)
	}
	return free, nil
}
