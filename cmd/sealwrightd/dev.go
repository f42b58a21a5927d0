package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/hsm/softhsm"
	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/internal/durable"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms/keyring"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/tpm/swtpm"
)

type devOptions struct{ dir, listen, device string }

const (
	devDomain = "sealwright.internal"
	devAdmin  = "spiffe://" + keyring.Ops + "." + devDomain + "/user/admin"
)

// dev is 'sealwrightd dev': everything in one directory, on loopback.
func dev(ctx context.Context, o devOptions, out, problems io.Writer) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	if err := makeDevDir(dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(dir, "ready"))
	c := Config{Listen: o.listen, Names: []string{"localhost", "127.0.0.1", "::1"}, Domain: devDomain, Environments: []string{"dev"}, Store: "sqlite:" + filepath.Join(dir, "store.db"), State: filepath.Join(dir, "state"), LogLevel: "warn", dev: true}
	address, err := crlAddress(o.listen)
	if err != nil {
		return err
	}
	// Listening first: certificates carry the CRL's address, whatever port it is.
	if c.crl, err = net.Listen("tcp", address); err != nil {
		return fmt.Errorf("listening for CRL requests: %w", err)
	}
	defer c.crl.Close()
	c.CRLListen = c.crl.Addr().String()
	created, err := isNew(ctx, c.Store)
	if err != nil {
		return err
	}
	stop, err := o.startDevice(ctx, dir, created, &c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := c.complete(dir); err != nil {
		return err
	}
	logger := newLogger(c, problems)
	h, err := openDev(ctx, c, dir, created, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	defer os.Remove(filepath.Join(dir, "ready"))
	return h.serve(ctx, logger, func(address string) {
		err := writeEnv(dir, address, h.log.VerifierKey())
		if err == nil {
			greet(out, h, o.dir, address, created)
			// Last: who waits for this file finds everything else done.
			err = durable.WriteFile(filepath.Join(dir, "ready"), []byte(address+"\n"), 0o600)
		}
		if err != nil {
			logger.Error("telling how to reach this service", "directory", dir, "error", err)
		}
	})
}

// isNew reports whether there is no finished store yet. What an interrupted
// creation left is removed: nothing was ever served from it.
func isNew(ctx context.Context, address string) (bool, error) {
	db, err := openDB(ctx, address)
	if errors.Is(err, key.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("opening the store: %w", err)
	}
	_, err = readStore(ctx, db)
	if closing := db.Close(); closing != nil {
		return false, closing
	}
	if errors.Is(err, errUnfinished) {
		removeDB(address)
		return true, nil
	}
	return false, err
}

func (o devOptions) check() error {
	host, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		return cli.Misuse("--listen 127.0.0.1:8470", "--listen %s: write host:port", o.listen)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return cli.Misuse("for other addresses create a store with 'sealwrightd init' and serve it", "--listen %s: dev is for loopback only", o.listen)
	}
	if o.device != "softhsm" && o.device != "swtpm" {
		return cli.Misuse("--device softhsm", "--device %s: use softhsm or swtpm", o.device)
	}
	return nil
}

// crlAddress is the port after the API's, or any free one.
func crlAddress(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n > 65534 {
		return "", cli.Misuse("--listen 127.0.0.1:8470", "--listen %s: not a port that has a next one", listen)
	}
	if n != 0 {
		n++
	}
	return net.JoinHostPort(host, strconv.Itoa(n)), nil
}

// ignoreAll is the .gitignore of a dev directory, and its mark.
const ignoreAll = "*\n"

// makeDevDir makes the directory private and invisible to git. A directory that
// holds something else is refused: its .gitignore would be lost.
func makeDevDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the dev directory: %w", err)
	}
	if err := checkOwn(dir); err != nil {
		return fmt.Errorf("the dev directory: %w", err)
	}
	ignore := filepath.Join(dir, ".gitignore")
	list, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("making the dev directory: %w", err)
	}
	// A run that was killed here left the beginning of the mark and nothing else.
	foreign := slices.ContainsFunc(list, func(e os.DirEntry) bool { return !strings.HasPrefix(e.Name(), "..gitignore.tmp-") })
	if text, err := os.ReadFile(ignore); foreign && (err != nil || string(text) != ignoreAll) {
		return cli.Misuse("--dir with a new directory", "%s holds something else: dev wants a directory of its own", dir)
	}
	return durable.WriteFile(ignore, []byte(ignoreAll), 0o600)
}

// startDevice creates or finds the stand-in for hardware.
func (o devOptions) startDevice(ctx context.Context, dir string, create bool, c *Config) (stop func() error, err error) {
	stop = func() error { return nil }
	tokenDir, tpmDir := filepath.Join(dir, "softhsm"), filepath.Join(dir, "swtpm")
	other := map[string]string{"softhsm": tpmDir, "swtpm": tokenDir}[o.device]
	if _, err := os.Stat(other); err == nil && !create {
		return nil, cli.Misuse("", "%s was created on the other device: start it without --device %s, or choose another --dir", o.dir, o.device)
	}
	if o.device == "softhsm" {
		if create {
			// A token whose store was never finished holds nothing that counts.
			if err := os.RemoveAll(tokenDir); err != nil {
				return nil, err
			}
			c.Device, err = softhsm.Create(ctx, tokenDir, "sealwright-dev")
		} else {
			c.Device, err = softhsm.Open(tokenDir)
		}
		return stop, err
	}
	var t *swtpm.TPM
	if create {
		if err := os.RemoveAll(tpmDir); err != nil {
			return nil, err
		}
		t, err = swtpm.Create(ctx, tpmDir)
	} else {
		t, err = swtpm.Open(ctx, tpmDir)
	}
	if err != nil {
		return nil, err
	}
	c.Device = t.URI()
	return t.Stop, nil
}

