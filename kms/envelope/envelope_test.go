package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/key"
)

var object = Header{ObjectID: key.ID{1, 2, 3}, Version: 7}

func TestRoundTrip(t *testing.T) {
	k := newKey(t, 1)
	full := map[string]string{}
	for i := range MaxPairs {
		full[fmt.Sprintf("%02d", i)] = strings.Repeat("v", MaxContext/MaxPairs-2)
	}
	for _, size := range []int{0, 1, 32, 4096, MaxPlaintext} {
		for _, context := range []map[string]string{nil, {"tenant": "42"}, {"a": "", "b": "c"}, full} {
			plaintext := bytes.Repeat([]byte{byte(size)}, size)
			sealed, err := k.Seal(object, plaintext, context)
			if err != nil {
				t.Fatal(err)
			}
			if len(sealed) != size+Overhead || cap(sealed) != len(sealed) {
				t.Errorf("%d bytes sealed to %d, capacity %d", size, len(sealed), cap(sealed))
			}
			h, err := Parse(sealed)
			if err != nil || h.Suite != XAES256GCM || h.ObjectID != object.ObjectID || h.Version != object.Version {
				t.Errorf("header %+v, %v", h, err)
			}
			back, err := ParseText(Text(sealed))
			if err != nil || !bytes.Equal(back, sealed) {
				t.Errorf("the text form reads back otherwise: %v", err)
			}
			if opened, err := k.Open(sealed, context); err != nil || !bytes.Equal(opened, plaintext) {
				t.Errorf("opening %d bytes: %v", size, err)
			}
			room := make([]byte, 3, 3+size)
			if opened, err := k.AppendOpen(room, sealed, context); err != nil || !bytes.Equal(opened[3:], plaintext) || &opened[0] != &room[0] {
				t.Errorf("opening %d bytes into place: %v", size, err)
			}
		}
	}
}

func TestSameMessageSealsDifferently(t *testing.T) {
	k := newKey(t, 1)
	a, b := seal(t, k, object, "x", nil), seal(t, k, object, "x", nil)
	if bytes.Equal(a[nonceAt:headerSize], b[nonceAt:headerSize]) || bytes.Equal(a[headerSize:], b[headerSize:]) {
		t.Error("two sealings share a nonce or a body")
	}
	if !bytes.Equal(a[:nonceAt], b[:nonceAt]) {
		t.Error("two sealings of one key differ before the nonce")
	}
}

func TestSealRefuses(t *testing.T) {
	k := newKey(t, 1)
	many := map[string]string{}
	for i := range MaxPairs + 1 {
		many[fmt.Sprint(i)] = ""
	}
	for name, try := range map[string]struct {
		h         Header
		plaintext []byte
		context   map[string]string
		want      error
	}{
		"large plaintext":  {object, make([]byte, MaxPlaintext+1), nil, key.ErrInvalid},
		"many pairs":       {object, nil, many, key.ErrInvalid},
		"large context":    {object, nil, map[string]string{"k": strings.Repeat("v", MaxContext)}, key.ErrInvalid},
		"empty key":        {object, nil, map[string]string{"": "v"}, key.ErrInvalid},
		"key not UTF-8":    {object, nil, map[string]string{"\xff": "v"}, key.ErrInvalid},
		"value not UTF-8":  {object, nil, map[string]string{"k": "\xff"}, key.ErrInvalid},
		"the device suite": {Header{Suite: DeviceGCM}, nil, nil, key.ErrUnsupported},
		"an unknown suite": {Header{Suite: 9}, nil, nil, key.ErrUnsupported},
	} {
		if sealed, err := k.Seal(try.h, try.plaintext, try.context); !errors.Is(err, try.want) || sealed != nil {
			t.Errorf("%s: %v, want %v", name, err, try.want)
		}
		if !errors.Is(try.want, key.ErrInvalid) || len(try.plaintext) > 0 {
			continue
		}
		if err := CheckContext(try.context); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%s: CheckContext: %v", name, err)
		}
		if _, err := k.Open(seal(t, k, object, "x", nil), try.context); !theOne(err) {
			t.Errorf("opening with %s: %v", name, err)
		}
	}
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := NewKey(make([]byte, n)); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("a key of %d bytes: %v", n, err)
		}
	}
}

