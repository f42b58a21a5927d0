// Package swtpm runs a software TPM (swtpm) as a child process. It stands in
// for a real TPM in development and rehearsals and protects nothing: whoever
// reads its directory has its keys.
package swtpm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/tpm"
)

// The layout of a TPM's directory. stateFile appears when swtpm has made a TPM.
const (
	stateDir  = "state"
	stateFile = "tpm2-00.permall"
	keysDir   = "keys"
	authFile  = "auth"
	lockFile  = "lock"
	socket    = "sock"
)

// maxSocket is the longest path of a unix socket that every system takes: 108 bytes with the NUL on Linux.
const maxSocket = 107

// startWait bounds how long a start may take, a predecessor's end included.
const startWait = 10 * time.Second

// TPM is a running software TPM.
type TPM struct {
	uri     string
	short   string // directory of the socket where the TPM's own has too long a name, or empty
	socket  string
	process *os.Process
	done    chan struct{} // closed when the process is gone
	result  error         // how it ended; read after done
	once    sync.Once
}

// Create makes a new TPM in dir, which must not exist (key.ErrExists), and
// starts it. dir then holds its state, an authorisation value and the keys' records.
func Create(ctx context.Context, dir string) (*TPM, error) {
	t, err := create(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("creating a software TPM: %w", err)
	}
	return t, nil
}

func create(ctx context.Context, dir string) (*TPM, error) {
	if _, err := program(); err != nil {
		return nil, err
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %s: open it, or remove it to lose its keys", key.ErrExists, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	for _, sub := range []string{stateDir, keysDir} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, authFile), []byte(rand.Text()+rand.Text()+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	return start(ctx, dir)
}

// Open starts the TPM that Create made in dir. It is key.ErrNotFound if there is none:
// a lost state is never replaced by a new TPM, which could open nothing of the old one.
func Open(ctx context.Context, dir string) (*TPM, error) {
	if _, err := os.Stat(filepath.Join(dir, stateDir, stateFile)); err != nil {
		return nil, fmt.Errorf("%w: opening a software TPM: %w: create one", key.ErrNotFound, err)
	}
	t, err := start(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("opening a software TPM: %w", err)
	}
	return t, nil
}

// program finds swtpm.
func program() (string, error) {
	path, err := exec.LookPath("swtpm")
	if err != nil {
		return "", fmt.Errorf("%w: %w: apt-get install swtpm", key.ErrUnavailable, err)
	}
	return path, nil
}

// URI is the address tpm.Open takes.
func (t *TPM) URI() string { return t.uri }

// PID is the process id of swtpm, for tests that take it away.
func (t *TPM) PID() int { return t.process.Pid }

// Stop ends swtpm orderly and waits for its end. Its state stays.
func (t *TPM) Stop() error {
	t.once.Do(func() {
		_ = os.Remove(t.socket) // while the lock is held: later it may be a successor's
		_ = t.process.Signal(syscall.SIGTERM)
	})
	select {
	case <-t.done:
	case <-time.After(startWait):
		_ = t.process.Kill()
		<-t.done
	}
	return t.result
}

func start(ctx context.Context, dir string) (*TPM, error) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	path, err := program()
	if err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	lock, err := takeLock(ctx, filepath.Join(dir, lockFile))
	if err != nil {
		return nil, err
	}
	defer lock.Close() // the child keeps its own
	t := &TPM{socket: filepath.Join(dir, socket), done: make(chan struct{})}
	if len(t.socket) > maxSocket {
		if t.short, err = os.MkdirTemp("", "swtpm-"); err != nil {
			return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
		}
		t.socket = filepath.Join(t.short, socket)
	}
	t.uri = tpm.URI{Socket: t.socket, Keys: filepath.Join(dir, keysDir), Auth: filepath.Join(dir, authFile)}.String()
	listener, err := t.listen()
	if err != nil {
		t.clean()
		return nil, err
	}
	defer listener.Close()
	ours, control, err := socketPair()
	if err != nil {
		t.clean()
		return nil, err
	}
	defer ours.Close()
	defer control.Close()
	// Descriptors 3, 4 and 5 of the child are those of ExtraFiles.
	c := exec.Command(path, "socket", "--tpm2", "--tpmstate", "dir="+filepath.Join(dir, stateDir)+",mode=0600",
		"--server", "type=unixio,fd=3", "--ctrl", "type=unixio,clientfd=5", "--flags", "not-need-init,startup-clear")
	c.ExtraFiles = []*os.File{listener, lock, control}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := t.run(c); err != nil {
		t.clean()
		return nil, fmt.Errorf("%w: starting swtpm: %w", key.ErrUnavailable, err)
	}
	_ = control.Close() // so that the child's end closes it
	if err := probe(ctx, ours); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: swtpm does not answer: %w: is its state damaged?", key.ErrUnavailable, err), t.Stop())
	}
	return t, nil
}

// takeLock makes this the only swtpm on its state. The lock lives as long as the child, which may outlive us by a moment.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	for stop := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return f, nil
		}
		if ctx.Err() != nil || time.Now().After(stop) {
			return nil, errors.Join(fmt.Errorf("%w: another swtpm runs on %s: stop it first", key.ErrBusy, filepath.Dir(path)), f.Close())
		}
	}
}

// listen makes the socket here, so that clients can connect before swtpm is up.
func (t *TPM) listen() (*os.File, error) {
	if err := os.Remove(t.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false) // the child serves it
	if err := os.Chmod(t.socket, 0o600); err != nil {
		return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	f, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	return f, nil
}

// clean removes what only this process used.
func (t *TPM) clean() {
	if t.short != "" {
		_ = os.RemoveAll(t.short)
	}
}

// socketPair makes swtpm's control channel: our end and the child's.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	file := os.NewFile(uintptr(fds[0]), "control")
	defer file.Close() // FileConn has its own
	ours, err := net.FileConn(file)
	if err != nil {
		_ = syscall.Close(fds[1])
		return nil, nil, fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	return ours, os.NewFile(uintptr(fds[1]), "control"), nil
}

// probe waits until swtpm serves. It asks on the control channel, because swtpm
// serves one client, and that may already be another that came back faster.
func probe(ctx context.Context, control net.Conn) error {
	if deadline, ok := ctx.Deadline(); ok {
		_ = control.SetDeadline(deadline)
	}
	if _, err := control.Write([]byte{0, 0, 0, 1}); err != nil { // CMD_GET_CAPABILITY
		return err
	}
	_, err := io.ReadFull(control, make([]byte, 8))
	return err
}
