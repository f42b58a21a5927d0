package tpm_test

import (
	"errors"
	"testing"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/tpm"
)

func TestParseURI(t *testing.T) {
	for s, want := range map[string]tpm.URI{
		"tpm:device=/dev/tpmrm0;keys=/k":                            {Device: "/dev/tpmrm0", Keys: "/k"},
		"tpm:socket=/s;keys=/k?auth-source=file:/a":                 {Socket: "/s", Keys: "/k", Auth: "/a"},
		"tpm:keys=/k;socket=/s":                                     {Socket: "/s", Keys: "/k"},
		"tpm:socket=/a%3Bb%3F%25;keys=/a%20b?auth-source=file:/%26": {Socket: "/a;b?%", Keys: "/a b", Auth: "/&"},
		"tpm:socket=/s=1;keys=/k":                                   {Socket: "/s=1", Keys: "/k"},
	} {
		got, err := tpm.ParseURI(s)
		if err != nil || got != want {
			t.Errorf("ParseURI(%q) = %+v, %v; want %+v", s, got, err, want)
		}
		if again, err := tpm.ParseURI(got.String()); err != nil || again != got {
			t.Errorf("%s reads back as %+v, %v", got, again, err)
		}
	}
	for _, s := range []string{
		"", "tpm:", "tpm", "pkcs11:token=x", "tpm:device=/d", "tpm:keys=/k", "tpm:socket=/s;keys=",
		"tpm:device=/d;socket=/s;keys=/k", "tpm:socket=/s;socket=/s;keys=/k", "tpm:socket=/s;keys=/k;",
		"tpm:socket=s;keys=/k", "tpm:socket=/s;keys=k", "tpm:socket=/s;keys=/k;pin=1", "tpm:socket=/s;keys=/k?",
		"tpm:socket=/s;keys=/k?auth-source=/a", "tpm:socket=/s;keys=/k?auth-source=file:", "tpm:socket=/s;keys=/k?auth-source=file:a",
		"tpm:socket=/s;keys=/k?auth-value=secret", "tpm:socket=/s;keys=/k?auth-source=file:/a&auth-source=file:/b",
		"tpm:socket=/s;keys=/k?auth-source=env:A", "tpm:socket=/s%;keys=/k", "tpm:socket=/s%zz;keys=/k", "tpm:socket=/s%00;keys=/k",
		"tpm:socket=/s ;keys=/k", "tpm:socket=/s\n;keys=/k", "TPM:socket=/s;keys=/k", "tpm:socket;keys=/k", "tpm:=x;socket=/s;keys=/k",
	} {
		if u, err := tpm.ParseURI(s); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("ParseURI(%q) = %+v, %v; want ErrInvalid", s, u, err)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("tpm:device=/dev/tpmrm0;keys=/k?auth-source=file:/a")
	f.Add("tpm:socket=/a%3Bb;keys=/k")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := tpm.ParseURI(s)
		if err != nil {
			if !errors.Is(err, key.ErrInvalid) || u != (tpm.URI{}) {
				t.Errorf("ParseURI(%q) = %+v, %v", s, u, err)
			}
			return
		}
		if again, err := tpm.ParseURI(u.String()); err != nil || again != u {
			t.Errorf("%q reads as %+v, which reads as %+v, %v", s, u, again, err)
		}
	})
}
