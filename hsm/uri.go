package hsm

import (
	"cmp"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/sealwright/sealwright/key"
)

// URI names a token and how to reach it: the parts of an RFC 7512 "pkcs11:"
// URI that do so. The parts that name an object have no place in it, because a
// key.Ref names the key.
type URI struct {
	ModulePath   string // absolute path of the PKCS#11 library
	Token        string // the token's label; Token or Serial is required
	Serial       string // the token's serial number
	Manufacturer string // optional: must match if given
	Model        string // optional: must match if given
	PINSource    string // absolute path of the file that holds the PIN; empty if Config.PIN gives it
}

// maxURI bounds what ParseURI reads.
const maxURI = 4096

// ParseURI reads an RFC 7512 URI such as
//
//	pkcs11:token=prod-hsm?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/sealwright/pin
//
// module-path and pin-source may also stand before the question mark. A PIN
// itself may not: pin-value is refused, as is every attribute that ParseURI
// does not know, because a part that was silently ignored could name another token.
func ParseURI(s string) (URI, error) {
	var u URI
	if len(s) > maxURI {
		return u, fmt.Errorf("%w: a PKCS#11 URI of %d bytes; at most %d are read", key.ErrInvalid, len(s), maxURI)
	}
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return u, fmt.Errorf("%w: a PKCS#11 URI starts with \"pkcs11:\", like pkcs11:token=LABEL?module-path=/path/to/library.so&pin-source=file:/path/to/pin", key.ErrInvalid)
	}
	path, query, asked := strings.Cut(rest, "?")
	seen := map[string]bool{}
	for _, part := range split(path, ";") {
		if err := u.set(part, seen, false); err != nil {
			return URI{}, err
		}
	}
	for _, part := range split(query, "&") {
		if err := u.set(part, seen, true); err != nil {
			return URI{}, err
		}
	}
	switch {
	case asked && query == "":
		return URI{}, fmt.Errorf("%w: PKCS#11 URI: nothing follows the question mark", key.ErrInvalid)
	case u.ModulePath == "":
		return URI{}, fmt.Errorf("%w: PKCS#11 URI: module-path is missing: add ?module-path=/path/to/library.so", key.ErrInvalid)
	case u.Token == "" && u.Serial == "":
		return URI{}, fmt.Errorf("%w: PKCS#11 URI: name the token with token=LABEL or serial=NUMBER", key.ErrInvalid)
	}
	return u, nil
}

func split(s, sep string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, sep)
}

// set stores one name=value. Values are never repeated in errors: somebody may
// have put a PIN into the wrong attribute.
func (u *URI) set(part string, seen map[string]bool, query bool) error {
	name, raw, ok := strings.Cut(part, "=")
	if !ok {
		return fmt.Errorf("%w: PKCS#11 URI: a part without \"=\"", key.ErrInvalid)
	}
	var into *string
	switch name {
	case "token":
		into = &u.Token
	case "serial":
		into = &u.Serial
	case "manufacturer":
		into = &u.Manufacturer
	case "model":
		into = &u.Model
	case "module-path":
		into, query = &u.ModulePath, false
	case "pin-source":
		into, query = &u.PINSource, false
	case "pin-value":
		return fmt.Errorf("%w: PKCS#11 URI: pin-value is refused, because URIs end up in process lists, logs and shell histories: put the PIN into a file of mode 0600 and write pin-source=file:/path", key.ErrInvalid)
	default:
		return fmt.Errorf("%w: PKCS#11 URI: unknown attribute %.40q; known are token, serial, manufacturer, model, module-path and pin-source", key.ErrInvalid, name)
	}
	if query {
		return fmt.Errorf("%w: PKCS#11 URI: %s belongs before the question mark", key.ErrInvalid, name)
	}
	if seen[name] {
		return fmt.Errorf("%w: PKCS#11 URI: %s is given twice", key.ErrInvalid, name)
	}
	seen[name] = true
	value, err := decode(raw)
	if err != nil || value == "" {
		return fmt.Errorf("%w: PKCS#11 URI: the value of %s is empty or badly encoded; write special characters as %%XX", key.ErrInvalid, name)
	}
	switch name {
	case "pin-source":
		value, err = pinPath(value)
	case "module-path":
		err = absolute(name, value)
	}
	*into = value
	return err
}

// decode undoes percent-encoding and accepts only characters that RFC 7512
// lets stand unencoded.
func decode(raw string) (string, error) {
	for i := range len(raw) {
		if c := raw[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"<>\^{|}#`+"`", c) >= 0 {
			return "", key.ErrInvalid
		}
	}
	value, err := url.PathUnescape(raw)
	if err != nil {
		return "", err
	}
	if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
		return "", key.ErrInvalid
	}
	return value, nil
}

// pinPath accepts file:/path, file:///path and a bare absolute path. RFC 7512
// also allows "|command", which would run whatever a configuration file says.
func pinPath(value string) (string, error) {
	path, _ := strings.CutPrefix(value, "file:")
	if local, ok := strings.CutPrefix(path, "//"); ok {
		path = local
	}
	return path, absolute("pin-source", path)
}

func absolute(name, path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%w: PKCS#11 URI: %s must be an absolute path", key.ErrInvalid, name)
	}
	return nil
}

// String returns the URI in the order token, serial, manufacturer, model,
// module-path, pin-source. It holds nothing secret.
func (u URI) String() string {
	var path, query []string
	for _, p := range [][2]string{{"token", u.Token}, {"serial", u.Serial}, {"manufacturer", u.Manufacturer}, {"model", u.Model}} {
		if p[1] != "" {
			path = append(path, p[0]+"="+encode(p[1]))
		}
	}
	if u.ModulePath != "" {
		query = append(query, "module-path="+encode(u.ModulePath))
	}
	if u.PINSource != "" {
		query = append(query, "pin-source=file:"+encode(u.PINSource))
	}
	s := "pkcs11:" + strings.Join(path, ";")
	if len(query) > 0 {
		s += "?" + strings.Join(query, "&")
	}
	return s
}

// encode writes everything but unreserved characters and "/" as %XX.
func encode(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// name is how errors call the token.
func (u URI) name() string { return fmt.Sprintf("%q", cmp.Or(u.Token, u.Serial)) }
