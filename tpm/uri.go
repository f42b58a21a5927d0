package tpm

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/sealwright/sealwright/key"
)

// URI is the address of a TPM:
//
//	tpm:device=/dev/tpmrm0;keys=/var/lib/sealwright/tpm?auth-source=file:/etc/sealwright/tpm.auth
//	tpm:socket=/run/swtpm/sock;keys=/var/lib/sealwright/tpm
//
// Paths are absolute; bytes outside [A-Za-z0-9._~/-] may be percent-encoded,
// and ';', '?', '&', '%', spaces and control bytes must be. It holds nothing secret.
type URI struct {
	Device string // a character device; /dev/tpmrm0 shares the TPM with other software, /dev/tpm0 does not
	Socket string // a unix socket that speaks raw TPM commands, as swtpm does; set instead of Device
	Keys   string // the directory that records which key has which label and id
	Auth   string // a file with the authorisation value of all keys, or empty
}

const scheme = "tpm:"

// ParseURI reads the address of a TPM. Unknown, repeated and missing
// attributes are key.ErrInvalid.
func ParseURI(s string) (URI, error) {
	u, err := parseURI(s)
	if err != nil {
		return URI{}, fmt.Errorf("%w: TPM address: %w: write tpm:device=/dev/tpmrm0;keys=DIR or tpm:socket=PATH;keys=DIR", key.ErrInvalid, err)
	}
	return u, nil
}

func parseURI(s string) (URI, error) {
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return URI{}, fmt.Errorf("%.20q does not begin with tpm:", s)
	}
	var u URI
	path, query, hasQuery := strings.Cut(rest, "?")
	if err := attributes(path, ";", map[string]*string{"device": &u.Device, "socket": &u.Socket, "keys": &u.Keys}); err != nil {
		return URI{}, err
	}
	if hasQuery {
		var source string
		if err := attributes(query, "&", map[string]*string{"auth-source": &source}); err != nil {
			return URI{}, err
		}
		if u.Auth, ok = strings.CutPrefix(source, "file:"); !ok || u.Auth == "" {
			return URI{}, fmt.Errorf("auth-source must be file:/absolute/path")
		}
	}
	if (u.Device == "") == (u.Socket == "") {
		return URI{}, fmt.Errorf("exactly one of device and socket must be given")
	}
	if u.Keys == "" {
		return URI{}, fmt.Errorf("keys is missing (a TPM has no labels, so a directory remembers them)")
	}
	for _, p := range []string{u.Device, u.Socket, u.Keys, u.Auth} {
		if p != "" && !filepath.IsAbs(p) {
			return URI{}, fmt.Errorf("%.200q is not an absolute path", p)
		}
	}
	return u, nil
}

// attributes reads name=value pairs into the places known has for them.
func attributes(list, separator string, known map[string]*string) error {
	for pair := range strings.SplitSeq(list, separator) {
		name, raw, ok := strings.Cut(pair, "=")
		place := known[name]
		if place == nil {
			return fmt.Errorf("unknown attribute %.40q", name)
		}
		value, err := url.PathUnescape(raw)
		switch {
		case !ok || raw == "":
			return fmt.Errorf("attribute %s has no value", name)
		case *place != "":
			return fmt.Errorf("attribute %s is given twice", name)
		case err != nil:
			return fmt.Errorf("attribute %s is badly percent-encoded", name)
		case strings.ContainsFunc(raw, reserved) || strings.Contains(value, "\x00"):
			return fmt.Errorf("attribute %s holds a byte that must be percent-encoded", name)
		}
		*place = value
	}
	return nil
}

// reserved reports whether r may stand in an attribute only percent-encoded.
func reserved(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(";?&", r) }

// String returns the form ParseURI reads.
func (u URI) String() string {
	var b strings.Builder
	b.WriteString(scheme)
	if u.Device != "" {
		b.WriteString("device=" + escape(u.Device))
	} else {
		b.WriteString("socket=" + escape(u.Socket))
	}
	b.WriteString(";keys=" + escape(u.Keys))
	if u.Auth != "" {
		b.WriteString("?auth-source=file:" + escape(u.Auth))
	}
	return b.String()
}

// escape percent-encodes every byte of path that is not plainly harmless.
func escape(path string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~/-"
	var b strings.Builder
	for i := range len(path) {
		if strings.IndexByte(plain, path[i]) >= 0 {
			b.WriteByte(path[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", path[i])
		}
	}
	return b.String()
}