// TestOneError alters a ciphertext in every way and expects the one error itself, not one that wraps it.
func TestOneError(t *testing.T) {
	k := newKey(t, 1)
	context := map[string]string{"tenant": "42", "table": "orders"}
	sealed := seal(t, k, object, "thirty-two bytes of a data key..", context)
	refuse := func(what string, k *Key, ciphertext []byte, context map[string]string) {
		t.Helper()
		if opened, err := k.Open(ciphertext, context); !theOne(err) || opened != nil {
			t.Errorf("%s: opened %d bytes, %v", what, len(opened), err)
		}
	}
	for i := range sealed {
		for bit := range 8 {
			altered := bytes.Clone(sealed)
			altered[i] ^= 1 << bit
			refuse(fmt.Sprintf("bit %d of byte %d flipped", bit, i), k, altered, context)
		}
	}
	for n := range sealed {
		refuse(fmt.Sprintf("cut to %d bytes", n), k, sealed[:n], context)
	}
	refuse("lengthened", k, append(bytes.Clone(sealed), 0), context)
	refuse("too long", k, append(bytes.Clone(sealed), make([]byte, MaxPlaintext)...), context)
	refuse("another key", newKey(t, 2), sealed, context)

	for what, other := range map[string]map[string]string{
		"no context":             nil,
		"a pair less":            {"tenant": "42"},
		"a pair more":            {"tenant": "42", "table": "orders", "x": ""},
		"another value":          {"tenant": "43", "table": "orders"},
		"another case":           {"Tenant": "42", "table": "orders"},
		"values exchanged":       {"tenant": "orders", "table": "42"},
		"key and value shifted":  {"tenant4": "2", "table": "orders"},
		"pairs joined":           {"tabletenant": "orders42"},
		"an empty pair's length": {"tenant": "42", "table": "orders\x00\x00\x00\x00"},
	} {
		refuse(what, k, sealed, other)
	}

	other := seal(t, k, Header{ObjectID: key.ID{9}, Version: 7}, "thirty-two bytes of a data key..", context)
	newer := seal(t, k, Header{ObjectID: object.ObjectID, Version: 8}, "thirty-two bytes of a data key..", context)
	for what, from := range map[string][]byte{"object": other, "version": newer} {
		for what2, part := range map[string][2]int{"object id": {idAt, versionAt}, "version": {versionAt, commitmentAt}, "nonce": {nonceAt, headerSize}, "header": {0, headerSize}, "body": {headerSize, len(sealed)}} {
			altered := bytes.Clone(sealed)
			copy(altered[part[0]:part[1]], from[part[0]:part[1]])
			if !bytes.Equal(altered, sealed) {
				refuse(what2+" of another "+what, k, altered, context)
			}
		}
	}

	// A commitment of the right key over a body of another, and the reverse.
	foreign := seal(t, newKey(t, 2), object, "thirty-two bytes of a data key..", context)
	mixed := bytes.Clone(foreign)
	copy(mixed[commitmentAt:nonceAt], sealed[commitmentAt:nonceAt])
	refuse("another key's body under our commitment", k, mixed, context)
	refuse("our commitment, opened by the other key", newKey(t, 2), mixed, context)
}

