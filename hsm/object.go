package hsm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/key"
)

// objectKey is what a handle is remembered under.
type objectKey struct {
	id    key.ID
	class uint
}

// object is a handle that was proved to denote a key that cannot leave.
type object struct {
	handle pkcs11.ObjectHandle
	check  []byte // key-check value of a wrapping key, computed with this handle
}

// classOf returns the class of the object that does the work of a usage.
func classOf(u key.Usage) uint {
	if u == key.UsageWrap {
		return pkcs11.CKO_SECRET_KEY
	}
	return pkcs11.CKO_PRIVATE_KEY
}

// resolve returns the handle of a key, looked up once per generation: a token
// with 2,000 objects takes 130 ms for it. The key must be safe, see checkSafe.
func (s *session) resolve(id key.ID, u key.Usage) (object, error) {
	k := objectKey{id, classOf(u)}
	t := s.token
	t.mu.Lock()
	o, ok := t.objects[k]
	ok = ok && s.generation == t.generation
	t.mu.Unlock()
	if ok {
		return o, nil
	}
	handle, err := s.one(id, k.class)
	if err != nil {
		return object{}, err
	}
	if err := s.checkSafe(handle, u); err != nil {
		return object{}, err
	}
	o = object{handle: handle}
	if u == key.UsageWrap {
		if o.check, err = s.keyCheck(handle); err != nil {
			return object{}, err
		}
	}
	t.mu.Lock()
	if s.generation == t.generation {
		t.objects[k] = o
	}
	t.mu.Unlock()
	return o, nil
}

// forget makes the next operation look the key up again.
func (t *token) forget(id key.ID, u key.Usage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.objects, objectKey{id, classOf(u)})
}

// one returns the only token object of the class with the id.
func (s *session) one(id key.ID, class uint) (pkcs11.ObjectHandle, error) {
	found, err := s.find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id[:]))
	switch {
	case err != nil:
		return 0, err
	case len(found) == 0:
		return 0, s.absent(id)
	case len(found) > 1:
		return 0, fmt.Errorf("%w: the token holds %d keys with the id %s", key.ErrIntegrity, len(found), id)
	}
	return found[0], nil
}

// absent tells a key that is not there from a token that cannot show it: a
// session that lost its login sees no private object, and that is no error of C_FindObjects.
func (s *session) absent(id key.ID) error {
	if err := s.token.loggedIn(s.handle); err != nil {
		if assess(err) < login {
			err = pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN)
		}
		return err
	}
	return fmt.Errorf("%w: the token holds no key with the id %s", key.ErrNotFound, id)
}

// find returns at most 16 token objects that match.
func (s *session) find(match ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	s.token.listing.RLock()
	defer s.token.listing.RUnlock()
	match = append(match, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))
	if err := s.lib.FindObjectsInit(s.handle, match); err != nil {
		return nil, err
	}
	found, _, err := s.lib.FindObjects(s.handle, 16)
	if err := s.lib.FindObjectsFinal(s.handle); err != nil {
		return nil, err
	}
	return found, err
}

// fact is a boolean attribute of a key and the value it must have.
type fact struct {
	attribute uint
	want      bool
}

// factsOf returns what makes a key of the usage safe. A wrapping key that could
// also C_UnwrapKey would give its secrets away: unwrap one as a key with SENSITIVE=false and read it.
func factsOf(u key.Usage) []fact {
	facts := []fact{
		{pkcs11.CKA_TOKEN, true}, {pkcs11.CKA_PRIVATE, true}, {pkcs11.CKA_LOCAL, true},
		{pkcs11.CKA_SENSITIVE, true}, {pkcs11.CKA_ALWAYS_SENSITIVE, true},
		{pkcs11.CKA_EXTRACTABLE, false}, {pkcs11.CKA_NEVER_EXTRACTABLE, true},
		{pkcs11.CKA_UNWRAP, false}, {pkcs11.CKA_DERIVE, false},
		{pkcs11.CKA_DECRYPT, u == key.UsageWrap}, {pkcs11.CKA_SIGN, u == key.UsageSign},
	}
	if u == key.UsageWrap {
		facts = append(facts, fact{pkcs11.CKA_ENCRYPT, true}, fact{pkcs11.CKA_WRAP, false}, fact{pkcs11.CKA_VERIFY, false})
	}
	return facts
}

