package audit_test

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/internal/canon"
	"github.com/sealwright/sealwright/key"
)

// decryption is an entry as the service writes most.
func decryption() audit.Entry {
	return audit.Entry{
		Time:       time.Date(2026, 3, 1, 12, 30, 15, 123456000, time.UTC),
		Principal:  "spiffe://dev.example.org/service/payments",
		Credential: "5f0c2a9d1b7e4c3388a1f2e3d4c5b6a7",
		Method:     "mtls",
		Source:     netip.MustParseAddr("192.0.2.7"),
		HostProved: "host1.dev.example.org",
		Action:     "kms:Decrypt",
		Objects:    []audit.Object{{Kind: "Key", ID: "00112233445566778899aabbccddeeff", Name: "dev/payments/orders", Version: 3}},
		Context:    map[string]string{"tenant": "42", "table": "orders"},
		Decision:   audit.Decision{Result: "allow", PolicyVersion: 7, PolicyDigest: "9f86d081884c7d659a2feaa0c55ad015", Policies: []string{"payments-may-decrypt"}},
		Outcome:    audit.OK,
		Latency:    181 * time.Microsecond,
		Request:    "01J0Z3NDEKTSV4RRFFQ69G5FAV",
		Trace:      "4bf92f3577b34da6a3ce929d0e0e4736",
	}
}

func TestEntryText(t *testing.T) {
	e := decryption()
	got, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"action":"kms:Decrypt","context":{"table":"orders","tenant":"42"},"credential":"5f0c2a9d1b7e4c3388a1f2e3d4c5b6a7",` +
		`"decision":{"digest":"9f86d081884c7d659a2feaa0c55ad015","policies":["payments-may-decrypt"],"result":"allow","version":7},` +
		`"host_proved":"host1.dev.example.org","latency_us":181,"method":"mtls",` +
		`"objects":[{"id":"00112233445566778899aabbccddeeff","kind":"Key","name":"dev/payments/orders","version":3}],"outcome":"ok",` +
		`"principal":"spiffe://dev.example.org/service/payments","request":"01J0Z3NDEKTSV4RRFFQ69G5FAV","source":"192.0.2.7",` +
		`"time":"2026-03-01T12:30:15.123456Z","trace":"4bf92f3577b34da6a3ce929d0e0e4736","v":1}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// entries generates every field, the odd values included.
func entries() *rapid.Generator[audit.Entry] {
	words := rapid.OneOf(rapid.Just(""), rapid.String(), rapid.StringMatching(`[a-z:/]{1,20}`))
	some := rapid.StringN(1, 10, -1)
	return rapid.Custom(func(t *rapid.T) audit.Entry {
		e := audit.Entry{
			Time:      time.UnixMicro(rapid.Int64Range(0, 4e15).Draw(t, "time")).UTC(),
			Principal: words.Draw(t, "principal"), Credential: words.Draw(t, "credential"), Method: words.Draw(t, "method"),
			HostClaimed: words.Draw(t, "claimed"), HostProved: words.Draw(t, "proved"), Action: some.Draw(t, "action"),
			Reason: words.Draw(t, "reason"), ChangeRequest: words.Draw(t, "change"), Incident: words.Draw(t, "incident"),
			Outcome: rapid.SampledFrom([]audit.Outcome{audit.OK, audit.Denied, audit.Failed, audit.Intent}).Draw(t, "outcome"),
			Failure: words.Draw(t, "failure"), Latency: time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "latency")) * time.Microsecond,
			Request: words.Draw(t, "request"), Trace: words.Draw(t, "trace"),
			Decision: audit.Decision{Result: words.Draw(t, "result"), PolicyVersion: rapid.Int64Range(0, 1<<53-1).Draw(t, "policy"), PolicyDigest: words.Draw(t, "digest"), Reason: words.Draw(t, "why")},
		}
		if rapid.Bool().Draw(t, "source") {
			e.Source, _ = netip.AddrFromSlice(rapid.SampledFrom([][]byte{{192, 0, 2, 1}, {0x20, 1, 0xd, 0xb8, 15: 1}}).Draw(t, "address"))
		}
		for range rapid.IntRange(0, 3).Draw(t, "objects") {
			e.Objects = append(e.Objects, audit.Object{Kind: some.Draw(t, "kind"), ID: some.Draw(t, "id"), Name: words.Draw(t, "name"), Version: rapid.Int64Range(-5, 5).Draw(t, "version")})
		}
		for range rapid.IntRange(0, 2).Draw(t, "approvals") {
			e.Approvals = append(e.Approvals, audit.Approval{By: words.Draw(t, "by"), Digest: words.Draw(t, "approved")})
		}
		if p := rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "policies"); len(p) > 0 {
			e.Decision.Policies = p
		}
		if m := rapid.MapOfN(rapid.String(), rapid.String(), 0, 4).Draw(t, "context"); len(m) > 0 {
			e.Context = m
		}
		if m := rapid.MapOfN(rapid.String(), rapid.String(), 0, 4).Draw(t, "details"); len(m) > 0 {
			e.Details = m
		}
		if b := rapid.SliceOfN(rapid.Byte(), 0, 4).Draw(t, "mac"); len(b) > 0 {
			e.BodyMAC = b
		}
		return e
	})
}

func TestEntryReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := entries().Draw(t, "entry")
		b, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := canon.Check(b); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		back, err := audit.ParseEntry(b)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if !reflect.DeepEqual(back, e) {
			t.Fatalf("%s\nreads back as %+v\nwas           %+v", b, back, e)
		}
	})
}

func TestEntryRefusals(t *testing.T) {
	for name, spoil := range map[string]func(*audit.Entry){
		"no time":            func(e *audit.Entry) { e.Time = time.Time{} },
		"a year before 1970": func(e *audit.Entry) { e.Time = e.Time.AddDate(-100, 0, 0) },
		"no action":          func(e *audit.Entry) { e.Action = "" },
		"no outcome":         func(e *audit.Entry) { e.Outcome = "" },
		"another outcome":    func(e *audit.Entry) { e.Outcome = "fine" },
		"negative latency":   func(e *audit.Entry) { e.Latency = -1 },
		"no kind":            func(e *audit.Entry) { e.Objects[0].Kind = "" },
		"not UTF-8":          func(e *audit.Entry) { e.Reason = "\xff" },
		"too long":           func(e *audit.Entry) { e.Reason = strings.Repeat("x", audit.MaxEntry) },
		"54 bits":            func(e *audit.Entry) { e.Decision.PolicyVersion = 1 << 53 },
	} {
		e := decryption()
		spoil(&e)
		if _, err := e.Record(); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	// The limit itself is allowed.
	e := decryption()
	b, _ := e.Append(nil)
	const member = `"reason":"",`
	e.Reason = strings.Repeat("x", audit.MaxEntry-len(b)-len(member))
	if r, err := e.Record(); err != nil || len(r.Data) != audit.MaxEntry {
		t.Errorf("at the limit: %d bytes, %v", len(r.Data), err)
	}
}

func TestParseEntryRefuses(t *testing.T) {
	e := decryption()
	good, _ := e.Append(nil)
	swap := func(old, new string) string {
		s := strings.Replace(string(good), old, new, 1)
		if s == string(good) {
			t.Fatalf("%s is not in the entry", old)
		}
		return s
	}
	for name, bad := range map[string]string{
		"empty":             "",
		"truncated":         string(good[:len(good)-1]),
		"trailing":          string(good) + " ",
		"unknown field":     swap(`"v":1`, `"v":1,"z":1`),
		"unknown in object": swap(`"version":3`, `"version":3,"z":1`),
		"empty text":        swap(`"latency_us"`, `"incident":"","latency_us"`),
		"empty context":     swap(`{"table":"orders","tenant":"42"}`, `{}`),
		"zero number":       swap(`:181`, `:0`),
		"zone of time":      swap(`123456Z`, `123456+00:00`),
		"nanoseconds":       swap(`123456Z`, `123456789Z`),
		"another address":   swap(`192.0.2.7`, `::ffff:192.0.2.7`),
		"no address":        swap(`192.0.2.7`, `host`),
		"no version":        swap(`,"v":1`, ``),
		"version 0":         swap(`"v":1`, `"v":0`),
		"outcome":           swap(`"outcome":"ok"`, `"outcome":"okay"`),
		"MAC":               swap(`"context"`, `"body_hmac":"AB","context"`),
		"number for text":   swap(`"mtls"`, `1`),
		"too long":          strings.Repeat(" ", audit.MaxEntry+1),
		"an array":          "[]",
	} {
		if _, err := audit.ParseEntry([]byte(bad)); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	newer := swap(`"v":1`, `"v":2,"w":1`)
	if _, err := audit.ParseEntry([]byte(newer)); !errors.Is(err, key.ErrUnsupported) {
		t.Errorf("a newer format: %v, want ErrUnsupported", err)
	}
}

func TestUsesAreForSuccess(t *testing.T) {
	e := decryption()
	e.Objects = append(e.Objects, audit.Object{Kind: "Key", Name: "dev/payments/old"}, e.Objects[0])
	r, err := e.Record()
	if err != nil || len(r.Uses) != 2 {
		t.Fatalf("%+v, %v; want two uses", r.Uses, err)
	}
	if u := r.Uses[0]; u.Object != "Key:00112233445566778899aabbccddeeff" || u.Version != 3 || u.Host != e.HostProved || !u.At.Equal(e.Time) || u.Principal != e.Principal {
		t.Errorf("first use %+v", u)
	}
	if u := r.Uses[1]; u.Object != "Key:dev/payments/old" {
		t.Errorf("second use %+v", u)
	}
	for _, o := range []audit.Outcome{audit.Denied, audit.Failed, audit.Intent} {
		e.Outcome = o
		if r, _ := e.Record(); len(r.Uses) != 0 {
			t.Errorf("%s: %+v, want no use", o, r.Uses)
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	e := decryption()
	b, _ := e.Append(nil)
	f.Add(b)
	f.Add([]byte(`{"action":"a","outcome":"ok","time":"2026-03-01T12:30:15.123456Z","v":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := audit.ParseEntry(data)
		if err != nil {
			return
		}
		if again, err := e.Append(nil); err != nil || string(again) != string(data) {
			t.Fatalf("%q encodes again as %q, %v", data, again, err)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	e := decryption()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Record(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseEntry(b *testing.B) {
	e := decryption()
	data, _ := e.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := audit.ParseEntry(data); err != nil {
			b.Fatal(err)
		}
	}
}
