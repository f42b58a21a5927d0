package hsm_test

import (
	"sync"
	"testing"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/key/devicetest"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

func TestConformance(t *testing.T) {
	var uris sync.Map
	open := func(t testing.TB) key.Device {
		uri := softhsmtest.Token(t)
		d := mustOpen(t, uri, hsm.Config{})
		uris.Store(d, uri)
		return d
	}
	reopen := func(t testing.TB, closed key.Device) key.Device {
		uri, _ := uris.Load(closed)
		return mustOpen(t, uri.(string), hsm.Config{})
	}
	devicetest.Run(t, open, devicetest.Options{Reopen: reopen})
}

func mustOpen(t testing.TB, uri string, c hsm.Config) *hsm.Device {
	t.Helper()
	d, err := hsm.Open(t.Context(), uri, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return d
}
