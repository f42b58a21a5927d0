package locked

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

func addressOf(mem []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mem))) }

// dropPrivileges gives up CAP_IPC_LOCK on this thread, because root locks beyond the limit.
func dropPrivileges() {
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capset(&header, &data[0]); err != nil {
		fatal("dropping capabilities: %v", err)
	}
}
