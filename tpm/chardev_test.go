package tpm_test

import (
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
	"github.com/sealwright/sealwright/tpm"
	"golang.org/x/sys/unix"
)

// A terminal in raw mode is a character device that carries bytes both ways: it
// stands in for /dev/tpmrm0, with the software TPM at its other end.
func TestCharacterDevice(t *testing.T) {
	t.Parallel()
	uri := softhsmtest.TPM(t)
	u, _ := tpm.ParseURI(uri)
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	terminal, err := rawTerminal(master)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	upstream, err := net.Dial("unix", u.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = upstream.Close() })
	go func() {
		for {
			command := readMessage(master)
			if command == nil {
				return
			}
			if _, err := upstream.Write(command); err != nil {
				return
			}
			if _, err := master.Write(readMessage(upstream)); err != nil {
				return
			}
		}
	}()
	u.Socket, u.Device = "", terminal
	d := softhsmtest.OpenTPM(t, u.String())
	ca, root := generate(t, d, "ca", key.UsageSign), generate(t, d, "root", key.UsageWrap)
	for range 20 {
		mustSign(t, d, ca)
		wrapped, err := d.Wrap(t.Context(), root, []byte("secret"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := d.Unwrap(t.Context(), root, wrapped, nil); err != nil || string(back) != "secret" {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// rawTerminal unlocks master's other end, makes it raw and returns its path. It
// stays open, so that master sees no hang-up before the device opens it.
func rawTerminal(master *os.File) (string, error) {
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return "", err
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return "", err
	}
	state, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", err
	}
	state.Iflag, state.Oflag, state.Lflag = 0, 0, 0
	state.Cc[unix.VMIN], state.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, state); err != nil {
		return "", err
	}
	return fmt.Sprintf("/dev/pts/%d", n), nil
}
