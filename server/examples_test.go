package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/policy"
)

// example is one good request of a route.
type example struct{ path, body string }

// the plaintext of examples; TestMain looks for it in the logs.
var examplePlaintext = bytes.Repeat([]byte("plaintext of an example"), 2)

func text64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// examples returns a good request for every route, by name. Each works once;
// routes that change something have an object of their own.
func (h *house) examples(t testing.TB) map[string]example {
	t.Helper()
	secret(examplePlaintext)
	a := h.admin
	makeKey := func(name, tier string) string {
		a.must(201, "POST", "/v1/keys", jsonOf(api.CreateKeyRequest{Name: name, Tier: tier}))
		return "/v1/keys/" + name
	}
	orders, release := makeKey("dev/example/orders", ""), makeKey("dev/example/release", "device")
	rotate, enable, disable := makeKey("dev/example/rotate", ""), makeKey("dev/example/enable", ""), makeKey("dev/example/disable", "")
	a.must(200, "POST", enable+"/disable", "")
	var sealed api.EncryptResponse
	decode(t, a.must(200, "POST", orders+"/encrypt", jsonOf(api.EncryptRequest{Plaintext: examplePlaintext})).body, &sealed)
	var signed api.SignResponse
	decode(t, a.must(200, "POST", release+"/sign", jsonOf(api.SignRequest{Message: []byte("m")})).body, &signed)
	seen, revoked := h.caller(t, "service", "service/example", 0), h.caller(t, "service", "service/example", 0)
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	disabled := guard.Principal{SPIFFEID: "spiffe://dev." + testDomain + "/service/example-disable"}
	h.system(t, []guard.Act{{Action: policy.RegisterPrincipal, Object: disabled.Object()}}, func(ctx context.Context, g guard.Grant) (err error) {
		disabled, err = h.Door.Register(ctx, g, disabled)
		return err
	})
	var issuers api.IssuerList
	decode(t, a.must(200, "GET", "/v1/issuers", "").body, &issuers)
	text := jsonOf(policy.Default().Text())
	return map[string]example{
		"status":            {"/v1/status", ""},
		"createKey":         {"/v1/keys", `{"name":"dev/example/new"}`},
		"listKeys":          {"/v1/keys?environment=dev&limit=2", ""},
		"describeKey":       {orders, ""},
		"rotateKey":         {rotate + "/rotate", ""},
		"enableKey":         {enable + "/enable", ""},
		"disableKey":        {disable + "/disable", ""},
		"encrypt":           {orders + "/encrypt", `{"plaintext":"` + text64(examplePlaintext) + `","context":{"tenant":"42"}}`},
		"decrypt":           {"/v1/decrypt", `{"ciphertext":"` + sealed.Ciphertext + `"}`},
		"rewrap":            {"/v1/rewrap", `{"ciphertext":"` + sealed.Ciphertext + `"}`},
		"generateDataKey":   {orders + "/datakey", `{"plaintext":true}`},
		"sign":              {release + "/sign", jsonOf(api.SignRequest{Message: []byte("m")})},
		"verify":            {release + "/verify", jsonOf(api.VerifyRequest{Message: []byte("m"), Signature: signed.Signature})},
		"publicKey":         {release + "/public-key?version=1", ""},
		"issueCertificate":  {"/v1/certificates", jsonOf(api.IssueRequest{CSR: string(requestFor(t, k)), SPIFFE: "dev/service/example", DNS: []string{"localhost"}, IP: []string{"127.0.0.1"}, TTL: api.Duration(time.Hour)})},
		"listCertificates":  {"/v1/certificates?limit=2", ""},
		"getCertificate":    {"/v1/certificates/" + seen.serial, ""},
		"revokeCertificate": {"/v1/certificates/" + revoked.serial + "/revoke", `{"reason":"superseded"}`},
		"listIssuers":       {"/v1/issuers", ""},
		"bundle":            {"/v1/bundle", ""},
		"listAuditEntries":  {"/v1/audit/entries?limit=3", ""},
		"auditCheckpoint":   {"/v1/audit/checkpoint", ""},
		"auditProof":        {"/v1/audit/proof/0", ""},
		"auditConsistency":  {"/v1/audit/consistency?old=1", ""},
		"auditTile":         {"/v1/audit/tile/0/000.p/1", ""},
		"auditKeys":         {"/v1/audit/keys", ""},
		"auditVerify":       {"/v1/audit/verify", ""},
		"applyPolicy":       {"/v1/policy", `{"text":` + text + `}`},
		"getPolicy":         {"/v1/policy", ""},
		"explain":           {"/v1/policy/explain", `{"principal":"service/example","action":"kms:Decrypt","object":"dev/example/orders"}`},
		"registerPrincipal": {"/v1/principals", `{"identity":"service/example-new","environment":"dev"}`},
		"listPrincipals":    {"/v1/principals?limit=2", ""},
		"disablePrincipal":  {"/v1/principals/" + disabled.ID + "/disable", ""},
		"crl":               {"/crl/" + issuers.Issuers[0].ID + ".crl", ""},
		"ca":                {"/ca.pem", ""},
		"livez":             {"/livez", ""},
		"readyz":            {"/readyz", ""},
		"metrics":           {"/metrics", ""},
		"openapi":           {"/openapi.json", ""},
	}
}

// try makes the route's example request as p.
func (p *person) try(t testing.TB, r api.Route, all map[string]example) answer {
	t.Helper()
	e, ok := all[r.Name]
	if !ok {
		t.Fatalf("%s has no example request: add one", r.Name)
	}
	method, _, _ := strings.Cut(r.Pattern, " ")
	return p.do(method, e.path, e.body)
}
