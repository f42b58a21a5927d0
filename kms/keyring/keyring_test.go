package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sealwright/sealwright/internal/locked"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms/envelope"
	"github.com/sealwright/sealwright/storage"
)

var place = Place{Environment: "dev", Purpose: KeyMaterial, ID: key.ID{1}, Version: 3}

func TestCreateAndOpen(t *testing.T) {
	c, device := newConfig(t)
	if _, err := Open(t.Context(), c); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("opening a store without keyrings: %v, want ErrNotFound", err)
	}
	s := create(t, c, nil, "dev", "prod")
	if got := s.Environments(); !slices.Equal(got, []string{"dev", "ops", "prod"}) {
		t.Errorf("created %v", got)
	}
	sealed, version := seal(t, s, place, "secret")
	mac := s.RowMAC("t", "a")
	if _, err := Create(t.Context(), c, nil, "dev"); !errors.Is(err, key.ErrExists) {
		t.Errorf("creating twice: %v, want ErrExists", err)
	}
	s.Close()

	device.unwraps.Store(0)
	s = open(t, c)
	if n := device.unwraps.Load(); n != 3 {
		t.Errorf("opening three keyrings took %d unwraps", n)
	}
	for range 100 {
		if got, err := s.Open(t.Context(), nil, place, version, sealed); err != nil || string(got) != "secret" {
			t.Fatalf("opened %q, %v", got, err)
		}
		if err := s.CheckRow(mac, "t", "a"); err != nil {
			t.Fatal(err)
		}
	}
	if n := device.unwraps.Load(); n != 3 {
		t.Errorf("using the keyrings took %d more unwraps", n-3)
	}
}

func TestConfigIsChecked(t *testing.T) {
	c, _ := newConfig(t)
	signing := c.Root
	signing.Usage = key.UsageSign
	for what, broken := range map[string]Config{
		"no store":      {StoreID: c.StoreID, Device: c.Device, Root: c.Root},
		"no device":     {DB: c.DB, StoreID: c.StoreID, Root: c.Root},
		"no store id":   {DB: c.DB, Device: c.Device, Root: c.Root},
		"long store id": {DB: c.DB, Device: c.Device, Root: c.Root, StoreID: strings.Repeat("a", 129)},
		"no root":       {DB: c.DB, Device: c.Device, StoreID: c.StoreID},
		"a signing key": {DB: c.DB, Device: c.Device, StoreID: c.StoreID, Root: signing},
	} {
		if _, err := Create(t.Context(), broken, nil); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
		}
		if _, err := Open(t.Context(), broken); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("opening with %s: %v, want ErrInvalid", what, err)
		}
	}
	if _, err := Create(t.Context(), c, nil, "Not A Name"); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("a bad environment: %v, want ErrInvalid", err)
	}
	if _, err := Create(t.Context(), c, nil, "dev", "prod", "dev"); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("an environment named twice: %v, want ErrInvalid", err)
	}
	if _, err := Create(t.Context(), c, []Recipient{{}}); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("an empty recipient: %v, want ErrInvalid", err)
	}
}

// TestWrapIsVerified: a device that does not give back what it wrapped gets no keyring.
func TestWrapIsVerified(t *testing.T) {
	c, device := newConfig(t)
	device.corrupt = true
	if _, err := Create(t.Context(), c, nil, "dev"); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("%v, want ErrIntegrity", err)
	}
	if rows, err := loadRows(t.Context(), c.DB, ""); err != nil || len(rows) > 0 {
		t.Errorf("%d keyrings were stored, %v", len(rows), err)
	}
}

func TestSealedValueOpensAtItsPlaceOnly(t *testing.T) {
	c, _ := newConfig(t)
	s := create(t, c, nil, "dev", "prod")
	sealed, version := seal(t, s, place, "secret")
	room := make([]byte, 0, 32)
	got, err := s.Open(t.Context(), room, place, version, sealed)
	if err != nil || string(got) != "secret" || &got[0] != &room[:1][0] {
		t.Fatalf("opened %q, %v, in place %v", got, err, &got[0] == &room[:1][0])
	}
	elsewhere := map[string]Place{
		"environment": {"prod", KeyMaterial, place.ID, place.Version},
		"ops":         {"ops", KeyMaterial, place.ID, place.Version},
		"purpose":     {"dev", Secrets, place.ID, place.Version},
		"object":      {"dev", KeyMaterial, key.ID{2}, place.Version},
		"version":     {"dev", KeyMaterial, place.ID, 4},
	}
	for what, p := range elsewhere {
		if got, err := s.Open(t.Context(), nil, p, version, sealed); !errors.Is(err, key.ErrInvalidCiphertext) || got != nil {
			t.Errorf("another %s: %q, %v", what, got, err)
		}
	}
	for i := range sealed {
		altered := bytes.Clone(sealed)
		altered[i] ^= 1
		if _, err := s.Open(t.Context(), nil, place, version, altered); !errors.Is(err, key.ErrInvalidCiphertext) {
			t.Errorf("byte %d altered: %v", i, err)
		}
	}
	for _, bad := range []int64{0, -1} {
		if _, err := s.Open(t.Context(), nil, place, bad, sealed); !errors.Is(err, key.ErrInvalidCiphertext) {
			t.Errorf("keyring version %d: %v", bad, err)
		}
	}
	if _, err := s.Open(t.Context(), nil, place, version+1, sealed); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("a keyring version that is not there: %v, want ErrNotFound", err)
	}
	for _, p := range []Purpose{LogHMAC, rowMAC, "", "other"} {
		if _, _, err := s.Seal(t.Context(), Place{"dev", p, place.ID, 1}, nil); !errors.Is(err, key.ErrUnsupported) {
			t.Errorf("sealing for %q: %v, want ErrUnsupported", p, err)
		}
	}
	if _, _, err := s.Seal(t.Context(), place, make([]byte, envelope.MaxPlaintext+1)); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("a value too large: %v, want ErrInvalid", err)
	}
	if err := s.Check(t.Context(), "dev"); err != nil {
		t.Errorf("an environment that is there: %v", err)
	}
	if err := s.Check(t.Context(), "nowhere"); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("an unknown environment: %v, want ErrNotFound", err)
	}
	_, _, err = s.Seal(t.Context(), Place{"nowhere", KeyMaterial, place.ID, 1}, nil)
	if !errors.Is(err, key.ErrNotFound) || !strings.Contains(err.Error(), "dev, ops, prod") {
		t.Errorf("an unknown environment: %v", err)
	}
}

