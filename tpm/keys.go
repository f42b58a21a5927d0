package tpm

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/sealwright/sealwright/key"
)

// The limits of Wrap. A TPM seals 128 bytes at most; the digest of the aad takes 32.
const (
	maxSecret = 64
	maxAAD    = 1024
)

// Generate makes a key and records it before it returns. See key.Device.
func (d *Device) Generate(ctx context.Context, spec key.Spec) (key.Ref, error) {
	ref, err := d.generate(ctx, spec)
	if err != nil {
		return key.Ref{}, fmt.Errorf("generating a key in the TPM: %w", err)
	}
	return ref, nil
}

func (d *Device) generate(ctx context.Context, spec key.Spec) (key.Ref, error) {
	if err := checkSpec(spec); err != nil {
		return key.Ref{}, err
	}
	if err := d.ready(ctx); err != nil {
		return key.Ref{}, err
	}
	unlock, err := d.records.lock(ctx)
	if err != nil {
		return key.Ref{}, err
	}
	defer unlock()
	if err := d.records.free(spec); err != nil {
		return key.Ref{}, err
	}
	// Generation is tried once, so it must not be what notices that the connection died.
	if err := d.do(ctx, true, func(g *generation) error { _, err := g.random(nonceSize); return err }); err != nil {
		return key.Ref{}, err
	}
	ref := key.Ref{ID: spec.ID, Label: spec.Label, Algorithm: spec.Algorithm, Usage: spec.Usage}
	err = d.do(ctx, false, func(g *generation) error {
		public, private, err := g.create(g.root, template(spec.Usage), tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: g.auth}})
		if err != nil {
			return err
		}
		blob := keyBlob{g.root.name, public, private}
		ref.Blob = blob.encode()
		return g.withKey(blob, func(o object) error { return describe(g, o, &ref) })
	})
	if err != nil {
		return key.Ref{}, err // the blob is forgotten, and with it the key
	}
	return ref, d.records.add(ref)
}

// describe reads back what the TPM says of a fresh key and refuses one that could leave.
func describe(g *generation, o object, ref *key.Ref) error {
	area, err := g.readPublic(o)
	if err != nil {
		return err
	}
	if a := attributesOf(area); a.Extractable || !a.Sensitive || !a.GeneratedInside {
		return fmt.Errorf("%w: the TPM made a key that could leave it", key.ErrIntegrity)
	}
	if ref.Usage == key.UsageWrap {
		ref.Check = o.name
		return nil
	}
	ref.Public, err = publicKey(area)
	return err
}

func attributesOf(area *tpm2.TPMTPublic) key.Attributes {
	a := area.ObjectAttributes
	return key.Attributes{
		// A key that may be duplicated to another parent can be read in the clear by that parent's owner.
		Extractable:     !a.FixedTPM || !a.FixedParent,
		Sensitive:       a.FixedTPM || a.EncryptedDuplication,
		GeneratedInside: a.SensitiveDataOrigin,
	}
}

func checkSpec(spec key.Spec) error {
	ok := len(spec.Label) >= 1 && len(spec.Label) <= 64
	for _, r := range spec.Label {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '/' || r == '-')
	}
	switch {
	case !ok:
		return fmt.Errorf("%w: label %.80q: use 1 to 64 of a-z, 0-9, '.', '/' and '-'", key.ErrInvalid, spec.Label)
	case spec.ID.IsZero():
		return fmt.Errorf("%w: the key has no id", key.ErrInvalid)
	case spec.Usage == key.UsageSign && spec.Algorithm == key.ECDSAP256, spec.Usage == key.UsageWrap && spec.Algorithm == key.AES256:
		return nil
	}
	return fmt.Errorf("%w: a TPM key of algorithm %.20q to %.20q: use %s to %s or %s to %s", key.ErrUnsupported,
		spec.Algorithm, spec.Usage, key.ECDSAP256, key.UsageSign, key.AES256, key.UsageWrap)
}

// Find returns the record of the key generated under id. See key.Device.
func (d *Device) Find(ctx context.Context, id key.ID) (key.Ref, error) {
	if err := d.ready(ctx); err != nil {
		return key.Ref{}, fmt.Errorf("finding a TPM key: %w", err)
	}
	ref, err := d.records.find(id)
	if err != nil {
		return key.Ref{}, fmt.Errorf("finding a TPM key: %w", err)
	}
	return ref, nil
}

// Destroy makes this device refuse the key for ever and frees its label; what it cannot do
// stands in the package comment.
func (d *Device) Destroy(ctx context.Context, ref key.Ref) error {
	if err := d.destroy(ctx, ref); err != nil {
		return fmt.Errorf("destroying TPM key %s: %w", ref.Label, err)
	}
	return nil
}

func (d *Device) destroy(ctx context.Context, ref key.Ref) error {
	if err := d.ready(ctx); err != nil {
		return err
	}
	unlock, err := d.records.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := d.records.find(ref.ID); err != nil {
		// A record may be lost while a store's copy of the reference lives: ask the TPM.
		if err := d.withKey(ctx, ref, func(*generation, object) error { return nil }); err != nil {
			return err
		}
	}
	return d.records.destroy(ref.ID)
}

// Attributes loads the key and asks the TPM about it. See key.Device.
func (d *Device) Attributes(ctx context.Context, ref key.Ref) (key.Attributes, error) {
	var a key.Attributes
	err := d.withKey(ctx, ref, func(g *generation, o object) error {
		area, err := g.readPublic(o)
		if err != nil {
			return err
		}
		a = attributesOf(area)
		a.DeviceDescriptor, err = g.describe()
		return err
	})
	if err != nil {
		return key.Attributes{}, fmt.Errorf("reading attributes of TPM key %s: %w", ref.Label, err)
	}
	return a, nil
}

