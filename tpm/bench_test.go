package tpm_test

import (
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// BenchmarkRawSign is the limit of BenchmarkSign: load, sign, flush, and nothing else.
func BenchmarkRawSign(b *testing.B) {
	uri := softhsmtest.TPM(b)
	auth := tpm2.TPM2BAuth{Buffer: []byte("auth")}
	made := makeByHand(b, uri, auth)
	s := bare(b, uri)
	root, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(s)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		k, err := tpm2.Load{
			ParentHandle: tpm2.NamedHandle{Handle: root.ObjectHandle, Name: root.Name},
			InPrivate:    made.OutPrivate, InPublic: made.OutPublic,
		}.Execute(s)
		if err != nil {
			b.Fatal(err)
		}
		_, err = tpm2.Sign{
			KeyHandle:  tpm2.AuthHandle{Handle: k.ObjectHandle, Name: k.Name, Auth: tpm2.PasswordAuth(auth.Buffer)},
			Digest:     tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
		}.Execute(s)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := (tpm2.FlushContext{FlushHandle: k.ObjectHandle}).Execute(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	d := softhsmtest.TPMDevice(b)
	ca := generate(b, d, "ca", key.UsageSign)
	for b.Loop() {
		if _, err := d.Sign(b.Context(), ca, make([]byte, 32), nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrap(b *testing.B) {
	d := softhsmtest.TPMDevice(b)
	root := generate(b, d, "root", key.UsageWrap)
	for b.Loop() {
		if _, err := d.Wrap(b.Context(), root, make([]byte, 32), nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnwrap(b *testing.B) {
	d := softhsmtest.TPMDevice(b)
	root := generate(b, d, "root", key.UsageWrap)
	wrapped, err := d.Wrap(b.Context(), root, make([]byte, 32), nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := d.Unwrap(b.Context(), root, wrapped, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHealth(b *testing.B) {
	d := softhsmtest.TPMDevice(b)
	for b.Loop() {
		if err := d.Health(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFresh is what a test pays for a TPM of its own.
func BenchmarkFresh(b *testing.B) {
	for b.Loop() {
		softhsmtest.TPM(b)
	}
}
