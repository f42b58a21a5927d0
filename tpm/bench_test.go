package tpm_test

import (
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// The raw command sets the limit that the operations below are compared with.
func BenchmarkRawGetRandom(b *testing.B) {
	s := bare(b, softhsmtest.TPM(b))
	for b.Loop() {
		if _, err := (tpm2.GetRandom{BytesRequested: 32}).Execute(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	d := softhsmtest.TPMDevice(b)
	ca := generate(b, d, "ca", key.UsageSign)
	for b.Loop() {
		mustSign(b, d, ca)
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
