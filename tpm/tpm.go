// Package tpm keeps keys in a TPM 2.0 and lets callers use them.
//
// A key made here never leaves its TPM in the clear. The TPM does not store it
// either: it hands the key out encrypted under its own storage root, and
// that blob travels in key.Ref, so a store's copy of the reference is enough to use
// the key, on the machine with this TPM and nowhere else.
//
// # Strength
//
// Signing keys are ECDSA P-256. The wrapping root is a storage key; Wrap
// seals secret ‖ SHA-256(aad) under it, and nothing of it is ever computed
// outside. The TPM protects what it hands out with AES-128 and HMAC-SHA-256, because
// that is what its standard storage root has.
//
// # The bus
//
// All commands run in one session salted to the storage root: secrets and random bytes are
// encrypted between here and the TPM, and every answer that matters carries the
// TPM's authentication code. A reference names the storage root it was made under, so an
// interposer that offers its own is noticed at the first use of any key.
//
// # Limits
//
// A TPM performs one command at a time: a few signatures a second in hardware. It has no way to
// forget a blob: Destroy makes this device refuse the key for ever, but who copied the
// reference before, has this TPM and knows the authorisation value could use it with other
// software. Clearing the TPM destroys all its keys.
package tpm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sealwright/sealwright/key"
)

// queueWait is how long a caller without a deadline waits for its turn.
const queueWait = 30 * time.Second

// Device is a TPM. It implements key.Device.
type Device struct {
	uri     URI // immutable after Open
	auth    []byte
	records *records
	closing chan struct{} // closed by Close
	once    sync.Once

	turn       chan struct{} // holds one token: whoever took it owns the fields below
	generation *generation   // nil until needed and after it went stale
	closed     bool
}

var _ key.Device = (*Device)(nil)

// Open opens the TPM at the address uri (see [URI]) and makes sure that it answers. The
// directory of the records is made if it is missing, its parent is not. ctx
// bounds opening only.
func Open(ctx context.Context, uri string) (*Device, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	auth, err := readAuth(u.Auth)
	if err != nil {
		return nil, fmt.Errorf("reading the TPM's auth-source: %w", err)
	}
	records, err := openRecords(u.Keys)
	if err != nil {
		return nil, fmt.Errorf("opening the TPM's key directory: %w", err)
	}
	d := &Device{uri: u, auth: auth, records: records, closing: make(chan struct{}), turn: make(chan struct{}, 1)}
	if err := d.do(ctx, true, func(*generation) error { return nil }); err != nil {
		return nil, fmt.Errorf("opening the TPM: %w", err)
	}
	return d, nil
}

// do takes its turn and runs op in the current generation, once more in a fresh one
// if again is set and the TPM certainly performed nothing.
func (d *Device) do(ctx context.Context, again bool, op func(*generation) error) error {
	if err := d.take(ctx); err != nil {
		return err
	}
	defer func() { <-d.turn }()
	if d.closed {
		return errClosed()
	}
	for ; ; again = false {
		err := d.try(ctx, op)
		if err == nil {
			return nil
		}
		v := judge(err)
		if v.stale {
			d.drop()
		}
		if !v.again || !again {
			return v.explain(err)
		}
	}
}

// try runs op in the current generation, opening one if there is none.
func (d *Device) try(ctx context.Context, op func(*generation) error) error {
	until, _ := ctx.Deadline()
	if d.generation == nil {
		c, err := dial(d.uri)
		if err != nil {
			return err
		}
		c.until = until
		if d.generation, err = begin(c, c.Close, d.auth); err != nil {
			d.generation = nil
			return errors.Join(err, c.Close())
		}
	}
	if c, ok := d.generation.tpm.(*conn); ok {
		c.until = until
	}
	err := op(d.generation)
	if d.generation.leaky {
		d.drop()
	}
	return err
}

// drop lets a generation go whose TPM may not answer any more: what it held there is swept later.
func (d *Device) drop() {
	if d.generation != nil {
		_ = d.generation.close()
		d.generation = nil
	}
}

// take waits for the turn.
func (d *Device) take(ctx context.Context) error {
	if err := d.ready(ctx); err != nil {
		return err
	}
	timeout := time.NewTimer(queueWait)
	defer timeout.Stop()
	deadline := timeout.C
	if _, bounded := ctx.Deadline(); bounded {
		deadline = nil
	}
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for the TPM: %w", key.ErrBusy, ctx.Err())
	case <-deadline:
		return fmt.Errorf("%w: waiting for the TPM: %s passed", key.ErrBusy, queueWait)
	case <-d.closing:
		return errClosed()
	}
}

// ready refuses work for which it is too late.
func (d *Device) ready(ctx context.Context) error {
	select {
	case <-d.closing:
		return errClosed()
	default:
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: waiting for the TPM: %w", key.ErrBusy, err)
	}
	return nil
}

func errClosed() error {
	return fmt.Errorf("%w: the TPM was closed by this process", key.ErrUnavailable)
}

// Close waits for the operation in flight, frees the TPM's slots and closes the
// connection. Operations that wait or come later get key.ErrUnavailable.
func (d *Device) Close() error {
	d.once.Do(func() { close(d.closing) })
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	if d.closed {
		return nil
	}
	d.closed = true
	clear(d.auth)
	if d.generation == nil {
		return nil
	}
	err := d.generation.end()
	d.generation = nil
	return err
}

// Health has the TPM use its storage root and its random generator.
func (d *Device) Health(ctx context.Context) error {
	if err := d.do(ctx, true, (*generation).canary); err != nil {
		return fmt.Errorf("checking the TPM's health: %w", err)
	}
	return nil
}

// Random returns n (1 to 1024) bytes of the TPM's random generator.
func (d *Device) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 1 || n > 1024 {
		return nil, fmt.Errorf("%w: %d random bytes: ask for 1 to 1024", key.ErrInvalid, n)
	}
	var out []byte
	err := d.do(ctx, true, func(g *generation) error {
		out = make([]byte, 0, n)
		for len(out) < n {
			// A TPM gives at most its largest digest, 64 bytes or fewer, at once.
			b, err := g.random(min(n-len(out), 64))
			if err != nil {
				return err
			}
			out = append(out, b...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	return out, nil
}
