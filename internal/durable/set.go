package durable

import (
	"fmt"
	"os"
	"path/filepath"
)

// File is one of the files that WriteFiles replaces together.
type File struct {
	Name string // within the directory
	Data []byte
	Perm os.FileMode
}

// WriteFiles replaces several files of dir, in their order. Everything is
// written and synced under temporary names before the first is renamed, so that
// what usually fails (a full disk, a missing right) leaves all the old content.
// Only a crash between the renames leaves some files new and some old.
func WriteFiles(dir string, files ...File) (err error) {
	temporary := make([]string, 0, len(files))
	defer func() {
		if err != nil {
			for _, name := range temporary {
				os.Remove(name) // those renamed already are gone
			}
			err = fmt.Errorf("writing %s: %w", dir, err)
		}
	}()
	for _, f := range files {
		if f.Name != filepath.Base(f.Name) {
			return fmt.Errorf("%q is no plain file name", f.Name)
		}
		name, err := stage(dir, f)
		if name != "" {
			temporary = append(temporary, name)
		}
		if err != nil {
			return err
		}
	}
	for i, f := range files {
		if err := os.Rename(temporary[i], filepath.Join(dir, f.Name)); err != nil {
			return err
		}
	}
	return SyncDir(dir)
}

// stage writes f under a temporary name, which it returns even if it fails later.
func stage(dir string, f File) (name string, err error) {
	t, err := os.CreateTemp(dir, "."+f.Name+".tmp-*")
	if err != nil {
		return "", err
	}
	defer t.Close()
	if _, err := t.Write(f.Data); err != nil {
		return t.Name(), err
	}
	if err := t.Chmod(f.Perm); err != nil {
		return t.Name(), err
	}
	return t.Name(), t.Sync()
}
