package ca_test

import (
	"context"
	"crypto/x509"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/policy"
)

func TestIssue(t *testing.T) {
	h := build(t)
	o := order(t, "service/payments")
	o.DNS, o.IPs = []string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	out := h.issue(t, o)
	roots, err := pki.ParseBundle(out.Root)
	must(t, err)
	chain, err := pki.ParseBundle(out.Chain)
	must(t, err)
	must(t, pki.Verify(append([]*x509.Certificate{out.Leaf}, chain...), roots, x509.ExtKeyUsageServerAuth, time.Now()))
	if id, err := pki.Identity(out.Leaf, chain[0]); err != nil || id.String() != "spiffe://dev.sealwright.test/service/payments" {
		t.Errorf("identity %v, %v", id, err)
	}
	c, err := h.get(t, h.Admin, out.Certificate.Serial)
	must(t, err)
	if c.Names != "localhost,127.0.0.1" || c.Environment != "dev" || c.IssuedBy != h.Admin.SPIFFEID || c.Profile != "service" || !c.NotAfter.Equal(out.Leaf.NotAfter) || !c.RevokedAt.IsZero() {
		t.Errorf("inventory says %+v", c)
	}
	if dns, ips := c.Hosts(); len(dns) != 1 || len(ips) != 1 {
		t.Errorf("hosts %v %v", dns, ips)
	}
	for name, o := range map[string]ca.Order{
		"server": {Profile: "server", Environment: "dev", DNS: []string{"www.example.org"}},
		"client": {Profile: "client", Environment: "dev", DNS: []string{"reports.example.org"}, TTL: 30 * 24 * time.Hour},
		"whole":  {Identity: "spiffe://dev.sealwright.test/service/orders"},
	} {
		o.CSR = csr(t, newKey(t))
		if out := h.issue(t, o); out.Certificate.Environment != "dev" {
			t.Errorf("%s: %+v", name, out.Certificate)
		}
	}
}

func TestIssueRefused(t *testing.T) {
	h := build(t)
	for name, c := range map[string]struct {
		change func(*ca.Order)
		want   error
	}{
		"no environment":      {func(o *ca.Order) { o.Environment = "" }, key.ErrInvalid},
		"unknown environment": {func(o *ca.Order) { o.Environment = "prod" }, key.ErrNotFound},
		"root as environment": {func(o *ca.Order) { o.Environment = "root" }, key.ErrNotFound},
		"two environments":    {func(o *ca.Order) { o.Identity = "spiffe://ops.sealwright.test/service/payments" }, key.ErrInvalid},
		"another domain":      {func(o *ca.Order) { o.Identity = "spiffe://dev.example.org/service/payments" }, key.ErrInvalid},
		"no identity":         {func(o *ca.Order) { o.Identity = "" }, key.ErrInvalid},
		"a user":              {func(o *ca.Order) { o.Identity = "user/admin" }, key.ErrInvalid},
		"climbing":            {func(o *ca.Order) { o.Identity = "service/../user/admin" }, key.ErrInvalid},
		"star":                {func(o *ca.Order) { o.Identity = "service/*" }, key.ErrInvalid},
		"unknown profile":     {func(o *ca.Order) { o.Profile = "root" }, key.ErrInvalid},
		"lifetime":            {func(o *ca.Order) { o.TTL = 365 * 24 * time.Hour }, key.ErrInvalid},
		"no request":          {func(o *ca.Order) { o.CSR = nil }, key.ErrInvalid},
		"bad host":            {func(o *ca.Order) { o.DNS = []string{"a/../b"} }, key.ErrInvalid},
		"invalid address":     {func(o *ca.Order) { o.IPs = make([]netip.Addr, 1) }, key.ErrInvalid},
		"too many names":      {func(o *ca.Order) { o.IPs = make([]netip.Addr, 70) }, key.ErrInvalid},
	} {
		o := order(t, "service/payments")
		c.change(&o)
		_, err := h.issueAs(t, h.Admin, o)
		want(t, name, err, c.want)
	}
	if all, err := h.list(t, h.Admin, ca.Filter{Identity: "spiffe://dev.sealwright.test/service/payments"}); err != nil || len(all.page) != 0 {
		t.Errorf("after refusals the inventory holds %v, %v", all.page, err)
	}
}

