package keyring

import (
	"crypto/hpke"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/key"
)

func TestRecover(t *testing.T) {
	for _, kem := range []uint16{kemP256, kemX25519, kemHybrid} {
		t.Run(fmt.Sprintf("KEM %#04x", kem), func(t *testing.T) {
			recovery := recoveryOf(t, kem)
			c, _ := newConfig(t)
			s := create(t, c, []Recipient{recovery.Recipient(), newRecovery(t).Recipient()}, "dev")
			sealed, version := seal(t, s, place, "secret")
			mac := s.RowMAC("t", "a")
			s.Close()

			// The device is gone, and somebody has spoilt its slot as well.
			tamper(t, c.DB, `UPDATE keyring_slot SET wrapped = '' WHERE kind = 'device'`)
			lost := c
			lost.Device, lost.Root = newDevice(t)
			recovered, err := Recover(t.Context(), lost, recovery, c.DB.Update)
			if err != nil {
				t.Fatal(err)
			}
			recovered.Close()
			s = open(t, lost)
			if got, err := s.Open(t.Context(), nil, place, version, sealed); err != nil || string(got) != "secret" {
				t.Errorf("after recovery: %q, %v", got, err)
			}
			if err := s.CheckRow(mac, "t", "a"); err != nil {
				t.Errorf("after recovery: %v", err)
			}
			// Again, onto a device that has a slot already.
			again, err := Recover(t.Context(), lost, recovery, c.DB.Update)
			if err != nil {
				t.Fatal(err)
			}
			again.Close()
			open(t, lost)
		})
	}
}

func TestRecoverRefuses(t *testing.T) {
	c, _ := newConfig(t)
	recovery := newRecovery(t)
	if _, err := Recover(t.Context(), c, recovery, c.DB.Update); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("recovering an empty store: %v, want ErrNotFound", err)
	}
	create(t, c, []Recipient{recovery.Recipient()}, "dev").Close()
	if _, err := Recover(t.Context(), c, newRecovery(t), c.DB.Update); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("with another recovery key: %v, want ErrNotFound", err)
	}
	other := c
	other.StoreID = "store-2"
	if _, err := Recover(t.Context(), other, recovery, c.DB.Update); !errors.Is(err, key.ErrInvalidCiphertext) {
		t.Errorf("under another store's id: %v, want ErrInvalidCiphertext", err)
	}
	tamper(t, c.DB, `UPDATE keyring_slot SET wrapped = (SELECT wrapped FROM keyring_slot WHERE environment = 'ops' AND kind = 'recovery') WHERE environment = 'dev' AND kind = 'recovery'`)
	if _, err := Recover(t.Context(), c, recovery, c.DB.Update); !errors.Is(err, key.ErrInvalidCiphertext) {
		t.Errorf("another keyring's slot: %v, want ErrInvalidCiphertext", err)
	}
}

func TestRecoveryText(t *testing.T) {
	recovery := newRecovery(t)
	line, err := recovery.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseRecoveryKey("# keep this offline\n\n" + line + "\n")
	if err != nil || back.Recipient().String() != recovery.Recipient().String() {
		t.Errorf("the recovery key reads back otherwise: %v", err)
	}
	recipient := recovery.Recipient()
	again, err := ParseRecipient("\n# " + recipient.Fingerprint() + "\r\n" + recipient.String() + "\r\n")
	if err != nil || again.String() != recipient.String() || len(recipient.Fingerprint()) != 16 {
		t.Errorf("the recipient reads back otherwise: %v", err)
	}
	if printed := fmt.Sprintf("%v %+v %#v %s %x", recovery, recovery, recovery, recovery, recovery); strings.Count(printed, "[redacted]") != 5 || strings.Contains(printed, "0x") {
		t.Errorf("a recovery key prints as %.100s", printed)
	}

	public := recipient.String()
	for what, text := range map[string]string{
		"nothing":           "",
		"a comment":         "# x",
		"a recovery key":    line,
		"two recipients":    public + "\n" + public,
		"a line more":       public + "\nx",
		"no key":            recipientPrefix,
		"padding":           public + "=",
		"cut":               public[:len(public)-4],
		"a KEM we lack":     recipientPrefix + "ABIAAAA",
		"another alphabet":  recipientPrefix + "++++",
		"a point elsewhere": recipientPrefix + encodeKey(kemP256, make([]byte, 65)),
	} {
		if _, err := ParseRecipient(text); !errors.Is(err, key.ErrInvalid) && !errors.Is(err, key.ErrUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, text := range map[string]string{"a recipient": public, "cut": line[:len(line)-4], "another prefix": "sw-recovery-key2:" + line} {
		_, err := ParseRecoveryKey(text)
		if !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%s as a recovery key: %v", what, err)
		}
		if strings.Contains(fmt.Sprint(err), line[len(line)-20:len(line)-4]) {
			t.Errorf("%s: the error quotes the key", what)
		}
	}
}

func FuzzParseRecipient(f *testing.F) {
	f.Add(newRecovery(f).Recipient().String())
	f.Add(recoveryOf(f, kemX25519).Recipient().String())
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRecipient(text)
		if err != nil {
			return
		}
		if back, err := ParseRecipient(r.String()); err != nil || back.String() != r.String() {
			t.Errorf("%q does not read back: %v", r.String(), err)
		}
	})
}

func recoveryOf(t testing.TB, id uint16) RecoveryKey {
	t.Helper()
	kem, err := hpke.NewKEM(id)
	if err != nil {
		t.Fatal(err)
	}
	private, err := kem.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return RecoveryKey{private: &private}
}
