package tpm

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/sealwright/sealwright/key"
)

// The handle ranges that are swept (Part 2, 7.2). Saved sessions, 0x03, are not:
// they belong to a resource manager's other clients.
const (
	firstTransient tpm2.TPMHandle = 0x80000000
	firstSession   tpm2.TPMHandle = 0x02000000
	handleType     tpm2.TPMHandle = 0xff000000
)

// generation is everything that dies with a connection or a reset of the TPM:
// the storage root's handle and the session. It is used by one goroutine at a time.
type generation struct {
	tpm     transport.TPM
	close   func() error
	auth    []byte // authorisation value of every key
	root    object // the storage root
	session *session
	leaky   bool // something could not be flushed: the next generation sweeps it
}

// object is something loaded. Every command names it too, so that the TPM
// refuses the command if the handle denotes another object by then.
type object struct {
	handle tpm2.TPMHandle
	name   []byte
	auth   []byte
}

// by returns o as a command takes it that o authorises.
func (o object) by(s *session, d direction) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: o.handle, Name: tpm2.TPM2BName{Buffer: o.name}, Auth: s.use(o.auth, d)}
}

// begin brings a fresh connection to the point where keys can be used.
func begin(t transport.TPM, closing func() error, auth []byte) (*generation, error) {
	g := &generation{tpm: t, close: closing, auth: auth}
	err := g.sweep()
	if errors.Is(err, tpm2.TPMRCInitialize) {
		// Reset and not started: without a platform firmware (swtpm) that is ours to do.
		if _, err := (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(t); err != nil && !errors.Is(err, tpm2.TPMRCInitialize) {
			return nil, fmt.Errorf("starting up the TPM: %w", err)
		}
		err = g.sweep()
	}
	if err != nil {
		return nil, fmt.Errorf("sweeping the TPM's slots: %w", err)
	}
	public, err := g.createRoot()
	if err != nil {
		return nil, fmt.Errorf("deriving the TPM's storage root: %w", err)
	}
	if g.session, err = startSession(t, g.root.handle, public); err != nil {
		return nil, fmt.Errorf("opening a session with the TPM: %w", err)
	}
	// Until the TPM has answered under the session key, anything could have offered a storage root.
	if _, err := g.random(nonceSize); err != nil {
		return nil, fmt.Errorf("proving the session with the TPM: %w", err)
	}
	return g, nil
}

// sweep flushes what an earlier connection left loaded: a TPM has room for
// three objects and three sessions. A resource manager (/dev/tpmrm0) shows only our own.
func (g *generation) sweep() error {
	for _, first := range []tpm2.TPMHandle{firstTransient, firstSession} {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: 64}.Execute(g.tpm)
		if err != nil {
			return err
		}
		handles, err := r.CapabilityData.Data.Handles()
		if err != nil {
			return fmt.Errorf("%w: %w", errGarbage, err)
		}
		for _, handle := range handles.Handle {
			if handle&handleType != first {
				continue
			}
			_, err := tpm2.FlushContext{FlushHandle: handle}.Execute(g.tpm)
			if rc := tpm2.TPMRC(0); err != nil && !errors.As(err, &rc) {
				return err
			}
		}
	}
	return nil
}

// createRoot derives the standard ECC storage root of the owner hierarchy. It is
// the same key each time until the TPM is cleared.
func (g *generation) createRoot() (*tpm2.TPMTPublic, error) {
	r, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(g.tpm)
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return nil, fmt.Errorf("%w: the TPM's owner hierarchy has a password; Sealwright needs it without", key.ErrAuth)
	}
	if err != nil {
		return nil, err
	}
	area, err := checkPublic(r.OutPublic.Bytes(), storageTemplate())
	if err != nil {
		return nil, fmt.Errorf("storage root: %w", err)
	}
	name := nameOf(r.OutPublic.Bytes())
	if !bytes.Equal(name, r.Name.Buffer) {
		return nil, fmt.Errorf("%w: storage root has another name", errGarbage)
	}
	g.root = object{handle: r.ObjectHandle, name: name}
	return area, nil
}

// create makes an object under parent; sensitive travels encrypted.
func (g *generation) create(parent object, template tpm2.TPMTPublic, sensitive tpm2.TPMSSensitiveCreate) (public, private []byte, err error) {
	r, err := tpm2.Create{
		ParentHandle: parent.by(g.session, encryptIn),
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &sensitive},
		InPublic:     tpm2.New2B(template),
	}.Execute(g.tpm)
	if err != nil {
		return nil, nil, err
	}
	public, private = r.OutPublic.Bytes(), r.OutPrivate.Buffer
	if _, err := checkPublic(public, template); err != nil {
		return nil, nil, fmt.Errorf("what the TPM made is not what was asked for: %w", err)
	}
	if len(private) == 0 {
		return nil, nil, fmt.Errorf("%w: no private area", errGarbage)
	}
	return public, private, nil
}

