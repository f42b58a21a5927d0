package lint

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Rules says what one certificate must be.
type Rules struct {
	Kind   Kind
	Parent *x509.Certificate // the signing certificate; nil for a Root
	// MaxValidity bounds notAfter − notBefore + 1 s: both ends are inside the
	// validity period (RFC 5280 4.1.2.5).
	MaxValidity time.Duration
	Usages      []x509.ExtKeyUsage // of a Leaf: exactly these
	TrustDomain string             // of a Leaf or Issuer: the only trust domain it may name; "" means no URI at all
	NoRevAvail  bool               // of a Leaf: carries noRevAvail and no CRL pointer; otherwise exactly one CRL pointer
}

const minSerialBits = 64 // the least the CA/B Forum accepts; ours have 126 random bits

// Certificate checks c, parsed from its encoded form, against r. The error is a Findings.
func Certificate(c *x509.Certificate, r Rules) error {
	var f findings
	f.basics(c, r)
	f.validity(c, r)
	f.authority(c, r)
	f.usage(c, r)
	f.identifiers(c, r)
	f.extensions(c, r)
	if r.Kind == Leaf {
		f.revocation(c, r)
	}
	f.names(c, r)
	return f.err()
}

func (f *findings) basics(c *x509.Certificate, r Rules) {
	f.require(c.Version == 3, "version", "not an X.509 v3 certificate")
	// 159 bits: with the top bit of the twentieth octet set, DER adds a zero
	// octet and passes the twenty of RFC 5280 4.1.2.2.
	bits := c.SerialNumber.BitLen()
	f.require(c.SerialNumber.Sign() > 0, "serial", "not positive")
	f.require(bits >= minSerialBits && bits <= 159, "serial", "must have 64 to 159 bits")
	if r.Parent != nil {
		f.require(bytes.Equal(c.RawIssuer, r.Parent.RawSubject), "issuer name", "differs from the subject of the signing certificate, byte for byte")
		f.require(!bytes.Equal(c.RawSubjectPublicKeyInfo, r.Parent.RawSubjectPublicKeyInfo), "public key", "is the key of its own issuer")
		f.require(r.Parent.PublicKeyAlgorithm == keyAlgorithm(c.SignatureAlgorithm), "signature algorithm", "does not fit the key of the signing certificate")
	} else {
		f.require(r.Kind == Root, "issuer", "only a root stands alone")
		f.require(bytes.Equal(c.RawIssuer, c.RawSubject), "issuer name", "of a root must be its own subject")
		f.require(c.PublicKeyAlgorithm == keyAlgorithm(c.SignatureAlgorithm), "signature algorithm", "does not fit the root's key")
	}
}

// keyAlgorithm is the key that makes signatures of that algorithm; unknown for
// everything that hashes with less than SHA-256.
func keyAlgorithm(s x509.SignatureAlgorithm) x509.PublicKeyAlgorithm {
	switch s {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
		return x509.ECDSA
	case x509.PureEd25519:
		return x509.Ed25519
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
		return x509.RSA
	}
	return x509.UnknownPublicKeyAlgorithm
}

func (f *findings) validity(c *x509.Certificate, r Rules) {
	f.require(c.NotBefore.Before(c.NotAfter), "validity", "ends before it begins")
	if whole := c.NotAfter.Sub(c.NotBefore) + time.Second; whole > r.MaxValidity {
		f.add("validity", "lasts %s, more than the %s allowed", whole, r.MaxValidity)
	}
	if p := r.Parent; p != nil {
		f.require(!c.NotBefore.Before(p.NotBefore) && !c.NotAfter.After(p.NotAfter), "validity", "reaches beyond the validity of the signing certificate")
	}
}

func (f *findings) authority(c *x509.Certificate, r Rules) {
	f.require(c.BasicConstraintsValid, "basic constraints", "missing")
	f.require(c.IsCA == (r.Kind != Leaf), "basic constraints", "cA says the opposite of what this certificate is for")
	switch r.Kind {
	case Issuer:
		f.require(c.MaxPathLen == 0 && c.MaxPathLenZero, "basic constraints", "an issuer must have pathlen 0")
	default:
		f.require(c.MaxPathLen == -1, "basic constraints", "a root or leaf has no pathlen")
	}
	if p := r.Parent; p != nil {
		f.require(p.IsCA && p.KeyUsage&x509.KeyUsageCertSign != 0, "issuer", "the signing certificate may not sign certificates")
		f.require(r.Kind == Leaf || !p.MaxPathLenZero, "issuer", "the signing certificate may sign leaves only")
	}
}

func (f *findings) usage(c *x509.Certificate, r Rules) {
	if r.Kind != Leaf {
		f.require(c.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign, "key usage", "of a CA must be keyCertSign and cRLSign, nothing else")
		f.require(len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0, "extended key usage", "has no place in a CA certificate")
		return
	}
	// digitalSignature alone serves ECDSA, Ed25519 and RSA in TLS 1.3 and in
	// every (EC)DHE suite of 1.2; keyEncipherment would only enable RSA key transport.
	f.require(c.KeyUsage == x509.KeyUsageDigitalSignature, "key usage", "of a leaf must be digitalSignature, nothing else")
	f.require(slices.Equal(c.ExtKeyUsage, r.Usages) && len(c.UnknownExtKeyUsage) == 0, "extended key usage", "is not the profile's")
}

func (f *findings) identifiers(c *x509.Certificate, r Rules) {
	f.require(bytes.Equal(c.SubjectKeyId, keyIdentifier(c.RawSubjectPublicKeyInfo)), "subject key identifier", "is not the truncated SHA-256 of the key (RFC 7093 method 1)")
	parent := r.Parent
	if parent == nil {
		parent = c
	}
	f.require(len(parent.SubjectKeyId) > 0 && bytes.Equal(c.AuthorityKeyId, parent.SubjectKeyId), "authority key identifier", "is not the subject key identifier of the signing certificate")
}

// keyIdentifier is RFC 7093 section 2 method 1: the leftmost 160 bits of the
// SHA-256 of the subjectPublicKey bit string, without tag, length and unused
// bits. nil when spki is not one.
func keyIdentifier(spki []byte) []byte {
	s := cryptobyte.String(spki)
	var body, algorithm, bits cryptobyte.String
	if !s.ReadASN1(&body, asn1.SEQUENCE) || !body.ReadASN1(&algorithm, asn1.SEQUENCE) || !body.ReadASN1(&bits, asn1.BIT_STRING) || !bits.Skip(1) {
		return nil
	}
	sum := sha256.Sum256(bits)
	return sum[:20]
}