func TestTamperedRows(t *testing.T) {
	for what, c := range map[string]struct {
		query string
		want  error
	}{
		"the device slot's blob":     {`UPDATE keyring_slot SET wrapped = (SELECT mac FROM keyring WHERE environment = 'ops') WHERE environment = 'dev' AND kind = 'device'`, key.ErrInvalidCiphertext},
		"another keyring's slot":     {`UPDATE keyring_slot SET wrapped = (SELECT wrapped FROM keyring_slot WHERE environment = 'ops' AND kind = 'device') WHERE environment = 'dev' AND kind = 'device'`, key.ErrInvalidCiphertext},
		"the version":                {`UPDATE keyring SET version = 2 WHERE environment = 'dev'`, key.ErrNotFound},
		"version of row and slots":   {`UPDATE keyring_slot SET version = 1 + version WHERE environment = 'dev'`, key.ErrNotFound},
		"the state":                  {`UPDATE keyring SET state = 'retired' WHERE environment = 'dev'`, key.ErrIntegrity},
		"the creation time":          {`UPDATE keyring SET created_at = 1 WHERE environment = 'dev'`, key.ErrIntegrity},
		"the MAC":                    {`UPDATE keyring SET mac = (SELECT mac FROM keyring WHERE environment = 'ops') WHERE environment = 'dev'`, key.ErrIntegrity},
		"no MAC":                     {`UPDATE keyring SET mac = '' WHERE environment = 'dev'`, key.ErrIntegrity},
		"the recovery slot's blob":   {`UPDATE keyring_slot SET wrapped = (SELECT mac FROM keyring WHERE environment = 'ops') WHERE environment = 'dev' AND kind = 'recovery'`, key.ErrIntegrity},
		"the recovery recipient":     {`UPDATE keyring_slot SET recipient = 'mine' WHERE environment = 'dev' AND kind = 'recovery'`, key.ErrIntegrity},
		"no recovery slot":           {`DELETE FROM keyring_slot WHERE environment = 'dev' AND kind = 'recovery'`, key.ErrIntegrity},
		"no device slot":             {`DELETE FROM keyring_slot WHERE environment = 'dev' AND kind = 'device'`, key.ErrNotFound},
		"an environment renamed":     {`UPDATE keyring SET environment = 'prod' WHERE environment = 'dev'`, key.ErrNotFound},
		"an environment of its own":  {`INSERT INTO keyring SELECT 'mine', version, state, created_at, mac FROM keyring WHERE environment = 'dev'`, key.ErrNotFound},
		"the keyring of ops deleted": {`DELETE FROM keyring WHERE environment = 'ops'`, key.ErrNotFound},
	} {
		t.Run(what, func(t *testing.T) {
			config, _ := newConfig(t)
			recovery := newRecovery(t)
			create(t, config, []Recipient{recovery.Recipient()}, "dev").Close()
			open(t, config).Close()
			tamper(t, config.DB, c.query)
			s, err := Open(t.Context(), config)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if s != nil {
				s.Close()
			}
		})
	}
}

func TestAnotherStoreOrDevice(t *testing.T) {
	c, _ := newConfig(t)
	create(t, c, nil, "dev").Close()
	other := c
	other.StoreID = "store-2"
	if _, err := Open(t.Context(), other); !errors.Is(err, key.ErrInvalidCiphertext) {
		t.Errorf("under another store's id: %v, want ErrInvalidCiphertext", err)
	}
	other = c
	other.Device, other.Root = newDevice(t)
	if _, err := Open(t.Context(), other); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("with another device: %v, want ErrNotFound", err)
	}
	other.Root = c.Root // the id is public; the key is not
	if _, err := Open(t.Context(), other); !errors.Is(err, key.ErrInvalidCiphertext) {
		t.Errorf("with another device's key under the same id: %v, want ErrInvalidCiphertext", err)
	}
}

