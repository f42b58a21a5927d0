package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
)

func TestCSRRefused(t *testing.T) {
	p256 := newKey(t, elliptic.P256())
	good := request(t, p256, x509.CertificateRequest{DNSNames: []string{"www.example.org"}})
	broken := bytes.Clone(good)
	broken[len(broken)-1] ^= 1
	otherKey := bytes.Replace(good, elliptic.MarshalCompressed(p256.Curve, p256.X, p256.Y)[1:], bytes.Repeat([]byte{7}, 32), 1)
	san := func(tag int) []pkix.Extension {
		value, err := asn1.Marshal([]asn1.RawValue{{Class: 2, Tag: 2, Bytes: []byte("www.example.org")}, {Class: 2, Tag: tag, Bytes: []byte{0x2a, 0x03}}})
		if err != nil {
			t.Fatal(err)
		}
		return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}
	}
	cases := map[string]struct {
		der  []byte
		want string
	}{
		"empty":                {nil, "signing request"},
		"garbage":              {[]byte("hello"), "signing request"},
		"cut":                  {good[:len(good)-5], "signing request"},
		"trailing byte":        {append(bytes.Clone(good), 0), "signing request"},
		"broken signature":     {broken, "does not verify"},
		"another's key":        {otherKey, ""},
		"P-224":                {request(t, newKey(t, elliptic.P224()), x509.CertificateRequest{}), "P-224"},
		"P-521":                {request(t, newKey(t, elliptic.P521()), x509.CertificateRequest{}), "P-521"},
		"RSA-1024":             {request(t, newRSA(t, 1024), x509.CertificateRequest{}), "1024 bits"},
		"SHA-1":                {request(t, p256, x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA1}), "SHA-256 or better"},
		"huge":                 {request(t, p256, x509.CertificateRequest{Subject: pkix.Name{CommonName: strings.Repeat("x", pki.MaxCSR)}}), "at most 16384"},
		"e-mail":               {request(t, p256, x509.CertificateRequest{EmailAddresses: []string{"a@example.org"}}), "e-mail"},
		"registered id":        {request(t, p256, x509.CertificateRequest{ExtraExtensions: san(8)}), "not issued"},
		"private key":          {[]byte("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"), "private key"},
		"private key behind":   {append(csrPEM(good), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"...), "private key"},
		"a certificate":        {pki.EncodePEM(build(t).root.Certificate()), "CERTIFICATE REQUEST"},
		"two requests":         {append(csrPEM(good), csrPEM(good)...), "exactly one"},
		"text behind":          {append(csrPEM(good), "hello"...), "exactly one"},
		"PEM without end":      {csrPEM(good)[:60], "malformed PEM"},
		"PEM around garbage":   {csrPEM([]byte("x")), "signing request"},
		"small-order Ed25519":  {forgedCSR(t), "small order"},
		"RSA exponent even":    {evenExponent(t), "exponent 65536"},
		"certificate as bytes": {build(t).root.Certificate().Raw, "signing request"},
	}
	for name, c := range cases {
		_, err := pki.ParseCSR(c.der)
		if !errors.Is(err, key.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want ErrInvalid with %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%s: the error repeats the input", name)
		}
	}
	for name, text := range map[string][]byte{"DER": good, "PEM": csrPEM(good), "old PEM": bytes.ReplaceAll(csrPEM(good), []byte("CERTIFICATE REQ"), []byte("NEW CERTIFICATE REQ")), "PEM with blank lines": append(csrPEM(good), "\n \n"...)} {
		if _, err := pki.ParseCSR(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOrderRefused is the table of what an issuer will not sign.
func TestOrderRefused(t *testing.T) {
	h := build(t)
	k := newKey(t, elliptic.P256())
	service, server, client := profile(t, "service"), profile(t, "server"), profile(t, "client")
	id := func(s string) pki.Order { return pki.Order{Profile: service, SPIFFEID: s} }
	dns := func(names ...string) pki.Order { return pki.Order{Profile: server, DNS: names} }
	ip := func(list ...netip.Addr) pki.Order { return pki.Order{Profile: server, IPs: list} }
	ttl := func(d time.Duration) pki.Order { return pki.Order{Profile: service, SPIFFEID: serveID, TTL: d} }
	many := make([]string, 33)
	for n := range many {
		many[n] = "h" + strings.Repeat("x", n) + ".example.org"
	}
	cases := map[string]struct {
		order pki.Order
		want  string
	}{
		"no identity":                  {id(""), "spiffe://"},
		"other trust domain":           {id("spiffe://prod.example.org/service/payments"), "trust domain dev.example.org only"},
		"trust domain below":           {id("spiffe://x.dev.example.org/service/payments"), "trust domain"},
		"trust domain in upper case":   {id("spiffe://DEV.example.org/service/payments"), "lower-case"},
		"trust domain with a port":     {id("spiffe://dev.example.org:443/service/payments"), "trust domain"},
		"with a user":                  {id("spiffe://a@dev.example.org/service/payments"), "trust domain"},
		"a user by plain request":      {id("spiffe://dev.example.org/user/admin"), "service/NAME only"},
		"a node by plain request":      {id("spiffe://dev.example.org/node/host1"), "service/NAME only"},
		"no name":                      {id("spiffe://dev.example.org/service"), "service/NAME only"},
		"trailing slash":               {id(serveID + "/"), "trailing slash"},
		"only a trust domain":          {id("spiffe://dev.example.org"), "path"},
		"dot segment":                  {id("spiffe://dev.example.org/service/.."), "segment"},
		"climbing out":                 {id("spiffe://dev.example.org/service/../user/admin"), "segment"},
		"percent-encoding":             {id("spiffe://dev.example.org/service/pay%2fments"), "percent"},
		"star":                         {id("spiffe://dev.example.org/service/*"), "path segments"},
		"control character":            {id("spiffe://dev.example.org/service/pay\nments"), "path segments"},
		"NUL":                          {id("spiffe://dev.example.org/service/pay\x00"), "path segments"},
		"upper case":                   {id("spiffe://dev.example.org/service/Payments"), "lower-case"},
		"dots":                         {id("spiffe://dev.example.org/service/pay.ments"), "lower-case"},
		"query":                        {id(serveID + "?x"), "path segments"},
		"fragment":                     {id(serveID + "#x"), "path segments"},
		"non-ASCII":                    {id("spiffe://dev.example.org/service/pаyments"), "path segments"},
		"too long":                     {id(serveID + strings.Repeat("/a", 1100)), "2048"},
		"too deep":                     {id(serveID + strings.Repeat("/a", 7)), "at most 8"},
		"https":                        {id("https://dev.example.org/service/payments"), "spiffe://"},
		"identity for a server":        {pki.Order{Profile: server, SPIFFEID: serveID, DNS: []string{"www.example.org"}}, "no SPIFFE ID"},
		"identity for a client":        {pki.Order{Profile: client, SPIFFEID: serveID, DNS: []string{"www.example.org"}}, "no SPIFFE ID"},
		"address for a client":         {pki.Order{Profile: client, DNS: []string{"www.example.org"}, IPs: addrs("192.0.2.1")}, "no IP names"},
		"host for a user":              {pki.Order{Profile: profile(t, "user"), SPIFFEID: "spiffe://dev.example.org/user/admin", DNS: []string{"www.example.org"}}, "no DNS names"},
		"server without name":          {dns(), "needs a name"},
		"wildcard":                     {dns("*.example.org"), "wildcards"},
		"inner wildcard":               {dns("www.*.org"), "labels"},
		"bare star":                    {dns("*"), "labels"},
		"upper-case host":              {dns("WWW.example.org"), "labels"},
		"trailing dot":                 {dns("www.example.org."), "labels"},
		"empty label":                  {dns("www..org"), "labels"},
		"empty name":                   {dns(""), "1 to 253"},
		"underscore":                   {dns("a_b.example.org"), "labels"},
		"leading hyphen":               {dns("-a.example.org"), "labels"},
		"trailing hyphen":              {dns("a-.example.org"), "labels"},
		"slash":                        {dns("a/b"), "labels"},
		"space":                        {dns("www.example.org "), "labels"},
		"NUL in a host":                {dns("www.example.org\x00.evil"), "labels"},
		"new line in a host":           {dns("a\n.example.org"), "labels"},
		"percent in a host":            {dns("a%2e.example.org"), "labels"},
		"U-label":                      {dns("bücher.example.org"), "labels"},
		"homograph":                    {dns("раураl.com"), "labels"},
		"false A-label":                {dns("xn--0.example.org"), "xn--"},
		"A-label of ASCII":             {dns("xn--abc-.example.org"), ""},
		"reserved label":               {dns("ab--cd.example.org"), "third and fourth"},
		"label of 64":                  {dns(strings.Repeat("a", 64) + ".org"), "labels"},
		"host of 254":                  {dns(strings.Repeat("a.", 126) + "ab"), "1 to 253"},
		"address as host":              {dns("127.0.0.1"), "IP name"},
		"number as host":               {dns("127"), "IP name"},
		"same host twice":              {dns("a.example.org", "a.example.org"), "twice"},
		"33 hosts":                     {dns(many...), "at most 32"},
		"zero address":                 {ip(netip.Addr{}), "plain"},
		"address with zone":            {ip(netip.MustParseAddr("fe80::1%eth0")), "zone"},
		"mapped address":               {ip(netip.MustParseAddr("::ffff:192.0.2.1")), "plain"},
		"unspecified address":          {ip(netip.MustParseAddr("0.0.0.0")), "one host"},
		"multicast":                    {ip(netip.MustParseAddr("ff02::1")), "one host"},
		"broadcast":                    {ip(netip.MustParseAddr("255.255.255.255")), "one host"},
		"same address twice":           {ip(addrs("192.0.2.1", "192.0.2.1")...), "twice"},
		"lifetime beyond the profile":  {ttl(31 * 24 * time.Hour), "720h0m0s that profile service allows"},
		"negative lifetime":            {ttl(-time.Hour), "at least one second"},
		"lifetime below a second":      {ttl(time.Millisecond), "at least one second"},
		"zero profile":                 {pki.Order{SPIFFEID: serveID}, ""},
		"lifetime overflowing the sum": {ttl(1<<63 - 1), "allows"},
	}
	csr := parse(t, request(t, k, x509.CertificateRequest{}))
	for name, c := range cases {
		c.order.CSR = csr
		if _, err := h.issuer.Check(c.order, time.Now()); !errors.Is(err, key.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want ErrInvalid with %q", name, err, c.want)
		}
	}
}

// TestNamesAgree: names come from the order; what the request's key holder
// wrote must say the same, and nothing else of a request is copied.
func TestNamesAgree(t *testing.T) {
	h := build(t)
	k := newKey(t, elliptic.P256())
	base := pki.Order{Profile: profile(t, "service"), SPIFFEID: serveID, DNS: []string{"a.example.org", "b.example.org"}, IPs: addrs("192.0.2.1")}
	full := x509.CertificateRequest{DNSNames: []string{"b.example.org", "a.example.org"}, IPAddresses: ips("192.0.2.1"), URIs: uris(t, serveID)}
	change := func(f func(*x509.CertificateRequest)) x509.CertificateRequest { c := full; f(&c); return c }
	for name, c := range map[string]struct {
		request x509.CertificateRequest
		ok      bool
	}{
		"no names":         {x509.CertificateRequest{Subject: pkix.Name{CommonName: "anything"}}, true},
		"same, reordered":  {full, true},
		"one host more":    {change(func(c *x509.CertificateRequest) { c.DNSNames = append(c.DNSNames, "evil.example.org") }), false},
		"one host less":    {change(func(c *x509.CertificateRequest) { c.DNSNames = c.DNSNames[:1] }), false},
		"another address":  {change(func(c *x509.CertificateRequest) { c.IPAddresses = ips("192.0.2.2") }), false},
		"two URIs":         {change(func(c *x509.CertificateRequest) { c.URIs = uris(t, serveID, "spiffe://dev.example.org/service/x") }), false},
		"another identity": {change(func(c *x509.CertificateRequest) { c.URIs = uris(t, "spiffe://dev.example.org/service/x") }), false},
		"no identity":      {change(func(c *x509.CertificateRequest) { c.URIs = nil }), false},
	} {
		o := base
		o.CSR = parse(t, request(t, k, c.request))
		if _, err := h.issuer.Check(o, time.Now()); (err == nil) != c.ok || err != nil && !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	greedy := x509.CertificateRequest{Subject: pkix.Name{CommonName: "evil.example.org"}, ExtraExtensions: []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}, // cA TRUE
		{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, 6}},          // keyCertSign, cRLSign
	}}
	o := base
	o.CSR = parse(t, request(t, k, greedy))
	c := h.issue(t, o)
	if c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature || c.Subject.CommonName != "service:payments" {
		t.Errorf("copied from the request: CA %v, usage %b, name %s", c.IsCA, c.KeyUsage, c.Subject)
	}
}

func TestIssuerRefuses(t *testing.T) {
	h := build(t)
	order := pki.Order{Profile: profile(t, "service"), SPIFFEID: serveID, CSR: plainCSR(t)}
	refused := func(name string, err error, kind error) {
		t.Helper()
		if !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", name, err, kind)
		}
	}
	_, err := h.root.Check(order, time.Now())
	refused("a leaf by the root", err, key.ErrInvalid)
	_, err = h.issuer.CheckIssuer(newKey(t, elliptic.P256()).Public(), domain, pki.Plan{CommonName: "x", Lifetime: time.Hour}, time.Now())
	refused("an issuer by an issuer", err, key.ErrInvalid)
	_, err = h.issuer.Check(pki.Order{Profile: order.Profile, SPIFFEID: serveID}, time.Now())
	refused("no request", err, key.ErrInvalid)
	_, err = h.issuer.Check(order, time.Now().Add(730*24*time.Hour-time.Hour))
	refused("beyond the issuer's end", err, key.ErrInvalid)
	_, err = pki.NewIssuer(h.issuer.Certificate(), newKey(t, elliptic.P256()), "")
	refused("a foreign key", err, key.ErrIntegrity)
	leaf := h.issue(t, order)
	_, err = pki.NewIssuer(leaf, newKey(t, elliptic.P256()), "")
	refused("a leaf as issuer", err, key.ErrInvalid)
	for name, p := range map[string]pki.Plan{
		"no name": {Lifetime: time.Hour}, "long name": {CommonName: strings.Repeat("x", 65), Lifetime: time.Hour}, "short life": {CommonName: "x", Lifetime: time.Minute},
		"long life": {CommonName: "x", Lifetime: 26 * 365 * 24 * time.Hour}, "bad UTF-8": {CommonName: "\xff", Lifetime: time.Hour},
	} {
		_, err := pki.CheckRoot(newKey(t, elliptic.P256()), p, time.Now())
		refused(name, err, key.ErrInvalid)
	}
	_, err = pki.CheckRoot(newEd25519(t), pki.Plan{CommonName: "x", Lifetime: time.Hour}, time.Now())
	refused("an Ed25519 root", err, key.ErrUnsupported)
	for _, bad := range []string{"", "Dev.example.org", "a_b.example.org", "*.example.org"} {
		_, err = h.root.CheckIssuer(newKey(t, elliptic.P256()).Public(), bad, pki.Plan{CommonName: "x", Lifetime: time.Hour}, time.Now())
		refused("trust domain "+bad, err, key.ErrInvalid)
	}
	_, err = h.root.CheckIssuer(newKey(t, elliptic.P224()).Public(), domain, pki.Plan{CommonName: "x", Lifetime: time.Hour}, time.Now())
	refused("a P-224 issuer", err, key.ErrUnsupported)
}

