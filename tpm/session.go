package tpm

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// nonceSize is the least a TPM accepts for a caller's nonce and the size of an AES block.
const nonceSize = 16

// session is one salted HMAC session, used for every command of a generation:
// it proves to the TPM that we know a key's authorisation value, proves to us that
// the answer is the TPM's, and encrypts what is secret on the bus.
//
// go-tpm's sessions carry one authorisation value and one direction of
// encryption each, which would need four of a TPM's three session slots; this one
// takes both anew at each command (see [session.use]).
type session struct {
	handle tpm2.TPMHandle
	key    []byte // from the salt, which only the holder of the storage root's private half can read
	nonce  []byte // the TPM's last nonce
}

// errForged: a response that no holder of the session key made.
var errForged = errors.New("the answer's authentication code is wrong")

var aes128CFB = tpm2.TPMTSymDef{
	Algorithm: tpm2.TPMAlgAES,
	KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
	Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
}

// startSession opens a session salted to a loaded storage key (TPM 2.0 Part 1, 19.6.8).
func startSession(t transport.TPM, handle tpm2.TPMHandle, public *tpm2.TPMTPublic) (*session, error) {
	encapsulation, err := tpm2.ImportEncapsulationKey(public)
	if err != nil {
		return nil, fmt.Errorf("%w: storage root: %w", errGarbage, err)
	}
	salt, encrypted, err := tpm2.CreateEncryptedSalt(rand.Reader, encapsulation)
	if err != nil {
		return nil, fmt.Errorf("%w: storage root: %w", errGarbage, err)
	}
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // never fails since Go 1.24
	r, err := tpm2.StartAuthSession{
		TPMKey: handle, Bind: tpm2.TPMRHNull,
		NonceCaller:   tpm2.TPM2BNonce{Buffer: nonce},
		EncryptedSalt: tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
		SessionType:   tpm2.TPMSEHMAC, Symmetric: aes128CFB, AuthHash: tpm2.TPMAlgSHA256,
	}.Execute(t)
	if err != nil {
		return nil, err
	}
	if len(r.NonceTPM.Buffer) < nonceSize {
		return nil, fmt.Errorf("%w: a nonce of %d bytes", errGarbage, len(r.NonceTPM.Buffer))
	}
	return &session{
		handle: tpm2.TPMHandle(r.SessionHandle.HandleValue()),
		key:    tpm2.KDFa(crypto.SHA256, salt, "ATH", r.NonceTPM.Buffer, nonce, 256),
		nonce:  r.NonceTPM.Buffer,
	}, nil
}

// direction says which first parameter of a command travels encrypted.
type direction struct{ in, out bool }

var (
	plain      = direction{}
	encryptIn  = direction{in: true}
	encryptOut = direction{out: true}
)

// use returns s as one command takes it: authorising with auth (nil where the
// session only encrypts, or the object has no authorisation value).
func (s *session) use(auth []byte, d direction) tpm2.Session {
	return &authorization{session: s, auth: auth, attributes: tpm2.TPMASession{
		ContinueSession: true, Decrypt: d.in, Encrypt: d.out, // named from the TPM's side
	}}
}

// authorization is a session in one command. It implements tpm2.Session.
type authorization struct {
	session    *session
	auth       []byte
	attributes tpm2.TPMASession
	nonce      []byte // ours, fresh
}

func (a *authorization) Init(transport.TPM) error           { return nil }
func (a *authorization) CleanupFailure(transport.TPM) error { return nil }
func (a *authorization) NonceTPM() tpm2.TPM2BNonce          { return tpm2.TPM2BNonce{Buffer: a.session.nonce} }
func (a *authorization) IsEncryption() bool                 { return a.attributes.Encrypt }
func (a *authorization) IsDecryption() bool                 { return a.attributes.Decrypt }
func (a *authorization) Handle() tpm2.TPMHandle             { return a.session.handle }

func (a *authorization) NewNonceCaller() error {
	a.nonce = make([]byte, nonceSize)
	_, _ = rand.Read(a.nonce) // never fails since Go 1.24
	return nil
}

