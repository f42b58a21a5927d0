package kms

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/kms/envelope"
	"github.com/sealwright/sealwright/kms/keyring"
	"github.com/sealwright/sealwright/policy"
)

// Lookup returns what to ask the door about the key of that name. A name that no
// key has gives an object too, so that a refusal does not tell whether it exists.
// It decides nothing and shows nothing to the caller. Do not write to its attributes.
func (s *Service) Lookup(ctx context.Context, name string) (policy.Object, error) {
	n, err := key.ParseName(name)
	if err != nil {
		return policy.Object{}, err
	}
	r, err := s.byName(ctx, name)
	if errors.Is(err, key.ErrNotFound) {
		return policy.Object{Kind: policy.KindKey, Name: name, Attributes: map[string]string{"environment": n.Environment, "service": n.Service}}, nil
	}
	if err != nil {
		return policy.Object{}, err
	}
	return r.object, nil
}

// LookupCiphertext is Lookup for the key that a ciphertext in text form names.
// One that names no key of this store gives an object named by the id in it; a
// malformed one is key.ErrInvalidCiphertext.
func (s *Service) LookupCiphertext(ctx context.Context, text string) (policy.Object, error) {
	_, _, object, err := s.parse(ctx, text)
	return object, err
}

// ListObject returns what to ask the door about for List: an environment, or
// the whole store for "".
func ListObject(environment string) policy.Object {
	if environment == "" {
		return policy.Object{Kind: policy.KindSystem, Name: "keys"}
	}
	return policy.Object{Kind: policy.KindEnvironment, Name: environment, Attributes: map[string]string{"environment": environment}}
}

// parse reads a ciphertext and finds the key it names; the record is nil if there is none.
func (s *Service) parse(ctx context.Context, text string) ([]byte, *record, policy.Object, error) {
	ciphertext, err := envelope.ParseText(text)
	if err != nil {
		return nil, nil, policy.Object{}, err
	}
	h, err := envelope.Parse(ciphertext)
	if err != nil {
		return nil, nil, policy.Object{}, err
	}
	id := h.ObjectID.String()
	r, err := s.byID(ctx, id)
	if errors.Is(err, key.ErrNotFound) {
		return ciphertext, nil, policy.Object{Kind: policy.KindKey, Name: id, ID: id}, nil
	}
	if err != nil {
		return nil, nil, policy.Object{}, err
	}
	return ciphertext, r, r.object, nil
}

// objectOf is the key as policies see it.
func objectOf(k *Key) policy.Object {
	return policy.Object{Kind: policy.KindKey, Name: k.Name.String(), ID: k.ID.String(), Attributes: map[string]string{
		"environment": k.Name.Environment, "service": k.Name.Service, "tier": string(k.Tier), "algorithm": string(k.Algorithm),
		"classification": k.Classification, "owner": k.Owner,
	}}
}

func (s *Service) byName(ctx context.Context, name string) (*record, error) {
	return s.find(ctx, "name", name)
}

func (s *Service) byID(ctx context.Context, id string) (*record, error) {
	return s.find(ctx, "id", id)
}

// find returns a key as it is under the newest epoch. Names have slashes and ids
// have none, so one cache serves both.
func (s *Service) find(ctx context.Context, column, value string) (*record, error) {
	epoch := s.db.Epoch()
	if r, ok := s.records.get(value); ok && r.epoch == epoch {
		return r, nil
	}
	generation := s.records.begin()
	return share(ctx, s, column+" "+value+moment(epoch, generation), func(ctx context.Context) (*record, error) {
		r, err := s.readRecord(ctx, column, value)
		// Only what is enabled is remembered: enabling moves no epoch on.
		if err == nil && r.State == Enabled {
			s.records.put(r.object.Name, r, generation, false)
			s.records.put(r.object.ID, r, generation, false)
		}
		return r, err
	})
}

// forget makes the next use of a key read it again.
func (s *Service) forget(r *record) { s.records.drop(r.object.Name, r.object.ID) }

// usable refuses a key that is not the one the door decided about, or that does not work now.
func (r *record) usable(use guard.Use) error {
	if err := r.is(use); err != nil {
		return err
	}
	switch {
	case r.State == Disabled:
		return fmt.Errorf("key %s is %w: enable it first", r.object.Name, key.ErrDisabled)
	case r.State != Enabled:
		return fmt.Errorf("key %s is %w: its state is %s", r.object.Name, key.ErrDisabled, r.State)
	case !r.ExpiresAt.IsZero() && time.Now().After(r.ExpiresAt):
		return fmt.Errorf("key %s is %w: it expired at %s", r.object.Name, key.ErrDisabled, r.ExpiresAt.Format(time.RFC3339))
	}
	return nil
}

// is refuses a key that came to its name after the door decided.
func (r *record) is(use guard.Use) error {
	switch use.Object.ID {
	case r.object.ID:
		return nil
	case "":
		return fmt.Errorf("key %s: %w", r.object.Name, key.ErrNotFound)
	}
	return fmt.Errorf("%w: %s is another key now: repeat the request", key.ErrConflict, r.object.Name)
}

type versionKey struct {
	id     key.ID
	number int64
}