func TestParseTextRefuses(t *testing.T) {
	good := Text(seal(t, newKey(t, 1), object, "xy", nil))
	if _, err := ParseText(good); err != nil {
		t.Fatal(err)
	}
	last := good[len(good)-1]
	for _, bad := range []string{
		"", "sw1:", "sw1", good[4:], "SW1:" + good[4:], "sw2:" + good[4:], " " + good, good + " ", good + "\n", good[:20] + "\n" + good[20:], good[:20] + "\r\n" + good[20:],
		good + "=", good + "==", good[:len(good)-1], good[:60] + "+" + good[61:], good[:60] + "/" + good[61:], good[:60] + "\x00" + good[61:],
		good[:len(good)-1] + string(last+1), // bits beyond the last byte
		"sw1:sw1:" + good[4:], "sw1:" + strings.Repeat("A", 100_000), Text(make([]byte, Overhead)),
	} {
		if got, err := ParseText(bad); !theOne(err) || got != nil {
			t.Errorf("ParseText(%.40q): %v", bad, err)
		}
	}
}

func TestKeyPrintsNothing(t *testing.T) {
	k := newKey(t, 1)
	text, err := json.Marshal(k)
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "key", k)
	printed := fmt.Sprintf("%v %+v %#v %s %x %d ", k, k, k, k, k, *k) + string(text) + out.String()
	if err != nil || strings.Contains(printed, fmt.Sprint(k.xaes.subkey[0])+" "+fmt.Sprint(k.xaes.subkey[1])) || strings.Count(printed, "[redacted]") != 8 {
		t.Errorf("a key prints as %s, %v", printed, err)
	}
}

func TestKeyDoesNotKeepItsSecret(t *testing.T) {
	secret := bytes.Repeat([]byte{1}, 32)
	k, err := NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	clear(secret)
	if _, err := k.Open(seal(t, newKey(t, 1), object, "x", nil), nil); err != nil {
		t.Errorf("after its secret was wiped: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	k := newKey(f, 1)
	// A fixed nonce, because the corpus is shared between processes.
	sealed, err := k.seal(make([]byte, nonceSize), object, []byte("x"), map[string]string{"a": "b"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed, "a", "b")
	f.Add(sealed[:Overhead-1], "a", "b")
	f.Fuzz(func(t *testing.T, ciphertext []byte, name, value string) {
		_, err := Parse(ciphertext)
		if err != nil && !theOne(err) {
			t.Fatalf("Parse: %v", err)
		}
		opened, err := k.Open(ciphertext, map[string]string{name: value})
		switch {
		case err != nil && !theOne(err):
			t.Fatalf("Open: %v", err)
		case err == nil && (!bytes.Equal(ciphertext, sealed) || name != "a" || value != "b"):
			t.Fatalf("opened a forgery to %q", opened)
		}
	})
}

func FuzzParseText(f *testing.F) {
	f.Add(Text(seal(f, newKey(f, 1), object, "x", nil)))
	f.Add("sw1:")
	f.Fuzz(func(t *testing.T, s string) {
		ciphertext, err := ParseText(s)
		if err != nil {
			if !theOne(err) {
				t.Fatalf("ParseText: %v", err)
			}
			return
		}
		if Text(ciphertext) != s {
			t.Fatalf("%q reads as a ciphertext whose text is %q", s, Text(ciphertext))
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k := newKey(b, 1)
	for _, size := range []int{32, 4096} {
		plaintext, context := make([]byte, size), map[string]string{"tenant": "42"}
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.Seal(object, plaintext, context); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	k := newKey(b, 1)
	context := map[string]string{"tenant": "42"}
	sealed := seal(b, k, object, strings.Repeat("x", 32), context)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open(sealed, context); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewKey(b *testing.B) {
	secret := make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewKey(secret); err != nil {
			b.Fatal(err)
		}
	}
}

// theOne accepts key.ErrInvalidCiphertext itself, and nothing that wraps it.
func theOne(err error) bool {
	return err == key.ErrInvalidCiphertext //nolint:errorlint // exactly
}

// newKey returns the key of 32 bytes of fill.
func newKey(t testing.TB, fill byte) *Key {
	t.Helper()
	k, err := NewKey(bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seal(t testing.TB, k *Key, h Header, plaintext string, context map[string]string) []byte {
	t.Helper()
	sealed, err := k.Seal(h, []byte(plaintext), context)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}
