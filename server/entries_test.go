package server

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/audit"
)

// What was allowed and failed is recorded as failed, with its class and not its text.
func TestFailuresAreRecorded(t *testing.T) {
	h := newHouse(t)
	all := h.examples(t)
	routes := map[string]api.Route{}
	for _, r := range api.Routes() {
		routes[r.Name] = r
	}
	for _, c := range []struct {
		route, method, path, body string
		status                    int
		failure                   string
	}{
		{"createKey", "POST", "/v1/keys", `{"name":"dev/example/orders"}`, 409, "exists"},
		{"describeKey", "GET", "/v1/keys/dev/example/nothing", "", 404, "not-found"},
		{"decrypt", "POST", "/v1/decrypt", strings.Replace(all["decrypt"].body, "}", `,"context":{"a":"b"}}`, 1), 400, "invalid-ciphertext"},
		{"sign", "POST", "/v1/keys/dev/example/orders/sign", `{"message":"bQ=="}`, 422, "unsupported"},
		{"getCertificate", "GET", "/v1/certificates/1f", "", 404, "not-found"},
		{"applyPolicy", "PUT", "/v1/policy", `{"text":"permit everything"}`, 400, "invalid"},
	} {
		a := h.admin.must(c.status, c.method, c.path, c.body, api.HeaderReason, "because")
		h.checkEntry(t, routes[c.route], a, h.admin, audit.Failed)
		var list api.AuditList
		decode(t, h.admin.must(200, "GET", "/v1/audit/entries?limit=1&action="+routes[c.route].Action, "").body, &list)
		if entry := string(list.Entries[0].Entry); !strings.Contains(entry, `"`+c.failure+`"`) || !strings.Contains(entry, `"because"`) {
			t.Errorf("%s: %s", c.route, entry)
		}
	}
}

// Whatever a caller claims as host, the request is answered and recorded or refused.
func TestClaimedHosts(t *testing.T) {
	h := newHouse(t)
	handler, err := h.Handler()
	must(t, err)
	for _, host := range []string{"", "\xff\xfe", "\x00", strings.Repeat("h", 15<<10), strings.Repeat("\"", 15<<10)} {
		r := httptest.NewRequest("GET", "/v1/status", nil)
		r.Host, r.TLS = host, h.adminState(t)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != 200 && w.Code != 400 {
			t.Errorf("host %.20q: %d: %s", host, w.Code, w.Body)
		}
	}
}
