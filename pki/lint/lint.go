// Package lint refuses certificates and CRLs that should not exist, before
// anybody signs them.
//
// [Certificate] and [CRL] are our own rules: what this PKI promises, cheap
// enough to run on every certificate. They read the encoded bytes again rather
// than trusting the code that built them, so they share nothing with package
// pki. [Zlint] is the second opinion: the RFC lints of zlint, a thousand times
// dearer, which package pki asks once for each new shape.
//
// Nothing here checks a signature: a lint runs before there is one.
package lint

import (
	"fmt"
	"strings"
)

// Finding is one rule that was broken.
type Finding struct {
	Rule   string // "serial", or the name of a zlint lint like "e_san_no_entries"
	Detail string
}

// Findings is the error of a lint: every rule that was broken, never empty.
type Findings []Finding

// Error names each broken rule.
func (f Findings) Error() string {
	parts := make([]string, len(f))
	for i, finding := range f {
		parts[i] = finding.Rule + ": " + finding.Detail
	}
	return "lint: " + strings.Join(parts, "; ")
}

// findings collects; err answers nil when nothing was found, so that no typed
// nil can be mistaken for an error.
type findings struct{ list Findings }

func (f *findings) add(rule, format string, args ...any) {
	f.list = append(f.list, Finding{rule, fmt.Sprintf(format, args...)})
}

func (f *findings) require(ok bool, rule, detail string) {
	if !ok {
		f.list = append(f.list, Finding{rule, detail})
	}
}

func (f *findings) err() error {
	if len(f.list) == 0 {
		return nil
	}
	return f.list
}

// Kind says what a certificate is.
type Kind int

// The kinds of certificates.
const (
	Leaf   Kind = iota // an end entity
	Issuer             // a CA that signs leaves only: pathlen 0, name-constrained
	Root               // self-signed
)
