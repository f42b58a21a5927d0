package ca

import (
	"strings"
	"testing"
	"time"
)

// FuzzCursor: what is accepted as a page can be written again, and holds nothing but a time and a serial.
func FuzzCursor(f *testing.F) {
	f.Add(cursor(&Certificate{Serial: strings.Repeat("7", 32), NotAfter: time.UnixMicro(1_800_000_000_000_000)}))
	f.Add("zz.1")
	f.Add(".")
	f.Add("-1.abc")
	f.Fuzz(func(t *testing.T, s string) {
		after, serial, err := parseCursor(s)
		if err != nil || s == "" {
			return
		}
		again, same, err := parseCursor(cursor(&Certificate{Serial: serial, NotAfter: time.UnixMicro(after)}))
		if err != nil || again != after || same != serial || strings.Trim(serial, "0123456789abcdef") != "" {
			t.Errorf("%q reads as %d %q, then as %d %q, %v", s, after, serial, again, same, err)
		}
	})
}
