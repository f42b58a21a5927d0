package tpm_test

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/tpm"
)

// relay sits between a device and a TPM and can lie to both.
type relay struct {
	uri string // its own address

	one  sync.Mutex // one command at a time, over all connections
	mu   sync.Mutex
	on   func(command []byte, forward func([]byte) []byte) []byte // nil answers: hang up
	seen [][]byte                                                 // all bytes of both directions
	open []net.Conn
}

// newRelay puts a relay before a fresh software TPM.
func newRelay(t testing.TB) *relay {
	t.Helper()
	return relayTo(t, softhsmtest.TPM(t))
}

func relayTo(t testing.TB, uri string) *relay {
	t.Helper()
	u, err := tpm.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	upstream := u.Socket
	u.Socket = filepath.Join(filepath.Dir(u.Keys), "relay")
	l, err := net.Listen("unix", u.Socket)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{uri: u.String()}
	var running sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); r.hangUp(); running.Wait() })
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.open = append(r.open, c)
			r.mu.Unlock()
			running.Go(func() { r.serve(c, upstream) })
		}
	})
	return r
}

// set changes what the relay does with the commands that follow.
func (r *relay) set(on func(command []byte, forward func([]byte) []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.on = on
}

// hangUpSoon closes all connections once the answer under way is out.
func (r *relay) hangUpSoon() { time.AfterFunc(2*time.Millisecond, r.hangUp) }

// hangUp closes all connections.
func (r *relay) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.open {
		_ = c.Close()
	}
	r.open = nil
}

func (r *relay) serve(c net.Conn, upstream string) {
	defer c.Close()
	up, err := net.Dial("unix", upstream)
	if err != nil {
		return
	}
	defer up.Close()
	forward := func(command []byte) []byte {
		if _, err := up.Write(command); err != nil {
			return nil
		}
		return readMessage(up)
	}
	for {
		command := readMessage(c)
		if command == nil {
			return
		}
		r.mu.Lock()
		on := r.on
		r.seen = append(r.seen, command)
		r.mu.Unlock()
		if on == nil {
			on = func(command []byte, forward func([]byte) []byte) []byte { return forward(command) }
		}
		r.one.Lock()
		response := on(command, forward)
		r.one.Unlock()
		if response == nil {
			return
		}
		r.mu.Lock()
		r.seen = append(r.seen, response)
		r.mu.Unlock()
		if _, err := c.Write(response); err != nil {
			return
		}
	}
}

// readMessage reads one command or response; nil when the connection ends.
func readMessage(c io.Reader) []byte {
	head := make([]byte, 10)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil
	}
	message := make([]byte, binary.BigEndian.Uint32(head[2:]))
	copy(message, head)
	if _, err := io.ReadFull(c, message[10:]); err != nil {
		return nil
	}
	return message
}

func code(command []byte) tpm2.TPMCC { return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) }

// refusal is a response with nothing but a code.
func refusal(rc tpm2.TPMRC) []byte {
	b := []byte{0x80, 0x01, 0, 0, 0, 10}
	return binary.BigEndian.AppendUint32(b, uint32(rc))
}

// socketTPM is a bare connection for what the tests do behind the device's back.
type socketTPM struct{ net.Conn }

func (s socketTPM) Send(command []byte) ([]byte, error) {
	for {
		if _, err := s.Write(command); err != nil {
			return nil, err
		}
		response := readMessage(s)
		if response == nil {
			return nil, io.ErrUnexpectedEOF
		}
		if tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])) != tpm2.TPMRCRetry {
			return response, nil
		}
	}
}

// bare connects to the TPM at uri without a device.
func bare(t testing.TB, uri string) socketTPM {
	t.Helper()
	u, err := tpm.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", u.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return socketTPM{c}
}

// loaded lists the objects and sessions in the TPM's slots.
func loaded(t testing.TB, s socketTPM) []tpm2.TPMHandle {
	t.Helper()
	var all []tpm2.TPMHandle
	for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 64}.Execute(s)
		if err != nil {
			t.Fatal(err)
		}
		handles, err := r.CapabilityData.Data.Handles()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, handles.Handle...)
	}
	return all
}