func TestAdd(t *testing.T) {
	c, device := newConfig(t)
	recovery := newRecovery(t)
	s := create(t, c, []Recipient{recovery.Recipient()}, "dev")
	second := open(t, c)
	if err := s.Add(t.Context(), "staging", c.DB.Update); err != nil {
		t.Fatal(err)
	}
	for what, try := range map[string]*Set{"here": s, "on another server": second} {
		if err := try.Add(t.Context(), "staging", c.DB.Update); !errors.Is(err, key.ErrExists) {
			t.Errorf("adding twice %s: %v, want ErrExists", what, err)
		}
	}
	refused := errors.New("refused")
	if err := s.Add(t.Context(), "qa", func(context.Context, func(*storage.Tx) error) error { return refused }); !errors.Is(err, refused) || slices.Contains(s.Environments(), "qa") {
		t.Errorf("an update that is refused: %v, then %v", err, s.Environments())
	}
	for _, bad := range []string{"", "Prod", "a/b"} {
		if err := s.Add(t.Context(), bad, c.DB.Update); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("adding %q: %v, want ErrInvalid", bad, err)
		}
	}
	// The other server finds it when it needs it, with one unwrap.
	at := Place{"staging", Secrets, key.ID{1}, 1}
	sealed, version := seal(t, s, at, "secret")
	device.unwraps.Store(0)
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			if got, err := second.Open(t.Context(), nil, at, version, sealed); err != nil || string(got) != "secret" {
				t.Errorf("the other server opens %q, %v", got, err)
			}
		})
	}
	running.Wait()
	if n := device.unwraps.Load(); n != 1 {
		t.Errorf("the other server unwrapped %d times", n)
	}
	// It has the recovery slot of ops.
	second.Close()
	lost := c
	lost.Device, lost.Root = newDevice(t)
	recovered, err := Recover(t.Context(), lost, recovery, c.DB.Update)
	if err != nil {
		t.Fatal(err)
	}
	defer recovered.Close()
	if got, err := recovered.Open(t.Context(), nil, at, version, sealed); err != nil || string(got) != "secret" {
		t.Errorf("after recovery: %q, %v", got, err)
	}
}

func TestClose(t *testing.T) {
	c, _ := newConfig(t)
	s := create(t, c, nil, "dev")
	sealed, version := seal(t, s, place, "secret")
	mac := s.RowMAC("t", "a")
	s.Close()
	s.Close()
	if _, err := s.Open(t.Context(), nil, place, version, sealed); !errors.Is(err, locked.ErrClosed) {
		t.Errorf("opening after Close: %v", err)
	}
	if _, _, err := s.Seal(t.Context(), place, nil); !errors.Is(err, locked.ErrClosed) {
		t.Errorf("sealing after Close: %v", err)
	}
	if err := s.Add(t.Context(), "prod", c.DB.Update); !errors.Is(err, locked.ErrClosed) {
		t.Errorf("adding after Close: %v", err)
	}
	if got := s.RowMAC("t", "a"); got != nil {
		t.Errorf("a MAC after Close: %x", got)
	}
	for _, m := range [][]byte{mac, nil, {}} {
		if err := s.CheckRow(m, "t", "a"); !errors.Is(err, key.ErrIntegrity) {
			t.Errorf("checking after Close: %v", err)
		}
	}
}

// TestKeysDiffer: with a device whose randomness is constant, no two keys are alike.
func TestKeysDiffer(t *testing.T) {
	c, device := newConfig(t)
	s := create(t, c, nil, "dev", "prod")
	if n := device.random.Load(); n != 3 {
		t.Errorf("the device was asked for randomness %d times, want 3", n)
	}
	seen := map[string]bool{}
	for _, e := range *s.rings.Load() {
		for _, b := range []*locked.Buffer{e.current.master, e.current.macs[LogHMAC].key, e.current.macs[rowMAC].key} {
			if err := b.Use(func(mem []byte) { seen[fmt.Sprintf("%x", mem)] = true }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(seen) != 9 {
		t.Errorf("%d keys among 9 are different", len(seen))
	}
}

func BenchmarkOpen(b *testing.B) {
	c, _ := newConfig(b)
	s := create(b, c, nil, "dev")
	sealed, version, err := s.Seal(b.Context(), place, make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 32)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Open(b.Context(), dst, place, version, sealed); err != nil {
			b.Fatal(err)
		}
	}
}

func seal(t testing.TB, s *Set, p Place, plaintext string) ([]byte, int64) {
	t.Helper()
	sealed, version, err := s.Seal(t.Context(), p, []byte(plaintext))
	if err != nil {
		t.Fatal(err)
	}
	return sealed, version
}

func newRecovery(t testing.TB) RecoveryKey {
	t.Helper()
	k, err := GenerateRecovery()
	if err != nil {
		t.Fatal(err)
	}
	return k
}