func TestNoCRLAddress(t *testing.T) {
	k := newKey(t, elliptic.P256())
	h := buildAt(t, time.Now(), k)
	mute, err := pki.NewIssuer(h.issuer.Certificate(), k, "")
	if err != nil {
		t.Fatal(err)
	}
	o := pki.Order{Profile: profile(t, "service"), SPIFFEID: serveID, CSR: plainCSR(t), TTL: pki.NoRevAvailBelow}
	if _, err := mute.Check(o, time.Now()); !errors.Is(err, key.ErrInvalid) || !strings.Contains(err.Error(), "CRL") {
		t.Errorf("seven days without a CRL: %v", err)
	}
	o.TTL--
	if _, err := mute.Check(o, time.Now()); err != nil {
		t.Error(err)
	}
}

// liar signs wrongly, as a device does whose handles moved.
type liar struct {
	crypto.Signer
	sign func(digest []byte) ([]byte, error)
}

func (l *liar) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if l.sign == nil {
		return l.Signer.Sign(rand, digest, opts)
	}
	return l.sign(digest)
}

func TestSignedOnceAndVerified(t *testing.T) {
	device := &liar{Signer: newKey(t, elliptic.P256())}
	h := buildAt(t, time.Now(), device)
	o := pki.Order{Profile: profile(t, "service"), SPIFFEID: serveID, CSR: plainCSR(t)}
	check := func() *pki.Checked {
		c, err := h.issuer.Check(o, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := check()
	sign(t, c)
	if _, err := c.Sign(); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("signed twice: %v", err)
	}
	var zero pki.Checked
	if _, err := zero.Sign(); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("the zero value was signed: %v", err)
	}
	if _, err := (*pki.Checked)(nil).Sign(); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("nil was signed: %v", err)
	}
	other := newKey(t, elliptic.P256())
	for name, l := range map[string]struct {
		sign func([]byte) ([]byte, error)
		want error
	}{
		"another key": {func(d []byte) ([]byte, error) { return ecdsa.SignASN1(rand.Reader, other, d) }, key.ErrIntegrity},
		"another text": {func(d []byte) ([]byte, error) {
			return device.Signer.Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
		}, key.ErrIntegrity},
		"nothing":       {func(d []byte) ([]byte, error) { return nil, nil }, key.ErrIntegrity},
		"r = s = 1":     {func(d []byte) ([]byte, error) { return []byte{0x30, 6, 2, 1, 1, 2, 1, 1}, nil }, key.ErrIntegrity},
		"a dead device": {func(d []byte) ([]byte, error) { return nil, key.ErrUnavailable }, key.ErrUnavailable},
	} {
		device.sign = l.sign
		c := check()
		if _, err := c.Sign(); !errors.Is(err, l.want) {
			t.Errorf("%s: %v, want %v", name, err, l.want)
		}
		device.sign = nil
		if _, err := c.Sign(); err == nil {
			t.Errorf("%s: a failed signature could be tried again", name)
		}
		device.sign = l.sign
		if _, err := h.issuer.CRL(1, nil, time.Hour, time.Now()); err == nil {
			t.Errorf("%s: a CRL was made", name)
		}
		device.sign = nil
	}
}

// forgedCSR has an Ed25519 key of small order and a signature anybody can make.
func forgedCSR(t *testing.T) []byte {
	t.Helper()
	identity := make([]byte, 32)
	identity[0] = 1
	signature := append(bytes.Clone(identity), make([]byte, 32)...) // R = identity, S = 0
	if !ed25519.Verify(identity, []byte("anything"), signature) {
		t.Fatal("the forgery does not verify, so this proves nothing")
	}
	real := newEd25519(t)
	der := request(t, real, x509.CertificateRequest{})
	der = bytes.Replace(der, real.Public().(ed25519.PublicKey), identity, 1)
	return append(der[:len(der)-64], signature...)
}

func evenExponent(t *testing.T) []byte {
	t.Helper()
	der := request(t, newRSA(t, 2048), x509.CertificateRequest{})
	return bytes.Replace(der, []byte{2, 3, 1, 0, 1}, []byte{2, 3, 1, 0, 0}, 1)
}
