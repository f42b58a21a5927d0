package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/policy"
)

// matrix says what an administrator and a principal without rights get of each
// route that is not public. A route without a row fails. Who is no principal
// gets 401 everywhere.
func matrix() map[string][2]int {
	return map[string][2]int{
		"status": {200, 403}, "createKey": {201, 403}, "listKeys": {200, 403}, "describeKey": {200, 403}, "rotateKey": {200, 403},
		"enableKey": {200, 403}, "disableKey": {200, 403}, "encrypt": {200, 403}, "decrypt": {200, 403}, "rewrap": {200, 403},
		"generateDataKey": {200, 403}, "sign": {200, 403}, "verify": {200, 403}, "publicKey": {200, 403}, "issueCertificate": {201, 403},
		"listCertificates": {200, 403}, "getCertificate": {200, 403}, "revokeCertificate": {200, 403}, "listIssuers": {200, 403},
		"bundle": {200, 403}, "listAuditEntries": {200, 403}, "auditCheckpoint": {200, 403}, "auditProof": {200, 403},
		"auditConsistency": {200, 403}, "auditTile": {200, 403}, "auditKeys": {200, 403}, "auditVerify": {200, 403}, "applyPolicy": {200, 403},
		"getPolicy": {200, 403}, "explain": {200, 403}, "registerPrincipal": {201, 403}, "listPrincipals": {200, 403}, "disablePrincipal": {200, 403},
	}
}

func TestAuthorization(t *testing.T) {
	h := newHouse(t)
	all := h.examples(t)
	strangers := h.strangers(t)
	rightless := h.enrol(t, "service", "service/rightless")
	rows := matrix()
	for _, r := range api.Routes() {
		if r.Public {
			continue
		}
		want, ok := rows[r.Name]
		if !ok {
			t.Errorf("%s: say in the matrix who may use it", r.Name)
			continue
		}
		for name, p := range strangers {
			a := p.try(t, r, all)
			if a.StatusCode != 401 || a.problem(t).Code != "unauthenticated" || a.Header.Get(api.HeaderAuditIndex) != "" {
				t.Errorf("%s as %s: %d, want 401: %s", r.Name, name, a.StatusCode, a.body)
			}
		}
		a := rightless.try(t, r, all)
		if a.StatusCode != want[1] || a.problem(t).Code != "denied" {
			t.Errorf("%s without rights: %d, want %d: %s", r.Name, a.StatusCode, want[1], a.body)
		}
		h.checkEntry(t, r, a, rightless, audit.Denied)
		a = h.admin.try(t, r, all)
		if a.StatusCode != want[0] {
			t.Errorf("%s as administrator: %d, want %d: %s", r.Name, a.StatusCode, want[0], a.body)
		}
		h.checkEntry(t, r, a, h.admin, audit.OK)
	}
	h.checkRefusals(t, len(rows)*len(strangers))
}

// strangers are all sorts of callers that are no principal.
func (h *house) strangers(t testing.TB) map[string]*person {
	t.Helper()
	disabled, revoked := h.enrol(t, "service", "service/disabled", policy.Administrator), h.enrol(t, "service", "service/revoked", policy.Administrator)
	h.disable(t, disabled)
	h.revoke(t, revoked)
	expired := h.caller(t, "service", "service/expired", time.Second)
	foreign := h.with(t, foreignPair(t, h.admin.pair.Leaf.URIs[0]))
	server := h.with(t, h.certify(t, ca.Order{Profile: "server", Environment: "dev", DNS: []string{"localhost"}}))
	time.Sleep(time.Until(expired.pair.Leaf.NotAfter) + 50*time.Millisecond)
	return map[string]*person{
		"a disabled principal": disabled, "a revoked certificate": revoked, "nobody registered": h.caller(t, "service", "service/nobody", 0),
		"an expired certificate": expired, "no certificate": h.with(t, nil), "a certificate of a foreign CA": foreign, "a server's certificate": server,
	}
}

func (h *house) disable(t testing.TB, p *person) {
	t.Helper()
	id := p.pair.Leaf.URIs[0].String()
	h.system(t, []guard.Act{{Action: policy.DisablePrincipal, Object: guard.PrincipalObject(id)}}, func(ctx context.Context, g guard.Grant) error {
		_, err := h.Door.Disable(ctx, g, id)
		return err
	})
}

func (h *house) revoke(t testing.TB, p *person) {
	t.Helper()
	object, err := h.CA.ObjectOf(t.Context(), p.serial)
	must(t, err)
	h.system(t, []guard.Act{{Action: policy.RevokeCertificate, Object: object}}, func(ctx context.Context, g guard.Grant) error {
		_, err := h.CA.Revoke(ctx, g, p.serial, 0)
		return err
	})
}

// foreignPair is a certificate for id by a CA of its own.
func foreignPair(t testing.TB, id *url.URL) *tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), URIs: []*url.URL{id}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}
}

// checkEntry compares the entry that the answer names with what happened.
func (h *house) checkEntry(t testing.TB, r api.Route, a answer, who *person, outcome audit.Outcome) {
	t.Helper()
	index, err := strconv.ParseInt(a.Header.Get(api.HeaderAuditIndex), 10, 64)
	if err != nil {
		t.Errorf("%s: the answer names no entry", r.Name)
		return
	}
	list, err := h.Log.Entries(t.Context(), index, 1)
	if err != nil || len(list) != 1 {
		t.Errorf("%s: entry %d: %d entries, %v", r.Name, index, len(list), err)
		return
	}
	e := list[0]
	if e.Action != r.Action || e.Outcome != outcome || e.Principal != who.pair.Leaf.URIs[0].String() || e.Credential != who.serial ||
		e.Request != a.Header.Get(api.HeaderRequestID) || !e.Source.IsLoopback() || len(e.Objects) == 0 {
		t.Errorf("%s: entry %d does not say what happened: %+v", r.Name, index, e)
	}
}

// checkRefusals counts the unauthenticated refusals once the door recorded them.
func (h *house) checkRefusals(t testing.TB, want int) {
	t.Helper()
	must(t, h.Door.Close())
	size, err := h.Log.Size(t.Context())
	must(t, err)
	got := 0
	for from := int64(0); from < size; from += 100 {
		list, err := h.Log.Entries(t.Context(), from, 100)
		must(t, err)
		for _, e := range list {
			if e.Action == "authenticate" {
				n, err := strconv.Atoi(e.Details["refused"])
				must(t, err)
				got += n
			}
		}
	}
	if got != want {
		t.Errorf("%d unauthenticated refusals are recorded, want %d", got, want)
	}
}
