package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"math/big"

	"github.com/sealwright/sealwright/key"
)

const (
	minRSABits = 2048
	maxRSABits = 8192 // more costs every verifier dearly
	// fermatRounds as in Boulder's goodkey: a hundred rounds find primes that are
	// so close that the key was not made at random.
	fermatRounds = 100
)

// checkKey refuses public keys that are weak: small, of an unusual kind, or
// made by generators known to be broken. Compare Boulder's goodkey.
func checkKey(public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil // the parser refused points off the curve
		}
		return weak("ECDSA on %s: use P-256 or P-384", k.Curve.Params().Name)
	case ed25519.PublicKey:
		return checkEd25519(k)
	case *rsa.PublicKey:
		return checkRSA(k)
	}
	return weak("a key of type %T: use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits or more", public)
}

func weak(format string, args ...any) error {
	return fmt.Errorf("%w: weak or unusual public key: %s", key.ErrInvalid, fmt.Sprintf(format, args...))
}

func checkRSA(k *rsa.PublicKey) error {
	bits := k.N.BitLen()
	switch {
	case bits < minRSABits || bits > maxRSABits || bits%8 != 0:
		return weak("RSA of %d bits: use 2048 to 8192", bits)
	// Small exponents invite padding attacks; an even one is no RSA key; SP 800-56B
	// wants more than 2^16. Go reads exponents below 2^31 only.
	case k.E < 65537 || k.E%2 == 0:
		return weak("RSA exponent %d: use 65537", k.E)
	case smallFactor(k.N):
		return weak("RSA modulus with a small factor: make a new key")
	case roca(k.N):
		return weak("RSA key made by an Infineon chip with the ROCA flaw (CVE-2017-15361): make a new key elsewhere")
	case closePrimes(k.N):
		return weak("RSA primes too close to each other: make a new key")
	}
	return nil
}

// smallFactor divides by every odd number below 752, the bound of Boulder and the CA/B Forum.
func smallFactor(n *big.Int) bool {
	if n.Bit(0) == 0 {
		return true
	}
	var rest, d big.Int
	for i := int64(3); i < 752; i += 2 {
		if rest.Mod(n, d.SetInt64(i)).Sign() == 0 {
			return true
		}
	}
	return false
}

// rocaPrimes are those odd primes up to 167 modulo which 65537 generates less
// than everything. A flawed modulus is a power of 65537 modulo each of them; a
// sound one is so by chance once in about 2^27 keys (Nemec et al., CCS 2017).
var rocaPrimes = [...]uint64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157}

func roca(n *big.Int) bool {
	var rest, d big.Int
	for _, p := range rocaPrimes {
		r := rest.Mod(n, d.SetUint64(p)).Uint64()
		power, found := uint64(1), false
		for range p {
			found = found || power == r
			power = power * 65537 % p
		}
		if !found {
			return false
		}
	}
	return true
}

// closePrimes is Fermat's factorisation: it succeeds at once when p ≈ q.
func closePrimes(n *big.Int) bool {
	one := big.NewInt(1)
	a := new(big.Int).Sqrt(n)
	if new(big.Int).Mul(a, a).Cmp(n) != 0 {
		a.Add(a, one)
	}
	var b2, b big.Int
	b2.Sub(b2.Mul(a, a), n)
	for range fermatRounds {
		b.Sqrt(&b2)
		if new(big.Int).Mul(&b, &b).Cmp(&b2) == 0 {
			return true
		}
		// (a+1)² − n = a² − n + 2a + 1
		b2.Add(&b2, a).Add(&b2, a).Add(&b2, one)
		a.Add(a, one)
	}
	return false
}

// smallOrder are the encodings of Ed25519 points of order 1, 2, 4 and 8, sign
// bit cleared: anybody can make signatures that verify with such a key.
var smallOrder = [...]string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func checkEd25519(k ed25519.PublicKey) error {
	if len(k) != ed25519.PublicKeySize {
		return weak("an Ed25519 key of %d bytes", len(k))
	}
	plain := [ed25519.PublicKeySize]byte(k)
	plain[31] &= 0x7f
	for _, s := range smallOrder {
		if hex.EncodeToString(plain[:]) == s {
			return weak("an Ed25519 point of small order: make a new key")
		}
	}
	return nil
}
