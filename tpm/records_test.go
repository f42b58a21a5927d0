package tpm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/tpm"
)

func TestRecords(t *testing.T) {
	t.Parallel()
	uri := softhsmtest.TPM(t)
	u, _ := tpm.ParseURI(uri)
	d := softhsmtest.OpenTPM(t, uri)
	ca := generate(t, d, "ca", key.UsageSign)
	spec := func(label string) key.Spec {
		return key.Spec{ID: key.NewID(), Label: label, Algorithm: key.ECDSAP256, Usage: key.UsageSign}
	}
	path := filepath.Join(u.Keys, ca.ID.String()+".json")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the record: %v, %v", info, err)
	}
	if info, err := os.Stat(u.Keys); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info, err)
	}

	// A crash while recording leaves a draft that nobody reads.
	next := spec("next")
	if err := os.WriteFile(filepath.Join(u.Keys, next.ID.String()+".json.new"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = d.Find(t.Context(), next.ID)
	want(t, "a draft", err, key.ErrNotFound)
	if _, err := d.Generate(t.Context(), next); err != nil {
		t.Errorf("generating over a draft: %v", err)
	}

	// A damaged record might have any label: no label is certainly free.
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(filepath.Join(u.Keys, next.ID.String()+".json"))
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string][]byte{"cut": whole[:len(whole)/2], "empty": nil, "of another key": foreign} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = d.Find(t.Context(), ca.ID)
		want(t, "finding a record that is "+what, err, key.ErrIntegrity)
		_, err = d.Generate(t.Context(), spec("free"))
		want(t, "generating beside a record that is "+what, err, key.ErrIntegrity)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	mustSign(t, d, ca)

	// An id is never used again, not even after destruction; a label is.
	if err := d.Destroy(t.Context(), ca); err != nil {
		t.Fatal(err)
	}
	again := spec("ca")
	again.ID = ca.ID
	_, err = d.Generate(t.Context(), again)
	want(t, "the id of a destroyed key", err, key.ErrExists)
	generate(t, d, "ca", key.UsageSign)

	// A crash between the mark and the removal of the record: destroyed all the same.
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = d.Find(t.Context(), ca.ID)
	want(t, "a record that outlived its key", err, key.ErrNotFound)
	want(t, "signing with it", sign(t, d, ca), key.ErrNotFound)
	generate(t, d, "another", key.UsageSign)
}

// Another process that writes records is waited for, within the caller's patience.
func TestRecordsLockedElsewhere(t *testing.T) {
	t.Parallel()
	uri := softhsmtest.TPM(t)
	u, _ := tpm.ParseURI(uri)
	d := softhsmtest.OpenTPM(t, uri)
	ca := generate(t, d, "ca", key.UsageSign)
	f, err := os.Open(filepath.Join(u.Keys, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = d.Generate(ctx, key.Spec{ID: key.NewID(), Label: "new", Algorithm: key.ECDSAP256, Usage: key.UsageSign})
	if !errors.Is(err, key.ErrBusy) {
		t.Errorf("generating while another process records: %v", err)
	}
	want(t, "destroying while another process records", d.Destroy(ctx, ca), key.ErrBusy)
	mustSign(t, d, ca)
}
