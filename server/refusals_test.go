package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/api"
)

// refusal is a request and what it must get.
type refusal struct {
	name, method, path, body string
	headers                  []string
	status                   int
	code, says               string
}

func (r refusal) check(t *testing.T, p *person) {
	t.Helper()
	a := p.do(r.method, r.path, r.body, r.headers...)
	problem := a.problem(t)
	if a.StatusCode != r.status || problem.Code != r.code || !strings.Contains(problem.Detail, r.says) {
		t.Errorf("%s: %d %s, want %d %s saying %q: %s", r.name, a.StatusCode, problem.Code, r.status, r.code, r.says, a.body)
	}
	if strings.Contains(string(a.body), "goroutine") || strings.Contains(string(a.body), ".go:") {
		t.Errorf("%s shows the inside: %s", r.name, a.body)
	}
}

func TestBadRequests(t *testing.T) {
	h := newHouse(t)
	const keys, encrypt = "/v1/keys", "/v1/keys/dev/example/orders/encrypt"
	h.admin.must(201, "POST", keys, `{"name":"dev/example/orders"}`)
	for _, r := range []refusal{
		{"unknown field", "POST", encrypt, `{"plaintext":"aGk=","contxt":{}}`, nil, 400, "invalid", `"contxt"`},
		{"trailing JSON", "POST", encrypt, `{"plaintext":"aGk="}{}`, nil, 400, "invalid", "more after"},
		{"malformed JSON", "POST", encrypt, `{"plaintext":`, nil, 400, "invalid", "reading the body"},
		{"wrong type", "POST", encrypt, `{"plaintext":7}`, nil, 400, "invalid", "plaintext"},
		{"not an object", "POST", encrypt, `[]`, nil, 400, "invalid", "wants"},
		{"content type", "POST", encrypt, `{}`, []string{"Content-Type", "text/plain"}, 415, "unsupported_media_type", "application/json"},
		{"no content type", "POST", encrypt, `{}`, []string{"Content-Type", ""}, 415, "unsupported_media_type", "application/json"},
		{"too large", "POST", keys, `{"name":"` + strings.Repeat("x", 20<<10) + `"}`, nil, 413, "too_large", "limit"},
		{"body on a GET", "GET", keys, `{}`, nil, 400, "invalid", "no body"},
		{"body where none is taken", "POST", "/v1/keys/dev/example/orders/rotate", `{}`, nil, 400, "invalid", "no body"},
		{"unknown path", "GET", "/v2/keys", "", nil, 404, "not_found", "openapi.json"},
		{"path with dots", "GET", "/v1/../v1/keys", "", nil, 404, "not_found", "openapi.json"},
		{"path with a double slash", "GET", "//v1/keys", "", nil, 404, "not_found", "openapi.json"},
		{"path with a slash too many", "GET", "/v1/keys/", "", nil, 404, "not_found", "openapi.json"},
		{"path of tiles", "GET", "/v1/audit/tile", "", nil, 404, "not_found", "openapi.json"},
		{"bad name", "POST", keys, `{"name":"Dev/x/y"}`, nil, 400, "invalid", "lower-case"},
		{"bad name in the path", "GET", "/v1/keys/dev/x/UPPER", "", nil, 400, "invalid", "UPPER"},
		{"encoded slash in a name", "GET", "/v1/keys/dev/x/a%2Fb", "", nil, 400, "invalid", ""},
		{"NUL in a name", "GET", "/v1/keys/dev/x/a%00b", "", nil, 400, "invalid", ""},
		{"unknown tier", "POST", keys, `{"name":"dev/a/b","tier":"paper"}`, nil, 400, "invalid", "tier"},
		{"unknown algorithm", "POST", keys, `{"name":"dev/a/b","algorithm":"rot13"}`, nil, 400, "invalid", "rot13"},
		{"limit of 0", "GET", keys + "?limit=0", "", nil, 400, "invalid", "limit"},
		{"limit too large", "GET", keys + "?limit=1001", "", nil, 400, "invalid", "1000"},
		{"limit no number", "GET", keys + "?limit=x", "", nil, 400, "invalid", "limit"},
		{"query that does not parse", "GET", keys + "?limit=%zz", "", nil, 400, "invalid", "query"},
		{"query with a semicolon", "GET", keys + "?limit=1;after=x", "", nil, 400, "invalid", "query"},
		{"parameter given twice", "GET", keys + "?limit=1&limit=2", "", nil, 400, "invalid", "twice"},
		{"version no number", "GET", "/v1/keys/dev/example/orders/public-key?version=-1", "", nil, 400, "invalid", "version"},
		{"index no number", "GET", "/v1/audit/proof/x", "", nil, 400, "invalid", "index"},
		{"index beyond the log", "GET", "/v1/audit/proof/99999999", "", nil, 404, "not_found", ""},
		{"no old size", "GET", "/v1/audit/consistency", "", nil, 400, "invalid", "old"},
		{"old size beyond the log", "GET", "/v1/audit/consistency?old=99999999", "", nil, 400, "invalid", ""},
		{"tile outside the log", "GET", "/v1/audit/tile/0/x999/999", "", nil, 404, "not_found", ""},
		{"tile that is none", "GET", "/v1/audit/tile/etc/passwd", "", nil, 400, "invalid", ""},
		{"time", "GET", "/v1/certificates?expires_before=tomorrow", "", nil, 400, "invalid", "expires_before"},
		{"serial", "GET", "/v1/certificates/xyz", "", nil, 400, "invalid", "serial"},
		{"revocation reason", "POST", "/v1/certificates/1f/revoke", `{"reason":"bored"}`, nil, 400, "invalid", "bored"},
		{"unknown certificate", "POST", "/v1/certificates/1f/revoke", `{}`, nil, 404, "not_found", "1f"},
		{"unknown principal", "POST", "/v1/principals/00112233445566778899aabbccddeeff/disable", "", nil, 404, "not_found", ""},
		{"principal no id", "POST", "/v1/principals/%FF/disable", "", nil, 400, "invalid", "id"},
		{"identity of another domain", "POST", "/v1/principals", `{"identity":"spiffe://dev.other.test/service/a"}`, nil, 400, "invalid", "another domain"},
		{"policy text", "PUT", "/v1/policy", `{"text":"permit everything"}`, nil, 400, "invalid", ""},
		{"policy without a way back", "PUT", "/v1/policy", `{"text":""}`, nil, 400, "invalid", ""},
		{"policy base", "PUT", "/v1/policy", `{"text":"permit(principal,action,resource);","base":77}`, nil, 409, "conflict", "77"},
		{"unknown action", "POST", "/v1/policy/explain", `{"principal":"service/a","action":"kms:Fly","object":"dev/a/b"}`, nil, 400, "invalid", "kms:Fly"},
		{"unknown CRL", "GET", "/crl/nobody.crl", "", nil, 404, "not_found", ""},
		{"reason too long", "GET", "/v1/status", "", []string{api.HeaderReason, strings.Repeat("x", 257)}, 400, "invalid", api.HeaderReason},
		{"reason no text", "GET", "/v1/status", "", []string{api.HeaderReason, "\xff"}, 400, "invalid", api.HeaderReason},
		{"idempotency key too long", "POST", keys, `{"name":"dev/a/b"}`, []string{api.HeaderIdempotencyKey, strings.Repeat("x", 129)}, 400, "invalid", "128"},
		{"idempotency key no text", "POST", keys, `{"name":"dev/a/b"}`, []string{api.HeaderIdempotencyKey, "\xff"}, 400, "invalid", "ASCII"},
	} {
		r.check(t, h.admin)
	}
}

