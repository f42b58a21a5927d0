package softhsm_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/hsm/softhsm"
	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

func require(t *testing.T) {
	t.Helper()
	_, err := softhsm.Library()
	softhsmtest.Require(t, "softhsm", err == nil, fmt.Sprint(err))
}

// use opens the token, generates or finds the key id, and closes it.
func use(t *testing.T, uri string, id key.ID, made bool) {
	t.Helper()
	d, err := hsm.Open(t.Context(), uri, hsm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	if made {
		_, err = d.Find(t.Context(), id)
	} else {
		_, err = d.Generate(t.Context(), key.Spec{ID: id, Label: "root", Algorithm: key.AES256, Usage: key.UsageWrap})
	}
	if err != nil {
		t.Error(err)
	}
}

func TestCreateAndOpen(t *testing.T) {
	require(t)
	dir := filepath.Join(t.TempDir(), "with space [and] more", "hsm")
	if _, err := softhsm.Open(dir); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("opening what was never created: %v, want ErrNotFound", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("opening made the directory")
	}
	created, err := softhsm.Create(t.Context(), dir, "dev")
	if err != nil {
		t.Fatal(err)
	}
	id := key.NewID()
	use(t, created, id, false)
	if _, err := softhsm.Create(t.Context(), dir, "dev"); !errors.Is(err, key.ErrExists) {
		t.Errorf("creating twice: %v, want ErrExists", err)
	}
	opened, err := softhsm.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	use(t, opened, id, true)

	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if opened, err = softhsm.Open(moved); err != nil {
		t.Fatal(err)
	}
	use(t, opened, id, true)

	if _, err := softhsm.Create(t.Context(), moved, "second"); err != nil {
		t.Fatal(err)
	}
	if _, err := softhsm.Open(moved); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("opening a directory of two tokens: %v, want ErrInvalid", err)
	}
}

func TestNothingIsOpenToOthers(t *testing.T) {
	require(t)
	dir := filepath.Join(t.TempDir(), "hsm")
	uri, err := softhsm.Create(t.Context(), dir, "dev")
	if err != nil {
		t.Fatal(err)
	}
	use(t, uri, key.NewID(), false)
	pins := map[string]bool{}
	err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		if strings.HasSuffix(path, ".pin") {
			pin, err := os.ReadFile(path)
			if err != nil || len(pin) != 33 || strings.Contains(uri, strings.TrimSpace(string(pin))) {
				t.Errorf("PIN file of %d bytes, %v", len(pin), err)
			}
			pins[string(pin)] = true
		}
		return nil
	})
	if err != nil || len(pins) != 1 {
		t.Errorf("%d PINs, %v", len(pins), err)
	}
}

func TestCreateRefuses(t *testing.T) {
	require(t)
	for _, label := range []string{"", "Dev", "a/b", "../x", strings.Repeat("a", 33)} {
		if _, err := softhsm.Create(t.Context(), t.TempDir(), label); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("label %q: %v, want ErrInvalid", label, err)
		}
	}
	if _, err := softhsm.Create(t.Context(), filepath.Join(t.TempDir(), "a#b"), "dev"); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("a directory SoftHSM2 cannot name: %v, want ErrInvalid", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := softhsm.Create(t.Context(), file, "dev"); err == nil {
		t.Error("a token was created in a file")
	}
}
