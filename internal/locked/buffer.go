package locked

import (
	"fmt"
	"runtime"

	"github.com/sealwright/sealwright/key"
)

// ErrClosed: the secret was wiped. Whoever caches secrets loads it again.
var ErrClosed = fmt.Errorf("%w: the secret was wiped from memory", key.ErrUnavailable)

// Buffer is a secret in locked memory. It prints as [redacted]. All methods are
// safe for concurrent use.
type Buffer struct {
	Redacted
	slot *slot
}

// newBuffer makes the buffer of s; when it is collected without Close, s is wiped.
func newBuffer(s *slot) *Buffer {
	b := &Buffer{slot: s}
	runtime.AddCleanup(b, (*slot).close, s)
	return b
}

// New returns n zero bytes in pages of their own; use an [Arena] for many secrets.
func New(n int) (*Buffer, error) {
	if err := checkSize(n); err != nil {
		return nil, err
	}
	a := NewArena()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ownPagesLocked(n)
}

// From moves b into pages of its own and wipes b, also when it fails.
func From(b []byte) (*Buffer, error) {
	defer clear(b)
	buf, err := New(len(b))
	if err != nil {
		return nil, err
	}
	return buf, buf.Use(func(mem []byte) { copy(mem, b) })
}

// Use lends the bytes to f, which must not keep them, nor close
// the buffer. It returns ErrClosed,
// without calling f, once the buffer is closed; Close waits for f.
func (b *Buffer) Use(f func([]byte)) error {
	defer runtime.KeepAlive(b)
	b.slot.mu.RLock()
	defer b.slot.mu.RUnlock()
	if b.slot.first == nil {
		return ErrClosed
	}
	f(b.slot.memLocked())
	return nil
}

// Close wipes the bytes and gives the memory back. It waits for uses in flight;
// closing twice is fine.
func (b *Buffer) Close() { b.slot.close() }
