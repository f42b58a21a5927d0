package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/key"
)

// token is one token of a module, logged in, shared by the Devices on it.
type token struct {
	module *module
	uri    URI // with the serial number that was found at opening
	config Config
	info   pkcs11.TokenInfo
	pin    pinMark

	// templates, when set, replaces template: tests make keys that could leave.
	templates func(key.Spec) (public, private []*pkcs11.Attribute)

	permits chan struct{} // one value per session an operation may still take
	making  chan struct{} // one value while no key is being generated
	// listing is held while the token's objects are searched, and alone while
	// one is made or removed: SoftHSM2 re-reads its directory for each search,
	// and a generation that meets that ends in CKR_GENERAL_ERROR, its key in doubt.
	listing sync.RWMutex
	gate    gate // operations inside; recovery has it empty

	refs int // guarded by module.opening
	stop context.CancelFunc
	done chan struct{} // closed when keepalive has ended

	// Written in the quiesced gate, read inside it.
	slot             uint
	pinned           pkcs11.SessionHandle // holds the login; never used for operations
	moduleGeneration uint64

	mu         sync.Mutex // guards the fields below
	generation uint64
	harm       damage                 // what the next recovery must repair; intact if the token is live
	idle       []pkcs11.SessionHandle // sessions of this generation
	objects    map[objectKey]object   // handles of this generation
	canary     key.Ref                // the last key that served, for Health
	refused    error                  // a login that was refused: no other may follow
	failure    error                  // of the last recovery
	notBefore  time.Time              // no recovery may be tried earlier
	pause      time.Duration

	open                                                        atomic.Int64
	logins, recoveries, restarts, waits, busy, integrityFailure atomic.Uint64
}

// openToken returns the token u names, opening it if no Device has. The caller
// has acquired m.
func (m *module) openToken(ctx context.Context, u URI, c Config) (*token, error) {
	pin, err := c.PIN()
	if err != nil {
		return nil, fmt.Errorf("obtaining its PIN: %w", err)
	}
	defer clear(pin)
	if err := checkPIN(pin); err != nil {
		return nil, fmt.Errorf("%w: the PIN is empty or holds characters no token takes", err)
	}
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.unlock()
	slot, info, err := m.findPatiently(ctx, u)
	if err != nil {
		return nil, err
	}
	if t := m.tokens[info.SerialNumber]; t != nil {
		return t, t.joinLocked(pin)
	}
	u.Serial = info.SerialNumber // from now on it is this token and no namesake
	t := &token{module: m, uri: u, config: c, info: info, pin: markPIN(pin), slot: slot, refs: 1, generation: 1, objects: map[objectKey]object{}}
	t.permits = make(chan struct{}, budget(c.sessions(), info))
	for range cap(t.permits) {
		t.permits <- struct{}{}
	}
	t.making = make(chan struct{}, 1)
	t.making <- struct{}{}
	if err := m.gate.enter(ctx); err != nil {
		return nil, waited("the PKCS#11 module", err)
	}
	t.moduleGeneration = m.generation.Load()
	err = t.login(pin, true)
	m.gate.leave()
	if err != nil {
		return nil, err
	}
	m.tokens[info.SerialNumber] = t
	keep, stop := context.WithCancel(context.Background())
	t.stop, t.done = stop, make(chan struct{})
	go t.keepalive(keep)
	return t, nil
}

// budget leaves room for the pinned session. Zero and all ones mean that the
// token knows no limit (PKCS#11 v2.40, CK_TOKEN_INFO).
func budget(sessions int, info pkcs11.TokenInfo) int {
	for _, most := range []uint{info.MaxSessionCount, info.MaxRwSessionCount} {
		if most > 1 && most < uint(sessions)+1 {
			sessions = int(most) - 1
		}
	}
	return sessions
}

