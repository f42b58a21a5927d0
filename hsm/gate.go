package hsm

import (
	"context"
	"errors"
	"sync"
)

// errShut is what a gate answers after shut.
var errShut = errors.New("gate is shut")

// gate counts the calls that are inside a token or a module and lets one
// caller have it empty. It is an RWMutex whose waits obey a ctx and which can
// be shut for ever.
//
// It exists because C_Logout, C_CloseSession of a session in use,
// C_CloseAllSessions and C_Finalize crash SoftHSM2, and with it the process,
// when they race with an operation: they may run in an empty gate only.
type gate struct {
	mu      sync.Mutex // guards the fields below
	inside  int
	barred  bool // someone has the gate empty, or waits for that: nobody may enter
	closed  bool
	changed chan struct{} // closed and dropped at the next change; nil while nobody waits
}

// enter waits until the gate is open. Every enter without error needs a leave.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		switch {
		case g.closed:
			g.mu.Unlock()
			return errShut
		case !g.barred:
			g.inside++
			g.mu.Unlock()
			return nil
		}
		if err := g.waitLocked(ctx); err != nil {
			return err
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.wakeLocked()
}

// quiesce bars newcomers and waits until nobody is inside. Every quiesce
// without error needs a reopen or a shut.
func (g *gate) quiesce(ctx context.Context) error {
	mine := false // whether the bar is ours
	for {
		g.mu.Lock()
		switch {
		case g.closed:
			g.mu.Unlock()
			return errShut
		case !g.barred:
			g.barred, mine = true, true
		}
		if mine && g.inside == 0 {
			g.mu.Unlock()
			return nil
		}
		if err := g.waitLocked(ctx); err != nil {
			if mine {
				g.reopen()
			}
			return err
		}
	}
}

// reopen ends a quiesce.
func (g *gate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.barred = false
	g.wakeLocked()
}

// shut ends a quiesce for ever: everybody who waits or comes gets errShut.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.wakeLocked()
}

// waitLocked unlocks g.mu and waits for the next change.
func (g *gate) waitLocked(ctx context.Context) error {
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	changed := g.changed
	g.mu.Unlock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) wakeLocked() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}