func TestWrongMethodsNameTheRightOnes(t *testing.T) {
	h := newHouse(t)
	for _, c := range [][3]string{{"DELETE", "/v1/keys", "GET, POST"}, {"POST", "/livez", "GET"}, {"GET", "/v1/decrypt", "POST"}, {"PATCH", "/v1/policy", "GET, PUT"}, {"OPTIONS", "/v1/keys/a/b/c", "GET"}} {
		a := h.admin.do(c[0], c[1], "")
		if p := a.problem(t); a.StatusCode != 405 || p.Code != "method_not_allowed" || a.Header.Get("Allow") != c[2] {
			t.Errorf("%s %s: %d, Allow %q, want %q", c[0], c[1], a.StatusCode, a.Header.Get("Allow"), c[2])
		}
	}
}

// No route takes a parameter that it does not know, lists or not.
func TestUnknownParametersAreRefusedEverywhere(t *testing.T) {
	h := newHouse(t)
	all := h.examples(t)
	for _, r := range api.Routes() {
		e := all[r.Name]
		method, _, _ := strings.Cut(r.Pattern, " ")
		mark := "?"
		if strings.Contains(e.path, "?") {
			mark = "&"
		}
		if a := h.admin.do(method, e.path+mark+"verbose=1", e.body); a.StatusCode != 400 || !strings.Contains(a.problem(t).Detail, `"verbose"`) {
			t.Errorf("%s: %d: %s", r.Name, a.StatusCode, a.body)
		}
	}
}

