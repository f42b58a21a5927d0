package sqlite

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/sealwright/sealwright/key"
)

// lock keeps a second process, and a second Open of this one, away from a store.
type lock struct{ file *os.File }

// acquire locks path.lock. The file stays behind: removing it would let two
// processes lock two files of one name. The kernel releases it with the process.
func acquire(path string) (*lock, error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return &lock{f}, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: another sealwrightd serves this store: stop it first", key.ErrBusy)
	}
	return nil, fmt.Errorf("locking %s.lock: %w", path, err)
}

func (l *lock) release() error { return l.file.Close() }

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
