package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sealwright/sealwright/internal/durable"
)

func TestWriteFiles(t *testing.T) {
	dir := t.TempDir()
	for _, content := range []string{"old", "new"} {
		err := durable.WriteFiles(dir, durable.File{Name: "key.pem", Data: []byte(content), Perm: 0o600}, durable.File{Name: "cert.pem", Data: []byte(content), Perm: 0o640})
		if err != nil {
			t.Fatal(err)
		}
		for name, perm := range map[string]os.FileMode{"key.pem": 0o600, "cert.pem": 0o640} {
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || string(got) != content {
				t.Errorf("%s: %q, %v", name, got, err)
			}
			if info, _ := os.Stat(filepath.Join(dir, name)); info.Mode().Perm() != perm {
				t.Errorf("%s: mode %v", name, info.Mode())
			}
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("%d files left, want 2", len(left))
	}
}

// Nothing changes when one of the files cannot be written.
func TestWriteFilesFailsWhole(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFiles(dir, durable.File{Name: "a", Data: []byte("new")}, durable.File{Name: "../b", Data: []byte("new")}); err == nil {
		t.Error("wrote outside the directory")
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "a")); string(got) != "old" {
		t.Errorf("a is %q", got)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%d files left, want 1", len(left))
	}
	if err := durable.WriteFiles(filepath.Join(dir, "missing"), durable.File{Name: "a"}); err == nil {
		t.Error("wrote into a directory that does not exist")
	}
}
