package lint

import (
	"fmt"
	"slices"

	"github.com/zmap/zcrypto/x509"
	zlint "github.com/zmap/zlint/v3/lint"

	// The lints of the RFCs and of common sense. The CA/B Forum's and the root
	// stores' rules are for the public web and would demand what a private PKI
	// must not have; package zlint itself would link all of them.
	_ "github.com/zmap/zlint/v3/lints/community"
	_ "github.com/zmap/zlint/v3/lints/rfc"
)

// Zlint is a fixed choice of zlint's lints. Make it once: filtering the
// registry costs more than linting. It is safe for concurrent use.
type Zlint struct {
	certificates []*zlint.CertificateLint
	crls         []*zlint.RevocationListLint
	config       zlint.Configuration
}

// NewZlint chooses the lints of RFC 3279, 5280, 5480, 5891 and 8813 and zlint's community lints.
func NewZlint() *Zlint {
	registry := zlint.GlobalRegistry()
	sources := zlint.SourceList{zlint.RFC3279, zlint.RFC5280, zlint.RFC5480, zlint.RFC5891, zlint.RFC8813, zlint.Community}
	z := &Zlint{config: registry.GetConfiguration()}
	for _, l := range registry.CertificateLints().Lints() {
		if slices.Contains(sources, l.Source) {
			z.certificates = append(z.certificates, l)
		}
	}
	for _, l := range registry.RevocationListLints().Lints() {
		if slices.Contains(sources, l.Source) {
			z.crls = append(z.crls, l)
		}
	}
	return z
}

// Certificate lints an encoded certificate. Warnings count as findings.
func (z *Zlint) Certificate(der []byte) error {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("reading the certificate for zlint: %w", err)
	}
	var f findings
	for _, l := range z.certificates {
		f.zlint(l.Name, l.Execute(c, z.config))
	}
	return f.err()
}

// CRL lints an encoded CRL. Warnings count as findings.
func (z *Zlint) CRL(der []byte) error {
	c, err := x509.ParseRevocationList(der)
	if err != nil {
		return fmt.Errorf("reading the CRL for zlint: %w", err)
	}
	var f findings
	for _, l := range z.crls {
		f.zlint(l.Name, l.Execute(c, z.config))
	}
	return f.err()
}

func (f *findings) zlint(name string, r *zlint.LintResult) {
	if r.Status >= zlint.Warn {
		f.add(name, "%s %s", r.Status, r.Details)
	}
}
