package tpm

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/sealwright/sealwright/key"
)

// liar is a TPM that knows the session key and answers every command with the
// same handle and parameters, correctly authenticated. Nothing but the decoding of what it says protects us.
type liar struct {
	s          *session
	auth       []byte
	handle     []byte // of commands that return one
	parameters []byte
	raw        bool // the parameters are the whole response
}

func (l *liar) Send(command []byte) ([]byte, error) {
	if l.raw {
		n, err := responseSize(l.parameters)
		if err == nil && n != len(l.parameters) {
			err = errLost
		}
		return l.parameters, err
	}
	cc := binary.BigEndian.Uint32(command[6:])
	var body []byte
	switch tpm2.TPMCC(cc) {
	case tpm2.TPMCCLoad, tpm2.TPMCCCreatePrimary, tpm2.TPMCCStartAuthSession:
		body = append(body, l.handle...)
	}
	tag := uint16(tpm2.TPMSTNoSessions)
	if binary.BigEndian.Uint16(command) == uint16(tpm2.TPMSTSessions) {
		tag = uint16(tpm2.TPMSTSessions)
		body = binary.BigEndian.AppendUint32(body, uint32(len(l.parameters)))
		body = append(body, l.parameters...)
		body = append(body, l.authorize(cc, command)...)
	} else {
		body = append(body, l.parameters...)
	}
	out := binary.BigEndian.AppendUint16(nil, tag)
	out = binary.BigEndian.AppendUint32(out, uint32(10+len(body)))
	return append(append(out, 0, 0, 0, 0), body...), nil
}

// authorize makes the response's authorisation area as the holder of the session key does.
func (l *liar) authorize(cc uint32, command []byte) []byte {
	if tpm2.TPMCC(cc) == tpm2.TPMCCCreatePrimary {
		return []byte{0, 0, 1, 0, 0} // a password's: nothing
	}
	// The caller's nonce is behind the handle of our session in the command.
	at := bytes.Index(command[10:], binary.BigEndian.AppendUint32(nil, uint32(l.s.handle)))
	if at < 0 {
		return nil
	}
	nonceCaller := command[10+at+6 : 10+at+6+nonceSize]
	attributes := command[10+at+6+nonceSize]
	secret := append(bytes.Clone(l.s.key), l.auth...)
	switch tpm2.TPMCC(cc) {
	case tpm2.TPMCCGetRandom, tpm2.TPMCCReadPublic:
		secret = l.s.key
	}
	digest := sha256.Sum256(append(binary.BigEndian.AppendUint32(make([]byte, 4), cc), l.parameters...))
	nonce := make([]byte, nonceSize)
	h := hmac.New(sha256.New, secret)
	for _, part := range [][]byte{digest[:], nonce, nonceCaller, {attributes}} {
		h.Write(part)
	}
	out := append([]byte{0, nonceSize}, nonce...)
	return h.Sum(append(out, attributes, 0, sha256.Size))
}

// deceive runs every command we know against a liar.
func deceive(parameters []byte, raw bool) (errs []error, released [][]byte) {
	s := &session{handle: 0x02000000, key: make([]byte, 32), nonce: make([]byte, nonceSize)}
	auth := []byte("authorisation")
	l := &liar{s: s, auth: auth, handle: []byte{0x80, 0, 0, 1}, parameters: parameters, raw: raw}
	g := &generation{tpm: l, close: func() error { return nil }, auth: auth, session: s,
		root: object{handle: firstTransient, name: nameOf(nil), auth: auth}}
	note := func(err error) { errs = append(errs, err) }
	note(g.sweep())
	_, err := g.createRoot()
	note(err)
	g.root = object{handle: firstTransient, name: nameOf(nil), auth: auth}
	_, _, err = g.create(g.root, signingTemplate(), tpm2.TPMSSensitiveCreate{})
	note(err)
	_, err = g.load(g.root, []byte("public"), []byte("private"))
	note(err)
	_, err = g.readPublic(g.root)
	note(err)
	_, err = g.describe()
	note(err)
	random, err := g.random(16)
	note(err)
	signature, err := signWith(g, g.root, make([]byte, 32))
	note(err)
	_, err = unseal(g, g.root, sealedBlob{[]byte("public"), []byte("private")})
	note(err)
	area, _ := tpm2.Unmarshal[tpm2.TPMTPublic](tpm2.Marshal(tpm2.ECCSRKTemplate))
	_, err = startSession(l, firstTransient, area)
	note(err)
	note(g.canary())
	return errs, [][]byte{random, signature}
}

