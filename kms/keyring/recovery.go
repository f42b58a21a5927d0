package keyring

import (
	"context"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/locked"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// The text forms: a prefix, then base64url without padding of the KEM's number
// (u16) and the key as RFC 9180 serialises it. A file may have empty lines and
// lines that begin with # around the one line that counts.
const (
	recipientPrefix   = "sw-recovery-recipient1:"
	recoveryKeyPrefix = "sw-recovery-key1:"
)

// The HPKE KEMs a recovery key may have, with HKDF-SHA-256 and AES-256-GCM.
const (
	kemP256   = 0x0010 // DHKEM(P-256, HKDF-SHA256)
	kemX25519 = 0x0020 // DHKEM(X25519, HKDF-SHA256)
	kemHybrid = 0x647a // MLKEM768-X25519: also holds against a quantum computer that reads old backups
)

// Recipient is the public half of a recovery key. Every keyring made for it can
// be recovered without any device.
type Recipient struct{ public hpke.PublicKey }

// RecoveryKey is the private half, which the officers keep offline. It prints
// as [redacted].
type RecoveryKey struct {
	locked.Redacted
	private *hpke.PrivateKey
}

// GenerateRecovery makes a recovery key: hybrid, post-quantum and X25519.
func GenerateRecovery() (RecoveryKey, error) {
	kem, err := hpke.NewKEM(kemHybrid)
	if err != nil {
		return RecoveryKey{}, fmt.Errorf("making a recovery key: %w", err)
	}
	private, err := kem.GenerateKey()
	if err != nil {
		return RecoveryKey{}, fmt.Errorf("making a recovery key: %w", err)
	}
	return RecoveryKey{private: &private}, nil
}

// ParseRecipient reads a recipient file. It returns key.ErrInvalid for anything
// else, a recovery key in particular.
func ParseRecipient(text string) (Recipient, error) {
	kem, b, err := parseKey(text, recipientPrefix, "a recovery recipient")
	if err != nil {
		return Recipient{}, err
	}
	public, err := kem.NewPublicKey(b)
	if err != nil {
		return Recipient{}, fmt.Errorf("%w: a recovery recipient: %w", key.ErrInvalid, err)
	}
	return Recipient{public}, nil
}

// String returns the line that ParseRecipient reads.
func (r Recipient) String() string {
	return recipientPrefix + encodeKey(r.public.KEM().ID(), r.public.Bytes())
}

// Fingerprint returns the first 16 hex digits of the SHA-256 of String, to compare by eye.
func (r Recipient) Fingerprint() string {
	sum := sha256.Sum256([]byte(r.String()))
	return hex.EncodeToString(sum[:8])
}

// ParseRecoveryKey reads a recovery key file.
func ParseRecoveryKey(text string) (RecoveryKey, error) {
	kem, b, err := parseKey(text, recoveryKeyPrefix, "a recovery key")
	if err != nil {
		return RecoveryKey{}, err
	}
	defer clear(b)
	private, err := kem.NewPrivateKey(b)
	if err != nil {
		return RecoveryKey{}, fmt.Errorf("%w: the recovery key is not one of its kind", key.ErrInvalid)
	}
	return RecoveryKey{private: &private}, nil
}

// Recipient returns the public half.
func (k RecoveryKey) Recipient() Recipient { return Recipient{(*k.private).PublicKey()} }

// Reveal returns the line that ParseRecoveryKey reads, to be written where only
// the officers find it.
func (k RecoveryKey) Reveal() (string, error) {
	b, err := (*k.private).Bytes()
	if err != nil {
		return "", fmt.Errorf("writing the recovery key: %w", err)
	}
	defer clear(b)
	return recoveryKeyPrefix + encodeKey((*k.private).KEM().ID(), b), nil
}

// Recover opens a store with the recovery key when no device does any more: it
// unwraps every keyring, wraps it for the device of c, stores the new slots
// through update and returns the opened set. The old slots stay.
func Recover(ctx context.Context, c Config, k RecoveryKey, update Update) (*Set, error) {
	s, err := newSet(c)
	if err != nil {
		return nil, err
	}
	recovered, err := s.recoverAll(ctx, k)
	if err == nil {
		err = update(ctx, func(tx *storage.Tx) error { return replaceSlots(tx, deviceSlot(c.Root), recovered) })
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("recovering keyrings: %w", err)
	}
	s.publish(recovered)
	return s, nil
}

func (s *Set) recoverAll(ctx context.Context, k RecoveryKey) ([]*ring, error) {
	rows, err := loadRows(ctx, s.config.DB, "")
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%w: the store has no keyrings", key.ErrNotFound)
	}
	var recovered []*ring
	for _, w := range rows {
		r, err := s.recoverRing(ctx, w, k)
		if err != nil {
			return nil, err
		}
		recovered = append(recovered, r)
	}
	return recovered, nil
}

