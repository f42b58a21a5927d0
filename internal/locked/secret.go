package locked

import (
	"fmt"
	"io"
	"log/slog"
	"unsafe"
)

const redacted = "[redacted]"

// Redacted makes the type that embeds it print as [redacted] through fmt (every
// verb), slog, JSON and text encodings. It cannot help a value in an unexported
// field of another struct: fmt reads those without asking. So such a type keeps
// its bytes behind a *byte, which fmt prints as an address under every verb; it
// would follow a pointer to a slice or a struct.
type Redacted struct{}

// Format implements fmt.Formatter for every verb.
func (Redacted) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String returns [redacted].
func (Redacted) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (Redacted) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON implements json.Marshaler.
func (Redacted) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText implements encoding.TextMarshaler.
func (Redacted) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Secret is bytes on their way to a caller, on the ordinary heap: an opened
// plaintext, a data key. It prints as [redacted]; only Bytes shows it.
type Secret struct {
	Redacted
	first *byte // not a slice, for the reason given at Redacted
	n     int
}

// NewSecret makes b a Secret. It does not copy: the caller gives b away.
func NewSecret(b []byte) Secret { return Secret{first: unsafe.SliceData(b), n: len(b)} }

// Bytes returns the bytes themselves, for the reply and for nothing else.
func (s Secret) Bytes() []byte { return unsafe.Slice(s.first, s.n) }

// Wipe zeroes the bytes.
func (s Secret) Wipe() { clear(s.Bytes()) }
