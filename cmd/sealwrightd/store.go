package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
	"github.com/sealwright/sealwright/storage/postgres"
	"github.com/sealwright/sealwright/storage/sqlite"
)

// The modes of a store.
const (
	modeDev        = "dev"
	modeProduction = "production"
)

// errUnfinished is the answer of a store whose creation was interrupted.
var errUnfinished = fmt.Errorf("%w: the creation of this store did not finish: remove it and create it again; nothing was ever served from it", key.ErrNotFound)

func createDB(ctx context.Context, address string) (*storage.DB, error) {
	if path, ok := strings.CutPrefix(address, "sqlite:"); ok {
		return sqlite.Create(ctx, path)
	}
	return postgres.Create(ctx, address)
}

func openDB(ctx context.Context, address string) (*storage.DB, error) {
	if path, ok := strings.CutPrefix(address, "sqlite:"); ok {
		return sqlite.Open(ctx, path)
	}
	return postgres.Open(ctx, address)
}

// storeRow is the one row that says whose store this is. It is written last
// when a store is created: a store without it was never finished.
type storeRow struct {
	id         key.ID
	epoch      int64
	mode       string
	domain     string
	onlineRoot bool
	createdAt  time.Time
	root       key.Ref // the wrapping root key
	checkpoint key.Ref // signs the log's checkpoints

	mac []byte
}

// columns are what decides; the device keys are rows of their own and covered here.
func (s storeRow) columns() []any {
	return []any{1, s.id.String(), s.epoch, s.mode, s.domain, s.onlineRoot, s.createdAt.UnixMicro(), s.root.Encode(), s.checkpoint.Encode()}
}

func (s storeRow) check(rows guard.Authenticator) error {
	return rows.CheckRow(s.mac, "store", s.columns()...)
}

func readStore(ctx context.Context, db *storage.DB) (storeRow, error) {
	var s storeRow
	var id string
	var created int64
	var root, checkpoint []byte
	row := db.QueryRow(ctx, `SELECT s.store_id, s.epoch, s.mode, s.domain, s.online_root, s.created_at, s.mac, r.ref, c.ref
		FROM store s, device_key r, device_key c WHERE s.id = 1 AND r.purpose = 'root' AND c.purpose = 'checkpoint'`)
	var online int64
	switch err := row.Scan(&id, &s.epoch, &s.mode, &s.domain, &online, &created, &s.mac, &root, &checkpoint); {
	case errors.Is(err, sql.ErrNoRows):
		return s, errUnfinished
	case err != nil:
		return s, fmt.Errorf("reading the store's row: %w", err)
	}
	s.onlineRoot, s.createdAt = online != 0, time.UnixMicro(created).UTC()
	var err error
	if s.id, err = key.ParseID(id); err != nil {
		return s, fmt.Errorf("%w: the store's id: %w", key.ErrIntegrity, err)
	}
	if s.root, err = key.DecodeRef(root); err != nil {
		return s, fmt.Errorf("%w: %w", key.ErrIntegrity, err)
	}
	if s.checkpoint, err = key.DecodeRef(checkpoint); err != nil {
		return s, fmt.Errorf("%w: %w", key.ErrIntegrity, err)
	}
	return s, nil
}

// write finishes the creation of a store.
func (s storeRow) write(ctx context.Context, db *storage.DB, rows guard.Authenticator, device string) error {
	online := 0
	if s.onlineRoot {
		online = 1
	}
	mac := rows.RowMAC("store", s.columns()...)
	return db.Update(ctx, func(tx *storage.Tx) error {
		for purpose, ref := range map[string]key.Ref{"root": s.root, "checkpoint": s.checkpoint} {
			if _, err := tx.Exec(`INSERT INTO device_key (purpose, ref, device, created_at) VALUES ($1, $2, $3, $4)`, purpose, ref.Encode(), device, s.createdAt.UnixMicro()); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`INSERT INTO store (id, store_id, epoch, mode, domain, online_root, created_at, mac) VALUES (1, $1, $2, $3, $4, $5, $6, $7)`,
			s.id.String(), s.epoch, s.mode, s.domain, online, s.createdAt.UnixMicro(), mac)
		return err
	})
}