// findPatiently looks for the token again when it is not seen at once, because
// a module that starts while another process writes may miss it.
func (m *module) findPatiently(ctx context.Context, u URI) (slot uint, info pkcs11.TokenInfo, err error) {
	for try := range startTries {
		if try > 0 {
			select {
			case <-time.After(startPause << (try - 1)):
			case <-ctx.Done():
				return 0, info, waited("the token to appear", ctx.Err())
			}
			// Only a restart makes SoftHSM2 read its directory again, and only while nobody else is disturbed by it.
			if len(m.tokens) == 0 {
				if err = m.restart(ctx, m.generation.Load()); err != nil {
					continue
				}
			}
		}
		if err = m.gate.enter(ctx); err != nil {
			return 0, info, waited("the PKCS#11 module", err)
		}
		slot, info, err = m.find(u)
		m.gate.leave()
		if err == nil || errors.Is(err, key.ErrInvalid) {
			return slot, info, err
		}
	}
	var missing *errNoToken
	if errors.As(err, &missing) {
		return 0, info, fmt.Errorf("%w: %w", key.ErrNotFound, err)
	}
	return 0, info, kind(err)
}

// joinLocked lets one more Device share t. The token itself would accept any
// PIN from a process that is logged in.
func (t *token) joinLocked(pin []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refused != nil {
		return t.refused
	}
	if !t.pin.is(pin) {
		return fmt.Errorf("%w: it is not the one this process is logged in with", key.ErrAuth)
	}
	t.refs++
	return nil
}

// releaseLocked gives back one Device's share; the last one ends the token.
func (t *token) releaseLocked() {
	t.refs--
	if t.refs > 0 {
		return
	}
	t.stop()
	<-t.done
	delete(t.module.tokens, t.uri.Serial)
	// Neither can fail: the gate is not shut yet, and Background does not end.
	_ = t.gate.quiesce(context.Background())
	defer t.gate.shut()
	_ = t.module.gate.enter(context.Background())
	defer t.module.gate.leave()
	t.closeIdle()
	if t.moduleGeneration == t.module.generation.Load() {
		_ = t.module.lib.CloseSession(t.pinned) // the token logs out with its last session
	}
}

// login opens the pinned session and logs in. The caller has the token's gate
// empty, or has not published t yet, and is inside the module's gate.
func (t *token) login(pin []byte, first bool) error {
	lib := t.module.lib
	session, err := t.openSession()
	if err != nil {
		return fmt.Errorf("opening a session: %w", kind(err))
	}
	t.logins.Add(1)
	err = lib.Login(session, pkcs11.CKU_USER, string(pin))
	if first && code(err) == pkcs11.CKR_USER_ALREADY_LOGGED_IN {
		// The token kept a login that nobody here knows of and would take any
		// PIN for right. Nobody uses it: this process has one owner of the module.
		_ = lib.Logout(session)
		t.logins.Add(1)
		err = lib.Login(session, pkcs11.CKU_USER, string(pin))
	}
	if err != nil && code(err) != pkcs11.CKR_USER_ALREADY_LOGGED_IN {
		_ = lib.CloseSession(session)
		return fmt.Errorf("logging in: %w", kind(err))
	}
	t.pinned = session
	return nil
}

// closeIdle closes the sessions no operation holds. The caller has the
// token's gate empty and is inside the module's gate.
func (t *token) closeIdle() {
	t.mu.Lock()
	idle := t.idle
	t.idle = nil
	t.mu.Unlock()
	current := t.moduleGeneration == t.module.generation.Load()
	for _, s := range idle {
		t.open.Add(-1)
		if current { // else the number may denote a session of somebody else by now
			_ = t.module.lib.CloseSession(s)
		}
	}
}

func (t *token) stats() Stats {
	t.mu.Lock()
	generation := t.generation
	t.mu.Unlock()
	return Stats{
		Sessions: cap(t.permits), InUse: cap(t.permits) - len(t.permits), Open: int(t.open.Load()), Generation: generation,
		Logins: t.logins.Load(), Recoveries: t.recoveries.Load(), Restarts: t.restarts.Load(),
		Waits: t.waits.Load(), Busy: t.busy.Load(), Integrity: t.integrityFailure.Load(),
	}
}
