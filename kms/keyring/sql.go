package keyring

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/storage"
)

// The kinds of slots.
const (
	kindDevice   = "device"
	kindRecovery = "recovery"
)

// row is a keyring version as the store has it.
type row struct {
	environment string
	version     int64
	state       string
	createdAt   int64
	slots       []slot // sorted by name
	mac         []byte
}

// slot is one wrapping of a keyring key.
type slot struct {
	name       string
	kind       string
	recipient  string // the root key's id, or the recovery recipient
	wrapped    []byte
	verifiedAt int64 // 0 where only the officers can verify it
}

// addSlot adds s, in place of one of the same name.
func (w *row) addSlot(s slot) {
	w.slots = append(slices.DeleteFunc(w.slots, func(old slot) bool { return old.name == s.name }), s)
	slices.SortFunc(w.slots, func(a, b slot) int { return strings.Compare(a.name, b.name) })
}

func (w *row) slot(name string) (slot, bool) {
	i := slices.IndexFunc(w.slots, func(s slot) bool { return s.name == name })
	if i < 0 {
		return slot{}, false
	}
	return w.slots[i], true
}

// loadRows reads the keyrings of one environment, or all of them.
func loadRows(ctx context.Context, db *storage.DB, environment string) ([]row, error) {
	var rows []row
	err := db.Snapshot(ctx, func(tx *storage.ReadTx) (err error) {
		rows, err = queryRows(tx.Query, environment)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading keyrings: %w", err)
	}
	return rows, nil
}

// queryRows reads keyrings with their slots; "" reads all.
func queryRows(query func(string, ...any) (*sql.Rows, error), environment string) ([]row, error) {
	rows, err := scan(query, `SELECT environment, version, state, created_at, mac FROM keyring WHERE environment = $1 OR $1 = '' ORDER BY environment, version`, environment,
		func(rows *sql.Rows) (w row, err error) {
			return w, rows.Scan(&w.environment, &w.version, &w.state, &w.createdAt, &w.mac)
		})
	if err != nil {
		return nil, err
	}
	type owned struct {
		environment string
		version     int64
		slot
	}
	slots, err := scan(query, `SELECT environment, version, slot, kind, recipient, wrapped, verified_at FROM keyring_slot WHERE environment = $1 OR $1 = ''`, environment,
		func(rows *sql.Rows) (o owned, err error) {
			return o, rows.Scan(&o.environment, &o.version, &o.name, &o.kind, &o.recipient, &o.wrapped, &o.verifiedAt)
		})
	if err != nil {
		return nil, err
	}
	for i := range rows {
		for _, o := range slots {
			if o.environment == rows[i].environment && o.version == rows[i].version {
				rows[i].addSlot(o.slot)
			}
		}
	}
	return rows, nil
}

func scan[T any](query func(string, ...any) (*sql.Rows, error), text, argument string, one func(*sql.Rows) (T, error)) ([]T, error) {
	rows, err := query(text, argument)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		item, err := one(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, rows.Err()
}

func countKeyrings(tx *storage.Tx) (n int, err error) {
	err = tx.QueryRow(`SELECT COUNT(*) FROM keyring`).Scan(&n)
	return n, err
}

func (r *ring) insert(tx *storage.Tx) error {
	_, err := tx.Exec(`INSERT INTO keyring (environment, version, state, created_at, mac) VALUES ($1, $2, $3, $4, $5)`, r.environment, r.version, r.state, r.createdAt, r.mac)
	for _, s := range r.slots {
		if err != nil {
			return err
		}
		err = r.insertSlot(tx, s)
	}
	return err
}

func (r *ring) insertSlot(tx *storage.Tx, s slot) error {
	_, err := tx.Exec(`INSERT INTO keyring_slot (environment, version, slot, kind, recipient, wrapped, verified_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		r.environment, r.version, s.name, s.kind, s.recipient, s.wrapped, s.verifiedAt)
	return err
}
