package hsm_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/hsm/softhsm"
	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// faulty is a SoftHSM2 token behind testdata/fault.c, a module that breaks the calls it is told to.
type faulty struct {
	uri        string
	rules, log string // files
	rule       int    // makes every rule a new one, so that it is not spent
}

// newFaulty compiles the module. The tests that use it do not run in parallel:
// the real module belongs to it alone meanwhile.
func newFaulty(t *testing.T) *faulty {
	t.Helper()
	u := parse(t, softhsmtest.Token(t))
	_, missing := exec.LookPath("cc")
	softhsmtest.Require(t, "cc", missing == nil, "a C compiler builds the fault module: apt-get install gcc")
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	softhsmtest.Require(t, "go", err == nil, "the go command finds the PKCS#11 headers")
	dir := t.TempDir()
	module := filepath.Join(dir, "fault.so")
	cc := exec.Command("cc", "-shared", "-fPIC", "-O1", "-I", strings.TrimSpace(string(headers)), "-o", module, filepath.Join("testdata", "fault.c"), "-ldl", "-lpthread")
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("compiling the fault module: %v\n%s", err, out)
	}
	library, err := softhsm.Library()
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{rules: filepath.Join(dir, "rules"), log: filepath.Join(dir, "log")}
	t.Setenv("SEALWRIGHT_FAULT_MODULE", library)
	t.Setenv("SEALWRIGHT_FAULT_RULES", f.rules)
	t.Setenv("SEALWRIGHT_FAULT_LOG", f.log)
	u.ModulePath = module
	f.uri = u.String()
	return f
}

