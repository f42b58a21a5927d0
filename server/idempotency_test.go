package server

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sealwright/sealwright/api"
)

// A repeat gets the first answer, byte for byte, and changes nothing.
func TestRepeats(t *testing.T) {
	h := newHouse(t)
	all := h.examples(t)
	for _, r := range api.Routes() {
		if !r.Mutates {
			continue
		}
		e := all[r.Name]
		method, _, _ := strings.Cut(r.Pattern, " ")
		k := "repeat-" + r.Name
		first := h.admin.do(method, e.path, e.body, api.HeaderIdempotencyKey, k)
		again := h.admin.do(method, e.path, e.body, api.HeaderIdempotencyKey, k)
		if first.StatusCode != r.Status || again.StatusCode != first.StatusCode || !bytes.Equal(first.body, again.body) || first.Header.Get("Content-Type") != again.Header.Get("Content-Type") {
			t.Errorf("%s: %d %s, repeated %d %s", r.Name, first.StatusCode, first.body, again.StatusCode, again.body)
		}
		if again.Header.Get(api.HeaderAuditIndex) == first.Header.Get(api.HeaderAuditIndex) || again.Header.Get(api.HeaderAuditIndex) == "" {
			t.Errorf("%s: the repeat has no entry of its own", r.Name)
		}
		other := h.admin.do("POST", "/v1/keys", `{"name":"dev/example/other"}`, api.HeaderIdempotencyKey, k)
		if other.StatusCode != 409 || other.problem(t).Code != "conflict" {
			t.Errorf("%s: its key with another request: %d: %s", r.Name, other.StatusCode, other.body)
		}
	}
	h.admin.must(404, "GET", "/v1/keys/dev/example/other", "")
}

// The key of one principal is nothing to another, and a refusal is not kept.
func TestRepeatsAreThePrincipals(t *testing.T) {
	h := newHouse(t)
	second := h.enrol(t, "user", "user/second", "administrator")
	h.admin.must(201, "POST", "/v1/keys", `{"name":"dev/example/one"}`, api.HeaderIdempotencyKey, "k")
	second.must(201, "POST", "/v1/keys", `{"name":"dev/example/two"}`, api.HeaderIdempotencyKey, "k")
	h.admin.must(409, "POST", "/v1/keys", `{"name":"dev/example/two"}`, api.HeaderIdempotencyKey, "refused") // exists
	h.admin.must(201, "POST", "/v1/keys", `{"name":"dev/example/three"}`, api.HeaderIdempotencyKey, "refused")
	h.revoke(t, second)
	second.must(401, "POST", "/v1/keys", `{"name":"dev/example/two"}`, api.HeaderIdempotencyKey, "k")
}

// Of many equal requests at once one creates; the others get its answer or are told.
func TestConcurrentDuplicates(t *testing.T) {
	h := newHouse(t)
	const callers = 16
	answers := make([]answer, callers)
	var wait sync.WaitGroup
	for i := range callers {
		wait.Go(func() {
			req, err := http.NewRequest("POST", h.url+"/v1/keys", strings.NewReader(`{"name":"dev/example/once"}`))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set(api.HeaderIdempotencyKey, "once")
			answers[i] = h.admin.send(req)
		})
	}
	wait.Wait()
	var created []byte
	for _, a := range answers {
		switch {
		case a.StatusCode == 201 && (created == nil || bytes.Equal(a.body, created)):
			created = a.body
		case a.StatusCode == 409:
		default:
			t.Errorf("%d: %s", a.StatusCode, a.body)
		}
	}
	if created == nil {
		t.Error("nobody created it")
	}
	var n int
	must(t, h.DB.QueryRow(t.Context(), `SELECT COUNT(*) FROM kms_key WHERE name = 'dev/example/once'`).Scan(&n))
	if n != 1 {
		t.Errorf("%d keys were created", n)
	}
}

// No answer that bears a secret is kept, whatever headers its request has.
func TestSecretsAreNotKept(t *testing.T) {
	h := newHouse(t)
	all := h.examples(t)
	for _, r := range api.Routes() {
		if r.Mutates || r.Public {
			continue
		}
		e := all[r.Name]
		method, _, _ := strings.Cut(r.Pattern, " ")
		a := h.admin.must(r.Status, method, e.path, e.body, api.HeaderIdempotencyKey, "k")
		if r.Name == "generateDataKey" {
			var key api.DataKeyResponse
			decode(t, a.body, &key)
			secret(key.Plaintext)
		}
		if r.Secret && a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s may be cached: %v", r.Name, a.Header)
		}
	}
	var n int
	must(t, h.DB.QueryRow(t.Context(), `SELECT COUNT(*) FROM idempotency`).Scan(&n))
	if n != 0 {
		t.Errorf("%d answers of requests that change nothing are kept", n)
	}
}
