package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/internal/strictyaml"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/tpm"
)

// Config is the one file of sealwrightd. Unknown keys are refused; relative
// paths are relative to the file.
type Config struct {
	// Listen is the address of the API, host:port. Default 127.0.0.1:8470.
	Listen string `yaml:"listen"`
	// Names are the DNS names and IP addresses in the server's own certificate.
	// Default: localhost and the host of listen.
	Names []string `yaml:"names"`
	// Domain is the last part of every trust domain: prod lives in prod.<domain>. Required.
	// It is fixed when the store is created.
	Domain string `yaml:"domain"`
	// Environments get a keyring and an issuer when the store is created.
	// ops, where people and this service live, always exists. Default: prod.
	Environments []string `yaml:"environments"`
	// Store is sqlite:PATH or a PostgreSQL URL (postgres://…; take its password
	// from ~/.pgpass or PGPASSFILE, not from here). Required.
	Store string `yaml:"store"`
	// Device is where the keys live: a pkcs11: URI (RFC 7512, with pin-source) or a tpm: URI. Required.
	Device string `yaml:"device"`
	// State is a directory outside the store: the last signed checkpoint, the TPM's key files. Required.
	State string `yaml:"state"`
	// CRLURL is where relying parties find CRLs, put into certificates that live seven days
	// or longer. Default: http://<crl_listen>/crl/; required where that names no host.
	CRLURL string `yaml:"crl_url"`
	// CRLListen serves CRLs and CA certificates over plain HTTP, host:port. Default: not served.
	CRLListen string `yaml:"crl_listen"`
	// MetricsListen serves /metrics, /livez and /readyz over plain HTTP, host:port. Default: not served
	// (they are always served on listen).
	MetricsListen string `yaml:"metrics_listen"`
	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `yaml:"log_level"`
	// ShutdownGrace is how long requests in flight may take after a stop signal. Default 10s.
	ShutdownGrace time.Duration `yaml:"shutdown_grace"`

	// Set by sealwrightd dev, never by the file.
	dev bool
	crl net.Listener
}

// maxConfig bounds the configuration file.
const maxConfig = 1 << 20

// loadConfig reads and checks the file. Its errors name the key and the line,
// never neighbouring lines.
func loadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("opening the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	if len(text) > maxConfig {
		return Config{}, fmt.Errorf("%w: %s: the configuration is larger than %d bytes", key.ErrInvalid, path, maxConfig)
	}
	c, err := parseConfig(text)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %s: %w", key.ErrInvalid, path, err)
	}
	if err := c.complete(filepath.Dir(path)); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// parseConfig reads the text of the file.
func parseConfig(text []byte) (c Config, err error) {
	err = strictyaml.Decode(text, &c)
	if err != nil && strings.HasPrefix(err.Error(), "time: ") {
		// Package time cannot know the key; there is one duration.
		err = errors.New("shutdown_grace: " + strings.TrimPrefix(err.Error(), "time: "))
	}
	return c, err
}

// complete fills in defaults and checks what can be checked without opening anything.
func (c *Config) complete(dir string) error {
	bad := func(field, why string) error { return fmt.Errorf("%w: %s: %s", key.ErrInvalid, field, why) }
	if c.Listen == "" {
		c.Listen = "127.0.0.1:8470"
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return bad("listen", "write host:port, like 127.0.0.1:8470")
	}
	for field, address := range map[string]string{"crl_listen": c.CRLListen, "metrics_listen": c.MetricsListen} {
		if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
			return bad(field, "write host:port, like 127.0.0.1:8471")
		}
	}
	if err := c.completeNames(host); err != nil {
		return err
	}
	if c.Domain == "" || len(c.Domain) > 180 {
		return bad("domain", "required: the last part of every trust domain, like example.internal")
	}
	for _, label := range strings.Split(c.Domain, ".") {
		if err := key.CheckSegment(label); err != nil {
			return fmt.Errorf("domain: %w", err)
		}
	}
	if err := c.completeEnvironments(); err != nil {
		return err
	}
	switch c.LogLevel {
	case "":
		c.LogLevel = "info"
	case "debug", "info", "warn", "error":
	default:
		return bad("log_level", "use debug, info, warn or error")
	}
	if c.ShutdownGrace == 0 {
		c.ShutdownGrace = 10 * time.Second
	}
	if c.ShutdownGrace < time.Second || c.ShutdownGrace > 10*time.Minute {
		return bad("shutdown_grace", "use a duration from 1s to 10m")
	}
	if err := c.completeCRL(); err != nil {
		return err
	}
	return c.completeStore(dir)
}

