package lint

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"time"
)

// CRLRules says what one CRL must be.
type CRLRules struct {
	Parent      *x509.Certificate // the issuer whose certificates it lists
	MaxLifetime time.Duration     // nextUpdate − thisUpdate
}

// CRL checks l, parsed from its encoded form: a complete CRL of one issuer,
// without issuing distribution point. The error is a Findings.
func CRL(l *x509.RevocationList, r CRLRules) error {
	var f findings
	p := r.Parent
	f.require(bytes.Equal(l.RawIssuer, p.RawSubject), "issuer name", "differs from the subject of the signing certificate")
	f.require(p.KeyUsage&x509.KeyUsageCRLSign != 0, "issuer", "the signing certificate may not sign CRLs")
	f.require(keyAlgorithm(l.SignatureAlgorithm) == p.PublicKeyAlgorithm, "signature algorithm", "does not fit the issuer's key")
	f.require(len(p.SubjectKeyId) > 0 && bytes.Equal(l.AuthorityKeyId, p.SubjectKeyId), "authority key identifier", "is not the issuer's subject key identifier")
	f.require(l.Number != nil && l.Number.Sign() > 0 && l.Number.BitLen() <= 159, "crl number", "must be positive and at most 20 octets")
	f.require(l.ThisUpdate.Before(l.NextUpdate), "crl dates", "nextUpdate is not after thisUpdate")
	f.require(l.NextUpdate.Sub(l.ThisUpdate) <= r.MaxLifetime, "crl dates", "nextUpdate is further away than allowed")
	for _, e := range l.Extensions {
		known := e.Id.Equal(oid(35)) || e.Id.Equal(oid(20)) // authority key identifier, CRL number
		f.require(known && !e.Critical, "extension", "a complete CRL carries the authority key identifier and the number, nothing else")
	}
	f.entries(l)
	return f.err()
}

func (f *findings) entries(l *x509.RevocationList) {
	seen := make(map[string]bool, len(l.RevokedCertificateEntries))
	for _, e := range l.RevokedCertificateEntries {
		serial := e.SerialNumber.Text(16)
		if seen[serial] {
			f.add("entries", "serial %s stands twice", serial)
		}
		seen[serial] = true
		f.require(e.SerialNumber.Sign() > 0, "entries", "a serial is not positive")
		f.require(!e.RevocationTime.After(l.ThisUpdate), "entries", "a revocation lies after thisUpdate")
		f.require(e.ReasonCode == 0 || Reason(e.ReasonCode), "entries", "a reason code that no entry of a complete CRL may have")
		for _, x := range e.Extensions {
			f.require(x.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 21}) && !x.Critical, "entries", "an extension other than the reason code")
		}
	}
}

// Reason reports whether code may stand in a CRL entry of ours: RFC 5280 5.3.1
// without unspecified (0: left out, not written), certificateHold (6: nothing
// here is ever un-revoked), the unused 7 and removeFromCRL (8: delta CRLs only).
func Reason(code int) bool {
	switch code {
	case 1, 2, 3, 4, 5, 9, 10:
		return true
	}
	return false
}
