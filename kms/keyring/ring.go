package keyring

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/locked"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms/envelope"
)

const keySize = 32

// Purpose separates what is sealed or authenticated under one keyring: each has
// a key of its own, derived with HKDF-SHA-256.
type Purpose string

// The purposes. The first two seal, the others authenticate.
const (
	KeyMaterial Purpose = "key-material"
	Secrets     Purpose = "secrets"
	LogHMAC     Purpose = "log-hmac"
	rowMAC      Purpose = "row-mac" // through RowMAC and CheckRow alone
)

// The states of a keyring version.
const (
	stateActive  = "active"  // seals and opens
	stateRetired = "retired" // opens
)

// ring is one version of one keyring, opened.
type ring struct {
	row
	master *locked.Buffer
	seals  map[Purpose]*envelope.Key
	macs   map[Purpose]*macKey
}

// generate makes a keyring key and wraps it, for the device and the recipients.
// It is not stored yet.
func (s *Set) generate(ctx context.Context, name string, recovery []Recipient) (*ring, error) {
	if err := key.CheckSegment(name); err != nil {
		return nil, err
	}
	inside, err := s.config.Device.Random(ctx, keySize)
	if err != nil {
		return nil, fmt.Errorf("asking the device for randomness: %w", err)
	}
	defer clear(inside)
	if len(inside) != keySize {
		return nil, fmt.Errorf("%w: asked for %d random bytes, the device gave %d", key.ErrIntegrity, keySize, len(inside))
	}
	master, err := s.arena.New(keySize)
	if err != nil {
		return nil, err
	}
	err = master.Use(func(mem []byte) {
		_, _ = rand.Read(mem) // never fails since Go 1.24: the program ends instead
		subtle.XORBytes(mem, mem, inside)
	})
	if err != nil {
		return nil, err
	}
	r := &ring{master: master, row: row{environment: name, version: 1, state: stateActive, createdAt: time.Now().UnixMicro()}}
	if err := r.complete(ctx, s, recovery); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// complete derives the subkeys of a new ring, wraps it and authenticates its row.
func (r *ring) complete(ctx context.Context, s *Set, recovery []Recipient) error {
	if err := r.derive(s.arena); err != nil {
		return err
	}
	if err := r.addDeviceSlot(ctx, s.config); err != nil {
		return err
	}
	for _, recipient := range recovery {
		if err := r.addRecoverySlot(s.config, recipient); err != nil {
			return err
		}
	}
	r.mac = r.authenticate()
	return nil
}

// open unwraps the ring of a row with one device operation and checks the row.
func (s *Set) open(ctx context.Context, w row) (*ring, error) {
	slot, ok := w.slot(deviceSlot(s.config.Root))
	if !ok {
		return nil, fmt.Errorf("%w: the keyring of %s is not wrapped for device key %s: use the device it was made with, or recover it for this one", key.ErrNotFound, w.environment, s.config.Root.Label)
	}
	plain, err := s.config.Device.Unwrap(ctx, s.config.Root, slot.wrapped, w.binding(s.config.StoreID))
	if err != nil {
		return nil, fmt.Errorf("unwrapping the keyring of %s, version %d: %w", w.environment, w.version, err)
	}
	return s.openWith(w, plain)
}

// openWith makes the ring of a row and its unwrapped key, which it wipes.
func (s *Set) openWith(w row, plain []byte) (*ring, error) {
	if len(plain) != keySize {
		clear(plain)
		return nil, fmt.Errorf("%w: the keyring of %s, version %d, unwraps to %d bytes", key.ErrIntegrity, w.environment, w.version, len(plain))
	}
	master, err := s.arena.From(plain)
	if err != nil {
		return nil, err
	}
	r := &ring{row: w, master: master}
	if err := r.derive(s.arena); err != nil {
		r.close()
		return nil, err
	}
	if !hmac.Equal(r.authenticate(), w.mac) {
		r.close()
		return nil, fmt.Errorf("%w: row %s/%d of table keyring, or one of its slots, was changed outside of Sealwright", key.ErrIntegrity, w.environment, w.version)
	}
	return r, nil
}

// derive makes the subkeys. Those that seal live on as AES schedules, those
// that authenticate in locked memory.
func (r *ring) derive(arena *locked.Arena) error {
	r.seals, r.macs = map[Purpose]*envelope.Key{}, map[Purpose]*macKey{}
	for _, p := range []Purpose{KeyMaterial, Secrets} {
		subkey, err := r.subkey(arena, p)
		if err != nil {
			return err
		}
		var prepared *envelope.Key
		if useErr := subkey.Use(func(mem []byte) { prepared, err = envelope.NewKey(mem) }); useErr != nil || err != nil {
			return cmpErr(useErr, err)
		}
		subkey.Close()
		r.seals[p] = prepared
	}
	for _, p := range []Purpose{LogHMAC, rowMAC} {
		subkey, err := r.subkey(arena, p)
		if err != nil {
			return err
		}
		r.macs[p] = &macKey{key: subkey}
	}
	return nil
}

func (r *ring) subkey(arena *locked.Arena, p Purpose) (*locked.Buffer, error) {
	var subkey []byte
	var err error
	useErr := r.master.Use(func(mem []byte) {
		locked.Do(func() {
			subkey, err = hkdf.Key(sha256.New, mem, nil, "sealwright/keyring/v1 "+string(p)+"\x00", keySize)
		})
	})
	if useErr != nil || err != nil {
		return nil, fmt.Errorf("deriving the key for %s: %w", p, cmpErr(useErr, err))
	}
	return arena.From(subkey)
}

// addDeviceSlot wraps the key for the device and proves it by unwrapping.
func (r *ring) addDeviceSlot(ctx context.Context, c Config) error {
	var wrapped, back []byte
	var err error
	binding := r.binding(c.StoreID)
	same := false
	useErr := r.master.Use(func(mem []byte) {
		if wrapped, err = c.Device.Wrap(ctx, c.Root, mem, binding); err != nil {
			return
		}
		if back, err = c.Device.Unwrap(ctx, c.Root, wrapped, binding); err == nil {
			same = subtle.ConstantTimeCompare(back, mem) == 1
			clear(back)
		}
	})
	switch {
	case useErr != nil || err != nil:
		return fmt.Errorf("wrapping with device key %s: %w", c.Root.Label, cmpErr(useErr, err))
	case !same:
		return fmt.Errorf("%w: device key %s does not unwrap what it wrapped", key.ErrIntegrity, c.Root.Label)
	}
	r.addSlot(slot{name: deviceSlot(c.Root), kind: kindDevice, recipient: c.Root.ID.String(), wrapped: wrapped, verifiedAt: time.Now().UnixMicro()})
	return nil
}

// deviceSlot names the slot of a root key.
func deviceSlot(root key.Ref) string { return kindDevice + ":" + root.ID.String() }

// binding is the associated data under which a keyring key is wrapped.
func (w row) binding(storeID string) []byte {
	b := append([]byte(nil), "sealwright/keyring/v1 wrap\x00"...)
	b = appendSized(b, []byte(storeID))
	b = appendSized(b, []byte(w.environment))
	return binary.BigEndian.AppendUint64(b, uint64(w.version))
}

// authenticate returns the MAC of the row and its slots under the ring's own
// key. A device slot's blob is left out: the device refuses a changed one, and
// recovery must not depend on it. A recovery slot's blob is in, because nothing
// else would notice a changed one before the day it is needed.
func (r *ring) authenticate() []byte {
	columns := []any{r.environment, r.version, r.state, r.createdAt}
	for _, s := range r.slots {
		columns = append(columns, s.name, s.kind, s.recipient)
		if s.kind == kindRecovery {
			columns = append(columns, s.wrapped)
		}
	}
	return r.macs[rowMAC].sum(encodeRow("keyring", columns))
}

func (r *ring) close() {
	r.master.Close()
	for _, m := range r.macs {
		m.key.Close()
	}
}
