package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms"
	"github.com/sealwright/sealwright/kms/keyring"
	"github.com/sealwright/sealwright/pki/ca"
	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/tpm"
)

// house is every room, wired. It is built from the ground up and closed from
// the top down.
type house struct {
	config Config
	store  storeRow
	device key.Device
	db     *storage.DB
	rings  *keyring.Set
	log    *audit.Log
	door   *guard.Door
	keys   *kms.Service
	ca     *ca.Service
	closes []func() error // in the order of building
	undo   []func()       // what a creation that fails takes back
}

// built notes how to close what was just built.
func (h *house) built(closing func() error) { h.closes = append(h.closes, closing) }

func (h *house) close() error {
	var errs []error
	for i := len(h.closes) - 1; i >= 0; i-- {
		errs = append(errs, h.closes[i]())
	}
	h.closes = nil
	return errors.Join(errs...)
}

func openDevice(ctx context.Context, uri string, logger *slog.Logger) (key.Device, error) {
	if strings.HasPrefix(uri, "tpm:") {
		d, err := tpm.Open(ctx, uri)
		if err != nil {
			return nil, fmt.Errorf("opening the TPM: %w", err)
		}
		return d, nil
	}
	d, err := hsm.Open(ctx, uri, hsm.Config{Log: logger})
	if err != nil {
		return nil, fmt.Errorf("opening the token: %w", err)
	}
	return d, nil
}

// deviceKind is how status calls the device.
func deviceKind(uri string) string {
	kind, _, _ := strings.Cut(uri, ":")
	return kind
}

// openHouse opens a store that was created before. It creates nothing.
func openHouse(ctx context.Context, c Config, logger *slog.Logger) (*house, error) {
	h := &house{config: c}
	if err := h.open(ctx, logger); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func (h *house) open(ctx context.Context, logger *slog.Logger) (err error) {
	if h.db, err = openDB(ctx, h.config.Store); err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	h.built(h.db.Close)
	if h.store, err = readStore(ctx, h.db); err != nil {
		return err
	}
	if err := h.store.fits(h.config); err != nil {
		return err
	}
	if h.device, err = openDevice(ctx, h.config.Device, logger); err != nil {
		return err
	}
	h.built(h.device.Close)
	if h.rings, err = keyring.Open(ctx, h.ringConfig()); err != nil {
		return fmt.Errorf("opening the keyrings: %w", err)
	}
	h.built(func() error { h.rings.Close(); return nil })
	if err := h.store.check(h.rings); err != nil {
		return err
	}
	if err := h.openServices(ctx, logger); err != nil {
		return err
	}
	if err := errors.Join(h.keys.Reconcile(ctx), h.ca.Reconcile(ctx)); err != nil {
		return fmt.Errorf("finding out what the last run left undone: %w", err)
	}
	return h.door.CheckRules(ctx)
}

// fits refuses a configuration of another store.
func (s storeRow) fits(c Config) error {
	switch {
	case s.mode == modeDev && !c.dev:
		return fmt.Errorf("%w: this store was made by 'sealwrightd dev' and is for development for ever: create another with 'sealwrightd init'", key.ErrInvalid)
	case s.mode != modeDev && c.dev:
		return fmt.Errorf("%w: this store is not one of 'sealwrightd dev': use 'sealwrightd serve'", key.ErrInvalid)
	case s.domain != c.Domain:
		return fmt.Errorf("%w: the store's domain is %s and the configuration says %s: a domain is for ever", key.ErrInvalid, s.domain, c.Domain)
	}
	return nil
}

func (h *house) ringConfig() keyring.Config {
	return keyring.Config{DB: h.db, StoreID: h.store.id.String(), Device: h.device, Root: h.store.root}
}

// openServices builds what stands on store, device and keyrings.
func (h *house) openServices(ctx context.Context, logger *slog.Logger) error {
	if err := os.MkdirAll(h.config.State, 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	if err := checkOwn(h.config.State); err != nil {
		return fmt.Errorf("the state directory: %w", err)
	}
	signer, err := key.NewSigner(h.device, h.store.checkpoint)
	if err != nil {
		return err
	}
	h.log, err = audit.Open(ctx, audit.Config{DB: h.db, Signer: signer, Origin: h.store.domain + "/" + h.store.id.String()[:8], StateDir: h.config.State, Logger: logger})
	if err != nil {
		return err
	}
	h.built(h.log.Close)
	inventory := &inventory{}
	h.door, err = guard.Open(ctx, guard.Config{DB: h.db, Rows: h.rings, Inventory: inventory, Log: h.log})
	if err != nil {
		return fmt.Errorf("opening the door: %w", err)
	}
	h.built(h.door.Close)
	h.keys, err = kms.New(kms.Config{DB: h.db, Door: h.door, Rings: h.rings, Device: h.device})
	if err != nil {
		return fmt.Errorf("opening the keys: %w", err)
	}
	h.built(h.keys.Close)
	h.ca, err = ca.Open(ctx, ca.Config{DB: h.db, Door: h.door, Rows: h.rings, Device: h.device, Domain: h.store.domain, CRLBase: h.config.CRLURL, Log: logger})
	if err != nil {
		return fmt.Errorf("opening the CA: %w", err)
	}
	h.built(h.ca.Close)
	inventory.ca = h.ca
	return nil
}

// inventory lets the door, which is built first, ask the CA, which needs the
// door. Nobody comes through the door before both stand.
type inventory struct{ ca *ca.Service }

func (i *inventory) Identity(ctx context.Context, serial string) (string, error) {
	return i.ca.Identity(ctx, serial)
}
