package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/key"
)

// A recovery that failed is not tried again for a while: each may disturb
// other tokens of the module, and callers must not queue behind a dead one.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
)

// hurt records that what was learned in a generation is void.
func (t *token) hurt(generation uint64, harm damage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if generation == t.generation && harm > t.harm {
		t.harm = harm
	}
}

// live reports whether sessions and handles of the current generation are
// good as far as anyone knows. The caller is inside both gates.
func (t *token) live() (generation uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.generation, t.harm == intact && t.moduleGeneration == t.module.generation.Load()
}

// recover starts a fresh generation. Of many callers one does the work.
func (t *token) recover(ctx context.Context) error {
	if err := t.mayRecover(); err != nil {
		return err
	}
	if err := t.gate.quiesce(ctx); err != nil {
		return waited("the token's operations to end", err)
	}
	defer t.gate.reopen()
	if _, ok := t.live(); ok {
		return nil
	}
	if err := t.mayRecover(); err != nil {
		return err // another caller has just found out
	}
	t.mu.Lock()
	harm := t.harm
	t.mu.Unlock()
	err := t.renew(ctx, harm)
	t.recovered(ctx, harm, err)
	return err
}

func (t *token) mayRecover() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refused != nil {
		return t.refused
	}
	if wait := time.Until(t.notBefore); wait > 0 {
		return fmt.Errorf("%w: the token was lost; the next attempt is in %s: %w", key.ErrUnavailable, wait.Round(time.Millisecond), t.failure)
	}
	return nil
}

// recovered records how renew ended.
func (t *token) recovered(ctx context.Context, harm damage, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	log := t.config.log().With("token", t.info.Label)
	switch {
	case err == nil:
		t.generation++
		t.harm, t.failure, t.pause, t.notBefore = intact, nil, 0, time.Time{}
		clear(t.objects)
		t.recoveries.Add(1)
		log.Info("token sessions renewed", "generation", t.generation)
	case errors.Is(err, key.ErrAuth), errors.Is(err, key.ErrLockedOut):
		t.refused = err
		log.Error("token refused the PIN; it will not be tried again", "error", err)
	case ctx.Err() != nil:
		t.harm = max(t.harm, harm) // the caller ran out of time; the next one tries at once
	default:
		t.harm = library
		t.failure = err
		t.pause = min(max(2*t.pause, firstPause), lastPause)
		t.notBefore = time.Now().Add(t.pause)
		log.Warn("token is unavailable", "error", err, "next_attempt_in", t.pause)
	}
}