// TestNamesAreAllowedEach: the right to an identity is no right to a host name,
// and a profile that makes principals needs the right to register them.
func TestNamesAreAllowedEach(t *testing.T) {
	h := build(t)
	_, err := h.issueAs(t, h.Plain, order(t, "service/payments"))
	want(t, "without a policy", err, key.ErrDenied)
	h.allow(t, `
permit (principal is Service, action == Action::"pki:IssueCertificate", resource is Certificate) when { resource.identity == principal.spiffe };
permit (principal == Service::"dev/payments", action == Action::"pki:IssueCertificate", resource == Certificate::"dev/dns/pay.example.org");
permit (principal == Service::"dev/payments", action == Action::"pki:IssueCertificate", resource == Certificate::"ops/user/mallory");
`)
	o := order(t, "service/payments")
	if _, err := h.issueAs(t, h.Plain, o); err != nil {
		t.Errorf("its own identity: %v", err)
	}
	o.DNS = []string{"pay.example.org"}
	if _, err := h.issueAs(t, h.Plain, o); err != nil {
		t.Errorf("its own host: %v", err)
	}
	o.DNS = append(o.DNS, "bank.example.org")
	_, err = h.issueAs(t, h.Plain, o)
	want(t, "a foreign host beside its own", err, key.ErrDenied)
	o.DNS, o.IPs = nil, []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	_, err = h.issueAs(t, h.Plain, o)
	want(t, "an address", err, key.ErrDenied)
	_, err = h.issueAs(t, h.Plain, order(t, "service/orders"))
	want(t, "another identity", err, key.ErrDenied)
	user := ca.Order{CSR: csr(t, newKey(t)), Profile: "user", Environment: "ops", Identity: "user/mallory"}
	_, err = h.issueAs(t, h.Plain, user)
	want(t, "a person, without the right to register one", err, key.ErrDenied)
	if _, err := h.issueAs(t, h.Admin, user); err != nil {
		t.Errorf("a person by an administrator: %v", err)
	}
}

