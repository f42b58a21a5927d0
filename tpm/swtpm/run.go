package swtpm

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// run starts c on an operating system thread that lives as long as the child.
// PR_SET_PDEATHSIG fires when the thread that forked ends, not when
// the process does; a thread the runtime shares out may end earlier.
func (t *TPM) run(c *exec.Cmd) error {
	var problems tail
	c.Stderr = &problems
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.Start()
		if err == nil {
			t.process = c.Process
		}
		started <- err
		if err != nil {
			return
		}
		t.result = ended(c.Wait(), &problems)
		t.clean()
		close(t.done)
	}()
	return <-started
}

// ended makes being stopped no error.
func ended(err error, problems *tail) error {
	var exit *exec.ExitError
	if err == nil {
		return nil
	}
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGTERM {
			return nil
		}
	}
	return fmt.Errorf("swtpm ended: %w: %s", err, problems)
}

// tail keeps the last words of a process.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	const enough = 2048
	if t.Len() > enough {
		t.Reset()
	}
	return t.Buffer.Write(p)
}

func (t *tail) String() string { return string(bytes.TrimSpace(t.Bytes())) }
