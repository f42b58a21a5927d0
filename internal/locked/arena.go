// Package locked keeps secrets in memory that is never swapped, dumped or
// inherited, and makes them unprintable.
//
// Every page is locked (mlock), left out of core dumps (MADV_DONTDUMP), empty
// in a forked child (MADV_WIPEONFORK) and fenced by two pages that fault when
// touched. A page that cannot be locked is an error, never a quiet fallback:
// what this package holds is locked or is not held. Callers that cache treat
// the error as the bound of their cache.
//
// What it cannot do: crypto/aes and crypto/hmac copy keys into schedules on the
// Go heap, where nothing is locked. [Do] erases those where the toolchain can.
package locked

import (
	"fmt"
	"os"
	"sync"
	"unsafe"

	"github.com/sealwright/sealwright/key"
)

// slotSize is the size of nearly every secret of this house, a 256-bit key.
const slotSize = 32

// maxSize bounds one secret, so that a wrong length cannot eat the lock limit.
const maxSize = 1 << 20

// Arena hands out locked memory and must be closed. Secrets of up to 32 bytes share pages, 128 of
// them to a page of 4 KiB; a longer secret gets pages of its own.
type Arena struct {
	mu     sync.Mutex
	pages  []*mapping     // shared pages
	free   []*byte        // slots of the shared pages that nobody holds; all zero
	alone  map[*slot]bool // secrets with pages of their own
	taken  map[*slot]bool // secrets in shared pages
	closed bool
}

// NewArena returns an empty arena; it maps nothing until the first secret.
func NewArena() *Arena {
	return &Arena{alone: map[*slot]bool{}, taken: map[*slot]bool{}}
}

// New returns n zero bytes of locked memory. It returns key.ErrUnavailable when
// the system refuses to lock more, and says how to raise the limit.
func (a *Arena) New(n int) (*Buffer, error) {
	if err := checkSize(n); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, ErrClosed
	}
	if n > slotSize {
		return a.ownPagesLocked(n)
	}
	if len(a.free) == 0 {
		if err := a.growLocked(); err != nil {
			return nil, err
		}
	}
	last := len(a.free) - 1
	s := &slot{arena: a, first: a.free[last], n: n}
	a.free = a.free[:last]
	a.taken[s] = true
	return newBuffer(s), nil
}

// From moves b into locked memory and wipes b, also when it fails.
func (a *Arena) From(b []byte) (*Buffer, error) {
	defer clear(b)
	buf, err := a.New(len(b))
	if err != nil {
		return nil, err
	}
	return buf, buf.Use(func(mem []byte) { copy(mem, b) })
}

func checkSize(n int) error {
	if n < 1 || n > maxSize {
		return fmt.Errorf("%w: a locked secret has 1 to %d bytes, not %d", key.ErrInvalid, maxSize, n)
	}
	return nil
}

// Close wipes every secret of the arena and gives its memory back. Uses in
// flight finish first; later ones get ErrClosed.
func (a *Arena) Close() {
	a.mu.Lock()
	a.closed = true
	held := make([]*slot, 0, len(a.alone)+len(a.taken))
	for s := range a.alone {
		held = append(held, s)
	}
	for s := range a.taken {
		held = append(held, s)
	}
	a.mu.Unlock()

	for _, s := range held {
		s.close()
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.pages {
		m.unmap()
	}
	a.pages, a.free = nil, nil
}

// ownPagesLocked maps pages for one secret of n bytes.
func (a *Arena) ownPagesLocked(n int) (*Buffer, error) {
	m, err := mapLocked(n)
	if err != nil {
		return nil, err
	}
	s := &slot{arena: a, pages: m, first: &m.data[0], n: n}
	a.alone[s] = true
	return newBuffer(s), nil
}

// growLocked adds one shared page to the free slots.
func (a *Arena) growLocked() error {
	m, err := mapLocked(os.Getpagesize())
	if err != nil {
		return err
	}
	a.pages = append(a.pages, m)
	for at := 0; at+slotSize <= len(m.data); at += slotSize {
		a.free = append(a.free, &m.data[at])
	}
	return nil
}

// giveBack returns the wiped memory of s, which begins at first.
func (a *Arena) giveBack(s *slot, first *byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.pages != nil {
		delete(a.alone, s)
		s.pages.unmap()
		return
	}
	delete(a.taken, s)
	a.free = append(a.free, first)
}

// slot is the memory of one secret. It is apart from Buffer so that a Buffer
// that was forgotten can be collected, and its memory wiped. It has no slice
// field, because fmt follows even an unexported pointer when the verb does not
// suit it (%s of a struct), and would print the slice.
type slot struct {
	arena *Arena
	pages *mapping // its own pages; nil in a shared page

	mu    sync.RWMutex // held for reading while a Use runs
	first *byte        // nil once wiped
	n     int
}

// memLocked returns the secret; mu is held.
func (s *slot) memLocked() []byte { return unsafe.Slice(s.first, s.n) }

func (s *slot) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		return
	}
	clear(s.memLocked())
	s.arena.giveBack(s, s.first)
	s.first = nil
}