// recoverRing opens one keyring with the recovery key and gives it a slot for the device.
func (s *Set) recoverRing(ctx context.Context, w row, k RecoveryKey) (*ring, error) {
	recipient := k.Recipient()
	slot, ok := w.slot(recoverySlot(recipient))
	if !ok {
		return nil, fmt.Errorf("%w: the keyring of %s is not wrapped for recovery recipient %s", key.ErrNotFound, w.environment, recipient.Fingerprint())
	}
	plain, err := hpke.Open(*k.private, hpke.HKDFSHA256(), hpke.AES256GCM(), w.binding(s.config.StoreID), slot.wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrapping the recovery slot of %s, version %d: %w", w.environment, w.version, key.ErrInvalidCiphertext)
	}
	r, err := s.openWith(w, plain)
	if err != nil {
		return nil, err
	}
	if err := r.addDeviceSlot(ctx, s.config); err != nil {
		return nil, err
	}
	r.mac = r.authenticate()
	return r, nil
}

// replaceSlots stores the slot of that name of each ring, and the MACs over them.
func replaceSlots(tx *storage.Tx, name string, rings []*ring) error {
	for _, r := range rings {
		if _, err := tx.Exec(`DELETE FROM keyring_slot WHERE environment = $1 AND version = $2 AND slot = $3`, r.environment, r.version, name); err != nil {
			return err
		}
		s, _ := r.slot(name)
		if err := r.insertSlot(tx, s); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE keyring SET mac = $1 WHERE environment = $2 AND version = $3`, r.mac, r.environment, r.version); err != nil {
			return err
		}
	}
	return nil
}

// addRecoverySlot wraps the key for a recipient; only the officers can verify it.
func (r *ring) addRecoverySlot(c Config, recipient Recipient) error {
	if recipient.public == nil {
		return fmt.Errorf("%w: an empty recovery recipient", key.ErrInvalid)
	}
	var wrapped []byte
	var err error
	useErr := r.master.Use(func(mem []byte) {
		wrapped, err = hpke.Seal(recipient.public, hpke.HKDFSHA256(), hpke.AES256GCM(), r.binding(c.StoreID), mem)
	})
	if useErr != nil || err != nil {
		return fmt.Errorf("wrapping for recovery recipient %s: %w", recipient.Fingerprint(), cmpErr(useErr, err))
	}
	r.addSlot(slot{name: recoverySlot(recipient), kind: kindRecovery, recipient: recipient.String(), wrapped: wrapped})
	return nil
}

func recoverySlot(r Recipient) string { return kindRecovery + ":" + r.Fingerprint() }

// recipients returns whom the ring's recovery slots are for; the row's MAC covers them.
func (r *ring) recipients() ([]Recipient, error) {
	var all []Recipient
	for _, s := range r.slots {
		if s.kind != kindRecovery {
			continue
		}
		recipient, err := ParseRecipient(s.recipient)
		if err != nil {
			return nil, err
		}
		all = append(all, recipient)
	}
	return all, nil
}

func encodeKey(kem uint16, b []byte) string {
	return base64.RawURLEncoding.EncodeToString(append(binary.BigEndian.AppendUint16(nil, kem), b...))
}

// parseKey finds the one line of a key file. Its errors never quote the text.
func parseKey(text, prefix, what string) (hpke.KEM, []byte, error) {
	var body string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		rest, ok := strings.CutPrefix(line, prefix)
		if !ok || body != "" {
			return nil, nil, fmt.Errorf("%w: %s is one line that begins with %s", key.ErrInvalid, what, prefix)
		}
		body = rest
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) < 3 {
		return nil, nil, fmt.Errorf("%w: %s is one line that begins with %s, then base64url", key.ErrInvalid, what, prefix)
	}
	id := binary.BigEndian.Uint16(b)
	if id != kemP256 && id != kemX25519 && id != kemHybrid {
		return nil, nil, fmt.Errorf("%w: %s of KEM %#04x: use P-256, X25519 or MLKEM768-X25519", key.ErrUnsupported, what, id)
	}
	kem, err := hpke.NewKEM(id)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s of KEM %#04x", key.ErrUnsupported, what, id)
	}
	return kem, b[2:], nil
}
