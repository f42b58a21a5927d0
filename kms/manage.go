package kms

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// NewKey asks for a key. The zero tier is wrapped; the zero algorithm is what
// the tier does.
type NewKey struct {
	Name           string // environment/service/name
	Tier           key.Tier
	Algorithm      key.Algorithm
	Owner          string // at most 256 bytes, one line
	Classification string // at most 64 bytes, one line
}

// Create makes a key with its first version. Act: kms:CreateKey. It returns
// key.ErrExists for a taken name, key.ErrNotFound for an environment without
// keyring, key.ErrUnsupported for a tier that cannot do the algorithm.
func (s *Service) Create(ctx context.Context, g guard.Grant, n NewKey) (Key, error) {
	use, err := s.door.Redeem(g, policy.CreateKey, n.Name)
	if err != nil {
		return Key{}, err
	}
	r, err := n.record(use.Principal.SPIFFEID)
	if err != nil {
		return Key{}, err
	}
	// The name was all the door could be asked about; now the rest is known.
	if !use.May(policy.CreateKey, r.object) {
		return Key{}, fmt.Errorf("%w: %s may not create %s as it was described: tier %s, classification %q, owner %q", key.ErrDenied, use.Principal.SPIFFEID, n.Name, r.Tier, r.Classification, r.Owner)
	}
	if use.Object.ID != "" {
		return Key{}, errTaken(n.Name)
	}
	if err := s.rings.Check(ctx, r.Name.Environment); err != nil {
		return Key{}, err
	}
	use.Created(r.object)
	s.authenticate(r)
	err = s.addVersion(ctx, g, use, r, func(tx *storage.Tx) error { return s.insertRecord(tx, r) })
	if err != nil {
		return Key{}, fmt.Errorf("creating key %s: %w", n.Name, err)
	}
	return r.Key, nil
}

// record is the key as it will be stored.
func (n NewKey) record(by string) (*record, error) {
	name, err := key.ParseName(n.Name)
	if err != nil {
		return nil, err
	}
	if err := checkText("the owner", n.Owner, 256); err != nil {
		return nil, err
	}
	if err := checkText("the classification", n.Classification, 64); err != nil {
		return nil, err
	}
	if n.Tier == "" {
		n.Tier = key.TierWrapped
	}
	does, ok := map[key.Tier]key.Algorithm{key.TierWrapped: key.AES256, key.TierDevice: key.ECDSAP256}[n.Tier]
	if !ok {
		return nil, fmt.Errorf("%w: tier %.40q: use %s or %s", key.ErrInvalid, n.Tier, key.TierWrapped, key.TierDevice)
	}
	if n.Algorithm == "" {
		n.Algorithm = does
	}
	if n.Algorithm != key.AES256 && n.Algorithm != key.ECDSAP256 {
		return nil, fmt.Errorf("%w: algorithm %.40q: use %s or %s", key.ErrInvalid, n.Algorithm, key.AES256, key.ECDSAP256)
	}
	if n.Algorithm != does {
		return nil, fmt.Errorf("%w: keys of tier %s are %s, not %s: choose another tier", key.ErrUnsupported, n.Tier, does, n.Algorithm)
	}
	r := &record{Key: Key{ID: key.NewID(), Name: name, Tier: n.Tier, Algorithm: n.Algorithm, State: Enabled, CurrentVersion: 1,
		Owner: n.Owner, Classification: n.Classification, CreatedBy: by, CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}}
	r.object = objectOf(&r.Key)
	return r, nil
}

// checkText accepts what may stand in a line of a terminal, a log and a policy.
func checkText(what, text string, most int) error {
	if len(text) > most || !utf8.ValidString(text) {
		return fmt.Errorf("%w: %s has at most %d bytes of UTF-8", key.ErrInvalid, what, most)
	}
	for _, c := range text {
		if !unicode.IsPrint(c) {
			return fmt.Errorf("%w: %s is one line without control characters", key.ErrInvalid, what)
		}
	}
	return nil
}

// addVersion makes the current version of r and stores it together with change.
func (s *Service) addVersion(ctx context.Context, g guard.Grant, use guard.Use, r *record, change func(*storage.Tx) error) error {
	v := &versionRow{id: r.ID, number: r.CurrentVersion, state: VersionEnabled, sealed: []byte{}, ref: []byte{}, public: []byte{}, created: time.Now().UnixMicro()}
	use.Touched(v.number)
	if r.Tier == key.TierDevice {
		return s.addDeviceVersion(ctx, g, use, r, v, change)
	}
	if err := s.sealMaterial(ctx, r, v); err != nil {
		return err
	}
	return s.storeVersion(ctx, g, v, change)
}

// sealMaterial makes the material of a version in locked memory and seals it.
func (s *Service) sealMaterial(ctx context.Context, r *record, v *versionRow) error {
	buf, err := s.arena.New(materialSize)
	if err != nil {
		return err
	}
	defer buf.Close()
	useErr := buf.Use(func(mem []byte) {
		_, _ = rand.Read(mem) // never fails since Go 1.24: the program ends instead
		v.sealed, v.keyring, err = s.rings.Seal(ctx, place(r, v.number), mem)
	})
	if useErr != nil {
		return useErr
	}
	return err
}