// openDev creates or opens the store, and sees to it that the administrator has
// a certificate that is good for a while.
func openDev(ctx context.Context, c Config, dir string, create bool, logger *slog.Logger) (*house, error) {
	adminDir := filepath.Join(dir, "admin")
	if err := os.MkdirAll(adminDir, 0o700); err != nil {
		return nil, err
	}
	if !create {
		h, err := openHouse(ctx, c, logger)
		if err != nil {
			return nil, err
		}
		if err := h.renewDevAdmin(ctx, adminDir); err != nil {
			return nil, errors.Join(err, h.close())
		}
		return h, nil
	}
	private, csr, err := newRequest()
	if err != nil {
		return nil, err
	}
	h, admin, err := createHouse(ctx, c, newStore{mode: modeDev, adminName: "admin", adminCSR: csr, logger: logger})
	if err != nil {
		return nil, err
	}
	if err := writeAdmin(adminDir, admin, private); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func (h *house) renewDevAdmin(ctx context.Context, dir string) error {
	if text, err := os.ReadFile(filepath.Join(dir, "cert.pem")); err == nil {
		if block, _ := pem.Decode(text); block != nil {
			if leaf, err := x509.ParseCertificate(block.Bytes); err == nil && time.Until(leaf.NotAfter) > adminLifetime/2 {
				return nil
			}
		}
	}
	private, csr, err := newRequest()
	if err != nil {
		return err
	}
	admin, err := h.issueAdmin(ctx, devAdmin, csr)
	if err != nil {
		return err
	}
	return writeAdmin(dir, admin, private)
}

// issueAdmin issues an administrator's certificate. It is part of enrolment by
// the operator of the host and no network peer can ask for it.
func (h *house) issueAdmin(ctx context.Context, spiffeID string, csr []byte) (*ca.Issued, error) {
	issued, err := h.issue(ctx, "enrolling an administrator", ca.Order{CSR: csr, Profile: "user", Environment: keyring.Ops, Identity: spiffeID, TTL: adminLifetime})
	if err != nil {
		return nil, fmt.Errorf("issuing the administrator's certificate: %w", err)
	}
	return issued, nil
}

// newRequest makes a P-256 key and an empty request for it, both PEM.
func newRequest() (private, csr []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// writeEnv writes the file to source.
func writeEnv(dir, address, logKey string) error {
	env := "# To be sourced: points the sealwright CLI at this service as its administrator.\n"
	for _, v := range [][2]string{
		{"SEALWRIGHT_ADDR", "https://" + address},
		{"SEALWRIGHT_CERT", filepath.Join(dir, "admin", "cert.pem")},
		{"SEALWRIGHT_KEY", filepath.Join(dir, "admin", "key.pem")},
		{"SEALWRIGHT_CA", filepath.Join(dir, "admin", "ca.pem")},
		{"SEALWRIGHT_LOG_KEY", logKey},
		{"SEALWRIGHT_ENVIRONMENT", "dev"},
	} {
		env += "export " + v[0] + "='" + shellQuote(v[1]) + "'\n"
	}
	env += pathLine()
	return durable.WriteFile(filepath.Join(dir, "env"), []byte(env), 0o600)
}

// pathLine puts the command line on the PATH, where it lies beside this program.
func pathLine() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	dir := filepath.Dir(self)
	if _, err := os.Stat(filepath.Join(dir, "sealwright")); err != nil {
		return ""
	}
	return `case ":$PATH:" in *:'` + shellQuote(dir) + `':*) ;; *) export PATH='` + shellQuote(dir) + `':"$PATH" ;; esac` + "\n"
}

func greet(out io.Writer, h *house, shown, address string, created bool) {
	did := "Found everything again in"
	if created {
		did = "Created a new Sealwright in"
	}
	device := "a SoftHSM2 token"
	if deviceKind(h.config.Device) == "tpm" {
		device = "a software TPM (swtpm)"
	}
	fmt.Fprintf(out, `%s %s: for development only, not for production.
  device       %s stands in for hardware; the root key never leaves it
  store        %s
  environment  dev, with its own keyring and issuer; people live in ops
  CA           root and issuers in the device; CRLs at http://%s/crl/
  log          %s
  API          https://%s, as administrator %s
To use it from a shell:
  source %s/env && sealwright status
`, did, shown, device, filepath.Join(shown, "store.db"), h.config.CRLListen, h.log.Origin(), address, "user/admin", shown)
}

func shellQuote(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] == '\'' {
			out = append(out, `'\''`...)
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}
