package locked

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealwright/sealwright/key"
)

// mapping is a run of locked pages between two pages that may not be touched.
type mapping struct {
	all  []byte // with the fences
	data []byte // the locked part, a whole number of pages
}

// mapLocked maps at least n bytes.
func mapLocked(n int) (*mapping, error) {
	page := os.Getpagesize()
	size := (n + page - 1) / page * page
	all, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("%w: mapping %d bytes for secrets: %w", key.ErrUnavailable, size, err)
	}
	m := &mapping{all, all[page : page+size : page+size]}
	if err := m.protect(); err != nil {
		_ = unix.Munmap(all)
		return nil, err
	}
	return m, nil
}

func (m *mapping) protect() error {
	if err := unix.Mprotect(m.data, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return fmt.Errorf("%w: opening pages for secrets: %w", key.ErrUnavailable, err)
	}
	if err := unix.Mlock(m.data); err != nil {
		return fmt.Errorf("%w: locking %d bytes of memory for secrets: %w: %s (LimitMEMLOCK= in the systemd unit, ulimit -l in a shell, --ulimit memlock= for a container)",
			key.ErrUnavailable, len(m.data), err, memlockLimit())
	}
	if err := unix.Madvise(m.data, unix.MADV_DONTDUMP); err != nil {
		return fmt.Errorf("%w: keeping secrets out of core dumps: %w", key.ErrUnavailable, err)
	}
	if err := unix.Madvise(m.data, unix.MADV_WIPEONFORK); err != nil {
		return fmt.Errorf("%w: keeping secrets out of forks (Linux 4.14 or newer): %w", key.ErrUnavailable, err)
	}
	return nil
}

// unmap gives the pages back; the caller has wiped them.
func (m *mapping) unmap() { _ = unix.Munmap(m.all) }

func memlockLimit() string {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return "raise RLIMIT_MEMLOCK"
	}
	return fmt.Sprintf("RLIMIT_MEMLOCK is %d bytes, raise it", limit.Cur)
}

// HardenProcess makes the process leave no core dump and closes its memory to
// other processes of the same user (RLIMIT_CORE=0, PR_SET_DUMPABLE=0). Call it
// first thing in a program that will hold secrets.
func HardenProcess() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("closing the process's memory to others: %w", err)
	}
	return nil
}
