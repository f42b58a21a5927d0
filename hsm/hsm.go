// Package hsm keeps keys in a PKCS#11 token and lets callers use them. Device
// is a key.Device.
//
// A key made here never leaves the token: what the token says about it
// (extractable, sensitive, what it may do) is read back, not assumed. No
// signature is released that does not verify, and no wrapping key is used
// whose key-check value is not the recorded one.
//
// Sessions, logins and handles get lost: tokens idle out, restart, are pulled
// and put back. Everything a token told us is therefore remembered under a
// generation. When the token says that something is void, the operation runs
// once more on a fresh generation, after C_Login or C_Finalize and
// C_Initialize if needed. A refused PIN is never tried again, because tokens lock.
//
// What this package cannot do is survive a library that hangs or crashes: it
// runs in this process.
package hsm

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/sealwright/sealwright/key"
)

// Config says how to use a token. The zero value is right for most.
type Config struct {
	// PIN returns the user PIN. It is asked at each login and may wipe what it
	// returned afterwards. Nil means that the URI's pin-source names a file.
	PIN func() ([]byte, error)
	// Sessions is the budget of sessions that operations share, one operation
	// on each; zero means 16. A token with fewer gives what it has. Where
	// several Devices share a token, the first one's Config counts.
	Sessions int
	// Wait bounds how long an operation waits for a session before it is
	// key.ErrBusy, beside its own ctx; zero means 10 s.
	Wait time.Duration
	// Keepalive is how often idle sessions are touched, so that the token does
	// not drop them and a loss is healed before a caller meets it; zero means 30 s.
	Keepalive time.Duration
	// Log hears of lost and regained sessions; nil is silent.
	Log *slog.Logger
}

func (c Config) sessions() int            { return cmp.Or(c.Sessions, 16) }
func (c Config) wait() time.Duration      { return cmp.Or(c.Wait, 10*time.Second) }
func (c Config) keepalive() time.Duration { return cmp.Or(c.Keepalive, 30*time.Second) }
func (c Config) log() *slog.Logger        { return cmp.Or(c.Log, slog.New(slog.DiscardHandler)) }

// Device is a token, logged in. It is safe for concurrent use.
type Device struct {
	token *token
	calls gate // the operations of this Device, for Close to wait for
}

var _ key.Device = (*Device)(nil)

// Open logs in to the token that uri (see ParseURI) names. Devices of one
// token share its login and sessions; a library is initialised once per
// process. ctx bounds the opening only.
//
// The error is key.ErrNotFound without the library, the token or the PIN file,
// key.ErrAuth for a wrong PIN, key.ErrLockedOut for a locked one, and
// key.ErrInvalid for a URI or a PIN file that must not be used as it is.
func Open(ctx context.Context, uri string, c Config) (*Device, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	if c.Sessions < 0 || c.Wait < 0 || c.Keepalive < 0 {
		return nil, fmt.Errorf("%w: sessions, wait and keepalive of a device cannot be negative", key.ErrInvalid)
	}
	switch {
	case c.PIN == nil && u.PINSource == "":
		return nil, fmt.Errorf("%w: no PIN for token %s: add pin-source=file:/path/to/pin to the URI", key.ErrInvalid, u.name())
	case c.PIN == nil:
		c.PIN = func() ([]byte, error) { return readPIN(u.PINSource) }
	}
	m, err := acquireModule(u.ModulePath)
	if err != nil {
		return nil, fmt.Errorf("opening token %s: %w", u.name(), err)
	}
	t, err := m.openToken(ctx, u, c)
	if err != nil {
		if err := m.release(); err != nil {
			c.log().Warn("PKCS#11 module did not end cleanly", "error", err)
		}
		return nil, fmt.Errorf("opening token %s: %w", u.name(), err)
	}
	return &Device{token: t}, nil
}

// Close waits for the operations of this Device, then lets the token go; the
// last Device of a token logs out.
func (d *Device) Close() error {
	if err := d.calls.quiesce(context.Background()); err != nil {
		return nil //nolint:nilerr // the gate answers so when it was closed before, which is what Close wants
	}
	d.calls.shut()
	m := d.token.module
	if err := m.lock(context.Background()); err != nil {
		return err
	}
	d.token.releaseLocked()
	m.unlock()
	return m.release()
}

// Stats is what an operator wants to see of a token's sessions.
type Stats struct {
	Sessions   int    // the budget
	InUse      int    // operations that hold a session now
	Open       int    // sessions open in the token, idle ones included, the pinned one not
	Generation uint64 // grows whenever handles were declared void
	Logins     uint64 // calls of C_Login
	Recoveries uint64 // times that sessions, the login or the library were renewed
	Restarts   uint64 // times that this took C_Finalize and C_Initialize
	Waits      uint64 // operations that found no free session at once
	Busy       uint64 // operations that gave up waiting
	Integrity  uint64 // signatures and key-check values that were wrong
}

// Stats returns the counters of the Device's token since it was opened. They
// count all Devices that share the token.
func (d *Device) Stats() Stats { return d.token.stats() }
