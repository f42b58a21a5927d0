package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/sealwright/sealwright/key"
)

// blobVersion begins every blob; another layout will have another number.
const blobVersion = 1

// maxBlob bounds what is given to the TPM: a response never is longer.
const maxBlob = maxResponse

// keyBlob is key.Ref.Blob: what the TPM needs to use a key again. On the wire it
// is the version byte, then each field with a 16-bit big-endian length before it.
// The private area is encrypted and authenticated by the TPM under its storage root.
type keyBlob struct {
	parent  []byte // Name of the storage root it was made under
	public  []byte // TPMT_PUBLIC
	private []byte // TPM2B_PRIVATE without its length
}

func (b keyBlob) encode() []byte { return encodeFields(b.parent, b.public, b.private) }

func parseKeyBlob(b []byte) (keyBlob, error) {
	fields, err := parseFields(b, 3)
	if err != nil {
		return keyBlob{}, err
	}
	return keyBlob{fields[0], fields[1], fields[2]}, nil
}

// sealedBlob is what Wrap returns, in the same layout without the parent: the
// TPM itself finds out under which key it was sealed.
type sealedBlob struct{ public, private []byte }

func (b sealedBlob) encode() []byte { return encodeFields(b.public, b.private) }

func parseSealedBlob(b []byte) (sealedBlob, error) {
	fields, err := parseFields(b, 2)
	if err != nil {
		return sealedBlob{}, err
	}
	return sealedBlob{fields[0], fields[1]}, nil
}

func encodeFields(fields ...[]byte) []byte {
	out := []byte{blobVersion}
	for _, field := range fields {
		out = binary.BigEndian.AppendUint16(out, uint16(len(field)))
		out = append(out, field...)
	}
	return out
}

// parseFields reads exactly n non-empty fields and nothing after them.
func parseFields(b []byte, n int) ([][]byte, error) {
	if len(b) == 0 || len(b) > maxBlob || b[0] != blobVersion {
		return nil, fmt.Errorf("%w: not a TPM key blob of version %d", key.ErrIntegrity, blobVersion)
	}
	rest := b[1:]
	fields := make([][]byte, n)
	for i := range fields {
		if len(rest) < 2 {
			return nil, fmt.Errorf("%w: TPM key blob is truncated", key.ErrIntegrity)
		}
		size := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; size == 0 || size > len(rest) {
			return nil, fmt.Errorf("%w: TPM key blob is truncated", key.ErrIntegrity)
		}
		fields[i], rest = rest[:size], rest[size:]
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%w: TPM key blob has bytes after its end", key.ErrIntegrity)
	}
	return fields, nil
}

// nameOf is the TPM's Name of a public area whose name algorithm is SHA-256 (Part 1, 16).
func nameOf(public []byte) []byte {
	digest := sha256.Sum256(public)
	return append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), digest[:]...)
}

// The templates. Every object is fixed to its TPM and its parent, so it cannot be duplicated, and
// made inside. None counts for dictionary-attack lockout (NoDA): three typing
// errors of another tool must not stop a service, and the authorisation value is too strong to guess.

func signingTemplate() tpm2.TPMTPublic {
	return eccTemplate(tpm2.TPMAObject{SignEncrypt: true}, tpm2.TPMSECCParms{
		CurveID: tpm2.TPMECCNistP256,
		Scheme: tpm2.TPMTECCScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
	})
}

// storageTemplate is the wrapping root. Its AES-128 is not a choice: the
// standard storage root has it, and a fixed child storage key must have its parent's (Part 3, 12.1).
func storageTemplate() tpm2.TPMTPublic {
	return eccTemplate(tpm2.TPMAObject{Restricted: true, Decrypt: true}, tpm2.TPMSECCParms{
		CurveID: tpm2.TPMECCNistP256,
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
	})
}

func eccTemplate(attributes tpm2.TPMAObject, parameters tpm2.TPMSECCParms) tpm2.TPMTPublic {
	attributes.FixedTPM, attributes.FixedParent, attributes.SensitiveDataOrigin = true, true, true
	attributes.UserWithAuth, attributes.NoDA = true, true
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &parameters),
	}
}

func sealedTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true},
	}
}

// template returns what usage demands of a key's public area.
func template(usage key.Usage) tpm2.TPMTPublic {
	if usage == key.UsageWrap {
		return storageTemplate()
	}
	return signingTemplate()
}

// checkPublic reads a public area and refuses one that is not of the template in everything but its unique part.
func checkPublic(public []byte, template tpm2.TPMTPublic) (*tpm2.TPMTPublic, error) {
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil || area.Type != template.Type {
		return nil, fmt.Errorf("%w: public area is not that of such a key", key.ErrIntegrity)
	}
	if template.Type == tpm2.TPMAlgECC {
		// A key that another tool made under the storage root may count for lockout.
		template.ObjectAttributes.NoDA = area.ObjectAttributes.NoDA
	}
	template.Unique = area.Unique
	if !bytes.Equal(tpm2.Marshal(template), public) {
		return nil, fmt.Errorf("%w: public area is not that of such a key: it might be copied out of the TPM, or serve another purpose", key.ErrIntegrity)
	}
	return area, nil
}

// publicKey returns the PKIX form of a signing key's public area.
func publicKey(area *tpm2.TPMTPublic) ([]byte, error) {
	point, err := area.Unique.ECC()
	if err != nil || len(point.X.Buffer) > 32 || len(point.Y.Buffer) > 32 {
		return nil, fmt.Errorf("%w: public key is no point", key.ErrIntegrity)
	}
	encoded := make([]byte, 65)
	encoded[0] = 4 // uncompressed
	copy(encoded[33-len(point.X.Buffer):33], point.X.Buffer)
	copy(encoded[65-len(point.Y.Buffer):], point.Y.Buffer)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), encoded)
	if err != nil {
		return nil, fmt.Errorf("%w: public key: %w", key.ErrIntegrity, err)
	}
	return x509.MarshalPKIXPublicKey(public)
}

// checkRef reads the blob of ref and compares it with what ref says of its key.
func checkRef(ref key.Ref) (keyBlob, error) {
	if len(ref.Blob) == 0 {
		return keyBlob{}, fmt.Errorf("%w: the reference has no TPM blob: it is of another device", key.ErrNotFound)
	}
	blob, err := parseKeyBlob(ref.Blob)
	if err != nil {
		return keyBlob{}, err
	}
	area, err := checkPublic(blob.public, template(ref.Usage))
	if err != nil {
		return keyBlob{}, err
	}
	if ref.Usage == key.UsageWrap {
		if subtle.ConstantTimeCompare(ref.Check, nameOf(blob.public)) != 1 {
			return keyBlob{}, fmt.Errorf("%w: the reference's key-check value is of another key", key.ErrIntegrity)
		}
		return blob, nil
	}
	public, err := publicKey(area)
	if err != nil {
		return keyBlob{}, err
	}
	if !bytes.Equal(ref.Public, public) {
		return keyBlob{}, fmt.Errorf("%w: the reference's public key is of another key", key.ErrIntegrity)
	}
	return blob, nil
}
