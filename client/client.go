// Package client calls a Sealwright server: one method per call of its API.
//
// Calls are repeated, with jitter, only when repeating can help and cannot
// harm: mutations carry an idempotency key. Errors come back as the sentinels
// of package api, for errors.Is; errors.As finds the *api.Problem with its
// request id. A private key made by [Client.Issue] never leaves the process.
package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/sealwright/sealwright/api"
)

// The environment variables that FromEnvironment reads, and sealwrightd dev writes.
const (
	EnvAddress     = "SEALWRIGHT_ADDR"
	EnvCertificate = "SEALWRIGHT_CERT"
	EnvKey         = "SEALWRIGHT_KEY"
	EnvCA          = "SEALWRIGHT_CA"
	EnvLogKey      = "SEALWRIGHT_LOG_KEY"
	EnvEnvironment = "SEALWRIGHT_ENVIRONMENT"
)

// Config says which server, and who calls.
type Config struct {
	Address     string // https://host:port, or host:port
	Certificate string // file: PEM, the client's certificate and its chain
	Key         string // file: PEM, its private key
	CA          string // file: PEM, the roots the server must be under

	// TLS replaces the three files. TLS 1.3 is demanded in any case.
	TLS *tls.Config

	// Attempts bounds how often one call is made; 5 by default, 1 never repeats.
	Attempts int
	// Reason is written into the audit entries of all calls.
	Reason string
	// UserAgent names the program; sealwright-go by default.
	UserAgent string

	// Checkpoints makes Checkpoint remember and compare; without it, it only fetches.
	Checkpoints *Checkpoints
}

// FromEnvironment returns the Config of the variables that getenv (os.Getenv) knows.
func FromEnvironment(getenv func(string) string) Config {
	return Config{Address: getenv(EnvAddress), Certificate: getenv(EnvCertificate), Key: getenv(EnvKey), CA: getenv(EnvCA)}
}

func (c Config) attempts() int     { return cmp.Or(c.Attempts, 5) }
func (c Config) userAgent() string { return cmp.Or(c.UserAgent, "sealwright-go") }

// Client is a connection to one server. It is safe for concurrent use.
type Client struct {
	config Config
	base   *url.URL
	http   *http.Client
}

// New returns a client. It reads the files but calls nobody.
func New(config Config) (*Client, error) {
	base, err := parseAddress(config.Address)
	if err != nil {
		return nil, err
	}
	if len(config.Reason) > api.MaxReason || strings.ContainsFunc(config.Reason, unicode.IsControl) {
		return nil, fmt.Errorf("%w: a reason is one line of at most %d bytes", api.ErrInvalid, api.MaxReason)
	}
	var settings *tls.Config
	if config.TLS != nil {
		settings = config.TLS.Clone()
	} else if settings, err = readTLS(config); err != nil {
		return nil, err
	}
	settings.MinVersion = tls.VersionTLS13
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        settings,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    256, // one host: bursts must not cost handshakes
		IdleConnTimeout:        90 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		// HTTP/1.1: half the cost of HTTP/2 for small calls, on both sides.
		Protocols: onlyHTTP1(),
	}
	return &Client{config: config, base: base, http: &http.Client{
		Transport: transport,
		// A redirect would carry the request to a place nobody named.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func onlyHTTP1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

// Close lets idle connections go.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

func parseAddress(address string) (*url.URL, error) {
	if address == "" {
		return nil, fmt.Errorf("%w: no server address: give one, like https://host:port (%s)", api.ErrInvalid, EnvAddress)
	}
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("%w: server address %.200q: write https://host:port", api.ErrInvalid, address)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// readTLS reads the files. The certificate is read again for each handshake,
// so that a renewed one is used without a restart.
func readTLS(c Config) (*tls.Config, error) {
	if c.CA == "" {
		return nil, fmt.Errorf("%w: no roots to trust: give the file of the server's roots, ca.pem (%s)", api.ErrInvalid, EnvCA)
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("reading the roots: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%w: %s holds no PEM certificates", api.ErrInvalid, c.CA)
	}
	settings := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	switch {
	case c.Certificate == "" && c.Key == "":
		return settings, nil // for what needs no principal
	case c.Certificate == "" || c.Key == "":
		return nil, fmt.Errorf("%w: a certificate needs its key: give both files (%s and %s)", api.ErrInvalid, EnvCertificate, EnvKey)
	}
	if _, err := loadPair(c.Certificate, c.Key); err != nil {
		return nil, err
	}
	settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return loadPair(c.Certificate, c.Key)
	}
	return settings, nil
}

func loadPair(certificate, key string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("reading the client certificate: %w", err)
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("%w: the client certificate %s ended at %s: renew it",
			api.ErrUnauthenticated, certificate, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return &pair, nil
}

// Answer is what a call's answer said beside its body.
type Answer struct {
	RequestID  string
	AuditIndex int64 // of the entry that recorded the call; -1 if none was named
	Attempts   int
}

type answerKey struct{}

// Watch returns a context whose calls fill in answer; the last call wins.
func Watch(ctx context.Context, answer *Answer) context.Context {
	return context.WithValue(ctx, answerKey{}, answer)
}

// explain turns what the transport says into our errors and says what to do.
func (c *Client) explain(err error) error {
	var verify *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, api.ErrUnauthenticated):
		return fmt.Errorf("calling %s: %w", c.base.Host, err)
	case errors.As(err, &verify):
		return fmt.Errorf("calling %s: %w: not the server it should be, or %s is not its root", c.base.Host, err, EnvCA)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("calling %s: %w: is it a Sealwright server?", c.base.Host, err)
	case errors.As(err, &op) && op.Op == "remote error":
		// The server's TLS alert: it did not like our certificate.
		return fmt.Errorf("%w: %s refused the client certificate (%w): it may have ended, be revoked, or be of another CA", api.ErrUnauthenticated, c.base.Host, err)
	default:
		return fmt.Errorf("%w: calling %s: %w", api.ErrUnavailable, c.base.Host, err)
	}
}
