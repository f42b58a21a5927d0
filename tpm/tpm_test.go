package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/key/devicetest"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/tpm"
)

func TestDevice(t *testing.T) {
	t.Parallel()
	var uris sync.Map // of the devices that are open
	devicetest.Run(t, func(t testing.TB) key.Device {
		uri := softhsmtest.TPM(t)
		d := softhsmtest.OpenTPM(t, uri)
		uris.Store(d, uri)
		return d
	}, devicetest.Options{Reopen: func(t testing.TB, closed key.Device) key.Device {
		uri, _ := uris.Load(closed)
		return softhsmtest.OpenTPM(t, uri.(string))
	}})
}

func generate(t testing.TB, d key.Device, label string, usage key.Usage) key.Ref {
	t.Helper()
	spec := key.Spec{ID: key.NewID(), Label: label, Algorithm: key.ECDSAP256, Usage: usage}
	if usage == key.UsageWrap {
		spec.Algorithm = key.AES256
	}
	ref, err := d.Generate(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func sign(t testing.TB, d key.Device, ref key.Ref) error {
	digest := sha256.Sum256([]byte(t.Name()))
	sig, err := d.Sign(t.Context(), ref, digest[:], crypto.SHA256)
	if err == nil {
		err = ref.CheckSignature(digest[:], sig)
	} else if sig != nil {
		t.Error("a signature came with an error")
	}
	return err
}

func mustSign(t testing.TB, d key.Device, ref key.Ref) {
	t.Helper()
	if err := sign(t, d, ref); err != nil {
		t.Error(err)
	}
}

func want(t testing.TB, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: got %v, want %v", what, err, kind)
	}
}

// A key serves where the store's copy of its reference and its TPM are.
func TestRecordsAreNotNeeded(t *testing.T) {
	t.Parallel()
	uri := softhsmtest.TPM(t)
	d := softhsmtest.OpenTPM(t, uri)
	ca, root := generate(t, d, "ca", key.UsageSign), generate(t, d, "root", key.UsageWrap)
	u, _ := tpm.ParseURI(uri)
	if err := os.RemoveAll(u.Keys); err != nil {
		t.Fatal(err)
	}
	mustSign(t, d, ca)
	_, err := d.Find(t.Context(), ca.ID)
	want(t, "finding without records", err, key.ErrNotFound)
	_, err = d.Generate(t.Context(), key.Spec{ID: key.NewID(), Label: "new", Algorithm: key.ECDSAP256, Usage: key.UsageSign})
	want(t, "generating without a place to record it", err, key.ErrUnavailable)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	d = softhsmtest.OpenTPM(t, uri)
	mustSign(t, d, ca)
	wrapped, err := d.Wrap(t.Context(), root, []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), root); err != nil {
		t.Errorf("destroying a key whose record is lost: %v", err)
	}
	_, err = d.Unwrap(t.Context(), root, wrapped, nil)
	want(t, "unwrapping after destruction", err, key.ErrNotFound)
	mustSign(t, d, ca)
}

