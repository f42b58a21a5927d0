package key_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/key"
)

func TestParseName(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, good := range []string{"dev/payments/orders", "0/1/2", "a-b/c-/d", long + "/" + long + "/" + long} {
		n, err := key.ParseName(good)
		if err != nil || n.String() != good {
			t.Errorf("ParseName(%q) = %v, %v", good, n, err)
		}
	}
	for _, bad := range []string{"", "dev", "dev/payments", "dev/payments/orders/x", "dev//orders", "Dev/a/b", "dev/a/../b", "-a/b/c", "dev/pay_ments/x", "dev/a/b\n", "dev/a/" + long + "a", "dev/ä/b"} {
		if _, err := key.ParseName(bad); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("ParseName(%q): %v, want ErrInvalid", bad, err)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("dev/payments/orders")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := key.ParseName(s); err == nil && n.String() != s {
			t.Errorf("ParseName(%q) reads as %q", s, n)
		}
	})
}

func TestID(t *testing.T) {
	id := key.NewID()
	back, err := key.ParseID(id.String())
	if err != nil || back != id || id.IsZero() {
		t.Errorf("%s reads back as %s, %v", id, back, err)
	}
	for _, bad := range []string{"", "00", strings.Repeat("g", 32), strings.Repeat("A", 32), strings.Repeat("0", 33)} {
		if _, err := key.ParseID(bad); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("ParseID(%q): %v, want ErrInvalid", bad, err)
		}
	}
}

func TestRefRoundTrip(t *testing.T) {
	ref := key.Ref{ID: key.NewID(), Label: "ca/root", Algorithm: key.ECDSAP256, Usage: key.UsageSign, Public: []byte{1}, Blob: []byte{2}}
	back, err := key.DecodeRef(ref.Encode())
	if err != nil || back.ID != ref.ID || back.Label != ref.Label || string(back.Blob) != string(ref.Blob) {
		t.Errorf("%+v reads back as %+v, %v", ref, back, err)
	}
	if _, err := key.DecodeRef([]byte("{")); err == nil {
		t.Error("a truncated reference was read")
	}
}
