package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net/netip"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sealwright/sealwright/key"
)

// body is everything a certificate says. Encoding it is deterministic, and in
// the order of x509.CreateCertificate: a test compares the two byte for byte.
// We encode ourselves because CreateCertificate cannot but sign and verify,
// which is most of its cost, and check-then-sign needs the bytes before that.
type body struct {
	serial              *big.Int
	scheme              scheme
	issuer, subject     []byte // DER names
	notBefore, notAfter time.Time
	spki                []byte
	authorityID         []byte

	ca         bool
	pathLen    int    // of a CA; -1: none
	permitted  string // of a CA: the URI host it may name; "": unconstrained
	usages     []x509.ExtKeyUsage
	dns        []string
	ips        []netip.Addr
	uri        string
	crl        string
	noRevAvail bool
}

// scheme is how an issuer's key signs.
type scheme struct {
	algorithm asn1.ObjectIdentifier
	hash      crypto.Hash
}

func schemeOf(public crypto.PublicKey) (scheme, error) {
	if k, ok := public.(*ecdsa.PublicKey); ok {
		switch k.Curve {
		case elliptic.P256():
			return scheme{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, crypto.SHA256}, nil
		case elliptic.P384():
			return scheme{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, crypto.SHA384}, nil
		}
	}
	return scheme{}, fmt.Errorf("%w: an issuer with a key of type %T: use ECDSA P-256 or P-384", key.ErrUnsupported, public)
}

func kindOf(public crypto.PublicKey) keyKind {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return keyKind{x509.ECDSA, k.Curve.Params().BitSize}
	case *rsa.PublicKey:
		return keyKind{x509.RSA, k.N.BitLen()}
	case ed25519.PublicKey:
		return keyKind{x509.Ed25519, 256}
	}
	return keyKind{}
}

// encode returns the TBSCertificate.
func (t *body) encode() ([]byte, error) {
	id, err := keyIdentifier(t.spki)
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 1024))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) })
		b.AddASN1BigInt(t.serial)
		t.scheme.add(b)
		b.AddBytes(t.issuer)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addTime(b, t.notBefore)
			addTime(b, t.notAfter)
		})
		b.AddBytes(t.subject)
		b.AddBytes(t.spki)
		b.AddASN1(cbasn1.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { t.extensions(b, id) })
		})
	})
	return b.Bytes()
}

// seal joins a TBSCertificate and a signature.
func (s scheme) seal(tbs, signature []byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(tbs)+len(signature)+64))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		s.add(b)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

func (s scheme) add(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(s.algorithm) })
}

// addTime writes UTCTime up to 2049 and GeneralizedTime after, as RFC 5280 4.1.2.5 demands.
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1UTCTime(t)
	} else {
		b.AddASN1GeneralizedTime(t)
	}
}

// keyIdentifier is RFC 7093 section 2 method 1, truncated SHA-256: no SHA-1 in FIPS mode.
func keyIdentifier(spki []byte) ([]byte, error) {
	s := cryptobyte.String(spki)
	var info, algorithm cryptobyte.String
	var bits []byte
	if !s.ReadASN1(&info, cbasn1.SEQUENCE) || !s.Empty() || !info.ReadASN1(&algorithm, cbasn1.SEQUENCE) || !info.ReadASN1BitStringAsBytes(&bits) || !info.Empty() {
		return nil, fmt.Errorf("%w: malformed public key", key.ErrInvalid)
	}
	sum := sha256.Sum256(bits)
	return sum[:20], nil
}
