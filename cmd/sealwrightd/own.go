package main

import (
	"fmt"
	"os"
	"syscall"

	"github.com/sealwright/sealwright/key"
)

// checkOwn refuses a directory that somebody else made, or may write to: they
// could replace what is kept there, a file to source or the last checkpoint.
func checkOwn(dir string) error {
	link, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	switch {
	case !info.IsDir():
		return fmt.Errorf("%w: %s is not a directory", key.ErrInvalid, dir)
	case owner(link) != os.Geteuid() || owner(info) != os.Geteuid():
		return fmt.Errorf("%w: %s belongs to another user: choose one of your own", key.ErrInvalid, dir)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%w: others may write to %s: chmod go-w it, after a look at what is in it", key.ErrInvalid, dir)
	}
	return nil
}

func owner(info os.FileInfo) int {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid)
	}
	return -1
}
