package lint

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"net/url"
)

// place says where an extension may stand and whether it is critical there.
type place struct {
	oid      asn1.ObjectIdentifier
	leaf, ca bool
	critical bool
}

// places lists every extension a certificate of ours may carry; any other is a finding.
var places = [...]place{
	{oid(15), true, true, true},   // key usage
	{oid(37), true, false, false}, // extended key usage
	{oid(19), true, true, true},   // basic constraints
	{oid(14), true, true, false},  // subject key identifier
	{oid(35), true, true, false},  // authority key identifier
	{oid(17), true, false, false}, // subject alternative name; critical iff the subject is empty, see extensions
	{oid(30), false, true, true},  // name constraints
	{oid(31), true, true, false},  // CRL distribution points
	{oid(56), true, false, false}, // noRevAvail
}

func oid(last int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, last} }

var (
	oidSAN        = oid(17)
	oidNoRevAvail = oid(56)
	derNull       = []byte{0x05, 0x00}
	emptyName     = []byte{0x30, 0x00}
)

func (f *findings) extensions(c *x509.Certificate, r Rules) {
	empty := bytes.Equal(c.RawSubject, emptyName)
	f.require(!empty || r.Kind == Leaf, "subject", "of a CA must not be empty")
	for i, e := range c.Extensions {
		p := find(e.Id)
		if p == nil {
			f.add("extension", "%s is not one of ours", e.Id)
			continue
		}
		allowed := p.leaf && r.Kind == Leaf || p.ca && r.Kind != Leaf
		if !allowed {
			f.add("extension", "%s has no place in this kind of certificate", e.Id)
		}
		// RFC 5280 4.1.2.6, and Java, pyca and zlint insist on it.
		critical := p.critical || empty && e.Id.Equal(oidSAN)
		if e.Critical != critical {
			f.add("extension", "%s: critical is %v, must be %v", e.Id, e.Critical, critical)
		}
		for _, other := range c.Extensions[:i] {
			if other.Id.Equal(e.Id) {
				f.add("extension", "%s stands twice", e.Id)
			}
		}
	}
}

func find(id asn1.ObjectIdentifier) *place {
	for i := range places {
		if places[i].oid.Equal(id) {
			return &places[i]
		}
	}
	return nil
}

// revocation checks RFC 9608: a leaf says either that there is no revocation
// information, or where it is, and never both.
func (f *findings) revocation(c *x509.Certificate, r Rules) {
	carries := false
	for _, e := range c.Extensions {
		if e.Id.Equal(oidNoRevAvail) {
			carries = true
			f.require(bytes.Equal(e.Value, derNull), "noRevAvail", "its value must be NULL")
		}
	}
	f.require(len(c.OCSPServer) == 0, "revocation", "there is no OCSP here")
	if r.NoRevAvail {
		f.require(carries, "noRevAvail", "missing")
		f.require(len(c.CRLDistributionPoints) == 0, "noRevAvail", "contradicts a CRL distribution point")
		return
	}
	f.require(!carries, "noRevAvail", "belongs to certificates below seven days only")
	if len(c.CRLDistributionPoints) != 1 {
		f.add("revocation", "a leaf without noRevAvail names exactly one CRL, not %d", len(c.CRLDistributionPoints))
		return
	}
	u, err := url.Parse(c.CRLDistributionPoints[0])
	// Not https: fetching it would need a certificate that may need this very CRL.
	f.require(err == nil && u.Scheme == "http" && u.Host != "", "revocation", "the CRL pointer is not an http URL")
}