// renew repairs as little as will do. The caller has the token's gate empty.
func (t *token) renew(ctx context.Context, harm damage) error {
	m := t.module
	if err := m.gate.enter(ctx); err != nil {
		return waited("the PKCS#11 module", err)
	}
	t.closeIdle()
	seen := m.generation.Load()
	done, err := false, error(nil)
	if seen == t.moduleGeneration && harm < library {
		done, err = t.renewLogin(harm)
	}
	m.gate.leave()
	if done || err != nil {
		return err
	}
	// Somebody else may have restarted the library already: then a login will do.
	if seen == t.moduleGeneration {
		t.restarts.Add(1)
		if err := m.restart(ctx, seen); err != nil {
			return err
		}
	}
	if err := m.gate.enter(ctx); err != nil {
		return waited("the PKCS#11 module", err)
	}
	defer m.gate.leave()
	// Whatever follows, session handles of before the restart are void.
	t.moduleGeneration = m.generation.Load()
	slot, _, err := m.find(t.uri)
	if err != nil {
		return fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	t.slot = slot
	return t.enterPIN()
}

// renewLogin is enough as long as the library still knows the token. It
// reports false without an error if it does not.
func (t *token) renewLogin(harm damage) (done bool, err error) {
	lib := t.module.lib
	if harm < login && t.loggedIn(t.pinned) == nil {
		return true, nil
	}
	info, err := lib.GetTokenInfo(t.slot)
	if err != nil || info.SerialNumber != t.uri.Serial {
		return false, nil //nolint:nilerr // not done: the library is restarted next. Another token in our slot must not see our PIN
	}
	_ = lib.CloseSession(t.pinned) // the last one: the token logs out with it
	err = t.enterPIN()
	if err == nil || refusesPIN(err) || errors.Is(err, key.ErrInvalid) {
		return err == nil, err
	}
	return false, nil
}

// enterPIN logs in with a PIN asked for anew, so that none is kept in memory.
func (t *token) enterPIN() error {
	pin, err := t.config.PIN()
	if err != nil {
		return fmt.Errorf("%w: obtaining the token's PIN: %w", key.ErrUnavailable, err)
	}
	defer clear(pin)
	if err := checkPIN(pin); err != nil {
		return fmt.Errorf("%w: the token's PIN is empty or unusable now", key.ErrUnavailable)
	}
	if err := t.login(pin, false); err != nil {
		return err
	}
	return t.loggedIn(t.pinned)
}

// loggedIn asks the token, not our memory. The caller is inside the module's gate.
func (t *token) loggedIn(session pkcs11.SessionHandle) error {
	info, err := t.module.lib.GetSessionInfo(session)
	if err != nil {
		return err
	}
	if info.State != pkcs11.CKS_RW_USER_FUNCTIONS && info.State != pkcs11.CKS_RO_USER_FUNCTIONS {
		return pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN)
	}
	_, err = t.module.lib.GetTokenInfo(info.SlotID)
	return err
}

// keepalive touches every idle session now and then and heals what it finds
// broken, so that callers seldom meet a loss.
func (t *token) keepalive(ctx context.Context) {
	defer close(t.done)
	tick := time.NewTicker(t.config.keepalive())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t.touch(ctx)
		bounded, cancel := context.WithTimeout(ctx, t.config.wait())
		if !t.lively(bounded) {
			_ = t.recover(bounded) // logged and remembered there
		}
		cancel()
	}
}

func (t *token) lively(ctx context.Context) bool {
	leave, err := t.inside(ctx)
	if err != nil {
		return true // busy or closing: nothing to heal
	}
	defer leave()
	_, ok := t.live()
	return ok
}

// touch asks the pinned session and each idle one for its state.
func (t *token) touch(ctx context.Context) {
	leave, err := t.inside(ctx)
	if err != nil {
		return
	}
	defer leave()
	generation, ok := t.live()
	if !ok {
		return
	}
	if err := t.loggedIn(t.pinned); err != nil {
		t.hurt(generation, max(assess(err), handles))
		return
	}
	t.mu.Lock()
	idle := len(t.idle)
	t.mu.Unlock()
	for range idle {
		if !t.touchOldest(generation) {
			return
		}
	}
}

// touchOldest touches the session that idled longest. It reports false when
// there is none, or when all sessions are needed by operations, which keeps
// them alive as well.
func (t *token) touchOldest(generation uint64) bool {
	select {
	case <-t.permits:
	default:
		return false
	}
	defer func() { t.permits <- struct{}{} }()
	t.mu.Lock()
	if len(t.idle) == 0 {
		t.mu.Unlock()
		return false
	}
	s := t.idle[0]
	t.idle = t.idle[1:]
	t.mu.Unlock()
	err := t.loggedIn(s)
	t.mu.Lock()
	t.idle = append(t.idle, s)
	t.mu.Unlock()
	if err != nil {
		t.hurt(generation, max(assess(err), handles))
	}
	return err == nil
}

// inside enters both gates.
func (t *token) inside(ctx context.Context) (leave func(), err error) {
	if err := t.gate.enter(ctx); err != nil {
		return nil, err
	}
	if err := t.module.gate.enter(ctx); err != nil {
		t.gate.leave()
		return nil, err
	}
	return func() { t.module.gate.leave(); t.gate.leave() }, nil
}
