package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/key"
)

// session is one PKCS#11 session in the hands of one operation.
type session struct {
	token      *token
	lib        *pkcs11.Ctx
	handle     pkcs11.SessionHandle
	generation uint64

	// committed is set before a call that must not be made twice. After it the
	// operation is not retried.
	committed bool

	// spoiled is set when an operation may be left active in the session.
	spoiled bool
}

// renew exchanges the handle for a fresh one. Some modules leave an operation
// active after it failed, and everything else in that session fails with it.
func (s *session) renew() error {
	_ = s.lib.CloseSession(s.handle)
	handle, err := s.token.openSession()
	if err != nil {
		s.handle = pkcs11.SessionHandle(pkcs11.CK_INVALID_HANDLE)
		return err
	}
	s.handle = handle
	return nil
}

// do runs op on a session of the current generation, and once more on a fresh
// one if the token said that sessions, handles, the login or the library were
// void. op must be harmless to repeat up to the point where it sets committed.
func (d *Device) do(ctx context.Context, what string, op func(*session) error) error {
	if err := d.calls.enter(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, waited("the device", err))
	}
	defer d.calls.leave()
	if err := d.token.do(ctx, op); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (t *token) do(ctx context.Context, op func(*session) error) error {
	if err := t.permit(ctx); err != nil {
		return err
	}
	defer func() { t.permits <- struct{}{} }()
	ctx, cancel := context.WithTimeout(ctx, t.config.wait())
	defer cancel()
	for attempt := 1; ; attempt++ {
		again, err := t.attempt(ctx, op)
		if err == nil {
			return nil
		}
		if !again || attempt == 2 {
			return kind(err)
		}
	}
}

// permit takes one of the session budget.
func (t *token) permit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return waited("a session", err)
	}
	select {
	case <-t.permits:
		return nil
	default:
	}
	t.waits.Add(1)
	timer := time.NewTimer(t.config.wait())
	defer timer.Stop()
	select {
	case <-t.permits:
		return nil
	case <-timer.C:
		t.busy.Add(1)
		return fmt.Errorf("%w: no session was free for %s; all %d are in use", key.ErrBusy, t.config.wait(), cap(t.permits))
	case <-ctx.Done():
		t.busy.Add(1)
		return waited("a session", ctx.Err())
	}
}

// attempt runs op once, on a live token. again reports that a fresh generation
// may help and that nothing was done which must not be done twice.
func (t *token) attempt(ctx context.Context, op func(*session) error) (again bool, err error) {
	s, err := t.enter(ctx)
	if err != nil {
		return false, err
	}
	err = op(s)
	harm := assess(err)
	t.exit(s, err, harm)
	return harm > intact && !s.committed, err
}

// enterTries bounds how often enter heals a token that breaks again before it gives a session.
const enterTries = 3

// enter goes inside both gates with a session of the current generation,
// recovering first if there is none. It needs an exit.
func (t *token) enter(ctx context.Context) (*session, error) {
	var last error
	for range enterTries {
		leave, err := t.inside(ctx)
		if err != nil {
			return nil, waited("the token", err)
		}
		if generation, ok := t.live(); ok {
			handle, err := t.take()
			if err == nil {
				return &session{token: t, lib: t.module.lib, handle: handle, generation: generation}, nil
			}
			last = err
			if assess(err) == intact {
				leave()
				return nil, kind(err)
			}
			t.hurt(generation, assess(err))
		}
		leave()
		if err := t.recover(ctx); err != nil {
			return nil, kind(err)
		}
	}
	if last == nil {
		last = errors.New("the token is lost again and again")
	}
	return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, last)
}

// take returns an idle session or opens one. All are read-write, because
// Generate and Destroy need that and two kinds would need two budgets.
func (t *token) take() (pkcs11.SessionHandle, error) {
	t.mu.Lock()
	if n := len(t.idle); n > 0 {
		s := t.idle[n-1]
		t.idle = t.idle[:n-1]
		t.mu.Unlock()
		return s, nil
	}
	t.mu.Unlock()
	s, err := t.openSession()
	if err == nil {
		t.open.Add(1)
	}
	return s, err
}

func (t *token) openSession() (pkcs11.SessionHandle, error) {
	return t.module.lib.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
}

// exit gives the session back and leaves both gates. A session that met an
// error of the module is closed: an operation may be left active in it.
func (t *token) exit(s *session, err error, harm damage) {
	if code(err) == pkcs11.CKR_OK && !s.spoiled {
		t.mu.Lock()
		t.idle = append(t.idle, s.handle)
		t.mu.Unlock()
	} else {
		t.open.Add(-1)
		_ = s.lib.CloseSession(s.handle)
	}
	if harm > intact {
		t.hurt(s.generation, harm)
	}
	t.module.gate.leave()
	t.gate.leave()
}
