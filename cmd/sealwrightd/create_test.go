package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// A creation that fails takes back what it made, so that the next one succeeds;
// one that succeeded is never overwritten.
func TestCreationIsWholeOrNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	c := Config{Domain: "no_domain", Environments: []string{"prod"}, Store: "sqlite:" + path, Device: softhsmtest.Token(t), State: filepath.Join(dir, "state"), CRLURL: "http://crl.example.internal/crl/"}
	_, csr, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	n := newStore{mode: modeProduction, adminName: "admin", adminCSR: csr, logger: slog.New(slog.DiscardHandler)}
	if _, _, err := createHouse(t.Context(), c, n); !errors.Is(err, key.ErrInvalid) {
		t.Fatalf("a domain that no CA can have: %v", err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
		t.Errorf("the failed creation left %v", left)
	}
	c.Domain = "example.internal"
	h, admin, err := createHouse(t.Context(), c, n)
	if err != nil {
		t.Fatal(err)
	}
	if admin.Leaf == nil || admin.Certificate.Profile != "user" {
		t.Errorf("the administrator got %+v", admin.Certificate)
	}
	if err := h.close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := createHouse(t.Context(), c, n); !errors.Is(err, key.ErrExists) {
		t.Errorf("over a store: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the refused creation changed the store: %v", err)
	}
	h, err = openHouse(t.Context(), c, n.logger)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.close(); err != nil {
		t.Error(err)
	}
	c.Domain = "other.internal"
	if _, err := openHouse(t.Context(), c, n.logger); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("under another domain: %v", err)
	}
}
