package keyring

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/storage/sqlite"
)

// memoryDevice is a device in memory that counts. The service tests run on
// SoftHSM2 and swtpm; here it is the keyrings that are tested.
type memoryDevice struct {
	aead                   cipher.AEAD
	wraps, unwraps, random atomic.Int64
	corrupt                bool // Unwrap gives back something else
}

func newDevice(t testing.TB) (*memoryDevice, key.Ref) {
	t.Helper()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	block, err := aes.NewCipher(secret)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return &memoryDevice{aead: aead}, key.Ref{ID: key.NewID(), Label: "root", Algorithm: key.AES256, Usage: key.UsageWrap}
}

func (d *memoryDevice) Wrap(_ context.Context, _ key.Ref, secret, aad []byte) ([]byte, error) {
	d.wraps.Add(1)
	return d.aead.Seal(nil, nil, secret, aad), nil
}

func (d *memoryDevice) Unwrap(_ context.Context, _ key.Ref, wrapped, aad []byte) ([]byte, error) {
	d.unwraps.Add(1)
	secret, err := d.aead.Open(nil, nil, wrapped, aad)
	if err != nil {
		return nil, key.ErrInvalidCiphertext
	}
	if d.corrupt {
		secret[0] ^= 1
	}
	return secret, nil
}

func (d *memoryDevice) Random(_ context.Context, n int) ([]byte, error) {
	d.random.Add(1)
	return make([]byte, n), nil // the worst device there is: keys must be good all the same
}

func (d *memoryDevice) Generate(context.Context, key.Spec) (key.Ref, error) {
	return key.Ref{}, key.ErrUnsupported
}
func (d *memoryDevice) Find(context.Context, key.ID) (key.Ref, error) {
	return key.Ref{}, key.ErrNotFound
}
func (d *memoryDevice) Attributes(context.Context, key.Ref) (key.Attributes, error) {
	return key.Attributes{}, key.ErrUnsupported
}
func (d *memoryDevice) Sign(context.Context, key.Ref, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, key.ErrUnsupported
}
func (d *memoryDevice) Destroy(context.Context, key.Ref) error { return key.ErrNotFound }
func (d *memoryDevice) Health(context.Context) error           { return nil }
func (d *memoryDevice) Close() error                           { return nil }

// newConfig returns a fresh store and device.
func newConfig(t testing.TB) (Config, *memoryDevice) {
	t.Helper()
	db, err := sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	device, root := newDevice(t)
	return Config{DB: db, StoreID: "store-1", Device: device, Root: root}, device
}

func create(t testing.TB, c Config, recovery []Recipient, environments ...string) *Set {
	t.Helper()
	s, err := Create(t.Context(), c, recovery, environments...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func open(t testing.TB, c Config) *Set {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// tamper runs one statement behind the service's back.
func tamper(t testing.TB, db *storage.DB, query string, args ...any) {
	t.Helper()
	err := db.Update(t.Context(), func(tx *storage.Tx) error {
		n, err := tx.Exec(query, args...)
		if err == nil && n == 0 {
			t.Errorf("%s changed nothing", query)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