func TestForeignBlobs(t *testing.T) {
	t.Parallel()
	d, elsewhere := softhsmtest.TPMDevice(t), softhsmtest.TPMDevice(t)
	one, two := generate(t, d, "one", key.UsageSign), generate(t, d, "two", key.UsageSign)
	root, other := generate(t, d, "root", key.UsageWrap), generate(t, d, "other", key.UsageWrap)
	foreign, foreignRoot := generate(t, elsewhere, "foreign", key.UsageSign), generate(t, elsewhere, "root", key.UsageWrap)

	want(t, "another TPM's key", sign(t, d, foreign), key.ErrNotFound)
	want(t, "destroying another TPM's key", d.Destroy(t.Context(), foreign), key.ErrNotFound)
	want(t, "another TPM's key that claims to be of this one", sign(t, d, tpm.Reparent(foreign, one)), key.ErrIntegrity)
	_, err := d.Wrap(t.Context(), foreignRoot, []byte("secret"), nil)
	want(t, "another TPM's root", err, key.ErrNotFound)

	swapped := one
	swapped.Blob = two.Blob
	want(t, "a swapped blob", sign(t, d, swapped), key.ErrIntegrity)
	swapped = root
	swapped.Blob = other.Blob
	_, err = d.Wrap(t.Context(), swapped, []byte("secret"), nil)
	want(t, "a swapped root", err, key.ErrIntegrity)
	swapped = root
	swapped.Blob = one.Blob
	_, err = d.Wrap(t.Context(), swapped, []byte("secret"), nil)
	want(t, "a signing key as root", err, key.ErrIntegrity)
	bare := one
	bare.Blob = nil
	want(t, "a reference of another kind of device", sign(t, d, bare), key.ErrNotFound)

	for i := range one.Blob {
		altered := one
		altered.Blob = bytes.Clone(one.Blob)
		altered.Blob[i] ^= 1 << (i % 8)
		if err := sign(t, d, altered); !errors.Is(err, key.ErrIntegrity) && !errors.Is(err, key.ErrNotFound) {
			t.Fatalf("blob altered at byte %d: %v", i, err)
		}
		altered.Blob = one.Blob[:i]
		if err := sign(t, d, altered); err == nil {
			t.Fatalf("blob cut at byte %d signs", i)
		}
	}
	wrapped, err := elsewhere.Wrap(t.Context(), foreignRoot, []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Unwrap(t.Context(), root, wrapped, nil)
	want(t, "what another TPM wrapped", err, key.ErrInvalidCiphertext)
	mustSign(t, d, one)
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	uri := softhsmtest.TPM(t)
	good, _ := tpm.ParseURI(uri)
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	strong := strings.Repeat("0123456789abcdef", 2)
	for _, c := range []struct {
		what string
		edit func(*tpm.URI)
		kind error
		says string
	}{
		{"no socket", func(u *tpm.URI) { u.Socket = filepath.Join(dir, "none") }, key.ErrUnavailable, "is swtpm running?"},
		{"no device", func(u *tpm.URI) { u.Socket, u.Device = "", filepath.Join(dir, "none") }, key.ErrUnavailable, "TPM 2.0"},
		{"a file as device", func(u *tpm.URI) { u.Socket, u.Device = "", file("file", "", 0o600) }, key.ErrUnavailable, "not a character device"},
		{"no parent of keys", func(u *tpm.URI) { u.Keys = filepath.Join(dir, "a", "b") }, key.ErrUnavailable, "parent directory"},
		{"a file as keys", func(u *tpm.URI) { u.Keys = file("keys", "", 0o600) }, key.ErrUnavailable, "not a directory"},
		{"keys open to all", func(u *tpm.URI) { u.Keys = open }, key.ErrIntegrity, "chmod 700"},
		{"no auth", func(u *tpm.URI) { u.Auth = filepath.Join(dir, "none") }, key.ErrAuth, "no such file"},
		{"auth open to group", func(u *tpm.URI) { u.Auth = file("group", strong, 0o640) }, key.ErrAuth, "chmod 600"},
		{"auth open to others", func(u *tpm.URI) { u.Auth = file("others", strong, 0o604) }, key.ErrAuth, "chmod 600"},
		{"auth too weak", func(u *tpm.URI) { u.Auth = file("weak", "0123456789abcde\n", 0o600) }, key.ErrAuth, "openssl rand"},
		{"auth too long", func(u *tpm.URI) { u.Auth = file("long", strings.Repeat("a", 4097), 0o600) }, key.ErrAuth, "openssl rand"},
		{"a directory as auth", func(u *tpm.URI) { u.Auth = dir }, key.ErrAuth, "regular file"},
	} {
		u := good
		c.edit(&u)
		d, err := tpm.Open(t.Context(), u.String())
		if d != nil || !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v, want %v and a word of %q", c.what, err, c.kind, c.says)
		}
	}
	d := softhsmtest.OpenTPM(t, uri)
	mustSign(t, d, generate(t, d, "ca", key.UsageSign))
}
