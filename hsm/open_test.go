package hsm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/hsm/softhsm"
	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

func parse(t testing.TB, uri string) hsm.URI {
	t.Helper()
	u, err := hsm.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestOpenRefuses(t *testing.T) {
	good := parse(t, softhsmtest.Token(t))
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		change func(*hsm.URI)
		kind   error
		hint   string
	}{
		"no module":       {func(u *hsm.URI) { u.ModulePath = filepath.Join(dir, "none.so") }, key.ErrNotFound, "install it"},
		"no library":      {func(u *hsm.URI) { u.ModulePath = file("text.so", "not ELF", 0o600) }, key.ErrUnsupported, "PKCS#11 module"},
		"no token":        {func(u *hsm.URI) { u.Token, u.Serial = "absent", "" }, key.ErrNotFound, good.Token},
		"another serial":  {func(u *hsm.URI) { u.Serial = "0000" }, key.ErrNotFound, "serial="},
		"another model":   {func(u *hsm.URI) { u.Model = "Luna" }, key.ErrNotFound, "is not there"},
		"no PIN":          {func(u *hsm.URI) { u.PINSource = "" }, key.ErrInvalid, "pin-source"},
		"no PIN file":     {func(u *hsm.URI) { u.PINSource = filepath.Join(dir, "none") }, key.ErrNotFound, "0600"},
		"open PIN file":   {func(u *hsm.URI) { u.PINSource = file("open", "secretpin\n", 0o640) }, key.ErrInvalid, "chmod 600"},
		"empty PIN file":  {func(u *hsm.URI) { u.PINSource = file("empty", "\n", 0o600) }, key.ErrInvalid, "empty"},
		"two lines":       {func(u *hsm.URI) { u.PINSource = file("two", "secretpin\nmore\n", 0o600) }, key.ErrInvalid, "line"},
		"endless PIN":     {func(u *hsm.URI) { u.PINSource = file("long", strings.Repeat("secretpin", 1000), 0o600) }, key.ErrInvalid, "longer"},
		"PIN directory":   {func(u *hsm.URI) { u.PINSource = dir }, key.ErrInvalid, "regular file"},
		"wrong PIN":       {func(u *hsm.URI) { u.PINSource = file("wrong", "secretpin\n", 0o600) }, key.ErrAuth, "correct the PIN"},
		"too short a PIN": {func(u *hsm.URI) { u.PINSource = file("short", "1", 0o600) }, key.ErrAuth, "correct the PIN"},
	} {
		t.Run(name, func(t *testing.T) {
			u := good
			c.change(&u)
			d, err := hsm.Open(t.Context(), u.String(), hsm.Config{})
			if !errors.Is(err, c.kind) || d != nil {
				t.Fatalf("Open: %v, want %v", err, c.kind)
			}
			if !strings.Contains(err.Error(), c.hint) {
				t.Errorf("%q does not mention %q", err, c.hint)
			}
			if strings.Contains(err.Error(), "secretpin") {
				t.Errorf("the error shows the PIN: %v", err)
			}
		})
	}
	if _, err := hsm.Open(t.Context(), good.String(), hsm.Config{Sessions: -1}); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("a negative session budget: %v", err)
	}
	// All these failures left the library as they found it.
	if hsm.Initialized(good.ModulePath) {
		t.Error("the library is still initialised after every opening failed")
	}
	if err := mustOpen(t, good.String(), hsm.Config{}).Health(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSameLabelTwice(t *testing.T) {
	first := parse(t, softhsmtest.Token(t))
	_ = first
	_, err := hsm.InitToken(t.Context(), first.ModulePath, first.Token, []byte("12345678"), []byte("12345678"))
	if !errors.Is(err, key.ErrExists) {
		t.Errorf("initialising a token under a taken label: %v, want ErrExists", err)
	}
	_, err = hsm.InitToken(t.Context(), first.ModulePath, "Bad Label", []byte("12345678"), []byte("12345678"))
	if !errors.Is(err, key.ErrInvalid) {
		t.Errorf("a bad label: %v, want ErrInvalid", err)
	}
	_, err = hsm.InitToken(t.Context(), first.ModulePath, "good", nil, []byte("12345678"))
	if !errors.Is(err, key.ErrInvalid) {
		t.Errorf("an empty PIN: %v, want ErrInvalid", err)
	}
}

// TestSharedToken opens one token twice: they share the login, and the second
// needs the right PIN although the token itself would not ask for it any more.
func TestSharedToken(t *testing.T) {
	uri := softhsmtest.Token(t)
	one := mustOpen(t, uri, hsm.Config{Sessions: 3})
	two := mustOpen(t, uri, hsm.Config{})
	ca := generate(t, one, signing("ca"))
	if err := sign(t, two, ca, "shared"); err != nil {
		t.Error(err)
	}
	if s := two.Stats(); s.Logins != 1 || s.Sessions != 3 {
		t.Errorf("two devices of one token do not share: %+v", s)
	}
	wrong := func() ([]byte, error) { return []byte("0000"), nil }
	if _, err := hsm.Open(t.Context(), uri, hsm.Config{PIN: wrong}); !errors.Is(err, key.ErrAuth) {
		t.Errorf("joining with a wrong PIN: %v, want ErrAuth", err)
	}
	if s := one.Stats(); s.Logins != 1 {
		t.Errorf("the wrong PIN was shown to the token: %+v", s)
	}
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	if err := sign(t, two, ca, "still open"); err != nil {
		t.Errorf("closing one device closed the other: %v", err)
	}
	if err := sign(t, one, ca, "closed"); !errors.Is(err, key.ErrUnavailable) {
		t.Errorf("a closed device signs: %v", err)
	}
}

// TestRefusedPINIsNotRetried changes the PIN under a running device.
func TestRefusedPINIsNotRetried(t *testing.T) {
	uri := softhsmtest.Token(t)
	pin, err := hsm.ReadPIN(parse(t, uri).PINSource)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	d := mustOpen(t, uri, hsm.Config{PIN: func() ([]byte, error) {
		asked++
		if asked == 1 {
			return append([]byte(nil), pin...), nil
		}
		return []byte("not the pin"), nil
	}, Keepalive: time.Millisecond})
	ca := generate(t, d, signing("ca"))
	d.Steal(thefts["C_Logout"])
	for range 5 {
		if err := sign(t, d, ca, "refused"); !errors.Is(err, key.ErrAuth) {
			t.Errorf("signing after the PIN was refused: %v, want ErrAuth", err)
		}
		if err := d.Health(t.Context()); !errors.Is(err, key.ErrAuth) {
			t.Errorf("health after the PIN was refused: %v, want ErrAuth", err)
		}
		time.Sleep(5 * time.Millisecond) // keepalive must not try either
	}
	if s := d.Stats(); s.Logins != 2 || asked != 2 {
		t.Errorf("%d logins, PIN asked for %d times; want 2 and 2", s.Logins, asked)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sign(t, mustOpen(t, uri, hsm.Config{}), ca, "reopened"); err != nil {
		t.Errorf("reopened with the right PIN: %v", err)
	}
}

func TestSessionBudget(t *testing.T) {
	d := mustOpen(t, softhsmtest.Token(t), hsm.Config{Sessions: 1, Wait: 20 * time.Millisecond})
	ca := generate(t, d, signing("ca"))
	held, until := make(chan struct{}), make(chan struct{})
	occupied := make(chan error)
	go func() { occupied <- d.Occupy(held, until) }()
	<-held
	start := time.Now()
	if err := sign(t, d, ca, "queued"); !errors.Is(err, key.ErrBusy) || !errors.Is(err, key.ErrUnavailable) {
		t.Errorf("signing without a free session: %v, want ErrBusy", err)
	}
	if waited := time.Since(start); waited < 20*time.Millisecond || waited > 5*time.Second {
		t.Errorf("waited %s, want 20 ms", waited)
	}
	if s := d.Stats(); s.Busy != 1 || s.Waits != 1 || s.InUse != 1 {
		t.Errorf("%+v", s)
	}
	close(until)
	if err := <-occupied; err != nil {
		t.Error(err)
	}
	if err := sign(t, d, ca, "free again"); err != nil {
		t.Error(err)
	}
}

// TestUnsafeKeyIsDestroyed asks the token for keys that could leave or be misused.
func TestUnsafeKeyIsDestroyed(t *testing.T) {
	d := mustOpen(t, softhsmtest.Token(t), hsm.Config{})
	for _, unsafe := range []uint{pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE} {
		for _, spec := range []key.Spec{signing("ca"), wrapping("root")} {
			d.MakeWith(func(public, private []*pkcs11.Attribute) (_, _ []*pkcs11.Attribute) {
				for i, a := range private {
					if a.Type == unsafe {
						private[i] = pkcs11.NewAttribute(unsafe, true)
					}
				}
				return public, private
			})
			if _, err := d.Generate(t.Context(), spec); !errors.Is(err, key.ErrIntegrity) {
				t.Errorf("attribute %#x of %s: %v, want ErrIntegrity", unsafe, spec.Label, err)
			}
			if _, err := d.Find(t.Context(), spec.ID); !errors.Is(err, key.ErrNotFound) {
				t.Errorf("attribute %#x: the unsafe key was kept: %v", unsafe, err)
			}
		}
	}
	d.MakeWith(func(public, private []*pkcs11.Attribute) (_, _ []*pkcs11.Attribute) { return public, private })
	generate(t, d, signing("ca"))
	generate(t, d, wrapping("root"))
}

func TestOneDirectoryPerProcess(t *testing.T) {
	mustOpen(t, softhsmtest.Token(t), hsm.Config{})
	if _, err := softhsm.Create(t.Context(), t.TempDir(), "dev"); !errors.Is(err, key.ErrConflict) {
		t.Errorf("a second SoftHSM2 directory: %v, want ErrConflict", err)
	}
}
