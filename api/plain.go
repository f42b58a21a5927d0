package api

import (
	"bytes"
	"encoding/base64"
)

// plainFields is a request of a hot route. encoding/json takes longer to read
// one than the cryptography does, so the usual form of it is read here. field
// returns where the value of that key goes: a *[]byte, *string, *bool or
// *map[string]string; nil if there is none.
type plainFields interface{ field(name string) any }

func (r *EncryptRequest) field(name string) any {
	switch name {
	case "plaintext":
		return &r.Plaintext
	case "context":
		return &r.Context
	}
	return nil
}

func (r *DecryptRequest) field(name string) any {
	switch name {
	case "ciphertext":
		return &r.Ciphertext
	case "context":
		return &r.Context
	}
	return nil
}

func (r *DataKeyRequest) field(name string) any {
	switch name {
	case "plaintext":
		return &r.Plaintext
	case "context":
		return &r.Context
	}
	return nil
}

// decodePlain reads an object whose strings are printable ASCII without escapes
// and whose keys come once. It reports false for every other text, right or
// wrong: encoding/json then says which. What it has read until then
// encoding/json reads again from the same text, into the same fields.
func decodePlain(body []byte, v plainFields) bool {
	s := scanner{rest: body}
	ok := s.object(func(name string) bool {
		switch to := v.field(name).(type) {
		case *[]byte:
			return *to == nil && s.bytes(to)
		case *string:
			return *to == "" && s.text(to)
		case *bool:
			return !*to && s.boolean(to)
		case *map[string]string:
			if *to != nil {
				return false
			}
			*to = map[string]string{}
			return s.object(func(k string) bool {
				var value string
				if !s.text(&value) {
					return false
				}
				(*to)[k] = value
				return true
			})
		}
		return false
	})
	s.space()
	return ok && len(s.rest) == 0
}

// scanner takes tokens off the front of a text. Its methods report whether the
// token was there.
type scanner struct{ rest []byte }

func (s *scanner) space() {
	for len(s.rest) > 0 && (s.rest[0] == ' ' || s.rest[0] == '\n' || s.rest[0] == '\t' || s.rest[0] == '\r') {
		s.rest = s.rest[1:]
	}
}

// take takes one byte and the space before it.
func (s *scanner) take(c byte) bool {
	s.space()
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// object reads an object; member reads the value of each key.
func (s *scanner) object(member func(key string) bool) bool {
	if !s.take('{') {
		return false
	}
	if s.take('}') {
		return true
	}
	for {
		var key string
		if !s.text(&key) || !s.take(':') || !member(key) {
			return false
		}
		if !s.take(',') {
			return s.take('}')
		}
	}
}

// quoted reads a string and returns what is between its quotes.
func (s *scanner) quoted() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	for i, c := range s.rest {
		switch {
		case c == '"':
			text := s.rest[:i]
			s.rest = s.rest[i+1:]
			return text, true
		case c < ' ' || c > '~' || c == '\\':
			return nil, false
		}
	}
	return nil, false
}

func (s *scanner) text(to *string) bool {
	text, ok := s.quoted()
	*to = string(text)
	return ok
}

func (s *scanner) bytes(to *[]byte) bool {
	text, ok := s.quoted()
	if !ok {
		return false
	}
	value := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(value, text)
	*to = value[:n]
	return err == nil
}

func (s *scanner) boolean(to *bool) bool {
	s.space()
	rest, yes := bytes.CutPrefix(s.rest, []byte("true"))
	rest, no := bytes.CutPrefix(rest, []byte("false"))
	if yes == no { // neither, or one after the other
		return false
	}
	s.rest, *to = rest, yes
	return true
}
