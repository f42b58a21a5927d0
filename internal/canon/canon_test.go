package canon_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sealwright/sealwright/internal/canon"
	"github.com/sealwright/sealwright/key"
)

func TestStringsEscapeMinimally(t *testing.T) {
	// RFC 8785 3.2.2.2: controls with short forms, other controls lower-case \u00xx,
	// quote and backslash; everything else, "/" and non-ASCII included, as it is.
	for in, want := range map[string]string{
		"":                             `""`,
		"a/b":                          `"a/b"`,
		"\"\\":                         `"\"\\"`,
		"\b\t\n\f\r":                   `"\b\t\n\f\r"`,
		"\x00\x0b\x1f\x7f":             `"\u0000\u000b\u001f` + "\x7f\"",
		"€$\u000f\nA'B\"\\\\\"/\u2028": `"€$\u000f\nA'B\"\\\\\"/` + "\u2028\"",
	} {
		e := canon.NewEncoder(nil)
		e.String(in)
		got, err := e.Bytes()
		if err != nil || string(got) != want {
			t.Errorf("%q encodes as %s, %v; want %s", in, got, err, want)
		}
		back, err := canon.NewDecoder(got).String()
		if err != nil || back != in {
			t.Errorf("%s reads back as %q, %v", got, back, err)
		}
	}
}

func TestEncoderRefuses(t *testing.T) {
	for name, write := range map[string]func(*canon.Encoder){
		"keys out of order": func(e *canon.Encoder) {
			e.BeginObject()
			e.Key("b")
			e.Int(1)
			e.Key("a")
			e.Int(1)
			e.EndObject()
		},
		"a key twice": func(e *canon.Encoder) {
			e.BeginObject()
			e.Key("a")
			e.Int(1)
			e.Key("a")
			e.Int(1)
			e.EndObject()
		},
		"an open object": func(e *canon.Encoder) { e.BeginObject() },
		"no value":       func(e *canon.Encoder) { e.BeginObject(); e.Key("a"); e.EndObject() },
		"two keys":       func(e *canon.Encoder) { e.BeginObject(); e.Key("a"); e.Key("b") },
		"a key outside":  func(e *canon.Encoder) { e.Key("a") },
		"closed twice":   func(e *canon.Encoder) { e.EndArray() },
		"not UTF-8":      func(e *canon.Encoder) { e.String("\xff") },
		"54 bits":        func(e *canon.Encoder) { e.Int(1 << 53) },
		"too deep": func(e *canon.Encoder) {
			for range 9 {
				e.BeginArray()
			}
		},
	} {
		e := canon.NewEncoder(nil)
		write(&e)
		if b, err := e.Bytes(); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%s: %s, %v; want ErrInvalid", name, b, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, good := range []string{`{}`, `[]`, `""`, `0`, `-1`, `true`, `false`, `{"a":1,"b":[true,{"c":"d"}]}`, `9007199254740991`, `{"":0}`, "\"\u00e9\""} {
		if err := canon.Check([]byte(good)); err != nil {
			t.Errorf("Check(%s): %v", good, err)
		}
	}
	for _, bad := range []string{
		``, ` `, `{} `, ` {}`, `{"a": 1}`, `{"b":1,"a":1}`, `{"a":1,"a":2}`, `[1,]`, `[,]`, `{"a"}`, `{"a":}`, `{,}`, `{1:1}`,
		`1.0`, `1e3`, `01`, `-0`, `+1`, `--1`, `-`, `9007199254740992`, `null`, `True`, `tru`, `"`, `"\`, `"\"`, `"\u"`, `"\u00"`,
		`"\/"`, `"\u0041"`, `"\u000A"`, `"\u000a"`, `"\u001F"`, `"\u0022"`, `"\ud83d\ude00"`, `"\x"`, "\"\n\"", "\"a\\n\n\"", "\"\xff\"", "\"\\n\xff\"",
		`{"a":1`, `[1`, `[1 2]`, `{"a":1}{`, strings.Repeat("[", 9) + strings.Repeat("]", 9), `{"a":1]`, "\x00",
	} {
		if err := canon.Check([]byte(bad)); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("Check(%s): %v, want ErrInvalid", bad, err)
		}
	}
}

func TestUnknownKeyIsNamed(t *testing.T) {
	d := canon.NewDecoder([]byte(`{"a":1,"zz":2}`))
	err := d.Object(func(k string) error {
		if k != "a" {
			return d.Unknown(k)
		}
		_, err := d.Int()
		return err
	})
	if !errors.Is(err, key.ErrInvalid) || !strings.Contains(err.Error(), `"zz"`) {
		t.Errorf("got %v", err)
	}
}

func TestMapsAndListsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "map")
		list := rapid.SliceOf(rapid.String()).Draw(t, "list")
		e := canon.NewEncoder([]byte("prefix"))
		e.BeginArray()
		e.StringMap(m)
		e.Strings(list)
		e.EndArray()
		b, err := e.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.TrimPrefix(b, []byte("prefix"))
		if err := canon.Check(b); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		var parts [2]json.RawMessage // encoding/json agrees that it is JSON, and about its content
		if err := json.Unmarshal(b, &parts); err != nil {
			t.Fatal(err)
		}
		var theirs map[string]string
		if err := json.Unmarshal(parts[0], &theirs); err != nil || len(theirs) != len(m) {
			t.Fatalf("%s: %v", parts[0], err)
		}
		ours, err := canon.NewDecoder(parts[0]).StringMap()
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range m {
			if ours[k] != v || theirs[k] != v {
				t.Fatalf("%q: %q, %q, want %q", k, ours[k], theirs[k], v)
			}
		}
		back, err := canon.NewDecoder(parts[1]).Strings()
		if err != nil || len(back) != len(list) {
			t.Fatalf("%s: %v", parts[1], err)
		}
	})
}

// FuzzCheck: what Check accepts, encoding/json reads, and it has no second form.
func FuzzCheck(f *testing.F) {
	f.Add([]byte(`{"a":[1,-2,true],"b":{"c":"\u0001\n\"é"}}`))
	f.Add([]byte(`"\u0041"`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if canon.Check(data) != nil {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		e := canon.NewEncoder(nil)
		encode(&e, v)
		again, err := e.Bytes()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q encodes again as %q, %v", data, again, err)
		}
	})
}

func encode(e *canon.Encoder, v any) {
	switch v := v.(type) {
	case string:
		e.String(v)
	case bool:
		e.Bool(v)
	case json.Number:
		n, _ := v.Int64()
		e.Int(n)
	case []any:
		e.BeginArray()
		for _, x := range v {
			encode(e, x)
		}
		e.EndArray()
	case map[string]any:
		e.BeginObject()
		for _, k := range sortedKeys(v) {
			e.Key(k)
			encode(e, v[k])
		}
		e.EndObject()
	}
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
