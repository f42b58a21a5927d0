package canon

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/sealwright/sealwright/key"
)

// Decoder reads canonical JSON and nothing else: white space, an escape that is
// not needed, keys out of order or twice, a float, a leading zero, text that is
// not UTF-8 and trailing bytes are all key.ErrInvalid, with the position.
type Decoder struct {
	data  []byte
	pos   int
	depth int
}

// NewDecoder returns a decoder of data, which it does not change or keep after use.
func NewDecoder(data []byte) *Decoder { return &Decoder{data: data} }

// Check accepts data if it is exactly one canonical value.
func Check(data []byte) error {
	d := NewDecoder(data)
	if err := d.Skip(); err != nil {
		return err
	}
	return d.End()
}

// End refuses bytes after the value.
func (d *Decoder) End() error {
	if d.pos != len(d.data) {
		return d.fail("bytes after the value")
	}
	return nil
}

func (d *Decoder) fail(problem string) error {
	return fmt.Errorf("%w: byte %d of canonical JSON: %s", key.ErrInvalid, d.pos, problem)
}

// peek returns the next byte, 0 at the end (0 begins no value).
func (d *Decoder) peek() byte {
	if d.pos < len(d.data) {
		return d.data[d.pos]
	}
	return 0
}

func (d *Decoder) take(c byte) bool {
	if d.peek() == c && d.pos < len(d.data) {
		d.pos++
		return true
	}
	return false
}

func (d *Decoder) enter(c byte, what string) error {
	if d.peek() != c {
		return d.fail("want " + what)
	}
	if d.depth == maxDepth {
		return d.fail("nested too deep")
	}
	d.depth++
	d.pos++
	return nil
}

// Object reads an object. For each key it calls field, which must read the
// value, and must refuse keys it does not know with Unknown.
func (d *Decoder) Object(field func(key string) error) error {
	if err := d.enter('{', "an object"); err != nil {
		return err
	}
	defer func() { d.depth-- }()
	if d.take('}') {
		return nil
	}
	last := ""
	for first := true; ; first = false {
		k, err := d.String()
		if err != nil {
			return err
		}
		if !first && k <= last {
			return d.fail(fmt.Sprintf("key %.80q after %.80q: keys ascend and are not repeated", k, last))
		}
		last = k
		if !d.take(':') {
			return d.fail("want ':'")
		}
		if err := field(k); err != nil {
			return err
		}
		if d.take('}') {
			return nil
		}
		if !d.take(',') {
			return d.fail("want ',' or '}'")
		}
	}
}

// Unknown is the refusal of a key that the reader does not know.
func (d *Decoder) Unknown(k string) error { return d.fail(fmt.Sprintf("unknown key %.80q", k)) }

// Array reads an array. For each element it calls item, which must read it.
func (d *Decoder) Array(item func() error) error {
	if err := d.enter('[', "an array"); err != nil {
		return err
	}
	defer func() { d.depth-- }()
	if d.take(']') {
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		if d.take(']') {
			return nil
		}
		if !d.take(',') {
			return d.fail("want ',' or ']'")
		}
	}
}

// Int reads an integer of at most 53 bits.
func (d *Decoder) Int() (int64, error) {
	start := d.pos
	d.take('-')
	digits := d.pos
	for c := d.peek(); c >= '0' && c <= '9'; c = d.peek() {
		d.pos++
	}
	text := d.data[start:d.pos]
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n > maxInt || n < -maxInt || d.data[digits] == '0' && len(text) > 1 {
		d.pos = start
		return 0, d.fail("want an integer of at most 53 bits, without leading zeros")
	}
	return n, nil
}

// Bool reads true or false.
func (d *Decoder) Bool() (bool, error) {
	for _, b := range []bool{true, false} {
		if text := strconv.FormatBool(b); bytes.HasPrefix(d.data[d.pos:], []byte(text)) {
			d.pos += len(text)
			return b, nil
		}
	}
	return false, d.fail("want true or false")
}

// String reads a string.
func (d *Decoder) String() (string, error) {
	if !d.take('"') {
		return "", d.fail("want a string")
	}
	start := d.pos
	for d.pos < len(d.data) {
		switch c := d.data[d.pos]; {
		case c == '"':
			return d.text(d.data[start:d.pos], 1)
		case c == '\\':
			return d.escaped(start)
		case c < 0x20:
			return "", d.fail("a control character must be escaped")
		}
		d.pos++
	}
	return "", d.fail("string without end")
}

func (d *Decoder) text(b []byte, skip int) (string, error) {
	if !utf8.Valid(b) {
		return "", d.fail("text is not UTF-8")
	}
	d.pos += skip
	return string(b), nil
}

// escaped reads the rest of a string from its first backslash on.
func (d *Decoder) escaped(start int) (string, error) {
	text := append([]byte(nil), d.data[start:d.pos]...)
	for d.pos < len(d.data) {
		c := d.data[d.pos]
		switch {
		case c == '"':
			return d.text(text, 1)
		case c < 0x20:
			return "", d.fail("a control character must be escaped")
		case c == '\\':
			plain, n := unescape(d.data[d.pos:])
			if n == 0 {
				return "", d.fail("an escape that is unknown or not needed")
			}
			text = append(text, plain)
			d.pos += n
		default:
			text = append(text, c)
			d.pos++
		}
	}
	return "", d.fail("string without end")
}

// unescape reads one escape and its length; the length is 0 if the encoder would not have written it.
func unescape(b []byte) (plain byte, n int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch c := b[1]; c {
	case '"', '\\':
		return c, 2
	case 'u':
		if len(b) < 6 || b[2] != '0' || b[3] != '0' {
			return 0, 0
		}
		hi, lo := bytes.IndexByte([]byte(hexDigits), b[4]), bytes.IndexByte([]byte(hexDigits), b[5])
		if hi < 0 || hi > 1 || lo < 0 || short[hi<<4|lo] != 0 {
			return 0, 0
		}
		return byte(hi<<4 | lo), 6
	default:
		for plain, letter := range short {
			if letter == c && letter != 0 {
				return byte(plain), 2
			}
		}
		return 0, 0
	}
}

// StringMap reads an object of strings.
func (d *Decoder) StringMap() (map[string]string, error) {
	m := map[string]string{}
	err := d.Object(func(k string) error {
		v, err := d.String()
		m[k] = v
		return err
	})
	return m, err
}

// Strings reads an array of strings.
func (d *Decoder) Strings() ([]string, error) {
	var list []string
	err := d.Array(func() error {
		s, err := d.String()
		list = append(list, s)
		return err
	})
	return list, err
}

// Skip reads and checks one value of any kind.
func (d *Decoder) Skip() error {
	var err error
	switch d.peek() {
	case '{':
		return d.Object(func(string) error { return d.Skip() })
	case '[':
		return d.Array(d.Skip)
	case '"':
		_, err = d.String()
	case 't', 'f':
		_, err = d.Bool()
	default:
		_, err = d.Int()
	}
	return err
}
