package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
)

const nonceSize = 24

// xaes is XAES-256-GCM of c2sp.org/XAES-256-GCM for one key: a CMAC in counter
// mode (SP 800-108r1) derives an AES-256-GCM key from the first half of the
// nonce; the second half is the GCM nonce. It stands on crypto/aes and
// crypto/cipher alone, so it works with GODEBUG=fips140=on.
type xaes struct {
	block  cipher.Block
	subkey [16]byte // K1 of SP 800-38B 6.1
}

func newXAES(k []byte) (xaes, error) {
	block, err := aes.NewCipher(k)
	if err != nil {
		return xaes{}, err
	}
	x := xaes{block: block}
	l := make([]byte, aes.BlockSize)
	block.Encrypt(l, l)
	// K1 = L << 1, reduced by x^128 + x^7 + x^2 + x + 1, without a branch on the key.
	top := l[0] >> 7
	for i := range len(l) - 1 {
		x.subkey[i] = l[i]<<1 | l[i+1]>>7
	}
	x.subkey[15] = l[15]<<1 ^ -top&0b10000111
	clear(l)
	return x, nil
}

// aead returns AES-256-GCM under the key derived for the first half of nonce.
func (x *xaes) aead(nonce []byte) (cipher.AEAD, error) {
	derived := make([]byte, 2*aes.BlockSize)
	for i := range 2 {
		m := derived[i*aes.BlockSize : (i+1)*aes.BlockSize]
		m[1], m[2] = byte(i+1), 'X' // counter u16, label, 0x00, context
		copy(m[4:], nonce[:12])
		for j := range m {
			m[j] ^= x.subkey[j]
		}
		x.block.Encrypt(m, m)
	}
	block, err := aes.NewCipher(derived)
	clear(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal appends the ciphertext and tag to dst, which must have the capacity.
func (x *xaes) seal(dst, nonce, plaintext, additional []byte) error {
	aead, err := x.aead(nonce)
	if err != nil {
		return err
	}
	aead.Seal(dst, nonce[12:], plaintext, additional)
	return nil
}

func (x *xaes) open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	aead, err := x.aead(nonce)
	if err != nil {
		return nil, err
	}
	return aead.Open(dst, nonce[12:], ciphertext, additional)
}

// prepare derives the encryption key and the commitment of a secret; see the
// package comment.
func (p *prepared) prepare(secret []byte) error {
	suite := string(rune(XAES256GCM))
	encryption, err := hkdf.Expand(sha256.New, secret, "sealwright/envelope/v1 encryption\x00"+suite, 32)
	if err != nil {
		return err
	}
	defer clear(encryption)
	commitment, err := hkdf.Expand(sha256.New, secret, "sealwright/envelope/v1 commitment\x00"+suite, 32)
	if err != nil {
		return err
	}
	copy(p.commitment[:], commitment)
	p.xaes, err = newXAES(encryption)
	return err
}
