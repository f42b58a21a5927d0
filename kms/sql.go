package kms

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// record is a row of kms_key whose MAC was checked.
type record struct {
	Key
	consumers string
	mac       []byte
	object    policy.Object // what policies see; shared, never written to
	epoch     int64         // the row was read under it
}

// versionRow is a row of kms_key_version whose MAC was checked.
type versionRow struct {
	id      key.ID
	number  int64
	state   VersionState
	keyring int64  // 0 for tier device
	sealed  []byte // empty for tier device
	ref     []byte // empty for tier wrapped
	public  []byte // PKIX; empty for tier wrapped
	uses    int64
	created int64
	mac     []byte
}

const recordColumns = `id, name, environment, algorithm, tier, state, current_version, owner, classification, consumers, created_by, created_at, expires_at, disabled_at`

// columns are what the MAC of a record covers: everything.
func (r *record) columns() []any {
	return []any{r.ID.String(), r.Name.String(), r.Name.Environment, string(r.Algorithm), string(r.Tier), string(r.State), r.CurrentVersion,
		r.Owner, r.Classification, r.consumers, r.CreatedBy, storage.Micros(r.CreatedAt), storage.Micros(r.ExpiresAt), storage.Micros(r.DisabledAt)}
}

func (v *versionRow) columns() []any {
	return []any{v.id.String(), v.number, string(v.state), v.keyring, v.sealed, v.ref, v.public, v.uses, v.created}
}

type scanner interface{ Scan(...any) error }

// scanRecord reads a row and checks its MAC. It returns sql.ErrNoRows as it is.
func (s *Service) scanRecord(row scanner, epoch int64) (*record, error) {
	var r record
	var id, name, environment string
	var created, expires, disabled int64
	err := row.Scan(&id, &name, &environment, &r.Algorithm, &r.Tier, &r.State, &r.CurrentVersion, &r.Owner, &r.Classification, &r.consumers, &r.CreatedBy, &created, &expires, &disabled, &r.mac)
	if err != nil {
		return nil, err
	}
	// The MAC is of the row as it is stored, before anything of it is believed.
	if err := s.rings.CheckRow(r.mac, "kms_key", id, name, environment, string(r.Algorithm), string(r.Tier), string(r.State), r.CurrentVersion,
		r.Owner, r.Classification, r.consumers, r.CreatedBy, created, expires, disabled); err != nil {
		return nil, err
	}
	if r.ID, err = key.ParseID(id); err == nil {
		r.Name, err = key.ParseName(name)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reading key %s: %w", key.ErrIntegrity, id, err)
	}
	r.CreatedAt, r.ExpiresAt, r.DisabledAt = storage.Time(created), storage.Time(expires), storage.Time(disabled)
	r.object = objectOf(&r.Key)
	r.epoch = epoch
	return &r, nil
}

// readRecord reads a key by "name" or "id", or returns key.ErrNotFound.
func (s *Service) readRecord(ctx context.Context, column, value string) (*record, error) {
	// The epoch is read before the row: a row newer than its epoch is only loaded once more.
	epoch := s.db.Epoch()
	r, err := s.scanRecord(s.db.QueryRow(ctx, `SELECT `+recordColumns+`, mac FROM kms_key WHERE `+column+` = $1`, value), epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("key %s: %w: look at the list of keys, or create it", value, key.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading key %s: %w", value, err)
	}
	return r, nil
}

func (s *Service) scanVersion(row scanner) (*versionRow, error) {
	var v versionRow
	var id string
	if err := row.Scan(&id, &v.number, &v.state, &v.keyring, &v.sealed, &v.ref, &v.public, &v.uses, &v.created, &v.mac); err != nil {
		return nil, err
	}
	if err := s.rings.CheckRow(v.mac, "kms_key_version", id, v.number, string(v.state), v.keyring, v.sealed, v.ref, v.public, v.uses, v.created); err != nil {
		return nil, fmt.Errorf("version %d: %w", v.number, err)
	}
	var err error
	if v.id, err = key.ParseID(id); err != nil {
		return nil, fmt.Errorf("%w: %w", key.ErrIntegrity, err)
	}
	return &v, nil
}

const versionColumns = `key_id, version, state, keyring_version, sealed, ref, public, uses, created_at`

func (s *Service) readVersion(ctx context.Context, id key.ID, number int64) (*versionRow, error) {
	v, err := s.scanVersion(s.db.QueryRow(ctx, `SELECT `+versionColumns+`, mac FROM kms_key_version WHERE key_id = $1 AND version = $2`, id.String(), number))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: version %d of key %s is missing from the store", key.ErrIntegrity, number, id)
	}
	if err != nil {
		return nil, fmt.Errorf("reading key %s: %w", id, err)
	}
	return v, nil
}

// readVersions lists the versions of a key, newest first.
func (s *Service) readVersions(ctx context.Context, id key.ID) ([]Version, error) {
	rows, err := s.db.Query(ctx, `SELECT `+versionColumns+`, mac FROM kms_key_version WHERE key_id = $1 ORDER BY version DESC`, id.String())
	if err != nil {
		return nil, fmt.Errorf("reading the versions of key %s: %w", id, err)
	}
	defer rows.Close()
	var list []Version
	for rows.Next() {
		v, err := s.scanVersion(rows)
		if err != nil {
			return nil, fmt.Errorf("reading key %s: %w", id, err)
		}
		list = append(list, Version{v.number, v.state, storage.Time(v.created)})
	}
	return list, rows.Err()
}

// insertRecord stores a new key, or returns key.ErrExists.
func (s *Service) insertRecord(tx *storage.Tx, r *record) error {
	n, err := tx.Exec(`INSERT INTO kms_key (`+recordColumns+`, mac) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT (name) DO NOTHING`,
		append(r.columns(), r.mac)...)
	if err == nil && n == 0 {
		err = errTaken(r.Name.String())
	}
	return err
}

func (s *Service) insertVersion(tx *storage.Tx, v *versionRow) error {
	_, err := tx.Exec(`INSERT INTO kms_key_version (`+versionColumns+`, mac) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, append(v.columns(), v.mac)...)
	return err
}

// replaceRecord changes a key from what was read to next, or returns
// key.ErrConflict if it is not that any more.
func (s *Service) replaceRecord(tx *storage.Tx, was, next *record) error {
	n, err := tx.Exec(`UPDATE kms_key SET state = $1, current_version = $2, disabled_at = $3, mac = $4 WHERE id = $5 AND mac = $6`,
		string(next.State), next.CurrentVersion, storage.Micros(next.DisabledAt), next.mac, was.ID.String(), was.mac)
	if err == nil && n != 1 {
		err = fmt.Errorf("%w: key %s changed meanwhile: look at it, then repeat", key.ErrConflict, was.Name)
	}
	return err
}

func (s *Service) authenticate(r *record) { r.mac = s.rings.RowMAC("kms_key", r.columns()...) }

func (s *Service) authenticateVersion(v *versionRow) {
	v.mac = s.rings.RowMAC("kms_key_version", v.columns()...)
}

func errTaken(name string) error {
	return fmt.Errorf("%w: key %s: choose another name, or rotate it to get a new version", key.ErrExists, name)
}
