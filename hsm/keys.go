package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/sealwright/sealwright/key"
)

// Generate implements key.Device. When it fails with key.ErrUnavailable the
// token may or may not hold the key: Find its id before anything else.
func (d *Device) Generate(ctx context.Context, spec key.Spec) (key.Ref, error) {
	if err := checkSpec(spec); err != nil {
		return key.Ref{}, fmt.Errorf("generating a device key: %w", err)
	}
	// One at a time: the token knows no unique labels, so looking and making must not interleave.
	if err := d.token.lockMaking(ctx); err != nil {
		return key.Ref{}, fmt.Errorf("generating %s: %w", spec.Label, err)
	}
	defer d.token.unlockMaking()
	var ref key.Ref
	err := d.do(ctx, "generating "+spec.Label, func(s *session) (err error) {
		if err := s.free(spec); err != nil {
			return err
		}
		s.committed = true
		ref, err = s.generate(spec)
		return err
	})
	if err != nil {
		return key.Ref{}, err
	}
	return ref, nil
}

func checkSpec(spec key.Spec) error {
	switch {
	case spec.ID.IsZero():
		return fmt.Errorf("%w: its id is not set", key.ErrInvalid)
	case !validLabel(spec.Label):
		return fmt.Errorf("%w: label %.80q: use 1 to 64 of the characters a-z, 0-9, \".\", \"/\" and \"-\"", key.ErrInvalid, spec.Label)
	case spec.Algorithm == key.ECDSAP256 && spec.Usage == key.UsageSign, spec.Algorithm == key.AES256 && spec.Usage == key.UsageWrap:
		return nil
	}
	return fmt.Errorf("%w: a key of algorithm %q to %q; a PKCS#11 token makes %s to %s and %s to %s",
		key.ErrUnsupported, spec.Algorithm, spec.Usage, key.ECDSAP256, key.UsageSign, key.AES256, key.UsageWrap)
}

func validLabel(label string) bool {
	for i := range len(label) {
		c := label[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '/' && c != '-' {
			return false
		}
	}
	return len(label) >= 1 && len(label) <= 64
}

func (t *token) lockMaking(ctx context.Context) error {
	select {
	case <-t.making:
		return nil
	case <-ctx.Done():
		return waited("another key to be generated", ctx.Err())
	}
}

func (t *token) unlockMaking() { t.making <- struct{}{} }

// free refuses a label or an id that anything in the token has, of whatever class.
func (s *session) free(spec key.Spec) error {
	found, err := s.find(pkcs11.NewAttribute(pkcs11.CKA_LABEL, spec.Label))
	if err == nil && len(found) > 0 {
		return fmt.Errorf("%w: the token has a key labelled %s: choose another label or destroy that key", key.ErrExists, spec.Label)
	}
	if err == nil {
		found, err = s.find(pkcs11.NewAttribute(pkcs11.CKA_ID, spec.ID[:]))
	}
	if err == nil && len(found) > 0 {
		return fmt.Errorf("%w: the token has a key with the id %s", key.ErrExists, spec.ID)
	}
	if err != nil {
		return err
	}
	// Nothing found must not mean that nothing could be seen.
	if err := s.absent(spec.ID); !errors.Is(err, key.ErrNotFound) {
		return err
	}
	return nil
}

// generate makes the key, and destroys it again unless it is all it should be.
func (s *session) generate(spec key.Spec) (key.Ref, error) {
	if err := s.make(spec); err != nil {
		if kind := kind(err); !errors.Is(kind, key.ErrUnavailable) {
			return key.Ref{}, kind
		}
		return key.Ref{}, fmt.Errorf("the token may or may not hold the key now, look for its id %s: %w", spec.ID, err)
	}
	ref, err := s.describe(spec.ID, spec.Usage)
	if err == nil {
		err = s.alone(spec)
	}
	if err == nil {
		return ref, nil
	}
	if _, undo := s.destroy(spec.ID); undo != nil {
		return key.Ref{}, fmt.Errorf("the key was made, failed its checks and could not be destroyed, so destroy the id %s by hand (%w): %w", spec.ID, undo, err)
	}
	return key.Ref{}, fmt.Errorf("the key was made, failed its checks and was destroyed: %w", err)
}

func (s *session) make(spec key.Spec) error {
	templates := s.token.templates
	if templates == nil {
		templates = template
	}
	public, private := templates(spec)
	s.token.listing.Lock()
	defer s.token.listing.Unlock()
	if spec.Usage == key.UsageWrap {
		_, err := s.lib.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, private)
		return err
	}
	_, _, err := s.lib.GenerateKeyPair(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)}, public, private)
	return err
}

