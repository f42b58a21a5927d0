package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// The client program of examples/go runs as its comment says.
func TestExampleGo(t *testing.T) {
	program := filepath.Join(t.TempDir(), "example")
	run(t, "go", "build", "-o", program, "../examples/go")
	s := start(t, t.TempDir())
	if _, problems, code := s.sh(program + " dev/payments/orders 'order 4711'"); code != 1 || !strings.Contains(problems, "make it with: sealwright key create dev/payments/orders") {
		t.Errorf("without the key it ended with %d:\n%s", code, problems)
	}
	s.must("sealwright key create dev/payments/orders")
	if out := s.must(program + " dev/payments/orders 'order 4711'"); !strings.HasPrefix(out, "sw1:") || !strings.HasSuffix(out, "version 1 of dev/payments/orders: order 4711\n") {
		t.Errorf("it printed:\n%s", out)
	}
}
