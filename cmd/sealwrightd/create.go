package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/internal/durable"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms/keyring"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/policy"
)

type initOptions struct {
	adminCSR, adminName, out string
	onlineRoot               bool
	recipient                string
	noRecovery               bool
	makeRecovery             string
}

// newStore is what a creation needs beside the configuration.
type newStore struct {
	mode      string
	recovery  []keyring.Recipient
	adminName string
	adminCSR  []byte
	logger    *slog.Logger
}

// Lifetimes of a new store's certificates.
const (
	rootLifetime   = 20 * 365 * 24 * time.Hour
	issuerLifetime = 5 * 365 * 24 * time.Hour
	adminLifetime  = 30 * 24 * time.Hour
)

// initStore is 'sealwrightd init'.
func initStore(ctx context.Context, c Config, o initOptions, out io.Writer) (err error) {
	n, err := o.check()
	if err != nil {
		return err
	}
	h, admin, err := createHouse(ctx, c, n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := writeAdmin(o.out, admin, nil); err != nil {
		return err
	}
	roots, _, err := h.ca.Trust(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Created the store %s with environments ops, %s.\n", h.store.id, strings.Join(c.Environments, ", "))
	fmt.Fprintf(out, "Root CA fingerprint (SHA-256), for clients to pin:\n  %s\n", pki.Fingerprint(roots[0]))
	fmt.Fprintf(out, "Log key, for verifying the audit log offline:\n  %s\n", h.log.VerifierKey())
	fmt.Fprintf(out, "Administrator %s: certificate in %s, until %s.\n", "user/"+o.adminName, filepath.Join(o.out, "cert.pem"), time.Now().Add(adminLifetime).Format("2006-01-02"))
	if o.noRecovery {
		fmt.Fprintln(out, "There is no recovery: when the device is lost, everything is lost.")
	}
	fmt.Fprintln(out, "The root CA's key lies in this device (--online-root); status says so for ever.")
	return nil
}

// check reads what the flags name before anything is created.
func (o initOptions) check() (newStore, error) {
	n := newStore{mode: modeProduction, adminName: o.adminName, logger: slog.New(slog.DiscardHandler)}
	switch {
	case o.adminCSR == "":
		return n, cli.Misuse("make one: openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout admin.key -out admin.csr", "name the first administrator's certificate request: --admin-csr FILE")
	case o.noRecovery == (o.recipient != ""):
		return n, cli.Misuse("make a recipient offline with: sealwrightd init --make-recovery-key FILE", "choose --recovery-recipient FILE or --no-recovery")
	case !o.onlineRoot:
		return n, cli.Misuse("", "this version makes a root CA only in the service's own device: say --online-root if that is what you want")
	}
	if err := key.CheckSegment(o.adminName); err != nil {
		return n, fmt.Errorf("--admin-name: %w", err)
	}
	var err error
	if n.adminCSR, err = os.ReadFile(o.adminCSR); err != nil {
		return n, fmt.Errorf("reading the administrator's request: %w", err)
	}
	if _, err := pki.ParseCSR(n.adminCSR); err != nil {
		return n, fmt.Errorf("--admin-csr %s: %w", o.adminCSR, err)
	}
	if o.recipient != "" {
		text, err := os.ReadFile(o.recipient)
		if err != nil {
			return n, fmt.Errorf("reading the recovery recipient: %w", err)
		}
		r, err := keyring.ParseRecipient(string(text))
		if err != nil {
			return n, fmt.Errorf("--recovery-recipient %s: %w", o.recipient, err)
		}
		n.recovery = append(n.recovery, r)
	}
	if info, err := os.Stat(o.out); err != nil || !info.IsDir() {
		return n, cli.Misuse("mkdir "+o.out, "--out %s is not a directory", o.out)
	}
	return n, nil
}

// createHouse creates a store and everything it stands on, and returns it open,
// with the first administrator's certificate. What it made is removed when it fails.
func createHouse(ctx context.Context, c Config, n newStore) (*house, *ca.Issued, error) {
	h := &house{config: c}
	h.store = storeRow{id: key.NewID(), epoch: 1, mode: n.mode, domain: c.Domain, onlineRoot: true, createdAt: time.Now().UTC().Truncate(time.Microsecond)}
	admin, err := h.build(ctx, n)
	if err != nil {
		for _, undo := range slices.Backward(h.undo) {
			undo()
		}
		return nil, nil, errors.Join(err, h.close())
	}
	return h, admin, nil
}

func (h *house) build(ctx context.Context, n newStore) (admin *ca.Issued, err error) {
	if h.device, err = openDevice(ctx, h.config.Device, n.logger); err != nil {
		return nil, err
	}
	h.built(h.device.Close)
	if h.db, err = createDB(ctx, h.config.Store); err != nil {
		return nil, fmt.Errorf("creating the store: %w", err)
	}
	h.undo = append(h.undo, func() { removeDB(h.config.Store) })
	h.built(h.db.Close)
	if h.store.root, err = h.generate(ctx, "root", key.AES256, key.UsageWrap); err != nil {
		return nil, err
	}
	if h.store.checkpoint, err = h.generate(ctx, "checkpoint", key.ECDSAP256, key.UsageSign); err != nil {
		return nil, err
	}
	if h.rings, err = keyring.Create(ctx, h.ringConfig(), n.recovery, h.config.Environments...); err != nil {
		return nil, fmt.Errorf("creating the keyrings: %w", err)
	}
	h.built(func() error { h.rings.Close(); return nil })
	if err = h.openServices(ctx, n.logger); err != nil {
		return nil, err
	}
	if admin, err = h.furnish(ctx, n); err != nil {
		return nil, err
	}
	// Last: a store with this row is a finished one.
	return admin, h.store.write(ctx, h.db, h.rings, deviceKind(h.config.Device))
}

// generate makes one of the store's own device keys.
func (h *house) generate(ctx context.Context, purpose string, algorithm key.Algorithm, usage key.Usage) (key.Ref, error) {
	ref, err := h.device.Generate(ctx, key.Spec{ID: key.NewID(), Label: "sealwright-" + h.store.id.String()[:8] + "/" + purpose, Algorithm: algorithm, Usage: usage})
	if err != nil {
		return key.Ref{}, fmt.Errorf("generating the %s key: %w", purpose, err)
	}
	h.undo = append(h.undo, func() { _ = h.device.Destroy(context.Background(), ref) }) // an orphan under its own label harms nobody
	return ref, nil
}

// furnish gives a new house its policy, its CAs and its first administrator.
func (h *house) furnish(ctx context.Context, n newStore) (admin *ca.Issued, err error) {
	const why = "creating the store"
	system := func(action policy.Action, object policy.Object, act func(context.Context, guard.Grant) error) error {
		_, err := h.door.System(ctx, why, []guard.Act{{Action: action, Object: object}}, act)
		return err
	}
	err = system(policy.ApplyPolicy, guard.RulesObject(), func(ctx context.Context, g guard.Grant) error {
		_, err := h.door.Apply(ctx, g, guard.NewRules{Text: policy.Default().Text()})
		return err
	})
	if err != nil {
		return admin, fmt.Errorf("applying the first policy: %w", err)
	}
	p := guard.Principal{SPIFFEID: "spiffe://" + keyring.Ops + "." + h.store.domain + "/user/" + n.adminName, PersonID: n.adminName, Roles: []string{policy.Administrator}}
	err = system(policy.RegisterPrincipal, p.Object(), func(ctx context.Context, g guard.Grant) error {
		_, err := h.door.Register(ctx, g, p)
		return err
	})
	if err != nil {
		return admin, fmt.Errorf("registering the administrator: %w", err)
	}
	for _, i := range append([]ca.NewIssuer{{Lifetime: rootLifetime}}, h.issuers()...) {
		err = system(policy.CreateIssuer, ca.IssuerObject(i.Environment), func(ctx context.Context, g guard.Grant) error {
			_, err := h.ca.Create(ctx, g, i)
			return err
		})
		if err != nil {
			return admin, fmt.Errorf("creating the CA: %w", err)
		}
	}
	return h.issueAdmin(ctx, p.SPIFFEID, n.adminCSR)
}

// issuers are those of a new house: one for each environment.
func (h *house) issuers() (list []ca.NewIssuer) {
	for _, environment := range h.rings.Environments() {
		list = append(list, ca.NewIssuer{Environment: environment, Authenticates: true, Owner: "system", Lifetime: issuerLifetime})
	}
	return list
}

func removeDB(address string) {
	path, ok := strings.CutPrefix(address, "sqlite:")
	if !ok {
		return // a schema that holds no finished store is refused by name; dropping it is the operator's decision
	}
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		_ = os.Remove(path + suffix)
	}
}

// writeAdmin writes the administrator's files; the key only where this process made it.
func writeAdmin(dir string, admin *ca.Issued, private []byte) error {
	files := []durable.File{
		{Name: "ca.pem", Data: admin.Root, Perm: 0o644},
		{Name: "cert.pem", Data: append(pki.EncodePEM(admin.Leaf), admin.Chain...), Perm: 0o600},
	}
	if private != nil {
		files = append(files, durable.File{Name: "key.pem", Data: private, Perm: 0o600})
	}
	if err := durable.WriteFiles(dir, files...); err != nil {
		return fmt.Errorf("writing the administrator's certificate: %w", err)
	}
	return nil
}

// makeRecoveryKey is 'sealwrightd init --make-recovery-key'.
func makeRecoveryKey(path string, out io.Writer) error {
	k, err := keyring.GenerateRecovery()
	if err != nil {
		return err
	}
	secret, err := k.Reveal()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing the recovery key (it never overwrites): %w", err)
	}
	_, err = io.WriteString(f, secret+"\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the recovery key: %w", err)
	}
	if err := durable.WriteFile(path+".pub", []byte(k.Recipient().String()+"\n"), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "Recovery key in %s: keep it offline, in more than one place.\nRecipient for --recovery-recipient in %s.pub, fingerprint %s.\n", path, path, k.Recipient().Fingerprint())
	return nil
}