// A body whose length is not told is bounded all the same.
func TestChunkedBodies(t *testing.T) {
	h := newHouse(t)
	h.admin.must(201, "POST", "/v1/keys", `{"name":"dev/example/orders"}`)
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v1/keys", `{"name":"` + strings.Repeat("x", 20<<10) + `"}`, 413},
		{"POST", "/v1/keys", `{"name":"dev/example/chunked"}`, 201},
		{"POST", "/v1/keys/dev/example/orders/rotate", `{}`, 400},
		{"GET", "/v1/keys", `{}`, 400},
	} {
		for _, p := range []*person{h.admin, h.overHTTP1(t)} {
			req, err := http.NewRequest(c.method, p.url+c.path, io.MultiReader(strings.NewReader(c.body))) // hides the length
			must(t, err)
			req.Header.Set("Content-Type", "application/json")
			if a := p.send(req); a.StatusCode != c.status {
				t.Errorf("%s %s over %s: %d, want %d: %s", c.method, c.path, a.Proto, a.StatusCode, c.status, a.body)
			}
			if c.status == 201 {
				break
			}
		}
	}
}

func TestRequestIDs(t *testing.T) {
	h := newHouse(t)
	for id, kept := range map[string]bool{"abc-1.2_X": true, strings.Repeat("x", 64): true, strings.Repeat("x", 65): false, "a b": false, "": false, "ä": false} {
		got := h.admin.must(200, "GET", "/v1/status", "", api.HeaderRequestID, id).Header.Get(api.HeaderRequestID)
		if (got == id) != kept || got == "" {
			t.Errorf("request id %q is answered with %q", id, got)
		}
	}
}

func TestCertificateRequestsOutsideTheRules(t *testing.T) {
	h := newHouse(t)
	good, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	csr := string(requestFor(t, good))
	block, _ := pem.Decode([]byte(csr))
	block.Bytes[len(block.Bytes)-1] ^= 1
	broken := string(pem.EncodeToMemory(block))
	with := func(change func(*api.IssueRequest)) string {
		in := api.IssueRequest{CSR: csr, SPIFFE: "dev/service/example"}
		change(&in)
		return jsonOf(in)
	}
	for _, r := range []refusal{
		{name: "TTL beyond the profile", body: with(func(in *api.IssueRequest) { in.TTL = api.Duration(31 * 24 * 3600e9) }), status: 400, code: "invalid", says: "lifetime"},
		{name: "negative TTL", body: with(func(in *api.IssueRequest) { in.TTL = -1 }), status: 400, code: "invalid", says: "lifetime"},
		{name: "TTL no duration", body: `{"csr":"x","ttl":"3 weeks"}`, status: 400, code: "invalid", says: "duration"},
		{name: "weak key", body: with(func(in *api.IssueRequest) { in.CSR = string(requestFor(t, weak)) }), status: 400, code: "invalid", says: "RSA"},
		{name: "broken signature", body: with(func(in *api.IssueRequest) { in.CSR = broken }), status: 400, code: "invalid", says: "signature"},
		{name: "no CSR", body: with(func(in *api.IssueRequest) { in.CSR = "hello" }), status: 400, code: "invalid", says: "PKCS #10"},
		{name: "CSR too large", body: with(func(in *api.IssueRequest) { in.CSR = strings.Repeat("x", api.MaxCSR+1) }), status: 400, code: "invalid", says: "CSR"},
		{name: "another trust domain", body: with(func(in *api.IssueRequest) { in.SPIFFE = "spiffe://dev.other.test/service/x" }), status: 400, code: "invalid", says: "domain"},
		{name: "environments that differ", body: with(func(in *api.IssueRequest) { in.Environment, in.SPIFFE = "ops", "spiffe://dev."+testDomain+"/service/x" }), status: 400, code: "invalid", says: "ops"},
		{name: "a person", body: with(func(in *api.IssueRequest) { in.SPIFFE = "user/eve" }), status: 400, code: "invalid", says: "service/"},
		{name: "an enrolled profile", body: with(func(in *api.IssueRequest) { in.Profile, in.SPIFFE = "user", "user/eve" }), status: 422, code: "unsupported", says: "enrolment"},
		{name: "an unknown profile", body: with(func(in *api.IssueRequest) { in.Profile = "root" }), status: 400, code: "invalid", says: "root"},
		{name: "wildcard", body: with(func(in *api.IssueRequest) { in.DNS = []string{"*.example.org"} }), status: 400, code: "invalid", says: "*.example.org"},
		{name: "DNS name", body: with(func(in *api.IssueRequest) { in.DNS = []string{"exa mple"} }), status: 400, code: "invalid", says: "exa mple"},
		{name: "IP address", body: with(func(in *api.IssueRequest) { in.IP = []string{"1.2.3"} }), status: 400, code: "invalid", says: "1.2.3"},
		{name: "too many names", body: with(func(in *api.IssueRequest) { in.DNS = make([]string, api.MaxNames+1) }), status: 400, code: "invalid", says: "names"},
		{name: "an environment without issuer", body: with(func(in *api.IssueRequest) { in.SPIFFE = "staging/service/x" }), status: 404, code: "not_found", says: "staging"},
	} {
		r.method, r.path = "POST", "/v1/certificates"
		r.check(t, h.admin)
	}
	if x, err := x509.ParseCertificateRequest(block.Bytes); err == nil && x.CheckSignature() == nil {
		t.Error("the broken signature is not broken")
	}
}