// checkSafe reads back what the token says of the key: ErrIntegrity unless it is as it must be.
func (s *session) checkSafe(handle pkcs11.ObjectHandle, u key.Usage) error {
	facts := factsOf(u)
	ask := make([]*pkcs11.Attribute, len(facts))
	for i, f := range facts {
		ask[i] = pkcs11.NewAttribute(f.attribute, nil)
	}
	got, err := s.lib.GetAttributeValue(s.handle, handle, ask)
	if err != nil {
		return fmt.Errorf("reading the key's attributes: %w", err)
	}
	for i, f := range facts {
		if !bytes.Equal(got[i].Value, flag(f.want)) {
			return fmt.Errorf("%w: the token says that attribute %#x of the key is %x, want %x: such a key could leave the token or be misused; destroy it", key.ErrIntegrity, f.attribute, got[i].Value, flag(f.want))
		}
	}
	return nil
}

func flag(b bool) []byte {
	if b {
		return []byte{1}
	}
	return []byte{0}
}

// label returns the key's CKA_LABEL.
func (s *session) label(handle pkcs11.ObjectHandle) (string, error) {
	got, err := s.lib.GetAttributeValue(s.handle, handle, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
	if err != nil {
		return "", err
	}
	return string(got[0].Value), nil
}

// oidP256 is 1.2.840.10045.3.1.7, the CKA_EC_PARAMS of P-256.
var oidP256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

// public returns the PKIX form of the public key object.
func (s *session) public(handle pkcs11.ObjectHandle) ([]byte, error) {
	got, err := s.lib.GetAttributeValue(s.handle, handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, nil), pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil),
	})
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(got[0].Value, oidP256) {
		return nil, fmt.Errorf("%w: the key is not on the curve P-256", key.ErrUnsupported)
	}
	return parsePoint(got[1].Value)
}

// parsePoint reads a CKA_EC_POINT: PKCS#11 wants a DER OCTET STRING around the
// uncompressed point, and some modules leave it away.
func parsePoint(point []byte) ([]byte, error) {
	var inner []byte
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 {
		point = inner
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fmt.Errorf("%w: the token's public key is no point on P-256: %w", key.ErrIntegrity, err)
	}
	return x509.MarshalPKIXPublicKey(public)
}

// describe builds the reference of the key with the id, and proves it: the
// public half by a signature, a wrapping key by its key-check value.
func (s *session) describe(id key.ID, u key.Usage) (key.Ref, error) {
	o, err := s.resolve(id, u)
	if err != nil {
		return key.Ref{}, err
	}
	ref := key.Ref{ID: id, Algorithm: key.AES256, Usage: u, Check: o.check}
	if ref.Label, err = s.label(o.handle); err != nil {
		return key.Ref{}, err
	}
	if u == key.UsageWrap {
		return ref, nil
	}
	ref.Algorithm = key.ECDSAP256
	handle, err := s.one(id, pkcs11.CKO_PUBLIC_KEY)
	if err != nil {
		return key.Ref{}, err
	}
	if ref.Public, err = s.public(handle); err != nil {
		return key.Ref{}, err
	}
	// Anybody with the token's disk can exchange a public object; only the key itself can sign for it.
	digest := sha256.Sum256(append([]byte("sealwright/hsm possession v1\x00"), ref.Public...))
	sig, err := s.sign(o.handle, digest[:])
	if err != nil {
		return key.Ref{}, err
	}
	return ref, ref.CheckSignature(digest[:], sig)
}
