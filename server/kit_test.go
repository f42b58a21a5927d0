package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/kms/keyring"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/policy"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/storage/sqlite"
)

const testDomain = "sealwright.test"

// house is a whole Sealwright behind one server: a real token, store, log,
// door, keys and CA, with certificates of every sort of caller.
type house struct {
	*Server
	device *fragile
	rings  *keyring.Set
	url    string
	roots  *x509.CertPool
	admin  *person
	http   *http.Server
	tls    *tls.Certificate // the server's own
}

// person is one caller: its certificate and an HTTP client that presents it.
type person struct {
	t      testing.TB
	url    string
	serial string
	pair   *tls.Certificate
	client *http.Client
}

// inventory breaks the circle of door and CA as the service does.
type inventory struct{ ca *ca.Service }

func (i *inventory) Identity(ctx context.Context, serial string) (string, error) {
	return i.ca.Identity(ctx, serial)
}

func newHouse(t testing.TB, change ...func(*Config)) *house {
	t.Helper()
	ctx := context.Background()
	dir := memoryDir(t)
	uri := softhsmtest.Token(t)
	notePIN(t, uri)
	token, err := hsm.Open(ctx, uri, hsm.Config{Log: testLogger()})
	must(t, err)
	t.Cleanup(func() { _ = token.Close() })
	h := &house{device: &fragile{Device: token}}
	db, err := sqlite.Create(ctx, dir+"/store.db")
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	root, err := token.Generate(ctx, key.Spec{ID: key.NewID(), Label: "root", Algorithm: key.AES256, Usage: key.UsageWrap})
	must(t, err)
	checkpoint, err := token.Generate(ctx, key.Spec{ID: key.NewID(), Label: "checkpoint", Algorithm: key.ECDSAP256, Usage: key.UsageSign})
	must(t, err)
	h.rings, err = keyring.Create(ctx, keyring.Config{DB: db, StoreID: "test", Device: h.device, Root: root}, nil, "dev")
	must(t, err)
	t.Cleanup(h.rings.Close)
	signer, err := key.NewSigner(h.device, checkpoint)
	must(t, err)
	log, err := audit.Open(ctx, audit.Config{DB: db, Signer: signer, Origin: testDomain + "/log", StateDir: dir, Logger: testLogger()})
	must(t, err)
	t.Cleanup(func() { _ = log.Close() })
	inv := &inventory{}
	door, err := guard.Open(ctx, guard.Config{DB: db, Rows: h.rings, Inventory: inv, Log: log})
	must(t, err)
	t.Cleanup(func() { _ = door.Close() })
	keys, err := kms.New(kms.Config{DB: db, Door: door, Rings: h.rings, Device: h.device})
	must(t, err)
	t.Cleanup(func() { _ = keys.Close() })
	inv.ca, err = ca.Open(ctx, ca.Config{DB: db, Door: door, Rows: h.rings, Device: h.device, Domain: testDomain, CRLBase: "http://crl.sealwright.test/", Log: testLogger()})
	must(t, err)
	t.Cleanup(func() { _ = inv.ca.Close() })
	c := Config{Door: door, Keys: keys, CA: inv.ca, Log: log, DB: db, Version: "test", Logger: testLogger(),
		Store:   Store{ID: key.NewID().String(), Mode: "dev", Domain: testDomain, OnlineRoot: true, Environments: h.rings.Environments()},
		Devices: []Device{{Name: "main", Kind: "pkcs11", Device: h.device}}}
	h.Server = &Server{Config: c} // furnishing needs the services only
	h.furnish(t)
	trusted, _, err := inv.ca.Trust(ctx)
	must(t, err)
	h.roots = x509.NewCertPool()
	for _, r := range trusted {
		h.roots.AddCert(r)
	}
	c.Roots = h.roots
	for _, f := range change {
		f(&c)
	}
	h.Server, err = New(c)
	must(t, err)
	h.listen(t)
	h.admin = h.enrol(t, "user", "user/admin", policy.Administrator)
	return h
}

// furnish makes the policy and the CAs.
func (h *house) furnish(t testing.TB) {
	t.Helper()
	h.system(t, []guard.Act{{Action: policy.ApplyPolicy, Object: guard.RulesObject()}}, func(ctx context.Context, g guard.Grant) error {
		_, err := h.Door.Apply(ctx, g, guard.NewRules{Text: policy.Default().Text()})
		return err
	})
	for _, i := range []ca.NewIssuer{{}, {Environment: "ops", Authenticates: true}, {Environment: "dev", Authenticates: true}} {
		h.system(t, []guard.Act{{Action: policy.CreateIssuer, Object: ca.IssuerObject(i.Environment)}}, func(ctx context.Context, g guard.Grant) error {
			_, err := h.CA.Create(ctx, g, i)
			return err
		})
	}
}