// Sign signs a SHA-256 digest and checks the signature before it returns it. See key.Device.
func (d *Device) Sign(ctx context.Context, ref key.Ref, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if ref.Usage != key.UsageSign {
		return nil, fmt.Errorf("%w: TPM key %s is not a signing key", key.ErrUnsupported, ref.Label)
	}
	if len(digest) != sha256.Size || opts != nil && opts.HashFunc() != crypto.SHA256 {
		return nil, fmt.Errorf("%w: signing with TPM key %s takes a SHA-256 digest", key.ErrInvalid, ref.Label)
	}
	var signature []byte
	err := d.withKey(ctx, ref, func(g *generation, o object) (err error) {
		signature, err = signWith(g, o, digest)
		return err
	})
	if err == nil {
		err = ref.CheckSignature(digest, signature)
	}
	if err != nil {
		return nil, fmt.Errorf("signing with TPM key %s: %w", ref.Label, err)
	}
	return signature, nil
}

// signWith returns the ASN.1 form of the TPM's signature, unchecked.
func signWith(g *generation, o object, digest []byte) ([]byte, error) {
	r, err := tpm2.Sign{
		KeyHandle:  o.by(g.session, plain),
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
	}.Execute(g.tpm)
	if err != nil {
		return nil, err
	}
	pair, err := r.Signature.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errGarbage, err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(pair.SignatureR.Buffer), new(big.Int).SetBytes(pair.SignatureS.Buffer),
	})
}

// Wrap seals secret together with the digest of aad under the wrapping root. See key.Device.
func (d *Device) Wrap(ctx context.Context, ref key.Ref, secret, aad []byte) ([]byte, error) {
	if ref.Usage != key.UsageWrap {
		return nil, fmt.Errorf("%w: TPM key %s does not wrap", key.ErrUnsupported, ref.Label)
	}
	if len(secret) < 1 || len(secret) > maxSecret || len(aad) > maxAAD {
		return nil, fmt.Errorf("%w: wrapping with TPM key %s takes a secret of 1 to %d bytes and an aad of at most %d", key.ErrInvalid, ref.Label, maxSecret, maxAAD)
	}
	digest := sha256.Sum256(aad)
	sealed := append(append(make([]byte, 0, maxSecret+sha256.Size), secret...), digest[:]...)
	defer clear(sealed)
	var wrapped []byte
	err := d.withKey(ctx, ref, func(g *generation, root object) error {
		public, private, err := g.create(root, sealedTemplate(), tpm2.TPMSSensitiveCreate{
			UserAuth: tpm2.TPM2BAuth{Buffer: g.auth},
			Data:     tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: sealed}),
		})
		if err != nil {
			return err
		}
		wrapped = sealedBlob{public, private}.encode()
		// Opened again before it is released: a flipped bit must not cost a keyring.
		back, err := unseal(g, root, sealedBlob{public, private})
		if refused(err) {
			return fmt.Errorf("%w: the TPM refuses what it just sealed: %w", key.ErrIntegrity, err)
		}
		if err != nil {
			return err
		}
		defer clear(back)
		if subtle.ConstantTimeCompare(back, sealed) != 1 {
			return fmt.Errorf("%w: the TPM sealed something else", key.ErrIntegrity)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("wrapping with TPM key %s: %w", ref.Label, err)
	}
	return wrapped, nil
}

// Unwrap opens what Wrap sealed, if aad is the same. See key.Device.
func (d *Device) Unwrap(ctx context.Context, ref key.Ref, wrapped, aad []byte) ([]byte, error) {
	if ref.Usage != key.UsageWrap {
		return nil, fmt.Errorf("%w: TPM key %s does not unwrap", key.ErrUnsupported, ref.Label)
	}
	var sealed []byte
	blob, malformed := parseSealedBlob(wrapped)
	if malformed == nil {
		_, malformed = checkPublic(blob.public, sealedTemplate())
	}
	err := d.withKey(ctx, ref, func(g *generation, root object) (err error) {
		if malformed != nil {
			return key.ErrInvalidCiphertext // the same answer as the TPM's refusal, and as late
		}
		sealed, err = unseal(g, root, blob)
		if refused(err) {
			return key.ErrInvalidCiphertext
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("unwrapping with TPM key %s: %w", ref.Label, err)
	}
	digest := sha256.Sum256(aad)
	n := len(sealed) - sha256.Size
	if n < 1 || n > maxSecret || subtle.ConstantTimeCompare(sealed[n:], digest[:]) != 1 {
		clear(sealed)
		return nil, fmt.Errorf("unwrapping with TPM key %s: %w", ref.Label, key.ErrInvalidCiphertext)
	}
	return sealed[:n:n], nil
}

// unseal loads a sealed blob under root and reads it, encrypted on the bus.
func unseal(g *generation, root object, blob sealedBlob) ([]byte, error) {
	o, err := g.load(root, blob.public, blob.private)
	if err != nil {
		return nil, err
	}
	defer g.flush(o)
	r, err := tpm2.Unseal{ItemHandle: o.by(g.session, encryptOut)}.Execute(g.tpm)
	if err != nil {
		return nil, err
	}
	return r.OutData.Buffer, nil
}

// withKey checks ref, takes its turn and uses the loaded key.
func (d *Device) withKey(ctx context.Context, ref key.Ref, use func(*generation, object) error) error {
	if err := d.ready(ctx); err != nil {
		return err
	}
	blob, err := checkRef(ref)
	if err != nil {
		return err
	}
	return d.do(ctx, true, func(g *generation) error {
		if d.records.destroyed(ref.ID) {
			return fmt.Errorf("%w: the key was destroyed", key.ErrNotFound)
		}
		return g.withKey(blob, func(o object) error { return use(g, o) })
	})
}