// completeNames fills in and checks the names of the server's own certificate.
func (c *Config) completeNames(host string) error {
	if len(c.Names) == 0 {
		c.Names = []string{"localhost"}
		if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
			c.Names = append(c.Names, ip.String())
		} else if err != nil && host != "" && host != "localhost" {
			c.Names = append(c.Names, host)
		}
	}
	for _, name := range c.Names {
		if _, err := netip.ParseAddr(name); err == nil {
			continue
		}
		if err := pki.CheckDNS(name, false); err != nil {
			return fmt.Errorf("names: %w", err)
		}
	}
	return nil
}

func (c *Config) completeEnvironments() error {
	if len(c.Environments) == 0 {
		c.Environments = []string{"prod"}
	}
	seen := map[string]bool{}
	for _, e := range c.Environments {
		if err := key.CheckSegment(e); err != nil {
			return fmt.Errorf("environments: %w", err)
		}
		if (e == "dev") != c.dev || e == "ops" || e == "root" {
			return fmt.Errorf("%w: environments: %s is reserved: dev belongs to 'sealwrightd dev', ops always exists, root is the root CA", key.ErrInvalid, e)
		}
		if seen[e] {
			return fmt.Errorf("%w: environments: %s is named twice", key.ErrInvalid, e)
		}
		seen[e] = true
	}
	return nil
}

// completeCRL sees to it that certificates point to where CRLs are: an address
// that does not answer would make careful peers refuse good certificates.
func (c *Config) completeCRL() error {
	if c.CRLURL == "" {
		host, _, _ := net.SplitHostPort(c.CRLListen)
		if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
			return fmt.Errorf("%w: crl_url: required, unless crl_listen names the host: where peers find CRLs, like http://crl.example.internal/crl/", key.ErrInvalid)
		}
		c.CRLURL = "http://" + c.CRLListen + "/crl/"
	}
	u, err := url.Parse(c.CRLURL)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || !strings.HasSuffix(u.Path, "/") {
		return fmt.Errorf("%w: crl_url: write an http:// URL that ends in a slash: https would need a certificate to check a certificate", key.ErrInvalid)
	}
	return nil
}

func (c *Config) completeStore(dir string) error {
	switch {
	case strings.HasPrefix(c.Store, "sqlite:"):
		path := strings.TrimPrefix(c.Store, "sqlite:")
		if path == "" {
			return fmt.Errorf("%w: store: write sqlite:PATH", key.ErrInvalid)
		}
		c.Store = "sqlite:" + absolute(dir, path)
	case strings.HasPrefix(c.Store, "postgres://"), strings.HasPrefix(c.Store, "postgresql://"):
		u, err := url.Parse(c.Store)
		if err != nil { // its text would show the URL, which may hold a password
			return fmt.Errorf("%w: store: the PostgreSQL URL does not parse", key.ErrInvalid)
		}
		if _, has := u.User.Password(); has || u.Query().Has("password") {
			return fmt.Errorf("%w: store: no password here: put it into ~/.pgpass or the file that PGPASSFILE names", key.ErrInvalid)
		}
	default:
		return fmt.Errorf("%w: store: required: sqlite:PATH or postgres://…", key.ErrInvalid)
	}
	var err error
	switch {
	case strings.HasPrefix(c.Device, "pkcs11:"):
		_, err = hsm.ParseURI(c.Device)
	case strings.HasPrefix(c.Device, "tpm:"):
		_, err = tpm.ParseURI(c.Device)
	default:
		err = fmt.Errorf("%w: required: pkcs11:token=…;module-path=…?pin-source=file:… or tpm:device=/dev/tpmrm0", key.ErrInvalid)
	}
	if err != nil {
		return fmt.Errorf("device: %w", err)
	}
	if c.State == "" {
		return fmt.Errorf("%w: state: required: a directory outside the store, like /var/lib/sealwright/state", key.ErrInvalid)
	}
	c.State = absolute(dir, c.State)
	return nil
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	abs, err := filepath.Abs(filepath.Join(dir, path))
	if err != nil {
		return filepath.Join(dir, path)
	}
	return abs
}