func (h *house) system(t testing.TB, acts []guard.Act, act func(context.Context, guard.Grant) error) {
	t.Helper()
	_, err := h.Door.System(context.Background(), "test", acts, act)
	must(t, err)
}

func (h *house) listen(t testing.TB) {
	t.Helper()
	own := h.certify(t, ca.Order{Profile: "server", Environment: "ops", DNS: []string{"localhost"}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	server, err := h.HTTP(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own, nil })
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	h.http, h.tls, h.url = server, own, "https://"+l.Addr().String()
}

// certify issues a certificate as the service itself.
func (h *house) certify(t testing.TB, o ca.Order) *tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	o.CSR = requestFor(t, k)
	acts, err := h.CA.Acts(o)
	must(t, err)
	var issued *ca.Issued
	h.system(t, acts, func(ctx context.Context, g guard.Grant) (err error) {
		issued, err = h.CA.Issue(ctx, g, o)
		return err
	})
	pair := &tls.Certificate{PrivateKey: k, Leaf: issued.Leaf, Certificate: [][]byte{issued.Leaf.Raw}}
	chain, err := pki.ParseBundle(issued.Chain)
	must(t, err)
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

func requestFor(t testing.TB, k any) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// caller is somebody with a certificate of the identity, registered or not.
func (h *house) caller(t testing.TB, profile, identity string, ttl time.Duration) *person {
	t.Helper()
	environment := "dev"
	if profile == "user" {
		environment = "ops"
	}
	return h.with(t, h.certify(t, ca.Order{Profile: profile, Environment: environment, Identity: identity, TTL: ttl}))
}

// enrol is caller, registered as a principal with the roles.
func (h *house) enrol(t testing.TB, profile, identity string, roles ...string) *person {
	t.Helper()
	p := h.caller(t, profile, identity, 0)
	registration := guard.Principal{SPIFFEID: p.pair.Leaf.URIs[0].String(), Roles: roles}
	h.system(t, []guard.Act{{Action: policy.RegisterPrincipal, Object: registration.Object()}}, func(ctx context.Context, g guard.Grant) error {
		_, err := h.Door.Register(ctx, g, registration)
		return err
	})
	return p
}

// overHTTP1 is the administrator speaking HTTP/1.1.
func (h *house) overHTTP1(t testing.TB) *person {
	p := h.with(t, h.admin.pair)
	transport := p.client.Transport.(*http.Transport)
	transport.ForceAttemptHTTP2 = false
	transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	return p
}

// with is somebody who presents pair; nil presents nothing.
func (h *house) with(t testing.TB, pair *tls.Certificate) *person {
	p := &person{t: t, url: h.url, pair: pair}
	config := &tls.Config{RootCAs: h.roots, ServerName: "localhost"}
	if pair != nil {
		// Unconditionally: the server's wish list names no authority.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
		p.serial = pair.Leaf.SerialNumber.Text(16)
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	p.client = &http.Client{Transport: transport, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return p
}

// answer is a response, read whole.
type answer struct {
	*http.Response
	body []byte
}

// do sends one request; headers are pairs of name and value.
func (p *person) do(method, path string, body string, headers ...string) answer {
	p.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, p.url+path, r)
	must(p.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return p.send(req)
}

func (p *person) send(req *http.Request) answer {
	p.t.Helper()
	res, err := p.client.Do(req)
	if err != nil {
		p.t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(p.t, err)
	return answer{res, text}
}

// must is do that fails the test unless the answer has that status.
func (p *person) must(status int, method, path, body string, headers ...string) answer {
	p.t.Helper()
	a := p.do(method, path, body, headers...)
	if a.StatusCode != status {
		p.t.Fatalf("%s %s: %d, want %d: %s", method, path, a.StatusCode, status, a.body)
	}
	return a
}

func (a answer) problem(t testing.TB) api.Problem {
	t.Helper()
	var p api.Problem
	decode(t, a.body, &p)
	if a.Header.Get("Content-Type") != api.ProblemType || p.Status != a.StatusCode || p.RequestID == "" || p.RequestID != a.Header.Get(api.HeaderRequestID) || p.Code == "" || p.Type != "urn:sealwright:problem:"+p.Code {
		t.Errorf("%d with %v: %s is not a whole problem", a.StatusCode, a.Header, a.body)
	}
	return p
}

func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealwright-server-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testLogger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
