package guard

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// idempotencyLife is how long a repeat finds the first result.
const idempotencyLife = 24 * time.Hour

// Repeated is what Enter returns, as an error, when the request's idempotency
// key already made its change: the first answer, to be given again.
type Repeated struct {
	Status int
	Body   []byte
}

func (r *Repeated) Error() string { return "repeat of a request that is done" }

// RequestDigest is the digest of a canonical request: each part with its length, SHA-256, hex.
func RequestDigest(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// repeated looks for an earlier request with the same idempotency key.
func (t *ticket) repeated(ctx context.Context) error {
	if t.req.IdempotencyKey == "" {
		return nil
	}
	var digest string
	var r Repeated
	row := t.door.db.QueryRow(ctx, `SELECT digest, status, response FROM idempotency WHERE principal = $1 AND idem_key = $2 AND expires_at > $3`,
		t.who.ID, t.req.IdempotencyKey, time.Now().UnixMicro())
	switch err := row.Scan(&digest, &r.Status, &r.Body); {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("looking up an idempotency key: %w", err)
	case digest != t.req.digest():
		return fmt.Errorf("%w: this Idempotency-Key belongs to another request: use a fresh one", key.ErrConflict)
	case r.Status == 0:
		return fmt.Errorf("%w: this request was carried out and its answer was lost: look at the object instead of repeating", key.ErrConflict)
	}
	// The caller acts on the answer as if the service had just given it.
	var err error
	if r.Body, err = t.door.detach("idempotency", r.Body, t.who.ID, t.req.IdempotencyKey, digest, r.Status); err != nil {
		return err
	}
	return &r
}

// recordRepeat records that a repeat was given the first answer, or was refused.
func (t *ticket) recordRepeat(ctx context.Context, cause error) (int64, error) {
	var r *Repeated
	if !errors.As(cause, &r) {
		return t.recordFailure(ctx, cause)
	}
	t.details = map[string]string{detailRepeat: "answered as before"}
	entry, err := t.record(audit.OK, nil)
	if err != nil {
		return -1, err
	}
	index, err := t.door.db.Commit(ctx, storage.Change{Epoch: t.epoch, Entries: []storage.Entry{entry}})
	if err != nil {
		return -1, fmt.Errorf("recording a repeat: %w", err)
	}
	return index, cause
}

// claimIdempotency takes the request's idempotency key in the change's own
// transaction, so that of two racing repeats one changes.
func (t *ticket) claimIdempotency(tx *storage.Tx) error {
	if t.req.IdempotencyKey == "" {
		return nil
	}
	now := time.Now()
	if _, err := tx.Exec(`DELETE FROM idempotency WHERE expires_at <= $1`, now.UnixMicro()); err != nil {
		return err
	}
	n, err := tx.Exec(`INSERT INTO idempotency (principal, idem_key, digest, status, response, expires_at) VALUES ($1, $2, $3, 0, $4, $5) ON CONFLICT (principal, idem_key) DO NOTHING`,
		t.who.ID, t.req.IdempotencyKey, t.req.digest(), []byte{}, now.Add(idempotencyLife).UnixMicro())
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: another request with this Idempotency-Key is being carried out", key.ErrConflict)
	}
	return nil
}

// Remember keeps the answer of a change for its repeats by the same principal.
// Answers that bear a secret are never given to it.
func (d *Door) Remember(ctx context.Context, c Credential, idempotencyKey string, status int, body []byte) error {
	st, err := d.current(ctx)
	if err != nil {
		return err
	}
	who, err := d.identify(ctx, st, c)
	if err != nil {
		return err
	}
	return d.db.Update(ctx, func(tx *storage.Tx) error {
		var digest string
		err := tx.QueryRow(`SELECT digest FROM idempotency WHERE principal = $1 AND idem_key = $2`, who.ID, idempotencyKey).Scan(&digest)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // nothing had to be changed, so there is nothing to repeat
		}
		if err != nil {
			return err
		}
		response := d.attach("idempotency", body, who.ID, idempotencyKey, digest, status)
		_, err = tx.Exec(`UPDATE idempotency SET status = $1, response = $2 WHERE principal = $3 AND idem_key = $4`, status, response, who.ID, idempotencyKey)
		return err
	})
}
