// Package strictyaml reads one YAML document and refuses what it does not know:
// an unknown key, a key twice, a second document. Its errors name the line and
// show none, because the lines around a mistake may be nobody's business.
package strictyaml

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
)

// place is how the parser begins an error: the line and the column.
var place = regexp.MustCompile(`^\[(\d+):\d+\] `)

// Decode reads text into v, a pointer. An empty text makes it zero.
func Decode(text []byte, v any) (err error) {
	defer func() {
		// The parser trips over some malformed texts (testdata/fuzz has one); a slip of the pen must not.
		if recover() != nil {
			err = errors.New("it is no YAML that makes sense here: look for stray tags (!) and indentation")
		}
	}()
	d := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return errors.New(place.ReplaceAllString(strings.TrimSpace(yaml.FormatError(err, false, false)), "line $1: "))
	}
	var more any
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return errors.New("there is a second document after '---': write one")
	}
	return nil
}