// Authorize computes the command's authentication code (Part 1, 19.6.5).
func (a *authorization) Authorize(cc tpm2.TPMCC, parameters, addNonces []byte, names []tpm2.TPM2BName, _ int) (*tpm2.TPMSAuthCommand, error) {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(cc)))
	for _, name := range names {
		h.Write(name.Buffer)
	}
	h.Write(parameters)
	return &tpm2.TPMSAuthCommand{
		Handle: a.session.handle, Nonce: tpm2.TPM2BNonce{Buffer: a.nonce}, Attributes: a.attributes,
		Authorization: tpm2.TPM2BData{Buffer: a.mac(h.Sum(nil), a.nonce, a.session.nonce, addNonces, attributeByte(a.attributes))},
	}, nil
}

// Validate checks the response's authentication code and takes over the TPM's nonce.
func (a *authorization) Validate(rc tpm2.TPMRC, cc tpm2.TPMCC, parameters []byte, _ []tpm2.TPM2BName, _ int, auth *tpm2.TPMSAuthResponse) error {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(rc)))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(cc)))
	h.Write(parameters)
	want := a.mac(h.Sum(nil), auth.Nonce.Buffer, a.nonce, nil, attributeByte(auth.Attributes))
	if !hmac.Equal(want, auth.Authorization.Buffer) {
		return errForged
	}
	if !auth.Attributes.ContinueSession || len(auth.Nonce.Buffer) < nonceSize {
		return fmt.Errorf("%w: the session ended", errGarbage)
	}
	a.session.nonce = bytes.Clone(auth.Nonce.Buffer)
	return nil
}

// mac is the HMAC of Part 1, 19.6.5 under sessionKey ‖ authValue.
func (a *authorization) mac(digest, newer, older, extra []byte, attributes byte) []byte {
	h := hmac.New(sha256.New, a.secret())
	h.Write(digest)
	h.Write(newer)
	h.Write(older)
	h.Write(extra)
	h.Write([]byte{attributes})
	return h.Sum(nil)
}

// secret is sessionKey ‖ authValue; auth has no trailing zeros (see readAuth), which a TPM would strip.
func (a *authorization) secret() []byte { return append(bytes.Clone(a.session.key), a.auth...) }

// Encrypt encrypts a command's first parameter in place.
func (a *authorization) Encrypt(parameter []byte) error {
	if !a.attributes.Decrypt {
		return nil
	}
	block, iv, err := a.cipher(a.nonce, a.session.nonce)
	if err == nil {
		//nolint:staticcheck // The TPM speaks CFB (Part 1, 21.3); the command's HMAC authenticates it.
		cipher.NewCFBEncrypter(block, iv).XORKeyStream(parameter, parameter)
	}
	return err
}

// Decrypt decrypts a response's first parameter in place.
func (a *authorization) Decrypt(parameter []byte) error {
	if !a.attributes.Encrypt {
		return nil
	}
	block, iv, err := a.cipher(a.session.nonce, a.nonce)
	if err == nil {
		//nolint:staticcheck // The TPM speaks CFB (Part 1, 21.3); the response's HMAC authenticates it.
		cipher.NewCFBDecrypter(block, iv).XORKeyStream(parameter, parameter)
	}
	return err
}

// cipher derives one parameter's AES key and IV from both nonces.
func (a *authorization) cipher(newer, older []byte) (cipher.Block, []byte, error) {
	keyIV := tpm2.KDFa(crypto.SHA256, a.secret(), "CFB", newer, older, 8*2*aes.BlockSize)
	block, err := aes.NewCipher(keyIV[:aes.BlockSize])
	return block, keyIV[aes.BlockSize:], err
}

// attributeByte is TPMA_SESSION as the HMAC sees it (Part 2, 8.4).
func attributeByte(a tpm2.TPMASession) byte {
	var b byte
	for i, set := range []bool{a.ContinueSession, a.AuditExclusive, a.AuditReset, false, false, a.Decrypt, a.Encrypt, a.Audit} {
		if set {
			b |= 1 << i
		}
	}
	return b
}
