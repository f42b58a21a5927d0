//go:build !goexperiment.runtimesecret

package locked

// Erases reports whether [Do] erases what f leaves behind.
const Erases = false

// Do calls f. In a build with GOEXPERIMENT=runtimesecret it also erases the
// registers, stack and heap f used, the key schedules of crypto/aes included.
func Do(f func()) { f() }
