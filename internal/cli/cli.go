// Package cli is what our command lines share: exit codes, errors with a hint,
// and output as a table for people or JSON for programs.
package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/sealwright/sealwright/key"
)

// The exit codes.
const (
	Done          = 0
	Failed        = 1
	Misused       = 2 // the command line is wrong; nothing was done
	Denied        = 3 // the policy says no, or does not know you
	NeedsApproval = 4 // allowed once others approve
)

// Error is an error that knows its exit code, or what to do next.
type Error struct {
	Err  error
	Code int    // 0: by the kind of Err
	Hint string // one line, said after the error; may be empty
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Misuse returns an error of the command line.
func Misuse(hint, format string, args ...any) error {
	return &Error{Err: fmt.Errorf(format, args...), Code: Misused, Hint: hint}
}

// Hint adds what to do next to err; nil stays nil.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &Error{Err: err, Hint: fmt.Sprintf(format, args...)}
}

// Code returns the exit code of err.
func Code(err error) int {
	if err == nil {
		return Done
	}
	var e *Error
	for cause := err; errors.As(cause, &e); cause = e.Err {
		if e.Code != 0 {
			return e.Code
		}
	}
	switch {
	case errors.Is(err, key.ErrNeedsApproval):
		return NeedsApproval
	case errors.Is(err, key.ErrDenied):
		return Denied
	default:
		return Failed
	}
}

// Report writes err and its hints for people and returns its exit code.
func Report(problems io.Writer, program string, err error) int {
	if err == nil {
		return Done
	}
	fmt.Fprintf(problems, "%s: %s\n", program, Printable(err.Error()))
	var e *Error
	for cause := err; errors.As(cause, &e); cause = e.Err {
		if e.Hint != "" {
			fmt.Fprintf(problems, "hint: %s\n", Printable(e.Hint))
		}
	}
	return Code(err)
}

// Printable makes text from elsewhere safe for a terminal: what could move the
// cursor or change colours is written as an escape. Newlines stay.
func Printable(s string) string {
	clean := true
	for _, r := range s {
		clean = clean && (r == '\n' || r != utf8.RuneError && unicode.IsPrint(r))
	}
	if clean {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r == '\n' || r != utf8.RuneError && unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// Printer writes results.
type Printer struct {
	Out  io.Writer
	JSON bool
}

// Print writes v as indented JSON, or what table writes.
func (p Printer) Print(v any, table func(*Table)) error {
	if p.JSON {
		e := json.NewEncoder(p.Out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	t := &Table{}
	table(t)
	return t.write(p.Out)
}

// Table is rows of aligned columns.
type Table struct {
	rows [][]string
}

// Row adds a row. Newlines and tabs in a cell become spaces.
func (t *Table) Row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = Printable(strings.Join(strings.FieldsFunc(fmt.Sprint(c), func(r rune) bool { return r == '\n' || r == '\t' || r == '\r' }), " "))
		if row[i] == "" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

func (t *Table) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range t.rows {
		if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}
