package pki

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/key"
)

// TestRSA makes each weakness for real.
func TestRSA(t *testing.T) {
	prime := func(bits int) *big.Int {
		p, err := rand.Prime(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	times := func(p, q *big.Int) *big.Int { return new(big.Int).Mul(p, q) }
	good, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := prime(1024)
	next := new(big.Int).Add(p, big.NewInt(2))
	for !next.ProbablyPrime(20) {
		next.Add(next, big.NewInt(2))
	}
	odd := times(prime(1024), prime(1024))
	for odd.BitLen()%8 == 0 {
		odd = times(prime(1023), prime(1022))
	}
	withSmall := new(big.Int).Mul(big.NewInt(751), prime(2038))
	for withSmall.BitLen() != 2048 {
		withSmall = new(big.Int).Mul(big.NewInt(751), prime(2038))
	}
	for name, c := range map[string]struct {
		key  rsa.PublicKey
		want string
	}{
		"good":           {good.PublicKey, ""},
		"exponent 3":     {rsa.PublicKey{N: good.N, E: 3}, "exponent 3"},
		"exponent 17":    {rsa.PublicKey{N: good.N, E: 17}, "exponent 17"},
		"even exponent":  {rsa.PublicKey{N: good.N, E: 65538}, "exponent 65538"},
		"small factor":   {rsa.PublicKey{N: withSmall, E: 65537}, "small factor"},
		"even modulus":   {rsa.PublicKey{N: new(big.Int).Add(good.N, big.NewInt(1)), E: 65537}, "small factor"},
		"close primes":   {rsa.PublicKey{N: times(p, next), E: 65537}, "too close"},
		"square":         {rsa.PublicKey{N: times(p, p), E: 65537}, "too close"},
		"ROCA":           {rsa.PublicKey{N: rocaModulus(t), E: 65537}, "ROCA"},
		"uneven bits":    {rsa.PublicKey{N: odd, E: 65537}, "bits"},
		"2040 bits":      {rsa.PublicKey{N: times(prime(1020), prime(1020)), E: 65537}, "bits"},
		"too many bits":  {rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 8200), E: 65537}, "8201 bits"},
		"hardly a key":   {rsa.PublicKey{N: big.NewInt(15), E: 65537}, "4 bits"},
		"zero modulus":   {rsa.PublicKey{N: new(big.Int), E: 65537}, "0 bits"},
		"negative power": {rsa.PublicKey{N: good.N, E: -1}, "exponent -1"},
	} {
		err := checkKey(&c.key)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, key.ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// rocaModulus makes primes as the flawed chips did: k·M + (65537^a mod M), M a primorial.
func rocaModulus(t *testing.T) *big.Int {
	t.Helper()
	m := big.NewInt(1)
	for p := int64(2); p <= 701; p++ {
		if big.NewInt(p).ProbablyPrime(10) {
			m.Mul(m, big.NewInt(p))
		}
	}
	flawed := func() *big.Int {
		for {
			a, err := rand.Int(rand.Reader, big.NewInt(1<<60))
			if err != nil {
				t.Fatal(err)
			}
			k, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(1024-m.BitLen())))
			if err != nil {
				t.Fatal(err)
			}
			p := new(big.Int).Exp(big.NewInt(65537), a, m)
			if p.Add(p, k.Mul(k, m)); p.BitLen() == 1024 && p.ProbablyPrime(10) {
				return p
			}
		}
	}
	for {
		if n := new(big.Int).Mul(flawed(), flawed()); n.BitLen() == 2048 {
			return n
		}
	}
}

// TestROCAPrimes derives the list: the odd primes up to 167 where 65537 does not generate the whole group.
func TestROCAPrimes(t *testing.T) {
	var want []uint64
	for p := uint64(3); p <= 167; p += 2 {
		if !new(big.Int).SetUint64(p).ProbablyPrime(10) {
			continue
		}
		order, x := uint64(1), uint64(65537)%p
		for x != 1 {
			x, order = x*65537%p, order+1
		}
		if order < p-1 {
			want = append(want, p)
		}
	}
	for _, p := range rocaPrimes {
		if !slices.Contains(want, p) {
			t.Errorf("%d is of no use: 65537 generates everything", p)
		}
	}
	t.Logf("65537 generates less than everything modulo %v", want)
}

// TestSmallOrder proves that each listed point verifies a signature made without a key.
func TestSmallOrder(t *testing.T) {
	for _, s := range smallOrder {
		for _, sign := range []byte{0, 0x80} {
			point, err := hex.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			point[31] |= sign
			if err := checkKey(ed25519.PublicKey(point)); !errors.Is(err, key.ErrInvalid) {
				t.Errorf("%x: %v", point, err)
			}
			// R = identity and S = 0 verify whenever hash · A is the identity: at
			// the latest for one message in eight, if Go reads the encoding at all.
			forged := append([]byte{1}, make([]byte, 63)...)
			verified := false
			for n := range 200 {
				verified = verified || ed25519.Verify(point, []byte{byte(n)}, forged)
			}
			if canonical := s[:2] != "ed" && s[:2] != "ee"; !verified && canonical && sign == 0 {
				t.Errorf("%x is not of small order", point)
			}
		}
	}
	if err := checkKey(ed25519.PublicKey(make([]byte, 31))); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("31 bytes: %v", err)
	}
	if err := checkKey("a string"); !errors.Is(err, key.ErrInvalid) {
		t.Errorf("a string as key: %v", err)
	}
}
