package hsm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/key"
)

func TestParseURI(t *testing.T) {
	full := hsm.URI{ModulePath: "/usr/lib/p11.so", Token: "prod", PINSource: "/etc/pin"}
	for uri, want := range map[string]hsm.URI{
		"pkcs11:token=prod?module-path=/usr/lib/p11.so&pin-source=file:/etc/pin":     full,
		"pkcs11:module-path=/usr/lib/p11.so;token=prod?pin-source=file:/etc/pin":     full,
		"pkcs11:pin-source=file:///etc/pin;module-path=/usr/lib/p11.so;token=prod":   full,
		"pkcs11:token=%70ro%64?pin-source=/etc/pin&module-path=%2Fusr%2flib/p11.so":  full,
		"pkcs11:serial=0a1b;model=SoftHSM%20v2;manufacturer=A%3BB?module-path=/x":    {ModulePath: "/x", Serial: "0a1b", Model: "SoftHSM v2", Manufacturer: "A;B"},
		"pkcs11:token=The%20Software%20PKCS%2311%20Softtoken%20%C3%A9?module-path=/": {ModulePath: "/", Token: "The Software PKCS#11 Softtoken é"},
	} {
		got, err := hsm.ParseURI(uri)
		if err != nil || got != want {
			t.Errorf("ParseURI(%q) = %+v, %v", uri, got, err)
		}
		if back, err := hsm.ParseURI(got.String()); err != nil || back != got {
			t.Errorf("%+v is written %q and reads as %+v, %v", got, got, back, err)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	for uri, hint := range map[string]string{
		"":                             "pkcs11:",
		"tpm:device=/dev/tpmrm0":       "pkcs11:",
		"PKCS11:token=a?module-path=/": "pkcs11:",
		"pkcs11:":                      "module-path",
		"pkcs11:token=a":               "module-path",
		"pkcs11:?module-path=/m":       "token=LABEL",
		"pkcs11:token=a?module-path=/m&pin-value=1234":      "pin-source",
		"pkcs11:token=a;pin-value=1234?module-path=/m":      "pin-source",
		"pkcs11:token=a?module-path=/m&pin-source=|cat":     "encoded",
		"pkcs11:token=a?module-path=/m&pin-source=%7Ccat":   "absolute",
		"pkcs11:token=a?module-path=/m&pin-source=file:pin": "absolute",
		"pkcs11:token=a?module-path=m.so":                   "absolute",
		"pkcs11:token=a?module-path=/m&module-path=/m":      "twice",
		"pkcs11:token=a;module-path=/m?module-path=/m":      "twice",
		"pkcs11:token=a;token=b?module-path=/m":             "twice",
		"pkcs11:token=a?module-path=/m&token=b":             "before",
		"pkcs11:token=a?module-path=/m&module-name=p11":     "unknown attribute",
		"pkcs11:token=a;object=k?module-path=/m":            "unknown attribute",
		"pkcs11:token=a;x-vendor=k?module-path=/m":          "unknown attribute",
		"pkcs11:token=a;slot-id=1?module-path=/m":           "unknown attribute",
		"pkcs11:token?module-path=/m":                       "=",
		"pkcs11:token=a;?module-path=/m":                    "=",
		"pkcs11:token=a?module-path=/m&":                    "=",
		"pkcs11:token=a;module-path=/m?":                    "question mark",
		"pkcs11:token=?module-path=/m":                      "empty",
		"pkcs11:token=%?module-path=/m":                     "encoded",
		"pkcs11:token=%zz?module-path=/m":                   "encoded",
		"pkcs11:token=%00?module-path=/m":                   "encoded",
		"pkcs11:token=%ff?module-path=/m":                   "encoded",
		"pkcs11:token=a b?module-path=/m":                   "encoded",
		"pkcs11:token=é?module-path=/m":                     "encoded",
		"pkcs11:token=a#b?module-path=/m":                   "encoded",
		"pkcs11:token=a?module-path=/m\n":                   "encoded",
		"pkcs11:token=" + strings.Repeat("a", 4096):         "4096",
	} {
		u, err := hsm.ParseURI(uri)
		if !errors.Is(err, key.ErrInvalid) || u != (hsm.URI{}) {
			t.Errorf("ParseURI(%.80q) = %+v, %v; want ErrInvalid", uri, u, err)
			continue
		}
		if !strings.Contains(err.Error(), hint) {
			t.Errorf("ParseURI(%.80q): %q does not mention %q", uri, err, hint)
		}
		if strings.Contains(err.Error(), "1234") {
			t.Errorf("the error repeats the PIN: %v", err)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	for _, s := range []string{
		"pkcs11:token=prod?module-path=/usr/lib/p11.so&pin-source=file:/etc/pin",
		"pkcs11:serial=0a1b;model=SoftHSM%20v2;manufacturer=A%3BB?module-path=/x",
		"pkcs11:module-path=/m;token=%C3%A9;pin-source=file:///pin",
		"pkcs11:token=a?module-path=/m&pin-value=1234", "pkcs11:;;?&&", "pkcs11:token=%",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := hsm.ParseURI(s)
		if err != nil {
			if !errors.Is(err, key.ErrInvalid) || u != (hsm.URI{}) {
				t.Errorf("ParseURI(%q) = %+v, %v", s, u, err)
			}
			return
		}
		if back, err := hsm.ParseURI(u.String()); err != nil || back != u {
			t.Errorf("ParseURI(%q) = %+v, written as %q, reads as %+v, %v", s, u, u, back, err)
		}
	})
}

func FuzzParsePoint(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{4, 65, 4})
	f.Add(append([]byte{4, 65, 4}, make([]byte, 64)...))
	f.Add(append([]byte{4}, make([]byte, 64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		der, err := hsm.ParsePoint(b)
		if err != nil {
			return
		}
		if _, err := (key.Ref{Public: der}).PublicKey(); err != nil {
			t.Errorf("point %x became a public key nobody reads: %v", b, err)
		}
	})
}
