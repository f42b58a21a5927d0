package hsm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/ThalesIgnite/crypto11"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

const foreignSignature = "signature by crypto11: "

// TestForeignStack lets an independent PKCS#11 stack use our keys: what we
// make is an ordinary key. It runs in a process of its own, because two stacks
// cannot both initialise one library.
func TestForeignStack(t *testing.T) {
	if task, uri := childTask(); task != "" {
		signWithCrypto11(t, task, uri)
		return
	}
	uri := softhsmtest.Token(t)
	d := mustOpen(t, uri, hsm.Config{})
	ca := generate(t, d, signing("ca"))
	generate(t, d, wrapping("root"))
	for _, line := range strings.Split(child(t, t.Name(), ca.ID.String(), uri), "\n") {
		_, text, ok := strings.Cut(line, foreignSignature)
		if !ok {
			continue
		}
		sig, err := hex.DecodeString(strings.TrimSpace(text))
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte("foreign"))
		if err := ca.CheckSignature(digest[:], sig); err != nil {
			t.Error(err)
		}
		return
	}
	t.Error("crypto11 gave no signature")
}

func signWithCrypto11(t *testing.T, task, uri string) {
	u := parse(t, uri)
	pin, err := hsm.ReadPIN(u.PINSource)
	if err != nil {
		t.Fatal(err)
	}
	id, err := key.ParseID(task)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := crypto11.Configure(&crypto11.Config{Path: u.ModulePath, TokenSerial: u.Serial, Pin: string(pin)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := foreign.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := hsm.Open(t.Context(), uri, hsm.Config{}); err == nil || !strings.Contains(err.Error(), "one owner") {
		t.Errorf("a library that another stack initialised was taken over: %v", err)
	}
	signer, err := foreign.FindKeyPair(id[:], []byte("ca"))
	if err != nil || signer == nil {
		t.Fatalf("crypto11 does not find our key: %v", err)
	}
	if _, ok := signer.Public().(*ecdsa.PublicKey); !ok {
		t.Fatalf("crypto11 sees a %T", signer.Public())
	}
	if _, err := x509.MarshalPKIXPublicKey(signer.Public()); err != nil {
		t.Error(err)
	}
	digest := sha256.Sum256([]byte("foreign"))
	sig, err := signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(foreignSignature + hex.EncodeToString(sig))

	secret, err := foreign.FindKey(nil, []byte("root"))
	if err != nil || secret == nil {
		t.Fatalf("crypto11 does not find our wrapping key: %v", err)
	}
	sealer, err := secret.NewGCM()
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, sealer.NonceSize())
	back, err := sealer.Open(nil, iv, sealer.Seal(nil, iv, []byte("text"), nil), nil)
	if err != nil || string(back) != "text" {
		t.Errorf("crypto11 seals and opens with our wrapping key: %q, %v", back, err)
	}
}
