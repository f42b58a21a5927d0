package tpm

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/sealwright/sealwright/key"
)

const (
	minAuth = 16 // bytes; a key is not protected against guessing by lockout
	maxAuth = 4096
)

// readAuth returns the authorisation value of all keys, derived from the file
// at path: a TPM takes 32 bytes at most. Without a path it is empty, and
// whoever may open the TPM and has a reference can use the key.
func readAuth(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", key.ErrAuth, err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", key.ErrAuth, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a regular file", key.ErrAuth, path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%w: %s is open to group or others: chmod 600 it", key.ErrAuth, path)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxAuth+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", key.ErrAuth, err)
	}
	defer clear(content)
	value := bytes.TrimRight(content, "\r\n")
	if len(value) < minAuth || len(content) > maxAuth {
		return nil, fmt.Errorf("%w: %s must hold %d to %d bytes: make it with openssl rand -hex 32", key.ErrAuth, path, minAuth, maxAuth)
	}
	h := hmac.New(sha256.New, value)
	h.Write([]byte("sealwright tpm auth v1"))
	// A TPM strips trailing zeros before it computes with the value (Part 1, 17.6.4.3).
	return bytes.TrimRight(h.Sum(nil), "\x00"), nil
}
