package hsm_test

import (
	"crypto"
	"crypto/sha256"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/hsm"
	"github.com/sealwright/sealwright/key"
	softhsmtest "github.com/sealwright/sealwright/softhsm-test"
)

// BenchmarkSign compares a checked signature of ours with the raw device (no
// check, handle and session at hand), and with the raw device plus the check alone.
func BenchmarkSign(b *testing.B) {
	d := mustOpen(b, softhsmtest.Token(b), hsm.Config{})
	ca := generate(b, d, signing("ca"))
	digest := sha256.Sum256([]byte("benchmark"))
	ours := func(b *testing.B) {
		if _, err := d.Sign(b.Context(), ca, digest[:], crypto.SHA256); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("raw", func(b *testing.B) {
		raw := newRaw(b, d, ca)
		for b.Loop() {
			raw.sign(b, digest[:])
		}
	})
	b.Run("raw+check", func(b *testing.B) {
		raw := newRaw(b, d, ca)
		sig, err := d.Sign(b.Context(), ca, digest[:], crypto.SHA256)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			raw.sign(b, digest[:])
			if err := ca.CheckSignature(digest[:], sig); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			ours(b)
		}
	})
	b.Run("raw parallel", func(b *testing.B) {
		sessions := sync.Pool{New: func() any { return newRaw(b, d, ca) }}
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			raw := sessions.Get().(*raw)
			for pb.Next() {
				raw.sign(b, digest[:])
			}
		})
	})
	b.Run("ours parallel", func(b *testing.B) {
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				ours(b)
			}
		})
	})
}

// BenchmarkUnwrap is what a cold start costs per keyring.
func BenchmarkUnwrap(b *testing.B) {
	d := mustOpen(b, softhsmtest.Token(b), hsm.Config{})
	root := generate(b, d, wrapping("root"))
	wrapped, err := d.Wrap(b.Context(), root, make([]byte, 32), []byte("keyring"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := d.Unwrap(b.Context(), root, wrapped, []byte("keyring")); err != nil {
			b.Fatal(err)
		}
	}
}

// raw is one session and one handle, and no care at all.
type raw struct {
	lib     *pkcs11.Ctx
	session pkcs11.SessionHandle
	handle  pkcs11.ObjectHandle
}

func newRaw(b *testing.B, d *hsm.Device, ref key.Ref) *raw {
	r := new(raw)
	var err error
	d.Steal(func(lib *pkcs11.Ctx, slot uint, _ pkcs11.SessionHandle) {
		r.lib = lib
		if r.session, err = lib.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION); err != nil {
			return
		}
		if err = lib.FindObjectsInit(r.session, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, ref.ID[:]),
		}); err != nil {
			return
		}
		var found []pkcs11.ObjectHandle
		if found, _, err = lib.FindObjects(r.session, 1); err == nil && len(found) == 1 {
			r.handle = found[0]
		}
		_ = lib.FindObjectsFinal(r.session)
	})
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func (r *raw) sign(b *testing.B, digest []byte) {
	err := r.lib.SignInit(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, r.handle)
	if err == nil {
		_, err = r.lib.Sign(r.session, digest)
	}
	if err != nil {
		b.Fatal(err)
	}
}
