package pki

import (
	"crypto/x509"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The last arc of the extensions under id-ce, 2.5.29.
const (
	extSubjectKeyID     = 14
	extKeyUsage         = 15
	extSubjectAltName   = 17
	extBasicConstraints = 19
	extNameConstraints  = 30
	extCRLPoints        = 31
	extAuthorityKeyID   = 35
	extExtendedKeyUsage = 37
	extNoRevAvail       = 56 // RFC 9608; not under id-pe, where others once put it
)

// Context-specific tags of GeneralName, RFC 5280 4.2.1.6.
const (
	tagDNS = cbasn1.Tag(2 | 0x80)
	tagURI = cbasn1.Tag(6 | 0x80)
	tagIP  = cbasn1.Tag(7 | 0x80)
)

func (t *body) extensions(b *cryptobyte.Builder, subjectID []byte) {
	extension(b, extKeyUsage, true, t.keyUsage)
	if len(t.usages) > 0 {
		extension(b, extExtendedKeyUsage, false, t.extendedKeyUsage)
	}
	extension(b, extBasicConstraints, true, t.basicConstraints)
	extension(b, extSubjectKeyID, false, func(b *cryptobyte.Builder) { b.AddASN1OctetString(subjectID) })
	authorityID := t.authorityID
	if authorityID == nil { // self-signed
		authorityID = subjectID
	}
	extension(b, extAuthorityKeyID, false, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { addBytes(b, cbasn1.Tag(0).ContextSpecific(), authorityID) })
	})
	if len(t.dns)+len(t.ips) > 0 || t.uri != "" {
		// Critical iff the subject is empty: RFC 5280 4.1.2.6.
		extension(b, extSubjectAltName, len(t.subject) == 2, t.names)
	}
	if t.permitted != "" {
		extension(b, extNameConstraints, true, t.nameConstraints)
	}
	if t.crl != "" {
		extension(b, extCRLPoints, false, t.crlPoints)
	}
	if t.noRevAvail {
		extension(b, extNoRevAvail, false, func(b *cryptobyte.Builder) { b.AddASN1NULL() })
	}
}

func extension(b *cryptobyte.Builder, arc int, critical bool, value cryptobyte.BuilderContinuation) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{2, 5, 29, arc})
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1(cbasn1.OCTET_STRING, value)
	})
}

func addBytes(b *cryptobyte.Builder, tag cbasn1.Tag, value []byte) {
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(value) })
}

// keyUsage: a DER named bit list drops trailing zero bits, hence the counts of unused bits.
func (t *body) keyUsage(b *cryptobyte.Builder) {
	bits := []byte{7, 1 << 7} // digitalSignature (bit 0)
	if t.ca {
		bits = []byte{1, 1<<2 | 1<<1} // keyCertSign (5), cRLSign (6)
	}
	addBytes(b, cbasn1.BIT_STRING, bits)
}

func (t *body) extendedKeyUsage(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, u := range t.usages {
			arc := 0
			switch u {
			case x509.ExtKeyUsageServerAuth:
				arc = 1
			case x509.ExtKeyUsageClientAuth:
				arc = 2
			default:
				b.SetError(errUsage)
				return
			}
			b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, arc})
		}
	})
}

func (t *body) basicConstraints(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if !t.ca {
			return // cA FALSE is the default, which DER leaves out
		}
		b.AddASN1Boolean(true)
		if t.pathLen >= 0 {
			b.AddASN1Int64(int64(t.pathLen))
		}
	})
}

func (t *body) names(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, name := range t.dns {
			addBytes(b, tagDNS, []byte(name))
		}
		for _, ip := range t.ips {
			addBytes(b, tagIP, ip.AsSlice())
		}
		if t.uri != "" {
			addBytes(b, tagURI, []byte(t.uri))
		}
	})
}

// nameConstraints permits the URIs of one host. Without a leading period that
// is the host alone; names of other kinds stay unconstrained.
func (t *body) nameConstraints(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { addBytes(b, tagURI, []byte(t.permitted)) })
		})
	})
}

func (t *body) crlPoints(b *cryptobyte.Builder) {
	full := cbasn1.Tag(0).ContextSpecific().Constructed() // distributionPoint, and fullName within it
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(full, func(b *cryptobyte.Builder) {
				b.AddASN1(full, func(b *cryptobyte.Builder) { addBytes(b, tagURI, []byte(t.crl)) })
			})
		})
	})
}
