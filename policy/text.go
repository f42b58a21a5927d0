package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	publicast "github.com/cedar-policy/cedar-go/ast"

	"github.com/sealwright/sealwright/key"
)

type publicAST = publicast.Policy

// split finds the statements of the text, and refuses what is too large or
// nested too deep before Cedar's recursive parser sees it. It knows only
// strings, comments, brackets and the semicolon that ends a policy; what
// Cedar refuses later may be cut wrongly here without harm.
func split(name string, text []byte) ([]statement, error) {
	var all []statement
	s := splitter{text: string(text), line: 1, column: 1}
	for {
		st, complete, err := s.next()
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: %s:%d:%d: %w", key.ErrInvalid, name, s.line, s.column, err)
		case st.text == "":
			return all, nil
		case len(all) == MaxPolicies:
			return nil, fmt.Errorf("%w: %s:%d:%d: more than %d policies: say the same with groups and conditions", key.ErrInvalid, name, st.line, st.column, MaxPolicies)
		}
		all = append(all, st)
		if !complete {
			return all, nil // Cedar's parser will say what is missing
		}
	}
}

type splitter struct {
	text         string
	at           int
	line, column int
}

// advance moves over one byte; columns count characters as Cedar does.
func (s *splitter) advance() {
	switch c := s.text[s.at]; {
	case c == '\n':
		s.line, s.column = s.line+1, 1
	case c < 0x80 || c >= 0xc0: // not a continuation byte
		s.column++
	}
	s.at++
}

// next returns the next statement; its text is empty at the end.
func (s *splitter) next() (st statement, complete bool, err error) {
	start, depth := -1, 0
	for s.at < len(s.text) {
		c := s.text[s.at]
		if s.skipComment() {
			continue
		}
		if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
			s.advance()
			continue
		}
		if start < 0 {
			start = s.at
			st.line, st.column = s.line, s.column
		}
		switch c {
		case '"':
			s.skipString()
			continue
		case '(', '[', '{':
			if depth++; depth > maxNesting {
				return st, false, fmt.Errorf("brackets nest deeper than %d: split the policy", maxNesting)
			}
		case ')', ']', '}':
			depth--
		}
		s.advance()
		if s.at-start > maxStatement {
			return st, false, fmt.Errorf("one policy is larger than %d bytes: split it", maxStatement)
		}
		if c == ';' {
			st.text = s.text[start:s.at]
			return st, true, nil
		}
	}
	if start >= 0 {
		st.text = s.text[start:]
	}
	return st, false, nil
}

func (s *splitter) skipComment() bool {
	rest := s.text[s.at:]
	var end int
	switch {
	case strings.HasPrefix(rest, "//"):
		end = strings.IndexByte(rest, '\n')
	case strings.HasPrefix(rest, "/*"):
		if end = strings.Index(rest[2:], "*/"); end >= 0 {
			end += 4
		}
	default:
		return false
	}
	if end < 0 {
		end = len(rest)
	}
	for range end {
		s.advance()
	}
	return true
}

func (s *splitter) skipString() {
	s.advance()
	for s.at < len(s.text) {
		c := s.text[s.at]
		s.advance()
		switch {
		case c == '\\' && s.at < len(s.text):
			s.advance()
		case c == '"', c == '\n':
			return
		}
	}
}

var (
	cedarPlace = regexp.MustCompile(`<input>:(\d+:\d+)`)
	quoted     = regexp.MustCompile("`([^`]+)`")
)

// syntaxError puts our name and a hint on an error of Cedar's parser.
func syntaxError(name string, err error) error {
	message := err.Error()
	place := name
	if m := cedarPlace.FindStringSubmatch(message); m != nil {
		place = name + ":" + m[1]
		message = strings.Replace(message, "parse error at "+m[0]+" ", "near ", 1)
		message = strings.Replace(message, m[0], place, 1)
	}
	return fmt.Errorf(`%w: %s: %s: a policy reads permit (principal, action, resource) when { ... };`, key.ErrInvalid, place, message)
}

// schemaError gives each complaint of the validator the place of the words it
// complains about, as the validator knows only the policy, and says what to do.
func schemaError(name string, st statement, err error) error {
	list := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		list = joined.Unwrap()
	}
	var out []error
	var messages []string
	for _, e := range list {
		message := e.Error()
		if slices.Contains(messages, message) || len(messages) == 3 || len(messages) > 0 && strings.Contains(message, "applicable action") {
			continue // said, or a consequence of what is said
		}
		messages = append(messages, message)
		out = append(out, fmt.Errorf("%s: %s: %s", st.at(name, find(st.text, message)), message, hint(message)))
	}
	return errors.Join(out...)
}

// find returns the offset in text of the first word the message quotes, or 0.
func find(text, message string) int {
	for _, m := range quoted.FindAllStringSubmatch(message, -1) {
		if i := strings.Index(text, m[1]); i >= 0 {
			return i
		}
	}
	return 0
}

func hint(message string) string {
	switch {
	case strings.Contains(message, "unrecognized action"):
		if near := nearestAction(message); near != "" {
			return fmt.Sprintf("did you mean Action::%q?", near)
		}
		return "`sealwright policy schema` lists the actions"
	case strings.Contains(message, "unrecognized entity type"):
		return "principals are User, Service, Node and Role; `sealwright policy schema` lists the objects"
	case strings.Contains(message, "applicable action"):
		return "no action joins this principal with this resource; `sealwright policy schema` says what applies to what"
	case strings.Contains(message, "access to tag"):
		return `ask first: context.encryption.hasTag("name") && context.encryption.getTag("name") == "value"`
	case strings.Contains(message, "attribute"):
		return "`sealwright policy schema` lists the attributes; test for the type first (resource is Key && ...) where the policy covers several"
	default:
		return "`sealwright policy schema` shows the types"
	}
}

// nearestAction returns the action that a misspelt one probably means: the same
// in other letters, or the same after the colon.
func nearestAction(message string) Action {
	m := regexp.MustCompile(`Action::"([^"]*)"`).FindStringSubmatch(message)
	if m == nil {
		return ""
	}
	_, wrongName, hasColon := strings.Cut(m[1], ":")
	if !hasColon {
		wrongName = m[1]
	}
	for _, row := range actionTable {
		_, name, _ := strings.Cut(string(row.Action), ":")
		if strings.EqualFold(string(row.Action), m[1]) || strings.EqualFold(name, wrongName) {
			return row.Action
		}
	}
	return ""
}
