package softhsmtest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/tpm"
)

// Two tests have two TPMs, with the same label in each, and leave nothing behind.
func TestTPM(t *testing.T) {
	t.Parallel()
	seen := make(chan tpm.URI, 8)
	t.Run("fresh", func(t *testing.T) {
		for range cap(seen) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				uri := softhsmtest.TPM(t)
				d := softhsmtest.OpenTPM(t, uri)
				if _, err := d.Generate(t.Context(), key.Spec{ID: key.NewID(), Label: "ca", Algorithm: key.ECDSAP256, Usage: key.UsageSign}); err != nil {
					t.Error(err)
				}
				u, err := tpm.ParseURI(uri)
				if err != nil {
					t.Fatal(err)
				}
				seen <- u
			})
		}
	})
	close(seen)
	sockets := map[string]bool{}
	for u := range seen {
		sockets[u.Socket] = true
		if _, err := os.Stat(filepath.Dir(u.Keys)); err == nil {
			t.Errorf("%s stayed", filepath.Dir(u.Keys))
		}
	}
	if len(sockets) != cap(seen) {
		t.Errorf("%d tests had %d TPMs", cap(seen), len(sockets))
	}
}
