package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/sealwright/sealwright/key"
)

const (
	maxResponse    = 4096             // TPM_PT_MAX_RESPONSE_SIZE of every PC Client TPM
	commandTimeout = 30 * time.Second // the longest a TPM may take for the commands we send, self-test included
	commandGrace   = 5 * time.Second  // what one command may take past the caller's deadline
	resendFor      = 5 * time.Second  // how long a TPM may answer "not started, send it again"
)

// Failures of the connection. Both mean that the connection is of no more use.
var (
	errNotSent = errors.New("command not sent") // the TPM certainly did not perform it
	errLost    = errors.New("answer lost")      // whether it did is not known
	errGarbage = errors.New("malformed answer") // something answered that is not a healthy TPM
)

// stream is what a unix socket and a character device have in common.
type stream interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// conn is one connection to a TPM: one command at a time, each answered in
// full. It is not safe for concurrent use; the device's queue serialises.
type conn struct {
	stream
	until time.Time // the deadline of the caller it serves now, zero for none
	dead  bool      // an answer failed to come: whatever comes now answers something else
}

// dial opens the device or socket of u.
func dial(u URI) (*conn, error) {
	if u.Socket != "" {
		c, err := net.DialTimeout("unix", u.Socket, commandGrace)
		if err != nil {
			return nil, fmt.Errorf("%w: connecting to the TPM's socket: %w: is swtpm running?", key.ErrUnavailable, err)
		}
		return &conn{stream: c}, nil
	}
	f, err := os.OpenFile(u.Device, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: opening the TPM: %w: it needs a TPM 2.0 and membership of its group (often tss)", key.ErrUnavailable, err)
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		_ = f.Close()
		return nil, fmt.Errorf("%w: %s is not a character device", key.ErrUnavailable, u.Device)
	}
	return &conn{stream: f}, nil
}

// Send implements transport.TPM. While the TPM says that it has not started the
// command, the identical bytes are sent again: a session's nonces allow
// no other. libtpms answers so on the first use after start-up.
func (c *conn) Send(command []byte) ([]byte, error) {
	stop := time.Now().Add(resendFor)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		response, err := c.exchange(command)
		if err != nil {
			return nil, err
		}
		switch tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])) {
		case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
		default:
			return response, nil
		}
		if time.Now().Add(wait).After(stop) {
			return response, nil
		}
		time.Sleep(wait)
	}
}

// exchange writes one command and reads its whole response. After a failure it
// does nothing more: clearing up must not wait for a dead TPM once again.
func (c *conn) exchange(command []byte) ([]byte, error) {
	if c.dead {
		return nil, fmt.Errorf("%w: the connection failed before", errNotSent)
	}
	response, err := c.roundTrip(command)
	c.dead = err != nil
	return response, err
}

func (c *conn) roundTrip(command []byte) ([]byte, error) {
	// An old kernel's device has no deadlines (os.ErrNoDeadline): it has its own timeouts.
	_ = c.SetDeadline(c.deadline(time.Now()))
	if _, err := c.Write(command); err != nil {
		// Even where a part was written: a TPM performs whole commands only.
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	// One read takes what there is: a device gives its response to one read
	// only, and old kernels drop what that read had no room for.
	buf := make([]byte, maxResponse+1)
	n, err := io.ReadAtLeast(c, buf, 10)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	size, err := responseSize(buf[:n])
	if err != nil {
		return nil, err
	}
	if n < size {
		if _, err := io.ReadFull(c, buf[n:size]); err != nil {
			return nil, fmt.Errorf("%w: %w", errLost, err)
		}
	}
	return buf[:size], nil
}

// responseSize returns how long the response that begins with b is.
func responseSize(b []byte) (int, error) {
	if len(b) < 10 {
		return 0, fmt.Errorf("%w: %d bytes are no response", errGarbage, len(b))
	}
	tag, size := binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])
	if tag != uint16(tpm2.TPMSTNoSessions) && tag != uint16(tpm2.TPMSTSessions) && tag != uint16(tpm2.TPMSTRspCommand) {
		return 0, fmt.Errorf("%w: tag %#04x", errGarbage, tag)
	}
	if size < 10 || size > maxResponse || len(b) > int(size) {
		return 0, fmt.Errorf("%w: size %d, %d bytes came", errGarbage, size, len(b))
	}
	return int(size), nil
}

// deadline is when a command sent now must be answered. A caller's deadline
// counts, but giving up a command costs everybody the connection, so a
// healthy TPM gets a grace.
func (c *conn) deadline(now time.Time) time.Time {
	latest := now.Add(commandTimeout)
	if c.until.IsZero() {
		return latest
	}
	soonest := now.Add(commandGrace)
	if c.until.After(soonest) {
		soonest = c.until
	}
	if soonest.Before(latest) {
		return soonest
	}
	return latest
}
