package envelope

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/sealwright/sealwright/key"
)

// domain separates these messages from everything else sealed under any key.
const domain = "sealwright/envelope/v1\x00"

// CheckContext returns key.ErrInvalid for an encryption context that Seal would refuse.
func CheckContext(context map[string]string) error {
	_, err := contextSize(context)
	return err
}

// contextSize returns the length of the encoded context, or key.ErrInvalid.
func contextSize(context map[string]string) (int, error) {
	if len(context) > MaxPairs {
		return 0, fmt.Errorf("%w: an encryption context has at most %d pairs, not %d", key.ErrInvalid, MaxPairs, len(context))
	}
	total := 0
	for name, value := range context {
		if name == "" {
			return 0, fmt.Errorf("%w: a key of the encryption context is empty", key.ErrInvalid)
		}
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return 0, fmt.Errorf("%w: the encryption context is not UTF-8", key.ErrInvalid)
		}
		total += len(name) + len(value)
		if total > MaxContext {
			return 0, fmt.Errorf("%w: an encryption context has at most %d bytes", key.ErrInvalid, MaxContext)
		}
	}
	return 4 + 8*len(context) + total, nil
}

// appendAdditional appends the additional data of the package comment to buf.
func appendAdditional(buf, header []byte, context map[string]string) []byte {
	buf = append(buf, domain...)
	buf = append(buf, header...)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(context)))
	var few [8]string // enough for nearly every context, on the stack
	names := few[:0]
	for name := range context {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		buf = appendSized(buf, name)
		buf = appendSized(buf, context[name])
	}
	return buf
}

func appendSized(buf []byte, s string) []byte {
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(s)))
	return append(buf, s...)
}
