// Package softhsm makes a directory into a SoftHSM2 token, which stands in
// for hardware in development, rehearsals and tests.
//
// It protects keys from nobody who can read the directory: the PIN lies
// beside them.
package softhsm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/key"
)

// variable names the configuration to SoftHSM2, which reads it in C_Initialize.
const variable = "SOFTHSM2_CONF"

// Library returns the path of the SoftHSM2 module on this machine, or key.ErrNotFound.
func Library() (string, error) {
	for _, pattern := range []string{
		"/usr/lib/softhsm/libsofthsm2.so",           // Debian, Ubuntu
		"/usr/lib/*/softhsm/libsofthsm2.so",         // Debian, Ubuntu, multiarch
		"/usr/lib64/softhsm/libsofthsm2.so",         // openSUSE
		"/usr/lib64/pkcs11/libsofthsm2.so",          // Fedora, RHEL
		"/usr/lib64/libsofthsm2.so",                 // Fedora, RHEL
		"/usr/lib/pkcs11/libsofthsm2.so",            // Arch, Fedora on 32 bit
		"/usr/lib/libsofthsm2.so",                   // Arch
		"/usr/local/lib/softhsm/libsofthsm2.so",     // built from source
		"/opt/homebrew/lib/softhsm/libsofthsm2.so",  // macOS on ARM
		"/usr/local/opt/softhsm/lib/softhsm/*2.so*", // macOS on Intel
	} {
		found, err := filepath.Glob(pattern)
		if err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("%w: the SoftHSM2 library: install it, on Debian and Ubuntu with \"apt-get install softhsm2\", on Fedora with \"dnf install softhsm\"", key.ErrNotFound)
}

// Create makes a token called label in dir and returns its URI for hsm.Open.
// dir is made if it is not there; another token of dir may exist, one of this
// label may not (key.ErrExists). The PIN is random and lies in dir with mode 0600.
//
// A process has one SoftHSM2 directory at a time: Create points the process's
// environment at dir, and fails with key.ErrConflict if tokens of another one are in use.
func Create(ctx context.Context, dir, label string) (uri string, err error) {
	doing := "creating SoftHSM2 token " + label
	if err := key.CheckSegment(label); err != nil || len(label) > 32 {
		return "", fmt.Errorf("%s: %w: a token is called by 1 to 32 lower-case letters, digits and hyphens", doing, key.ErrInvalid)
	}
	dir, library, err := locate(dir)
	if err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "tokens"), 0o700); err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	if err := choose(dir, library); err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	pin, err := createPIN(pinFile(dir, label))
	if err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	// Nobody keeps the security officer's PIN: a stand-in is thrown away, not administered.
	serial, err := hsm.InitToken(ctx, library, label, []byte(randomPIN()), []byte(pin))
	if err != nil {
		// Without its token the PIN file would make every further Create fail.
		_ = os.Remove(pinFile(dir, label))
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	return hsm.URI{ModulePath: library, Token: label, Serial: serial, PINSource: pinFile(dir, label)}.String(), nil
}

// Open returns the URI of the one token that Create made in dir, and points
// the process's environment at dir. It makes no token: key.ErrNotFound if
// there is none. A dir that was moved is found where it is now.
func Open(dir string) (uri string, err error) {
	doing := "opening SoftHSM2 token in " + dir
	dir, library, err := locate(dir)
	if err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	pins, err := filepath.Glob(filepath.Join(glob(dir), "*"+pinSuffix))
	if err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	switch len(pins) {
	case 0:
		return "", fmt.Errorf("%s: %w: no token was created here", doing, key.ErrNotFound)
	case 1:
	default:
		return "", fmt.Errorf("%s: %w: it holds %d tokens; open one by the URI that Create returned", doing, key.ErrInvalid, len(pins))
	}
	if err := choose(dir, library); err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	label := strings.TrimSuffix(filepath.Base(pins[0]), pinSuffix)
	return hsm.URI{ModulePath: library, Token: label, PINSource: pins[0]}.String(), nil
}

const pinSuffix = ".pin"

func pinFile(dir, label string) string { return filepath.Join(dir, label+pinSuffix) }

// glob makes a path match only itself.
func glob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func locate(dir string) (absolute, library string, err error) {
	if absolute, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	if strings.ContainsAny(absolute, "\n\r#\x00") {
		return "", "", fmt.Errorf("%w: SoftHSM2 cannot keep tokens in a directory with \"#\" or a line break in its name", key.ErrInvalid)
	}
	library, err = Library()
	return absolute, library, err
}

// choose writes dir's configuration and names it to SoftHSM2.
func choose(dir, library string) error {
	conf := filepath.Join(dir, "softhsm2.conf")
	if hsm.Initialized(library) && os.Getenv(variable) != conf {
		return fmt.Errorf("%w: this process uses SoftHSM2 tokens of another directory; close them first", key.ErrConflict)
	}
	text := "# Written by Sealwright at each start.\n" +
		"directories.tokendir = " + filepath.Join(dir, "tokens") + "\n" +
		"objectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
	if old, err := os.ReadFile(conf); err != nil || string(old) != text {
		// Renamed into place: another process may be reading it at this moment.
		temporary := conf + "." + hex.EncodeToString([]byte(randomPIN()[:4]))
		if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
			return err
		}
		if err := os.Rename(temporary, conf); err != nil {
			return err
		}
	}
	if os.Getenv(variable) == conf {
		return nil
	}
	return os.Setenv(variable, conf)
}

// createPIN writes a fresh PIN to a file that must not exist.
func createPIN(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("%w: %s is there: a token of this name was created before, or its creation was cut off; open it, or delete the directory to start anew", key.ErrExists, path)
	}
	if err != nil {
		return "", err
	}
	pin := randomPIN()
	_, err = f.WriteString(pin + "\n")
	if err == nil {
		err = f.Sync() // a token without its PIN is lost
	}
	if end := f.Close(); err == nil {
		err = end
	}
	if err != nil {
		_ = os.Remove(path)
		return "", err
	}
	return pin, nil
}

// randomPIN has 128 bit: SoftHSM2 locks nobody out, so the PIN must not be guessable.
func randomPIN() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24: the program ends instead
	return hex.EncodeToString(b[:])
}
