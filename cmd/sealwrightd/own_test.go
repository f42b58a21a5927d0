package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealwright/sealwright/key"
)

// A directory that another user planted, say in /tmp, is not used.
func TestDirectoriesOfOthers(t *testing.T) {
	dir := t.TempDir()
	own, open, file, link := filepath.Join(dir, "own"), filepath.Join(dir, "open"), filepath.Join(dir, "file"), filepath.Join(dir, "link")
	for _, err := range []error{os.Mkdir(own, 0o755), os.Mkdir(open, 0o700), os.Chmod(open, 0o770), os.WriteFile(file, nil, 0o600), os.Symlink(own, link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, good := range []string{own, link} {
		if err := checkOwn(good); err != nil {
			t.Error(err)
		}
	}
	bad := []string{open, file}
	if os.Geteuid() == 0 { // only root can give things away
		foreign, planted := filepath.Join(dir, "foreign"), filepath.Join(dir, "planted")
		for _, err := range []error{os.Mkdir(foreign, 0o700), os.Lchown(foreign, 12345, 12345), os.Symlink(own, planted), os.Lchown(planted, 12345, 12345)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		bad = append(bad, foreign, planted)
	}
	for _, name := range bad {
		if err := checkOwn(name); !errors.Is(err, key.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", filepath.Base(name), err)
		}
	}
	if err := makeDevDir(open); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("dev in a directory others write to: %v", err)
	}
}
