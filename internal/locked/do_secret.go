//go:build goexperiment.runtimesecret

package locked

import "runtime/secret"

// Erases reports whether [Do] erases what f leaves behind.
const Erases = true

// Do calls f and erases the registers and stack it used; what it allocated is
// erased when it is collected. It does not cover goroutines that f starts.
func Do(f func()) { secret.Do(f) }
