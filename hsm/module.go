package hsm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/key"
)

// module is one loaded PKCS#11 library. C_Initialize belongs to the process,
// not to a connection, so everybody who opens the same file shares one module.
type module struct {
	path string
	file fs.FileInfo // to know the same library under another path
	lib  *pkcs11.Ctx
	gate gate

	// generation counts C_Initialize: all slots, sessions and handles of an
	// older one are void. It changes in the quiesced gate only.
	generation atomic.Uint64

	refs int // guarded by modules.mu; the library is initialised while refs > 0

	opening chan struct{}     // holds one value while nobody opens or closes a token
	tokens  map[string]*token // by serial number; guarded by opening
}

// modules are the libraries this process has loaded. PKCS#11 itself is the
// global state here: a second C_Initialize of one library in a process fails,
// so somebody has to remember the first. A library whose last user has gone is
// finalised but stays loaded, because unloading crashes in the exit handlers
// of libraries that link OpenSSL.
var modules struct {
	mu   sync.Mutex // held while a library starts or ends
	list []*module
}

// Initialized reports whether this process has the library at path
// initialised now, so that what a module reads only then (like SoftHSM2 its
// configuration) can no longer be chosen.
func Initialized(path string) bool {
	file, err := os.Stat(path)
	if err != nil {
		return false
	}
	modules.mu.Lock()
	defer modules.mu.Unlock()
	for _, m := range modules.list {
		if m.refs > 0 && os.SameFile(m.file, file) {
			return true
		}
	}
	return false
}

// acquireModule loads and initialises the library at path, or joins those who
// have. It needs a release.
func acquireModule(path string) (*module, error) {
	file, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: PKCS#11 module %s: install it or correct module-path", key.ErrNotFound, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: PKCS#11 module: %w", key.ErrUnavailable, err)
	}
	modules.mu.Lock()
	defer modules.mu.Unlock()
	m, err := loadLocked(path, file)
	if err != nil {
		return nil, err
	}
	if m.refs == 0 {
		if err := m.start(); err != nil {
			return nil, err
		}
	}
	m.refs++
	return m, nil
}

func loadLocked(path string, file fs.FileInfo) (*module, error) {
	for _, m := range modules.list {
		if os.SameFile(m.file, file) {
			return m, nil
		}
	}
	lib := pkcs11.New(path)
	if lib == nil {
		return nil, fmt.Errorf("%w: %s cannot be loaded as a PKCS#11 module: is it built for this machine, and are its libraries there (ldd)?", key.ErrUnsupported, path)
	}
	m := &module{path: path, file: file, lib: lib, opening: make(chan struct{}, 1), tokens: map[string]*token{}}
	m.opening <- struct{}{}
	modules.list = append(modules.list, m)
	return m, nil
}

// startTries and startPause: of forty processes that started SoftHSM2 four at
// a time, seven met GENERAL_ERROR, because another one was writing its token.
const (
	startTries = 5
	startPause = 10 * time.Millisecond // doubles each time
)

// start initialises the library for the first user.
func (m *module) start() error {
	var err error
	for try := range startTries {
		if try > 0 {
			time.Sleep(startPause << (try - 1))
		}
		switch err = m.lib.Initialize(); code(err) {
		case pkcs11.CKR_OK:
			m.generation.Add(1)
			return nil
		case pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED:
			return fmt.Errorf("%w: something else in this process has initialised %s; a PKCS#11 module has one owner", key.ErrUnavailable, m.path)
		}
	}
	return fmt.Errorf("%w: initialising %s (check the module's own configuration, for SoftHSM2 the file SOFTHSM2_CONF names): %w", key.ErrUnavailable, m.path, err)
}

// release gives back an acquired module; the last one finalises it. No token
// of the caller may be in use any more.
func (m *module) release() error {
	modules.mu.Lock()
	defer modules.mu.Unlock()
	m.refs--
	if m.refs > 0 {
		return nil
	}
	if err := m.lib.Finalize(); err != nil && code(err) != pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED {
		return fmt.Errorf("%w: finalising %s: %w", key.ErrUnavailable, m.path, err)
	}
	return nil
}

// restart finalises and initialises the library, unless somebody has done so
// since the caller saw generation seen. Every token of the module logs in again after it.
func (m *module) restart(ctx context.Context, seen uint64) error {
	if err := m.gate.quiesce(ctx); err != nil {
		return waited("the PKCS#11 module to fall silent", err)
	}
	defer m.gate.reopen()
	if m.generation.Load() != seen {
		return nil
	}
	// Whatever C_Finalize says, what counts is whether C_Initialize works.
	_ = m.lib.Finalize()
	if err := m.lib.Initialize(); err != nil && code(err) != pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED {
		return fmt.Errorf("%w: initialising %s: %w", key.ErrUnavailable, m.path, err)
	}
	m.generation.Add(1)
	return nil
}

// lock waits for the right to open or close tokens of m.
func (m *module) lock(ctx context.Context) error {
	select {
	case <-m.opening:
		return nil
	case <-ctx.Done():
		return waited("another token to open", ctx.Err())
	}
}

func (m *module) unlock() { m.opening <- struct{}{} }

// errNoToken says which tokens are there instead.
type errNoToken struct {
	uri  URI
	seen []string
}

func (e *errNoToken) Error() string {
	if len(e.seen) == 0 {
		return fmt.Sprintf("token %s is not there, and the module shows no other token: check that the device is connected and the module's configuration", e.uri.name())
	}
	return fmt.Sprintf("token %s is not there; the module shows %q: correct token= or serial= in the URI", e.uri.name(), e.seen)
}

// find returns the slot and description of the one token that u names. The
// caller is inside the gate.
func (m *module) find(u URI) (slot uint, info pkcs11.TokenInfo, err error) {
	slots, err := m.lib.GetSlotList(true)
	if err != nil {
		return 0, info, err
	}
	var seen []string
	matches := 0
	for _, s := range slots {
		i, err := m.lib.GetTokenInfo(s)
		if err != nil || i.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue // an empty or dying slot is not the one we want
		}
		if len(seen) < 16 {
			seen = append(seen, i.Label)
		}
		if (u.Token == "" || u.Token == i.Label) && (u.Serial == "" || u.Serial == i.SerialNumber) &&
			(u.Manufacturer == "" || u.Manufacturer == i.ManufacturerID) && (u.Model == "" || u.Model == i.Model) {
			slot, info = s, i
			matches++
		}
	}
	switch {
	case matches == 0:
		return 0, info, &errNoToken{u, seen}
	case matches > 1:
		return 0, info, fmt.Errorf("%w: %d tokens are called %s: add serial=NUMBER to the URI", key.ErrInvalid, matches, u.name())
	}
	return slot, info, nil
}
