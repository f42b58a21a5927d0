package server

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sealwright/sealwright/api"
)

const (
	readyLife    = time.Second     // anybody may ask, and asking costs a device operation
	readyTimeout = 5 * time.Second // a device that is silent for so long is not ready
)

// readiness is the last answer to whether the service could serve.
type readiness struct {
	mu    sync.Mutex // guards the fields below
	err   error
	at    time.Time     // of err; zero before the first
	asked chan struct{} // closed when the question under way is answered; nil if there is none
}

// Ready reports why the service could not serve now, or nil. The answer is at
// most a second old; however many ask, the device is asked once.
func (s *Server) Ready(ctx context.Context) error {
	r := &s.readiness
	r.mu.Lock()
	if !r.at.IsZero() && time.Since(r.at) < readyLife {
		defer r.mu.Unlock()
		return r.err
	}
	if r.asked == nil {
		r.asked = make(chan struct{})
		go s.askReady(context.WithoutCancel(ctx))
	}
	asked := r.asked
	r.mu.Unlock()
	select {
	case <-asked:
	case <-time.After(readyTimeout):
		return fmt.Errorf("%w: no answer within %s", api.ErrUnavailable, readyTimeout)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", api.ErrUnavailable, context.Cause(ctx))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (s *Server) askReady(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	err := s.checkAll(ctx)
	r := &s.readiness
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err, r.at = err, time.Now()
	close(r.asked)
	r.asked = nil
}

func (s *Server) checkAll(ctx context.Context) error {
	if err := s.DB.Check(ctx); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := s.Log.Check(ctx); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if err := s.Door.Check(); err != nil {
		return fmt.Errorf("door: %w", err)
	}
	for _, d := range s.Devices {
		if err := d.Device.Health(ctx); err != nil {
			return fmt.Errorf("device %s: %w", d.Name, err)
		}
	}
	return nil
}

func (c *call) live() (any, error) { return text("ok\n"), nil }

func (c *call) ready() (any, error) {
	if err := c.Ready(c.r.Context()); err != nil {
		// Anybody may ask: the reason goes to the log, the kind to the caller.
		c.Logger.Warn("not ready", "error", err)
		p := api.FromError(err)
		p.Status, p.Detail = http.StatusServiceUnavailable, "the store, the log or a device does not work: the service's log says which"
		return nil, p.Err()
	}
	return text("ok\n"), nil
}