// template returns what is asked of the token; checkSafe sees what came of it.
func template(spec key.Spec) (public, private []*pkcs11.Attribute) {
	sign := spec.Usage == key.UsageSign
	private = []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), // SoftHSM2 stores others in the clear
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, spec.Label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, spec.ID[:]),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, sign),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, !sign),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	}
	if !sign {
		return nil, append(private,
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
			pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false),
			pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32))
	}
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, spec.Label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, spec.ID[:]),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, oidP256),
	}, private
}

// alone refuses a label that another process gave away at the same moment.
func (s *session) alone(spec key.Spec) error {
	class := pkcs11.NewAttribute(pkcs11.CKA_CLASS, uint(pkcs11.CKO_PUBLIC_KEY))
	found, err := s.find(pkcs11.NewAttribute(pkcs11.CKA_LABEL, spec.Label))
	if err != nil {
		return err
	}
	halves, err := s.find(pkcs11.NewAttribute(pkcs11.CKA_LABEL, spec.Label), class)
	if err != nil {
		return err
	}
	if len(found)-len(halves) != 1 || len(halves) > 1 {
		return fmt.Errorf("%w: another program made a key labelled %s at the same moment", key.ErrExists, spec.Label)
	}
	return nil
}

// Find implements key.Device.
func (d *Device) Find(ctx context.Context, id key.ID) (key.Ref, error) {
	var ref key.Ref
	err := d.do(ctx, "finding device key "+id.String(), func(s *session) (err error) {
		ref, err = s.describe(id, key.UsageSign)
		if errors.Is(err, key.ErrNotFound) {
			ref, err = s.describe(id, key.UsageWrap)
		}
		return err
	})
	if err != nil {
		return key.Ref{}, err
	}
	return ref, nil
}

// Attributes implements key.Device.
func (d *Device) Attributes(ctx context.Context, ref key.Ref) (key.Attributes, error) {
	if ref.Usage != key.UsageSign && ref.Usage != key.UsageWrap {
		return key.Attributes{}, fmt.Errorf("%w: reading attributes of %s: a key to %q", key.ErrUnsupported, ref.Label, ref.Usage)
	}
	var a key.Attributes
	err := d.do(ctx, "reading attributes of "+ref.Label, func(s *session) error {
		handle, err := s.one(ref.ID, classOf(ref.Usage))
		if err != nil {
			return err
		}
		a, err = s.attributes(handle)
		return err
	})
	return a, err
}

func (s *session) attributes(handle pkcs11.ObjectHandle) (key.Attributes, error) {
	got, err := s.lib.GetAttributeValue(s.handle, handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, nil), pkcs11.NewAttribute(pkcs11.CKA_NEVER_EXTRACTABLE, nil),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, nil), pkcs11.NewAttribute(pkcs11.CKA_ALWAYS_SENSITIVE, nil),
		pkcs11.NewAttribute(pkcs11.CKA_LOCAL, nil),
	})
	if err != nil {
		return key.Attributes{}, err
	}
	is := func(i int) bool { return len(got[i].Value) == 1 && got[i].Value[0] == 1 }
	info := s.token.info
	return key.Attributes{
		Extractable:      is(0) || !is(1),
		Sensitive:        is(2) && is(3),
		GeneratedInside:  is(4),
		DeviceDescriptor: fmt.Sprintf("%s %s, token %s, serial number %s", info.ManufacturerID, info.Model, info.Label, info.SerialNumber),
	}, nil
}

// Destroy implements key.Device. It removes both halves of a signing key.
func (d *Device) Destroy(ctx context.Context, ref key.Ref) error {
	removed := 0 // by all attempts together: what the first removed the second cannot find
	err := d.do(ctx, "destroying "+ref.Label, func(s *session) error {
		n, err := s.destroy(ref.ID)
		removed += n
		if err == nil && removed == 0 {
			return s.absent(ref.ID)
		}
		return err
	})
	d.token.forget(ref.ID, key.UsageSign)
	d.token.forget(ref.ID, key.UsageWrap)
	return err
}

// destroy removes all objects with the id, the one that can do something first.
func (s *session) destroy(id key.ID) (removed int, err error) {
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY, pkcs11.CKO_PUBLIC_KEY} {
		found, err := s.find(pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_ID, id[:]))
		if err != nil {
			return removed, err
		}
		for _, handle := range found {
			s.token.listing.Lock()
			err := s.lib.DestroyObject(s.handle, handle)
			s.token.listing.Unlock()
			if err != nil {
				return removed, err
			}
			removed++
		}
	}
	return removed, nil
}