func (s *Service) storeVersion(ctx context.Context, g guard.Grant, v *versionRow, change func(*storage.Tx) error) error {
	s.authenticateVersion(v)
	return g.Update(ctx, func(tx *storage.Tx) error {
		if err := change(tx); err != nil {
			return err
		}
		return s.insertVersion(tx, v)
	})
}

// Rotate adds a version, which is the current one from then on; older versions
// go on opening. Act: kms:RotateKey.
func (s *Service) Rotate(ctx context.Context, g guard.Grant, name string) (Key, error) {
	use, err := s.door.Redeem(g, policy.RotateKey, name)
	if err != nil {
		return Key{}, err
	}
	was, err := s.readRecord(ctx, "name", name)
	if err != nil {
		return Key{}, err
	}
	if err := was.usable(use); err != nil {
		return Key{}, err
	}
	next := *was
	next.CurrentVersion++
	if next.CurrentVersion >= 1<<32 {
		return Key{}, fmt.Errorf("%w: key %s has no version numbers left", key.ErrUnsupported, name)
	}
	s.authenticate(&next)
	err = s.addVersion(ctx, g, use, &next, func(tx *storage.Tx) error { return s.replaceRecord(tx, was, &next) })
	s.forget(was) // also on failure: its outcome may be unknown
	if err != nil {
		return Key{}, fmt.Errorf("rotating key %s: %w", name, err)
	}
	return next.Key, nil
}

// Disable switches a key off; not one more request is served with it. Disabling
// twice is fine. Act: kms:DisableKey.
func (s *Service) Disable(ctx context.Context, g guard.Grant, name string) (Key, error) {
	return s.switchTo(ctx, g, policy.DisableKey, name, Enabled, Disabled)
}

// Enable switches a disabled key on. Enabling twice is fine. Act: kms:EnableKey.
func (s *Service) Enable(ctx context.Context, g guard.Grant, name string) (Key, error) {
	return s.switchTo(ctx, g, policy.EnableKey, name, Disabled, Enabled)
}

func (s *Service) switchTo(ctx context.Context, g guard.Grant, action policy.Action, name string, from, to State) (Key, error) {
	use, err := s.door.Redeem(g, action, name)
	if err != nil {
		return Key{}, err
	}
	was, err := s.readRecord(ctx, "name", name)
	if err != nil {
		return Key{}, err
	}
	if err := was.is(use); err != nil {
		return Key{}, err
	}
	switch was.State {
	case to:
		use.Unchanged()
		return was.Key, nil
	case from:
	default:
		return Key{}, fmt.Errorf("%w: key %s is %s and cannot become %s", key.ErrConflict, name, was.State, to)
	}
	next := *was
	next.State, next.DisabledAt = to, time.Time{}
	if to == Disabled {
		next.DisabledAt = time.Now().UTC().Truncate(time.Microsecond)
	}
	s.authenticate(&next)
	err = g.Update(ctx, func(tx *storage.Tx) error {
		if to == Disabled {
			tx.BumpEpoch()
		}
		return s.replaceRecord(tx, was, &next)
	})
	s.forget(was)
	if err != nil {
		return Key{}, fmt.Errorf("making key %s %s: %w", name, to, err)
	}
	return next.Key, nil
}

// Describe returns a key with its versions. Act: kms:DescribeKey.
func (s *Service) Describe(ctx context.Context, g guard.Grant, name string) (Key, error) {
	use, err := s.door.Redeem(g, policy.DescribeKey, name)
	if err != nil {
		return Key{}, err
	}
	r, err := s.readRecord(ctx, "name", name)
	if err != nil {
		return Key{}, err
	}
	if err := r.is(use); err != nil {
		return Key{}, err
	}
	r.Versions, err = s.readVersions(ctx, r.ID)
	return r.Key, err
}

// maxPage and maxScan bound one call of List: keys returned, keys looked at.
const (
	maxPage = 1000
	maxScan = 10_000
)

// List returns the keys of an environment, or of all for "", in the order of
// their names, after the given one; only those the caller may describe. next is
// what to give as after for more, "" at the end; a page may be short, even
// empty, before the end. Act: kms:ListKeys on ListObject.
func (s *Service) List(ctx context.Context, g guard.Grant, environment, after string, limit int) (list []Key, next string, err error) {
	use, err := s.door.Redeem(g, policy.ListKeys, ListObject(environment).Name)
	if err != nil {
		return nil, "", err
	}
	if limit < 1 || limit > maxPage {
		limit = maxPage
	}
	query, args := `WHERE name > $1 ORDER BY name LIMIT $2`, []any{after, maxScan}
	if environment != "" {
		query, args = `WHERE name > $1 AND environment = $3 ORDER BY name LIMIT $2`, append(args, environment)
	}
	rows, err := s.db.Query(ctx, `SELECT `+recordColumns+`, mac FROM kms_key `+query, args...)
	if err != nil {
		return nil, "", fmt.Errorf("listing keys: %w", err)
	}
	defer rows.Close()
	for seen := 1; rows.Next(); seen++ {
		r, err := s.scanRecord(rows, 0)
		if err != nil {
			return nil, "", fmt.Errorf("listing keys: %w", err)
		}
		if use.May(policy.DescribeKey, r.object) {
			if len(list) == limit {
				return list, list[limit-1].Name.String(), nil
			}
			list = append(list, r.Key)
		}
		if seen == maxScan {
			next = r.object.Name
		}
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("listing keys: %w", err)
	}
	return list, next, nil
}
