package envelope

import (
	"bytes"
	"crypto/fips140"
	"crypto/sha3"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestVectors has the two vectors of c2sp.org/XAES-256-GCM, with their intermediate values.
func TestVectors(t *testing.T) {
	for _, v := range []struct{ key, subkey, additional, sealed string }{
		{"01", "e531954aca063d5b8d9c47a47d4cc6f0", "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{"03", "23810ec50edb99f374409466ed1f4b7b", "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		x, err := newXAES(unhex(t, strings.Repeat(v.key, 32)))
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(x.subkey[:]); got != v.subkey {
			t.Errorf("key %s: K1 is %s, want %s", v.key, got, v.subkey)
		}
		plaintext, nonce := []byte("XAES-256-GCM"), []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
		sealed := make([]byte, len(plaintext)+tagSize)
		if err := x.seal(sealed[:0], nonce, plaintext, []byte(v.additional)); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(sealed); got != v.sealed {
			t.Errorf("key %s: sealed %s, want %s", v.key, got, v.sealed)
		}
		if opened, err := x.open(nil, nonce, sealed, []byte(v.additional)); err != nil || !bytes.Equal(opened, plaintext) {
			t.Errorf("key %s: opened %q, %v", v.key, opened, err)
		}
	}
}

// TestAccumulatedVectors is the accumulated randomized test of the specification.
func TestAccumulatedVectors(t *testing.T) {
	rounds := map[int]string{10_000: "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"}
	if !testing.Short() && !raceDetector && !fips140.Enabled() {
		rounds[1_000_000] = "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15"
	}
	random, digest := sha3.NewSHAKE128(), sha3.NewSHAKE128()
	read := func(n int) []byte {
		b := make([]byte, n)
		_, _ = random.Read(b)
		return b
	}
	var sealed [255 + tagSize]byte
	for round := 1; len(rounds) > 0; round++ {
		k, nonce := read(32), read(nonceSize)
		plaintext := read(int(read(1)[0]))
		additional := read(int(read(1)[0]))
		x, err := newXAES(k)
		if err != nil {
			t.Fatal(err)
		}
		n := len(plaintext) + tagSize
		if err := x.seal(sealed[:0:n], nonce, plaintext, additional); err != nil {
			t.Fatal(err)
		}
		_, _ = digest.Write(sealed[:n])
		if want, ok := rounds[round]; ok {
			sofar, sum := *digest, make([]byte, 32)
			_, _ = sofar.Read(sum)
			if got := hex.EncodeToString(sum); got != want {
				t.Fatalf("after %d rounds: %s, want %s", round, got, want)
			}
			delete(rounds, round)
		}
	}
}

// TestFIPS runs the vectors and the frozen ciphertexts in a process in FIPS mode.
func TestFIPS(t *testing.T) {
	if fips140.Enabled() {
		t.Skip("already in FIPS mode")
	}
	child := exec.Command(os.Args[0], "-test.run=^(TestVectors|TestAccumulatedVectors|TestFrozen|TestRoundTrip|TestInFIPSMode)$", "-test.v")
	child.Env = append(os.Environ(), "GODEBUG=fips140=on", "SEALWRIGHT_WANT_FIPS=1")
	out, err := child.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestInFIPSMode")) {
		t.Errorf("with GODEBUG=fips140=on: %v\n%s", err, out)
	}
}

func TestInFIPSMode(t *testing.T) {
	if os.Getenv("SEALWRIGHT_WANT_FIPS") == "" {
		t.Skip("runs in the child of TestFIPS")
	}
	if !fips140.Enabled() {
		t.Error("the process is not in FIPS mode")
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