// load makes an object usable until flush. Its Name, which hashes the public
// area, is the key-check value: it is compared at each load, not only once.
func (g *generation) load(parent object, public, private []byte) (object, error) {
	r, err := tpm2.Load{
		ParentHandle: parent.by(g.session, plain),
		InPrivate:    tpm2.TPM2BPrivate{Buffer: private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](public),
	}.Execute(g.tpm)
	if err != nil {
		return object{}, err
	}
	o := object{r.ObjectHandle, nameOf(public), g.auth}
	if !bytes.Equal(r.Name.Buffer, o.name) {
		g.flush(o)
		return object{}, fmt.Errorf("%w: the TPM loaded another key than it was given", errGarbage)
	}
	return o, nil
}

// flush frees the slot of o. Where that fails the work done stays valid, and the generation ends.
func (g *generation) flush(o object) {
	if _, err := (tpm2.FlushContext{FlushHandle: o.handle}).Execute(g.tpm); err != nil {
		g.leaky = true
	}
}

// withKey loads the key of a checked reference for the time of use.
func (g *generation) withKey(blob keyBlob, use func(object) error) error {
	if !bytes.Equal(blob.parent, g.root.name) {
		return fmt.Errorf("%w: the key was made by another TPM, or this one was cleared since: it serves on its own node only", key.ErrNotFound)
	}
	o, err := g.load(g.root, blob.public, blob.private)
	if refused(err) {
		return fmt.Errorf("%w: the TPM refused the key's blob, which was altered: %w", key.ErrIntegrity, err)
	}
	if err != nil {
		return err
	}
	defer g.flush(o)
	return use(o)
}

// random returns at most n bytes of the TPM, never none.
func (g *generation) random(n int) ([]byte, error) {
	r, err := tpm2.GetRandom{BytesRequested: uint16(n)}.Execute(g.tpm, g.session.use(nil, encryptOut))
	if err != nil {
		return nil, err
	}
	if got := len(r.RandomBytes.Buffer); got == 0 || got > n {
		return nil, fmt.Errorf("%w: %d random bytes for %d", errGarbage, got, n)
	}
	return r.RandomBytes.Buffer, nil
}

// canary opens one more session to the storage root and has the TPM answer in
// it, which takes its private half and its random generator.
func (g *generation) canary() error {
	area, err := g.readPublic(g.root)
	if err != nil {
		return err
	}
	s, err := startSession(g.tpm, g.root.handle, area)
	if err != nil {
		return err
	}
	defer g.flush(object{handle: s.handle})
	probe := *g
	probe.session = s
	_, err = probe.random(nonceSize)
	return err
}

// readPublic asks the TPM for the public area of o.
func (g *generation) readPublic(o object) (*tpm2.TPMTPublic, error) {
	r, err := tpm2.ReadPublic{
		ObjectHandle: tpm2.NamedHandle{Handle: o.handle, Name: tpm2.TPM2BName{Buffer: o.name}},
	}.Execute(g.tpm, g.session.use(nil, encryptOut))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(nameOf(r.OutPublic.Bytes()), o.name) {
		return nil, fmt.Errorf("%w: the TPM describes another key than was loaded", errGarbage)
	}
	area, err := r.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errGarbage, err)
	}
	return area, nil
}

// describe returns the TPM's maker, model and firmware.
func (g *generation) describe() (string, error) {
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTManufacturer), PropertyCount: 8}.Execute(g.tpm)
	if err != nil {
		return "", err
	}
	properties, err := r.CapabilityData.Data.TPMProperties()
	if err != nil {
		return "", fmt.Errorf("%w: %w", errGarbage, err)
	}
	var text strings.Builder
	text.WriteString("TPM 2.0")
	for _, p := range properties.TPMProperty {
		switch {
		case p.Property >= tpm2.TPMPTManufacturer && p.Property <= tpm2.TPMPTVendorString4:
			word := strings.Map(printable, string([]byte{byte(p.Value >> 24), byte(p.Value >> 16), byte(p.Value >> 8), byte(p.Value)}))
			if p.Property <= tpm2.TPMPTVendorString1 && word != "" {
				text.WriteByte(' ')
			}
			text.WriteString(word)
		case p.Property == tpm2.TPMPTFirmwareVersion1:
			fmt.Fprintf(&text, " firmware %d.%d", p.Value>>16, p.Value&0xffff)
		}
	}
	return text.String(), nil
}

// printable drops what must not reach a terminal or a log.
func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return -1
	}
	return r
}

// end frees what the generation holds in the TPM and closes the connection.
func (g *generation) end() error {
	g.flush(object{handle: g.session.handle})
	g.flush(g.root)
	return g.close()
}
