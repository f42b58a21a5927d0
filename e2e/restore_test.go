package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A restored store is refused beside the newer checkpoint in the state
// directory, taken once the operator moved that away, and still told from the
// real one by whoever saw more: what docs/OPERATIONS.md says.
func TestRestore(t *testing.T) {
	require(t, "sqlite", "sqlite3")
	dir := filepath.Join(t.TempDir(), "dev")
	s := start(t, dir)
	s.must("sealwright key create dev/payments/orders")
	s.must("sqlite3 " + dir + "/store.db '.backup " + dir + "/backup.db'")
	for range 3 {
		s.must("sealwright key rotate dev/payments/orders")
	}
	time.Sleep(1500 * time.Millisecond) // a checkpoint over them
	seen := s.must("sealwright audit verify")
	s.stop()

	s.must("cd " + dir + " && rm -f store.db-wal store.db-shm && cp backup.db store.db")
	refused := launch(t, dir, nil)
	select {
	case <-refused.done:
	case <-time.After(20 * time.Second):
	}
	if out := refused.output.String(); refused.ready() || !strings.Contains(out, "move it away and start again") {
		t.Fatalf("a store older than the last checkpoint was opened:\n%s", out)
	}
	s.must("mkdir " + dir + "/evidence && mv " + dir + "/state/checkpoint-* " + dir + "/evidence/")
	s = start(t, dir)
	if out := s.must("SEALWRIGHT_STATE=" + t.TempDir() + " sealwright audit verify"); !strings.Contains(out, "verifies") {
		t.Errorf("the restored log: %s", out)
	}
	if out, problems, code := s.sh("sealwright audit verify"); code == 0 || !strings.Contains(problems, "integrity") {
		t.Errorf("who saw\n%swas not told of the restore:\n%s%s", seen, out, problems)
	}
}