// All that is wrong with a ciphertext is one error, and the same for any key.
func TestWrongCiphertextsAreOneError(t *testing.T) {
	h := newHouse(t)
	const orders = "/v1/keys/dev/example/orders"
	h.admin.must(201, "POST", "/v1/keys", `{"name":"dev/example/orders"}`)
	var sealed api.EncryptResponse
	decode(t, h.admin.must(200, "POST", orders+"/encrypt", `{"plaintext":"aGk=","context":{"a":"b"}}`).body, &sealed)
	good := sealed.Ciphertext
	flip := func(i int) string { return good[:i] + string(good[i]^1) + good[i+1:] }
	unknown := good[:8] + strings.Repeat("Q", 20) + good[28:]
	bodies := map[string]api.DecryptRequest{
		"wrong context": {Ciphertext: good}, "another context": {Ciphertext: good, Context: map[string]string{"a": "c"}},
		"truncated": {Ciphertext: good[:len(good)-4], Context: map[string]string{"a": "b"}}, "empty": {}, "no base64": {Ciphertext: "sw1:!!"},
		"another version": {Ciphertext: "sw2" + good[3:]}, "altered tag": {Ciphertext: flip(len(good) - 6), Context: map[string]string{"a": "b"}},
		"altered commitment": {Ciphertext: flip(50), Context: map[string]string{"a": "b"}}, "unknown key": {Ciphertext: unknown, Context: map[string]string{"a": "b"}},
	}
	var first []byte
	for name, body := range bodies {
		for _, path := range []string{"/v1/decrypt", "/v1/rewrap"} {
			a := h.admin.must(400, "POST", path, jsonOf(body), api.HeaderRequestID, "one")
			if first == nil {
				first = a.body
			}
			if !bytes.Equal(a.body, first) || a.problem(t).Code != "invalid_ciphertext" {
				t.Errorf("%s: %s tells more than %s", name, a.body, first)
			}
		}
	}
	h.admin.must(200, "POST", orders+"/disable", "")
	for _, path := range []string{"/v1/decrypt", orders + "/encrypt"} {
		body := `{"plaintext":"aGk="}`
		if path == "/v1/decrypt" {
			body = jsonOf(api.DecryptRequest{Ciphertext: good, Context: map[string]string{"a": "b"}})
		}
		if p := h.admin.must(409, "POST", path, body).problem(t); p.Code != "disabled" || !strings.Contains(p.Detail, "enable it first") {
			t.Errorf("%s with a disabled key: %+v", path, p)
		}
	}
}
