package server

import (
	"strings"
	"testing"

	"github.com/sealwright/sealwright/api"
)

// apply makes text, with the administrator's rights, the policy.
func (h *house) apply(t testing.TB, text string) {
	t.Helper()
	const admins = "permit (principal in Role::\"administrator\", action, resource);\n"
	h.admin.must(200, "PUT", "/v1/policy", jsonOf(api.ApplyPolicyRequest{Text: admins + text}))
}

// A list shows what its reader may describe, and nothing else.
func TestListsShowWhatMayBeDescribed(t *testing.T) {
	h := newHouse(t)
	reader := h.enrol(t, "service", "service/reader")
	for _, name := range []string{"dev/mine/a", "dev/theirs/b", "dev/mine/c", "dev/theirs/d"} {
		h.admin.must(201, "POST", "/v1/keys", `{"name":"`+name+`"}`)
	}
	h.caller(t, "service", "service/mine", 0)
	h.caller(t, "service", "service/theirs", 0)
	h.apply(t, `
		permit (principal == Service::"dev/reader", action in [Action::"kms:ListKeys", Action::"pki:ListCertificates"], resource in Environment::"dev");
		permit (principal == Service::"dev/reader", action in [Action::"kms:ListKeys", Action::"pki:ListCertificates"], resource is System);
		permit (principal == Service::"dev/reader", action == Action::"kms:DescribeKey", resource in ServiceScope::"dev/mine");
		forbid (principal == Service::"dev/reader", action == Action::"pki:ListCertificates", resource is Certificate) unless { resource.service == "mine" };`)
	for _, query := range []string{"", "?environment=dev", "?limit=1"} {
		var names []string
		for after := ""; ; {
			path := "/v1/keys" + query
			if after != "" {
				path += "&after=" + after
			}
			var list api.KeyList
			decode(t, reader.must(200, "GET", path, "").body, &list)
			for _, k := range list.Keys {
				names = append(names, k.Name)
			}
			if after = list.Next; after == "" || query == "" {
				break
			}
		}
		if got := strings.Join(names, " "); got != "dev/mine/a dev/mine/c" {
			t.Errorf("%q lists %s", query, got)
		}
	}
	var certificates api.CertificateList
	decode(t, reader.must(200, "GET", "/v1/certificates", "").body, &certificates)
	if len(certificates.Certificates) != 1 || !strings.HasSuffix(certificates.Certificates[0].Identity, "/service/mine") {
		t.Errorf("lists %+v", certificates.Certificates)
	}
	h.admin.must(200, "GET", "/v1/keys?environment=staging", "")
}

// A refusal does not tell whether the object exists, nor what it is called.
func TestDenialsDoNotTellWhatExists(t *testing.T) {
	h := newHouse(t)
	all := h.examples(t)
	plain := h.enrol(t, "service", "service/plain")
	var sealed api.DecryptRequest
	decode(t, []byte(all["decrypt"].body), &sealed)
	unknown := sealed.Ciphertext[:8] + strings.Repeat("Q", 20) + sealed.Ciphertext[28:] // another object id
	id := strings.Split(all["disablePrincipal"].path, "/")[3]
	serial := strings.Split(all["getCertificate"].path, "/")[3]
	for _, pair := range [][3]string{
		{"GET", "/v1/keys/dev/example/orders", "/v1/keys/dev/example/nothing"},
		{"POST", "/v1/keys/dev/example/orders/rotate", "/v1/keys/dev/example/nothing/rotate"},
		{"GET", "/v1/certificates/" + serial, "/v1/certificates/1f"},
		{"POST", "/v1/principals/" + id + "/disable", "/v1/principals/00112233445566778899aabbccddeeff/disable"},
	} {
		a, b := plain.must(403, pair[0], pair[1], "").problem(t), plain.must(403, pair[0], pair[2], "").problem(t)
		last := func(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, "/v1/keys/"), "/v1/") }
		said := strings.NewReplacer("orders", "nothing", serial, "1f", id, "00112233445566778899aabbccddeeff").Replace(a.Detail)
		if said != b.Detail || a.Title != b.Title {
			t.Errorf("%s: %q and %q differ", last(pair[1]), a.Detail, b.Detail)
		}
	}
	for _, path := range []string{"/v1/decrypt", "/v1/rewrap"} {
		a := plain.must(403, "POST", path, jsonOf(sealed)).problem(t)
		b := plain.must(403, "POST", path, jsonOf(api.DecryptRequest{Ciphertext: unknown})).problem(t)
		if a.Detail != b.Detail || strings.Contains(a.Detail, "example") {
			t.Errorf("%s: %q and %q", path, a.Detail, b.Detail)
		}
	}
	a := plain.must(403, "POST", "/v1/keys", `{"name":"dev/example/orders"}`).problem(t)
	b := plain.must(403, "POST", "/v1/keys", `{"name":"dev/example/nothing"}`).problem(t)
	if a.Detail != strings.ReplaceAll(b.Detail, "nothing", "orders") {
		t.Errorf("creating: %q and %q", a.Detail, b.Detail)
	}
}

// What needs approvals is answered with what approvers sign, and not done.
func TestNeedsApprovals(t *testing.T) {
	h := newHouse(t)
	careful := h.enrol(t, "service", "service/careful")
	h.apply(t, `@approvals("2 of security") permit (principal == Service::"dev/careful", action == Action::"kms:CreateKey", resource);`)
	create := func(name string) api.Problem {
		a := careful.must(202, "POST", "/v1/keys", `{"name":"`+name+`"}`)
		if a.Header.Get(api.HeaderAuditIndex) == "" {
			t.Error("it is not recorded")
		}
		return a.problem(t)
	}
	first, again, other := create("dev/careful/a"), create("dev/careful/a"), create("dev/careful/b")
	if first.Code != "needs_approval" || len(first.Digest) != 64 || first.Approvals != "2 of security" {
		t.Errorf("%+v", first)
	}
	if first.Digest != again.Digest || first.Digest == other.Digest {
		t.Errorf("digests %s, again %s, of another %s", first.Digest, again.Digest, other.Digest)
	}
	h.admin.must(404, "GET", "/v1/keys/dev/careful/a", "")
}

// The plain listeners serve what they are for and nothing else.
func TestPublicListeners(t *testing.T) {
	h := newHouse(t)
	for _, c := range []struct {
		routes       []string
		serve, other string
	}{
		{[]string{api.RouteCRL, api.RouteCA}, "/ca.pem", "/metrics"},
		{[]string{api.RouteMetrics, api.RouteLive, api.RouteReady}, "/metrics", "/ca.pem"},
	} {
		server, err := h.PublicHTTP(c.routes...)
		must(t, err)
		p := h.serving(t, server)
		p.must(200, "GET", c.serve, "")
		p.must(404, "GET", c.other, "")
		p.must(404, "GET", "/v1/status", "")
	}
	if _, err := h.PublicHTTP(api.RouteStatus); err == nil {
		t.Error("a route that needs a caller is served without TLS")
	}
}
