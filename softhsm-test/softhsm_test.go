package softhsmtest

import (
	"os"
	"testing"
	"time"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/key"
)

func TestRequired(t *testing.T) {
	for list, want := range map[string]bool{"": false, "softhsm": true, "swtpm, softhsm ,postgres": true, "softhsm2": false, "swtpm": false} {
		if required(list, "softhsm") != want {
			t.Errorf("required(%q, softhsm) = %t", list, !want)
		}
	}
}

func TestDevicesAreApart(t *testing.T) {
	for range 4 {
		t.Run("device", func(t *testing.T) {
			t.Parallel()
			d := Device(t)
			spec := key.Spec{ID: key.NewID(), Label: "root", Algorithm: key.AES256, Usage: key.UsageWrap}
			if _, err := d.Generate(t.Context(), spec); err != nil {
				t.Errorf("the label that every device of this test has: %v", err)
			}
		})
	}
}

func TestTokenGoesWithItsTest(t *testing.T) {
	var dir string
	var took time.Duration
	t.Run("inner", func(t *testing.T) {
		start := time.Now()
		uri := Token(t)
		took = time.Since(start)
		u, err := hsm.ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		if dir = TokenDir(u); dir == "" {
			t.Error("the token has no directory")
		}
	})
	if t.Skipped() || dir == "" {
		return
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	t.Logf("a token in %s", took)
}
