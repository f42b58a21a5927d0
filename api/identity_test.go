package api_test

import (
	"errors"
	"testing"

	"github.com/sealwright/sealwright/api"
)

func TestSPIFFEID(t *testing.T) {
	for _, c := range []struct{ identity, environment, want string }{
		{"service/payments", "dev", "spiffe://dev.example.org/service/payments"},
		{"service/payments/worker", "dev", "spiffe://dev.example.org/service/payments/worker"},
		{"prod/service/payments", "dev", "spiffe://prod.example.org/service/payments"},
		{"node/host1", "dev", "spiffe://dev.example.org/node/host1"},
		{"user/ada", "dev", "spiffe://ops.example.org/user/ada"},
		{"user/ada", "", "spiffe://ops.example.org/user/ada"},
		{"spiffe://dev.other/service/x", "", "spiffe://dev.other/service/x"},
	} {
		if got, err := api.SPIFFEID(c.identity, c.environment, "example.org"); err != nil || got != c.want {
			t.Errorf("%s in %q: %s, %v; want %s", c.identity, c.environment, got, err, c.want)
		}
	}
	for _, bad := range []string{"", "payments", "service", "service/", "service//x", "robot/x", "service/../x", "service/X", "dev/robot/x", "a/b/service/x", "service/x y", "dev/service/"} {
		if got, err := api.SPIFFEID(bad, "dev", "example.org"); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%q: %s, %v; want ErrInvalid", bad, got, err)
		}
	}
	if _, err := api.SPIFFEID("service/x", "", "example.org"); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("without an environment: %v", err)
	}
}
