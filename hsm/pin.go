package hsm

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/sealwright/sealwright/key"
)

// maxPIN bounds a PIN file; PKCS#11 tokens take far less.
const maxPIN = 1024

// readPIN reads the first line of the file at path. The file must belong to
// this one user: whoever reads it can use every key of the token.
func readPIN(path string) ([]byte, error) {
	// O_NONBLOCK, because opening a FIFO that nobody writes to would hang the start.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: PIN file %s: create it with mode 0600", key.ErrNotFound, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: opening PIN file: %w", key.ErrUnavailable, err)
	}
	defer func() { _ = f.Close() }() // only read from
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: reading PIN file: %w", key.ErrUnavailable, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: PIN file %s is not a regular file", key.ErrInvalid, path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%w: PIN file %s has mode %04o and is open to others: run chmod 600 on it, and change the PIN if anyone may have read it", key.ErrInvalid, path, info.Mode().Perm())
	}
	pin, err := io.ReadAll(io.LimitReader(f, maxPIN+1))
	if err != nil {
		return nil, fmt.Errorf("%w: reading PIN file: %w", key.ErrUnavailable, err)
	}
	pin = bytes.TrimSuffix(bytes.TrimSuffix(pin, []byte("\n")), []byte("\r"))
	if err := checkPIN(pin); err != nil {
		return nil, fmt.Errorf("%w: PIN file %s is empty, has more than one line, or is longer than %d bytes", key.ErrInvalid, path, maxPIN)
	}
	return pin, nil
}

// checkPIN refuses what a token cannot take, before it counts as a wrong try.
func checkPIN(pin []byte) error {
	if len(pin) == 0 || len(pin) > maxPIN || bytes.ContainsAny(pin, "\x00\n\r") {
		return key.ErrInvalid
	}
	return nil
}

// pinMark recognises the PIN that a token accepted without keeping it.
type pinMark struct {
	salt [32]byte
	mac  []byte
}

func markPIN(pin []byte) pinMark {
	var m pinMark
	_, _ = rand.Read(m.salt[:]) // never fails since Go 1.24: the program ends instead
	m.mac = m.of(pin)
	return m
}

func (m pinMark) of(pin []byte) []byte {
	h := hmac.New(sha256.New, m.salt[:])
	h.Write(pin)
	return h.Sum(nil)
}

func (m pinMark) is(pin []byte) bool { return hmac.Equal(m.mac, m.of(pin)) }
