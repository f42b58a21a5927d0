package tpm

import (
	"github.com/google/go-tpm/tpm2"
	"github.com/sealwright/sealwright/key"
)

// Reparent returns ref with its blob claiming to be made under the storage root of like.
func Reparent(ref, like key.Ref) key.Ref {
	b, err := parseKeyBlob(ref.Blob)
	if err != nil {
		panic(err)
	}
	other, err := parseKeyBlob(like.Blob)
	if err != nil {
		panic(err)
	}
	b.parent = other.parent
	ref.Blob = b.encode()
	return ref
}

// BlobOf makes a blob of a key that the test made by hand.
func BlobOf(parent, public, private []byte) []byte { return keyBlob{parent, public, private}.encode() }

// AuthOf returns the authorisation value a file gives.
func AuthOf(path string) ([]byte, error) { return readAuth(path) }

// PublicOf returns the PKIX form of a public area.
func PublicOf(area *tpm2.TPMTPublic) []byte {
	public, err := publicKey(area)
	if err != nil {
		panic(err)
	}
	return public
}