func TestList(t *testing.T) {
	h := build(t)
	serials := map[string]bool{}
	for n := range 7 {
		o := order(t, "service/payments")
		o.TTL = time.Duration(n+1) * time.Hour
		serials[h.issue(t, o).Certificate.Serial] = true
	}
	other := order(t, "service/orders")
	other.TTL = 10 * time.Hour
	lone := h.issue(t, other).Certificate
	host := h.issue(t, ca.Order{CSR: csr(t, newKey(t)), Profile: "server", Environment: "lab", DNS: []string{"www.example.org"}}).Certificate
	gone, err := h.revoke(t, lone.Serial, 4)
	must(t, err)

	f := ca.Filter{Identity: "spiffe://dev.sealwright.test/service/payments", Limit: 3}
	var pages, found int
	var last time.Time
	for {
		out, err := h.list(t, h.Admin, f)
		must(t, err)
		pages++
		for _, c := range out.page {
			if !serials[c.Serial] || c.NotAfter.Before(last) {
				t.Errorf("page %d holds %s, expiring %s", pages, c.Serial, c.NotAfter)
			}
			delete(serials, c.Serial)
			last, found = c.NotAfter, found+1
		}
		if out.next == "" {
			break
		}
		f.After = out.next
	}
	if pages != 3 || found != 7 {
		t.Errorf("%d certificates in %d pages", found, pages)
	}
	now := time.Now()
	for name, c := range map[string]struct {
		f    ca.Filter
		want int
	}{
		"all":            {ca.Filter{}, 7 + 1 + 1 + 4}, // and the CAs themselves
		"before":         {ca.Filter{ExpiresBefore: now.Add(150 * time.Minute)}, 2},
		"between":        {ca.Filter{ExpiresAfter: now.Add(90 * time.Minute), ExpiresBefore: now.Add(210 * time.Minute)}, 2},
		"revoked":        {ca.Filter{Revoked: true}, 1},
		"environment":    {ca.Filter{Environment: "lab"}, 1},
		"issuer":         {ca.Filter{Issuer: host.Issuer}, 1},
		"nothing":        {ca.Filter{Identity: "spiffe://dev.sealwright.test/service/none"}, 0},
		"not injectable": {ca.Filter{Identity: "' OR 1=1 --"}, 0},
	} {
		out, err := h.list(t, h.Admin, c.f)
		if err != nil || len(out.page) != c.want {
			t.Errorf("%s: %d certificates, %v, want %d", name, len(out.page), err, c.want)
		}
	}
	for name, f := range map[string]ca.Filter{"a bad page": {After: "x"}, "a negative page": {Limit: -1}, "a huge page": {Limit: 5000}, "a forged page": {After: "zz.' OR 1"}} {
		_, err := h.list(t, h.Admin, f)
		want(t, name, err, key.ErrInvalid)
	}
	if c, err := h.get(t, h.Admin, gone.Serial); err != nil || c.RevokedAt.IsZero() || c.Reason != 4 || c.RevokedBy != h.Admin.SPIFFEID {
		t.Errorf("the revoked one: %+v, %v", c, err)
	}

	// Lists show only what the caller may see.
	h.allow(t, `
permit (principal == Service::"dev/payments", action == Action::"pki:ListCertificates", resource is System);
permit (principal == Service::"dev/payments", action == Action::"pki:ListCertificates", resource in ServiceScope::"dev/payments");
`)
	out, err := h.list(t, h.Plain, ca.Filter{})
	if err != nil || len(out.page) != 7 || slices.ContainsFunc(out.page, func(c ca.Certificate) bool { return c.Identity != h.Plain.SPIFFEID }) {
		t.Errorf("payments sees %d certificates, %v", len(out.page), err)
	}
	_, err = h.get(t, h.Plain, gone.Serial)
	want(t, "another's certificate", err, key.ErrDenied)
	_, err = h.get(t, h.Plain, "abcdef")
	want(t, "an unknown serial, to who may not read all", err, key.ErrDenied)
	_, err = h.get(t, h.Admin, "abcdef")
	want(t, "an unknown serial", err, key.ErrNotFound)
	for _, bad := range []string{"", "0a", "XY", "a b", strings.Repeat("a", 41), "a'; --"} {
		_, err = h.get(t, h.Admin, bad)
		want(t, "serial "+bad, err, key.ErrInvalid)
	}
}

// TestRevocationIsExact: the certificate opens the door until it is revoked,
// and not for one request more, though the door remembers credentials.
func TestRevocationIsExact(t *testing.T) {
	h := build(t)
	h.Register(t, guard.Principal{SPIFFEID: "spiffe://dev.sealwright.test/service/orders", Roles: []string{"administrator"}})
	out := h.issue(t, order(t, "service/orders"))
	mine := guard.Credential{Method: "mtls", Serial: out.Certificate.Serial, SPIFFEID: out.Certificate.Identity, NotAfter: out.Leaf.NotAfter}
	for range 3 {
		if _, err := h.list(t, mine, ca.Filter{}); err != nil {
			t.Fatal(err)
		}
	}
	// In the middle of a request: decided before, committed after.
	acts, err := h.ca.Acts(order(t, "service/orders"))
	must(t, err)
	runs := 0
	_, err = h.Enter(t.Context(), mine, func(ctx context.Context, g guard.Grant) error {
		runs++
		if runs == 1 {
			if _, err := h.revoke(t, out.Certificate.Serial, 1); err != nil {
				t.Error(err)
			}
		}
		_, err := h.ca.Issue(ctx, g, order(t, "service/orders"))
		return err
	}, acts...)
	want(t, "revoked in the middle of a request", err, key.ErrUnauthenticated)
	if page, err := h.list(t, h.Admin, ca.Filter{Identity: out.Certificate.Identity}); err != nil || len(page.page) != 1 {
		t.Errorf("the refused request left %d certificates, %v", len(page.page), err)
	}
	_, err = h.list(t, mine, ca.Filter{})
	want(t, "after", err, key.ErrUnauthenticated)
	_, err = h.revoke(t, out.Certificate.Serial, 1)
	want(t, "again", err, key.ErrConflict)
	_, err = h.revoke(t, "abcdef", 1)
	want(t, "unknown", err, key.ErrNotFound)
	_, err = h.revoke(t, h.issue(t, order(t, "service/a")).Certificate.Serial, 6)
	want(t, "a hold", err, key.ErrInvalid)
	issuers := h.allIssuers(t)
	_, err = h.revoke(t, issuers[1].Certificate.SerialNumber.Text(16), 2)
	want(t, "an issuer", err, key.ErrUnsupported)
}