// breaks makes the module break calls: each rule is FUNCTION ACTION VALUE COUNT. None heals it.
func (f *faulty) breaks(t *testing.T, rules ...string) {
	t.Helper()
	f.rule++
	text := ""
	for _, r := range rules {
		text += fmt.Sprintf("%s %d\n", r, f.rule)
	}
	if err := os.WriteFile(f.rules, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// calls returns how often a function was called since breaks.
func (f *faulty) calls(t *testing.T, function string) int {
	t.Helper()
	log, err := os.ReadFile(f.log)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(log)) {
		if line == function+"\n" {
			n++
		}
	}
	return n
}

// TestTransientFaults breaks one call in every way a token is known to: the operation succeeds all the same.
func TestTransientFaults(t *testing.T) {
	f := newFaulty(t)
	f.breaks(t)
	d := mustOpen(t, f.uri, hsm.Config{})
	ca, root := generate(t, d, signing("ca")), generate(t, d, wrapping("root"))
	wrapped, err := d.Wrap(t.Context(), root, []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, rv := range map[string]int{
		"GENERAL_ERROR": 0x5, "FUNCTION_FAILED": 0x6, "DEVICE_ERROR": 0x30, "DEVICE_MEMORY": 0x31, "DEVICE_REMOVED": 0x32,
		"KEY_HANDLE_INVALID": 0x60, "OBJECT_HANDLE_INVALID": 0x82, "OPERATION_ACTIVE": 0x90, "SESSION_CLOSED": 0xb0,
		"SESSION_HANDLE_INVALID": 0xb3, "TOKEN_NOT_PRESENT": 0xe0, "TOKEN_NOT_RECOGNIZED": 0xe1,
		"USER_NOT_LOGGED_IN": 0x101, "CRYPTOKI_NOT_INITIALIZED": 0x190,
	} {
		f.breaks(t, fmt.Sprintf("C_Sign rv %#x 1", rv))
		if err := sign(t, d, ca, name); err != nil || f.calls(t, "C_SignInit") != 2 {
			t.Errorf("C_Sign %s once: %v", name, err)
		}
		f.breaks(t, fmt.Sprintf("C_Encrypt rv %#x 1", rv))
		if err := wrapAndUnwrap(t, d, root, name); err != nil {
			t.Errorf("C_Encrypt %s once: %v", name, err)
		}
		f.breaks(t, fmt.Sprintf("C_Decrypt rv %#x 1", rv))
		if back, err := d.Unwrap(t.Context(), root, wrapped, nil); err != nil || string(back) != "secret" {
			t.Errorf("C_Decrypt %s once: %q, %v", name, back, err)
		}
		f.breaks(t, fmt.Sprintf("C_FindObjectsInit rv %#x 1", rv))
		if _, err := d.Find(t.Context(), key.NewID()); !errors.Is(err, key.ErrNotFound) {
			t.Errorf("C_FindObjectsInit %s once: %v, want ErrNotFound", name, err)
		}
	}
	f.breaks(t, "C_OpenSession rv 0x5 1", "C_Sign rv 0xb3 1")
	if err := sign(t, d, ca, "two faults"); err != nil {
		t.Errorf("a session that is lost and cannot be reopened at once: %v", err)
	}
}

// TestLastingFaults breaks every call: the answer says what kind of failure it is.
func TestLastingFaults(t *testing.T) {
	f := newFaulty(t)
	f.breaks(t)
	d := mustOpen(t, f.uri, hsm.Config{})
	ca, root := generate(t, d, signing("ca")), generate(t, d, wrapping("root"))
	wrapped, err := d.Wrap(t.Context(), root, []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	signs := func() error { return sign(t, d, ca, "broken") }
	wraps := func() error { _, err := d.Wrap(t.Context(), root, []byte("secret"), nil); return err }
	unwraps := func() error { _, err := d.Unwrap(t.Context(), root, wrapped, nil); return err }
	healthy := func() error { return d.Health(t.Context()) }
	for _, c := range []struct {
		rules []string
		run   func() error
		kind  error
	}{
		{[]string{"C_Sign rv 0x5 99"}, signs, key.ErrUnavailable},
		{[]string{"C_Sign rv 0x70 99"}, signs, key.ErrUnsupported},  // MECHANISM_INVALID
		{[]string{"C_Sign rv 0x200 99"}, signs, key.ErrUnavailable}, // FUNCTION_REJECTED
		{[]string{"C_Sign flip 40 99"}, signs, key.ErrIntegrity},
		{[]string{"C_Encrypt flip 3 99"}, wraps, key.ErrIntegrity},
		{[]string{"C_Encrypt flip 3 2"}, wraps, nil}, // did not decrypt again, so it was not released but made anew
		{[]string{"C_Decrypt flip 0 99"}, wraps, key.ErrIntegrity},
		// Only the text is refused, the key still computes: the text is to blame.
		{[]string{"C_Decrypt rv 0x5 99"}, unwraps, key.ErrInvalidCiphertext},
		{[]string{"C_Decrypt rv 0x40 99"}, unwraps, key.ErrInvalidCiphertext}, // ENCRYPTED_DATA_INVALID
		// The token is to blame: nobody may conclude that the secret is lost.
		{[]string{"C_Decrypt rv 0x5 99", "C_Encrypt rv 0x5 99"}, unwraps, key.ErrUnavailable},
		{[]string{"C_Decrypt rv 0x5 99", "C_GetSessionInfo rv 0x30 99", "C_Encrypt rv 0x30 99"}, unwraps, key.ErrUnavailable},
		{[]string{"C_Decrypt rv 0x31 99"}, unwraps, key.ErrUnavailable}, // DEVICE_MEMORY
		{[]string{"C_OpenSession rv 0xb1 99", "C_Sign rv 0xb3 1"}, signs, key.ErrBusy},
		{[]string{"C_Sign rv 0x30 99", "C_Encrypt rv 0x30 99"}, healthy, key.ErrUnavailable},
	} {
		t.Run(strings.Join(c.rules, ","), func(t *testing.T) {
			f.breaks(t, c.rules...)
			if err := c.run(); !errors.Is(err, c.kind) {
				t.Errorf("got %v, want %v", err, c.kind)
			}
			if n := f.calls(t, "C_SignInit"); n > 2 {
				t.Errorf("C_SignInit was called %d times; an operation is retried once", n)
			}
			f.breaks(t)
			eventually(t, func() error { return errors.Join(signs(), wraps(), unwraps(), healthy()) })
		})
	}
}

func TestGenerateIsNotRetried(t *testing.T) {
	f := newFaulty(t)
	f.breaks(t)
	d := mustOpen(t, f.uri, hsm.Config{})
	for _, c := range []struct {
		rule, function string
		spec           key.Spec
		made           bool
	}{
		{"C_GenerateKeyPair rv 0x30 1", "C_GenerateKeyPair", signing("ca/1"), false},
		{"C_GenerateKeyPair rvafter 0x30 1", "C_GenerateKeyPair", signing("ca/2"), true},
		{"C_GenerateKey rv 0xb3 1", "C_GenerateKey", wrapping("root/1"), false},
		{"C_GenerateKey rvafter 0xb3 1", "C_GenerateKey", wrapping("root/2"), true},
	} {
		f.breaks(t, c.rule)
		_, err := d.Generate(t.Context(), c.spec)
		if !errors.Is(err, key.ErrUnavailable) || !strings.Contains(err.Error(), c.spec.ID.String()) {
			t.Errorf("%s: %v, want ErrUnavailable and the id to look for", c.rule, err)
		}
		if n := f.calls(t, c.function); n != 1 {
			t.Errorf("%s: called %d times", c.rule, n)
		}
		f.breaks(t)
		_, err = d.Find(t.Context(), c.spec.ID)
		if c.made && err != nil || !c.made && !errors.Is(err, key.ErrNotFound) {
			t.Errorf("%s: looking for the key afterwards: %v", c.rule, err)
		}
	}
	// Attributes that cannot be read prove nothing: the key goes.
	spec := signing("unproved")
	f.breaks(t, "C_GetAttributeValue rv 0x12 99")
	if _, err := d.Generate(t.Context(), spec); err == nil {
		t.Error("a key was handed out whose attributes could not be read")
	}
	f.breaks(t)
	if _, err := d.Find(t.Context(), spec.ID); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("the unproved key was kept: %v", err)
	}
	// Destroy is repeated, and what the lost first attempt removed does not count as missing.
	ref := generate(t, d, signing("destroyed"))
	f.breaks(t, "C_DestroyObject rvafter 0x30 1")
	if err := d.Destroy(t.Context(), ref); err != nil {
		t.Errorf("destroying with a lost answer: %v", err)
	}
}

func TestOneLoginPerWrongPIN(t *testing.T) {
	f := newFaulty(t)
	for _, c := range []struct {
		rules []string
		pin   string
		kind  error
	}{
		{nil, "not the pin", key.ErrAuth},
		{[]string{"C_Login rv 0xa4 99"}, "", key.ErrLockedOut},
		{[]string{"C_Login rv 0xa3 99"}, "", key.ErrAuth}, // PIN_EXPIRED
		// Nobody knows whether the token has counted this one: not again without being told to.
		{[]string{"C_Login rv 0x5 99"}, "", key.ErrUnavailable},
	} {
		f.breaks(t, c.rules...)
		config := hsm.Config{}
		if c.pin != "" {
			config.PIN = func() ([]byte, error) { return []byte(c.pin), nil }
		}
		if _, err := hsm.Open(t.Context(), f.uri, config); !errors.Is(err, c.kind) {
			t.Errorf("opening with %v: %v, want %v", c.rules, err, c.kind)
		}
		if n := f.calls(t, "C_Login"); n != 1 {
			t.Errorf("%v: C_Login was called %d times, want once", c.kind, n)
		}
	}
	f.breaks(t)
	d := mustOpen(t, f.uri, hsm.Config{})
	ca := generate(t, d, signing("ca"))
	f.breaks(t, "C_Sign rv 0x101 1", "C_Login rv 0xa4 99")
	for range 4 {
		if err := sign(t, d, ca, "locked"); !errors.Is(err, key.ErrLockedOut) {
			t.Errorf("signing with a locked PIN: %v, want ErrLockedOut", err)
		}
	}
	if n := f.calls(t, "C_Login"); n != 1 {
		t.Errorf("after a lock-out C_Login was called %d times, want once", n)
	}
}

func TestStartIsPatient(t *testing.T) {
	f := newFaulty(t)
	f.breaks(t, "C_Initialize rv 0x5 3")
	if err := mustOpen(t, f.uri, hsm.Config{}).Health(t.Context()); err != nil {
		t.Error(err)
	}
}
