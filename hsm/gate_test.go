package hsm

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/pkcs11"
)

func TestBudgetLeavesRoomForTheLogin(t *testing.T) {
	const unlimited = ^uint(0) // CK_UNAVAILABLE_INFORMATION
	for _, c := range []struct {
		all, writing uint
		want         int
	}{{0, 0, 16}, {unlimited, unlimited, 16}, {8, 0, 7}, {0, 8, 7}, {17, 17, 16}, {16, 16, 15}, {2, 2, 1}, {100, 3, 2}} {
		if got := budget(16, pkcs11.TokenInfo{MaxSessionCount: c.all, MaxRwSessionCount: c.writing}); got != c.want {
			t.Errorf("a token of %d sessions, %d writing: budget %d, want %d", c.all, c.writing, got, c.want)
		}
	}
}

func TestGateIsEmptyWhenQuiesced(t *testing.T) {
	var g gate
	var inside, alone atomic.Int64
	var running sync.WaitGroup
	for worker := range 8 {
		running.Go(func() {
			for range 200 {
				if worker < 6 {
					if err := g.enter(t.Context()); err != nil {
						t.Error(err)
						return
					}
					inside.Add(1)
					if alone.Load() != 0 {
						t.Error("someone is inside a quiesced gate")
					}
					inside.Add(-1)
					g.leave()
					continue
				}
				if err := g.quiesce(t.Context()); err != nil {
					t.Error(err)
					return
				}
				if alone.Add(1) != 1 || inside.Load() != 0 {
					t.Error("a quiesced gate is not empty")
				}
				alone.Add(-1)
				g.reopen()
			}
		})
	}
	running.Wait()
}

func TestGateWaitsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		// A quiesce that gives up takes its bar away.
		if err := g.quiesce(soon); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("quiescing an occupied gate: %v", err)
		}
		if err := g.enter(t.Context()); err != nil {
			t.Errorf("entering after a quiesce gave up: %v", err)
		}
		g.leave()
		g.leave()
		if err := g.quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := g.enter(soon); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("entering a quiesced gate: %v", err)
		}
		waiting := make(chan error)
		go func() { waiting <- g.enter(t.Context()) }()
		synctest.Wait()
		g.shut()
		if err := <-waiting; !errors.Is(err, errShut) {
			t.Errorf("waiting at a gate that was shut: %v", err)
		}
		if err := g.quiesce(t.Context()); !errors.Is(err, errShut) {
			t.Errorf("quiescing a shut gate: %v", err)
		}
	})
}