// FuzzResponse feeds responses to everything that reads one: an error or a plain value, never a panic.
func FuzzResponse(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add([]byte{0}, false)
	f.Add([]byte{0xff, 0xff}, false)
	f.Add([]byte{0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, false)
	f.Add(refusalBytes(tpm2.TPMRCInitialize), true)
	f.Add([]byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0}, true)
	public := tpm2.Marshal(signingTemplate())
	f.Add(append(binary.BigEndian.AppendUint16(nil, uint16(len(public))), public...), false)
	f.Add([]byte{0, byte(tpm2.TPMAlgECDSA), 0, byte(tpm2.TPMAlgSHA256), 0, 1, 1, 0, 1, 1}, false)
	f.Add([]byte{0, 0, 0, 0, 1, 0, 0, 0, 2, 0x80, 0, 0, 0, 0x80, 0, 0, 1}, false)
	f.Fuzz(func(t *testing.T, parameters []byte, raw bool) {
		if len(parameters) > maxResponse {
			return
		}
		errs, _ := deceive(parameters, raw)
		for _, err := range errs {
			if err != nil && judge(err).explain(err) == nil {
				t.Error("an error without a kind")
			}
		}
	})
}

func refusalBytes(rc tpm2.TPMRC) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, uint32(rc))
}

// Every error reaches the caller as one of the kinds of package key.
func TestEveryCodeHasAKind(t *testing.T) {
	for rc := range tpm2.TPMRC(0x1000) {
		if rc == 0 {
			continue
		}
		v := judge(rc)
		err := v.explain(rc)
		known := false
		for _, kind := range kinds {
			known = known || errors.Is(err, kind)
		}
		if !known {
			t.Errorf("code %#x is %v", uint32(rc), err)
		}
		if v.again && !v.stale {
			t.Errorf("code %#x is retried in the same generation", uint32(rc))
		}
	}
}

func FuzzKeyBlob(f *testing.F) {
	f.Add(keyBlob{nameOf(nil), tpm2.Marshal(signingTemplate()), []byte("private")}.encode())
	f.Add(keyBlob{nameOf(nil), tpm2.Marshal(storageTemplate()), []byte("private")}.encode())
	f.Add(sealedBlob{tpm2.Marshal(sealedTemplate()), []byte("private")}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if blob, err := parseKeyBlob(b); err == nil && !bytes.Equal(blob.encode(), b) {
			t.Error("a key blob has two forms")
		}
		if blob, err := parseSealedBlob(b); err == nil {
			if !bytes.Equal(blob.encode(), b) {
				t.Error("a sealed blob has two forms")
			}
			_, _ = checkPublic(blob.public, sealedTemplate())
		}
		for _, usage := range []key.Usage{key.UsageSign, key.UsageWrap} {
			_, err := checkRef(key.Ref{Blob: b, Usage: usage})
			if !errors.Is(err, key.ErrIntegrity) && !errors.Is(err, key.ErrNotFound) {
				t.Errorf("a reference that says nothing of its key: %v", err)
			}
		}
	})
}

// A public area that differs from the template in one attribute is refused, and says so as attributes.
func TestCheckPublic(t *testing.T) {
	for name, edit := range map[string]func(*tpm2.TPMAObject){
		"movable":           func(a *tpm2.TPMAObject) { a.FixedTPM = false },
		"re-parentable":     func(a *tpm2.TPMAObject) { a.FixedParent = false },
		"imported":          func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false },
		"also decrypting":   func(a *tpm2.TPMAObject) { a.Decrypt = true },
		"for TPM data only": func(a *tpm2.TPMAObject) { a.Restricted = true },
		"without auth":      func(a *tpm2.TPMAObject) { a.UserWithAuth = false },
	} {
		area := signingTemplate()
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
		if _, err := checkPublic(tpm2.Marshal(area), signingTemplate()); err != nil {
			t.Fatal(err)
		}
		edit(&area.ObjectAttributes)
		if _, err := checkPublic(tpm2.Marshal(area), signingTemplate()); !errors.Is(err, key.ErrIntegrity) {
			t.Errorf("a key that is %s: %v", name, err)
		}
	}
	a := attributesOf(&tpm2.TPMTPublic{})
	if !a.Extractable || a.Sensitive || a.GeneratedInside {
		t.Errorf("a key without attributes reads as %+v", a)
	}
}

// The liar is believed where it says something plausible, so the fuzzing reaches the decoders.
func TestLiarIsBelieved(t *testing.T) {
	_, released := deceive(append([]byte{0, 16}, make([]byte, 16)...), false)
	if len(released[0]) != 16 {
		t.Error("16 random bytes were not taken")
	}
	signature := []byte{0, byte(tpm2.TPMAlgECDSA), 0, byte(tpm2.TPMAlgSHA256), 0, 1, 7, 0, 1, 9}
	_, released = deceive(signature, false)
	if !bytes.Equal(released[1], []byte{0x30, 6, 2, 1, 7, 2, 1, 9}) {
		t.Errorf("the signature was read as %x", released[1])
	}
}
