package e2e

import (
	"net"
	"strings"
	"testing"
	"time"
)

// A port that is taken is said, with what to do; another one works in the same directory.
func TestPortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	s := launch(t, dir, nil, "--listen", taken.Addr().String())
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("it did not end:\n%s", s.output)
	}
	if out := s.output.String(); !strings.Contains(out, "address already in use") || !strings.Contains(out, "make run ARGS='--listen 127.0.0.1:9470'") {
		t.Errorf("it said:\n%s", out)
	}
	start(t, dir).must("sealwright status")
}