// version is an opened version.
type version struct {
	number   int64
	state    VersionState
	epoch    int64
	mac      []byte           // of the row it was opened from
	envelope *envelope.Key    // tier wrapped
	ref      key.Ref          // tier device
	public   *ecdsa.PublicKey // tier device
}

// open returns a version of r that may be used, 0 for the current one. A number
// that r never had is key.ErrNotFound.
func (s *Service) open(ctx context.Context, r *record, number int64) (*version, error) {
	if number == 0 {
		number = r.CurrentVersion
	}
	if number > r.CurrentVersion {
		// Another server of this store may have rotated the key.
		s.forget(r)
		fresh, err := s.byID(ctx, r.object.ID)
		if err != nil {
			return nil, err
		}
		r = fresh
	}
	if number < 1 || number > r.CurrentVersion {
		return nil, fmt.Errorf("version %d of key %s: %w: its current version is %d", number, r.object.Name, key.ErrNotFound, r.CurrentVersion)
	}
	v, err := s.opened(ctx, r, number)
	if err != nil {
		return nil, err
	}
	switch v.state {
	case VersionEnabled:
		return v, nil
	case VersionRetired:
		return nil, fmt.Errorf("version %d of key %s is %w: it was retired", number, r.object.Name, key.ErrDisabled)
	}
	return nil, fmt.Errorf("version %d of key %s: %w: its state is %s", number, r.object.Name, key.ErrNotFound, v.state)
}

// opened returns a version as it is under the newest epoch.
func (s *Service) opened(ctx context.Context, r *record, number int64) (*version, error) {
	epoch, k := s.db.Epoch(), versionKey{r.ID, number}
	known, ok := s.versions.get(k)
	if ok && known.epoch == epoch {
		return known, nil
	}
	return s.openShared(ctx, r, k, epoch, known)
}

func (s *Service) openShared(ctx context.Context, r *record, k versionKey, epoch int64, known *version) (*version, error) {
	generation := s.versions.begin()
	what := "version " + r.object.ID + " " + strconv.FormatInt(k.number, 10) + moment(epoch, generation)
	return share(ctx, s, what, func(ctx context.Context) (*version, error) {
		v, err := s.load(ctx, r, k.number, epoch, known)
		if err == nil {
			// Checking a key again does not prolong its life in memory.
			s.versions.put(k, v, generation, v.envelope != nil && known != nil && v.envelope == known.envelope)
		}
		return v, err
	})
}

// load reads a version and opens it. If the row is still the one that known was
// opened from, only the epoch is new.
func (s *Service) load(ctx context.Context, r *record, number, epoch int64, known *version) (*version, error) {
	row, err := s.readVersion(ctx, r.ID, number)
	if err != nil {
		return nil, err
	}
	if known != nil && bytes.Equal(known.mac, row.mac) {
		again := *known
		again.epoch = epoch
		return &again, nil
	}
	v := &version{number: number, state: row.state, epoch: epoch, mac: row.mac}
	if row.state != VersionEnabled {
		return v, nil
	}
	if r.Tier == key.TierWrapped {
		v.envelope, err = s.unseal(ctx, r, row)
	} else {
		v.ref, v.public, err = deviceKey(row)
	}
	if err != nil {
		return nil, fmt.Errorf("opening version %d of key %s: %w", number, r.object.Name, err)
	}
	return v, nil
}

// unseal opens key material into locked memory and prepares it; only the
// prepared form lives on.
func (s *Service) unseal(ctx context.Context, r *record, row *versionRow) (*envelope.Key, error) {
	buf, err := s.arena.New(materialSize)
	if err != nil {
		return nil, err
	}
	defer buf.Close()
	var prepared *envelope.Key
	useErr := buf.Use(func(mem []byte) {
		var material []byte
		if material, err = s.rings.Open(ctx, mem[:0], place(r, row.number), row.keyring, row.sealed); err == nil {
			prepared, err = envelope.NewKey(material)
		}
	})
	switch {
	case useErr != nil:
		return nil, useErr
	case errors.Is(err, key.ErrInvalidCiphertext), errors.Is(err, key.ErrNotFound):
		// Not the caller's ciphertext is wrong but our own row.
		return nil, fmt.Errorf("%w: its material does not open under version %d of its keyring", key.ErrIntegrity, row.keyring)
	}
	return prepared, err
}

func deviceKey(row *versionRow) (key.Ref, *ecdsa.PublicKey, error) {
	ref, err := key.DecodeRef(row.ref)
	if err != nil {
		return key.Ref{}, nil, fmt.Errorf("%w: %w", key.ErrIntegrity, err)
	}
	public, err := ref.PublicKey()
	if err != nil {
		return key.Ref{}, nil, err
	}
	ec, ok := public.(*ecdsa.PublicKey)
	if !ok || !bytes.Equal(ref.Public, row.public) {
		return key.Ref{}, nil, fmt.Errorf("%w: its public key is not that of its device key", key.ErrIntegrity)
	}
	return ref, ec, nil
}

// place is where the material of a version is sealed.
func place(r *record, number int64) keyring.Place {
	return keyring.Place{Environment: r.Name.Environment, Purpose: keyring.KeyMaterial, ID: r.ID, Version: uint32(number)}
}
