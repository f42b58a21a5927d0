package envelope

import (
	"encoding/base64"
	"strings"

	"github.com/sealwright/sealwright/key"
)

// prefix names the text form of ciphertext v1.
const prefix = "sw1:"

// strict refuses bits that do not belong to a byte, so every ciphertext has one text.
var strict = base64.RawURLEncoding.Strict()

// Text returns the text form: "sw1:" and unpadded base64url.
func Text(ciphertext []byte) string {
	var text strings.Builder
	text.Grow(len(prefix) + strict.EncodedLen(len(ciphertext)))
	text.WriteString(prefix)
	var piece [256]byte // encoded 192 bytes at a time, so that the text is the only allocation
	for len(ciphertext) > 0 {
		n := min(len(ciphertext), 192)
		strict.Encode(piece[:], ciphertext[:n])
		text.Write(piece[:strict.EncodedLen(n)])
		ciphertext = ciphertext[n:]
	}
	return text.String()
}

// ParseText reads the form of Text and nothing else: no padding, no line
// breaks, no spaces, no other alphabet. The header is checked as by Parse.
func ParseText(s string) ([]byte, error) {
	body, ok := strings.CutPrefix(s, prefix)
	// The decoder skips line breaks even when strict.
	if !ok || len(body) > strict.EncodedLen(Overhead+MaxPlaintext) || strings.ContainsAny(body, "\r\n") {
		return nil, key.ErrInvalidCiphertext
	}
	ciphertext, err := strict.DecodeString(body)
	if err != nil {
		return nil, key.ErrInvalidCiphertext
	}
	if _, err := Parse(ciphertext); err != nil {
		return nil, err
	}
	return ciphertext, nil
}
