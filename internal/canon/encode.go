// Package canon writes and reads the one JSON text that a value has: canonical
// JSON in the manner of RFC 8785, so that equal records are equal bytes.
//
// It is narrower than RFC 8785 on purpose: numbers are integers of at most 53
// bits, there is no null, and keys are ordered by their UTF-8 bytes (RFC 8785
// orders UTF-16 units, which differs only beyond the Basic Multilingual Plane;
// field names here are ASCII).
package canon

import (
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/sealwright/sealwright/key"
)

// maxInt is the largest integer that every JSON reader keeps exactly (RFC 7493 2.2).
const maxInt = 1<<53 - 1

// maxDepth bounds nesting, for the encoder's fixed stack and the decoder's recursion.
const maxDepth = 8

// Encoder appends one canonical value to a buffer. Keys must come in ascending
// byte order; it remembers the first mistake and Bytes reports it. It does not
// allocate beyond its buffer.
type Encoder struct {
	buf   []byte
	err   error
	depth int
	last  [maxDepth]string // the newest key of each open object
	some  [maxDepth]bool   // the open object or array has an element already
	keyed bool             // a key was written and awaits its value
}

// NewEncoder returns an encoder that appends to buf.
func NewEncoder(buf []byte) Encoder { return Encoder{buf: buf} }

// Bytes returns the buffer, or the first mistake, which is key.ErrInvalid.
func (e *Encoder) Bytes() ([]byte, error) {
	if e.err == nil && e.depth != 0 {
		e.fail("an object or array is still open")
	}
	if e.err != nil {
		return nil, e.err
	}
	return e.buf, nil
}

func (e *Encoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf("%w: encoding canonical JSON: %s", key.ErrInvalid, fmt.Sprintf(format, args...))
	}
}

// next writes the comma before an array element. A value after a key needs none.
func (e *Encoder) next() {
	if e.keyed {
		e.keyed = false
		return
	}
	if e.depth > 0 {
		if e.some[e.depth-1] {
			e.buf = append(e.buf, ',')
		}
		e.some[e.depth-1] = true
	}
}

func (e *Encoder) open(c byte) {
	e.next()
	if e.depth == maxDepth {
		e.fail("nested deeper than %d", maxDepth)
		return
	}
	e.last[e.depth], e.some[e.depth] = "", false
	e.depth++
	e.buf = append(e.buf, c)
}

func (e *Encoder) close(c byte) {
	if e.depth == 0 || e.keyed {
		e.fail("unbalanced %q", c)
		return
	}
	e.depth--
	e.buf = append(e.buf, c)
}

// BeginObject opens an object.
func (e *Encoder) BeginObject() { e.open('{') }

// EndObject closes it.
func (e *Encoder) EndObject() { e.close('}') }

// BeginArray opens an array.
func (e *Encoder) BeginArray() { e.open('[') }

// EndArray closes it.
func (e *Encoder) EndArray() { e.close(']') }

// Key writes the key of the next value of the open object.
func (e *Encoder) Key(k string) {
	if e.depth == 0 || e.keyed {
		e.fail("key %.80q has no place", k)
		return
	}
	i := e.depth - 1
	if e.some[i] {
		if k <= e.last[i] {
			e.fail("key %.80q after %.80q: keys ascend", k, e.last[i])
			return
		}
		e.buf = append(e.buf, ',')
	}
	e.last[i], e.some[i] = k, true
	e.string(k)
	e.buf = append(e.buf, ':')
	e.keyed = true
}

// String writes a string value. Text that is not UTF-8 is a mistake: it has no JSON form.
func (e *Encoder) String(s string) {
	e.next()
	e.string(s)
}

// Int writes an integer value of at most 53 bits.
func (e *Encoder) Int(n int64) {
	e.next()
	if n > maxInt || n < -maxInt {
		e.fail("%d is beyond 53 bits", n)
		return
	}
	e.buf = strconv.AppendInt(e.buf, n, 10)
}

// Bool writes true or false.
func (e *Encoder) Bool(b bool) {
	e.next()
	e.buf = strconv.AppendBool(e.buf, b)
}

// Strings writes an array of strings, in the order given.
func (e *Encoder) Strings(list []string) {
	e.BeginArray()
	for _, s := range list {
		e.String(s)
	}
	e.EndArray()
}

// StringMap writes an object of strings, sorted by key.
func (e *Encoder) StringMap(m map[string]string) {
	e.BeginObject()
	var few [8]string // encryption contexts are small: sort them on the stack
	keys := few[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		e.Key(k)
		e.String(m[k])
	}
	e.EndObject()
}

func (e *Encoder) string(s string) {
	if plain(s) {
		e.buf = append(append(append(e.buf, '"'), s...), '"')
		return
	}
	if !utf8.ValidString(s) {
		e.fail("%.80q is not UTF-8", s)
		return
	}
	e.buf = appendString(e.buf, s)
}

// plain reports whether s is ASCII that needs no escape, as almost all of it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

const hexDigits = "0123456789abcdef"

// short holds the two-character escapes of RFC 8785 3.2.2.2; other controls are \u00xx.
var short = [0x20]byte{'\b': 'b', '\t': 't', '\n': 'n', '\f': 'f', '\r': 'r'}

func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch {
		case c >= 0x20:
			dst = append(dst, '\\', c)
		case short[c] != 0:
			dst = append(dst, '\\', short[c])
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}