func (h *house) allIssuers(t *testing.T) []ca.Issuer {
	t.Helper()
	list, err := enter(t, h, h.Admin, []guard.Act{{Action: policy.DescribeIssuer, Object: ca.IssuersObject()}}, h.ca.Issuers)
	must(t, err)
	return list
}

func TestIdentity(t *testing.T) {
	h := build(t)
	ctx := t.Context()
	out := h.issue(t, order(t, "service/payments"))
	if id, err := h.ca.Identity(ctx, out.Certificate.Serial); err != nil || id != out.Certificate.Identity {
		t.Errorf("%s, %v", id, err)
	}
	short := order(t, "service/payments")
	short.TTL = time.Second
	expired := h.issue(t, short).Certificate.Serial
	server := h.issue(t, ca.Order{CSR: csr(t, newKey(t)), Profile: "server", Environment: "dev", DNS: []string{"a.example.org"}}).Certificate.Serial
	lab := order(t, "service/payments")
	lab.Environment = "lab"
	mute := h.issue(t, lab).Certificate.Serial
	time.Sleep(2100 * time.Millisecond)
	for name, serial := range map[string]string{
		"unknown": "abcdef", "empty": "", "malformed": "xx", "without identity": server, "expired": expired, "of an issuer that identifies nobody": mute,
		"an issuer's own": h.allIssuers(t)[1].Certificate.SerialNumber.Text(16),
	} {
		_, err := h.ca.Identity(ctx, serial)
		want(t, name, err, key.ErrUnauthenticated)
	}
}

// TestInventoryTampering: who can write to the database, where inventory rows
// carry no MAC, can neither undo a revocation nor make a certificate count that
// does not.
func TestInventoryTampering(t *testing.T) {
	h := build(t)
	ids := map[string]string{}
	for _, i := range h.allIssuers(t) {
		ids[i.Name()] = i.ID
	}
	revoked := h.issue(t, order(t, "service/payments")).Certificate.Serial
	_, err := h.revoke(t, revoked, 1)
	must(t, err)
	lab := order(t, "service/payments")
	lab.Environment = "lab"
	mute := h.issue(t, lab).Certificate.Serial
	refused := func(name, serial string) {
		t.Helper()
		_, err := h.ca.Identity(t.Context(), serial)
		want(t, name, err, key.ErrUnauthenticated)
	}
	h.tryExec(t, `INSERT INTO certificate SELECT serial, '`+ids["ops"]+`', profile, identity, names, spki, shard, issued_by, not_before, not_after FROM certificate WHERE serial = '`+revoked+`'`)
	refused("a second row for a revoked certificate", revoked)
	h.tryExec(t, `DELETE FROM certificate WHERE serial = '`+revoked+`' AND issuer = '`+ids["dev"]+`'`)
	refused("a revoked certificate at another issuer", revoked)
	h.tryExec(t, `UPDATE certificate SET issuer = '`+ids["dev"]+`' WHERE serial = '`+mute+`'`)
	refused("a certificate moved to an issuer that identifies", mute)
}

