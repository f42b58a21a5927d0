package keyring

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/sealwright/sealwright/key"
)

func TestMAC(t *testing.T) {
	c, _ := newConfig(t)
	s := create(t, c, nil)
	part := func(parts ...string) (all [][]byte) {
		for _, p := range parts {
			all = append(all, []byte(p))
		}
		return all
	}
	mac := s.MAC(LogHMAC, part("ab", "c")...)
	if len(mac) != macSize || !bytes.Equal(mac, s.MAC(LogHMAC, part("ab", "c")...)) {
		t.Fatalf("MAC %x is not repeatable", mac)
	}
	if err := s.CheckMAC(mac, LogHMAC, part("ab", "c")...); err != nil {
		t.Error(err)
	}
	for _, other := range [][][]byte{part("a", "bc"), part("abc"), part("ab", "c", ""), part("", "ab", "c"), part("c", "ab"), part("ab"), nil} {
		if err := s.CheckMAC(mac, LogHMAC, other...); !errors.Is(err, key.ErrIntegrity) {
			t.Errorf("the MAC also fits %q: %v", other, err)
		}
	}
	for i := range mac {
		altered := bytes.Clone(mac)
		altered[i] ^= 1
		if err := s.CheckMAC(altered, LogHMAC, part("ab", "c")...); !errors.Is(err, key.ErrIntegrity) {
			t.Errorf("byte %d of the MAC altered: %v", i, err)
		}
	}
	for _, short := range [][]byte{nil, {}, mac[:4], mac[:35], append(bytes.Clone(mac), 0), append([]byte{0, 0, 0, 0}, mac[4:]...)} {
		if err := s.CheckMAC(short, LogHMAC, part("ab", "c")...); !errors.Is(err, key.ErrIntegrity) {
			t.Errorf("a MAC of %d bytes: %v", len(short), err)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a MAC was made with a sealing key's purpose")
		}
	}()
	s.MAC(KeyMaterial, nil)
}

func TestRowMAC(t *testing.T) {
	c, _ := newConfig(t)
	s := create(t, c, nil)
	id := key.ID{1, 2}
	columns := []any{id, "dev/payments/orders", int64(7), true, []byte{1, 2}}
	mac := s.RowMAC("kms_key", columns...)
	same := []any{id.String(), "dev/payments/orders", 7, true, []byte{1, 2}}
	if err := s.CheckRow(mac, "kms_key", same...); err != nil {
		t.Errorf("as the store gives it back: %v", err)
	}
	other := map[string][]any{
		"a text":             {id, "dev/payments/order", int64(7), true, []byte{1, 2}},
		"a number":           {id, "dev/payments/orders", int64(8), true, []byte{1, 2}},
		"a number as text":   {id, "dev/payments/orders", "7", true, []byte{1, 2}},
		"a truth":            {id, "dev/payments/orders", int64(7), false, []byte{1, 2}},
		"bytes as text":      {id, "dev/payments/orders", int64(7), true, "\x01\x02"},
		"a column more":      append(append([]any{}, columns...), ""),
		"a column less":      columns[:4],
		"columns exchanged":  {"dev/payments/orders", id, int64(7), true, []byte{1, 2}},
		"a boundary shifted": {id.String() + "d", "ev/payments/orders", int64(7), true, []byte{1, 2}},
		"nothing":            nil,
	}
	for what, columns := range other {
		if err := s.CheckRow(mac, "kms_key", columns...); !errors.Is(err, key.ErrIntegrity) {
			t.Errorf("%s: %v, want ErrIntegrity", what, err)
		}
	}
	err := s.CheckRow(mac, "kms_keys", columns...)
	if !errors.Is(err, key.ErrIntegrity) || !strings.Contains(err.Error(), "kms_keys") || !strings.Contains(err.Error(), id.String()) {
		t.Errorf("another table: %v; want ErrIntegrity with table and row", err)
	}
	if err := s.CheckMAC(mac, LogHMAC, encodeRow("kms_key", columns)); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("a row's MAC passes for another purpose: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a column without an encoding got a MAC")
		}
	}()
	s.RowMAC("t", 1.5)
}

func TestMACsInParallel(t *testing.T) {
	c, _ := newConfig(t)
	s := create(t, c, nil)
	var running sync.WaitGroup
	for worker := range 8 {
		running.Go(func() {
			for i := range 200 {
				mac := s.RowMAC("t", worker, i)
				if err := s.CheckRow(mac, "t", worker, i); err != nil {
					t.Error(err)
				}
				if err := s.CheckRow(mac, "t", worker, i+1); err == nil {
					t.Error("a MAC fits another row")
				}
			}
		})
	}
	running.Wait()
}

func BenchmarkRowMAC(b *testing.B) {
	c, _ := newConfig(b)
	s := create(b, c, nil)
	b.ReportAllocs()
	for b.Loop() {
		s.RowMAC("kms_key", "0123456789abcdef0123456789abcdef", "dev/payments/orders", "dev", "aes-256", "wrapped", "enabled", int64(1), "", "", "", "u", int64(1), int64(0), int64(0))
	}
}