// TestReviewFindsRevocationsGone: a revocation that was deleted from the
// database is missed, because the log has it.
func TestReviewFindsRevocationsGone(t *testing.T) {
	h := build(t)
	review := func() error { return h.Door.Review(t.Context(), h.ca.Review()) }
	for range 2 {
		_, err := h.revoke(t, h.issue(t, order(t, "service/payments")).Certificate.Serial, 1)
		must(t, err)
	}
	must(t, review())
	h.tryExec(t, `DELETE FROM revocation WHERE serial = (SELECT MIN(serial) FROM revocation)`)
	want(t, "a revocation deleted", review(), key.ErrIntegrity)
	h.tryExec(t, `UPDATE revocation SET serial = 'abc'`)
	want(t, "a revocation of another certificate", review(), key.ErrIntegrity)
}

func TestCRLs(t *testing.T) {
	h := build(t)
	ctx := t.Context()
	read := func(name string) *x509.RevocationList {
		t.Helper()
		der, err := h.ca.CRL(ctx, name)
		must(t, err)
		l, err := x509.ParseRevocationList(der)
		must(t, err)
		return l
	}
	roots, below, err := h.ca.Trust(ctx)
	must(t, err)
	if len(roots) != 1 || len(below) != 3 {
		t.Fatalf("%d roots, %d issuers", len(roots), len(below))
	}
	must(t, read("root").CheckSignatureFrom(roots[0]))
	before := read("dev")
	var serials []string
	for range 3 {
		serials = append(serials, h.issue(t, order(t, "service/payments")).Certificate.Serial)
	}
	for n, serial := range serials {
		_, err := h.revoke(t, serial, 1)
		must(t, err)
		if l := read("dev"); len(l.RevokedCertificateEntries) != n+1 || l.Number.Cmp(before.Number) <= 0 {
			t.Errorf("after %d revocations the CRL has number %d (before %d) and %d entries", n+1, l.Number, before.Number, len(l.RevokedCertificateEntries))
		}
		before = read("dev")
	}
	for _, i := range h.allIssuers(t) {
		if i.Name() == "dev" {
			must(t, before.CheckSignatureFrom(i.Certificate))
			if l := read(i.ID); l.Number.Cmp(before.Number) != 0 {
				t.Error("the CRL by id is another")
			}
		}
	}
	_, err = h.ca.CRL(ctx, "nobody")
	want(t, "the CRL of nobody", err, key.ErrNotFound)
}

// TestCRLCatchesUp: a revocation whose CRL could not be made gets one from the
// loop, and so does an issuer whose CRL was lost or is old.
func TestCRLCatchesUp(t *testing.T) {
	h := build(t)
	ctx := t.Context()
	serial := h.issue(t, order(t, "service/payments")).Certificate.Serial
	_, err := h.revoke(t, serial, 1)
	must(t, err)
	dev := h.allIssuers(t)[1]
	old, err := h.ca.CRL(ctx, "lab")
	must(t, err)
	for name, sql := range map[string]string{
		"gone":   `DELETE FROM crl WHERE issuer = '` + dev.ID + `'`,
		"broken": `UPDATE crl SET der = x'00' WHERE issuer = '` + dev.ID + `'`,
		"old":    `UPDATE crl SET this_update = this_update - 50000000000 WHERE issuer = '` + dev.ID + `'`,
	} {
		h.tryExec(t, sql)
		s := h.open(t, ca.Config{Every: 10 * time.Millisecond})
		deadline := time.Now().Add(10 * time.Second)
		for {
			der, err := s.CRL(ctx, "dev")
			if l, errParse := x509.ParseRevocationList(der); err == nil && errParse == nil && len(l.RevokedCertificateEntries) == 1 && time.Since(l.ThisUpdate) < pki.Backdate+time.Minute {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: no new CRL, %v", name, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		must(t, s.Close())
	}
	if now, err := h.ca.CRL(ctx, "lab"); err != nil || string(now) != string(old) {
		t.Errorf("a CRL that was not due was made again, %v", err)
	}
}

func parseCRL(t *testing.T, der []byte) *x509.RevocationList {
	t.Helper()
	l, err := x509.ParseRevocationList(der)
	must(t, err)
	return l
}
