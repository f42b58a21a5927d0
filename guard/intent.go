package guard

import (
	"context"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// Intent is an effect outside the store that was about to happen and whose
// outcome is not known.
type Intent struct {
	ID        string
	Kind      string // e.g. "kms.generate"
	Object    string
	Data      []byte // what is needed to find out: never a secret
	Principal string
	CreatedAt time.Time
}

// Intent makes durable, with an entry, that an effect outside the store is
// about to happen. Only then may it. Update records that it did; what a failure
// or a crash leaves open, Intents finds at the next start.
func (g Grant) Intent(ctx context.Context, kind, object string, data []byte) error {
	t := g.t
	if err := t.usable(); err != nil {
		return err
	}
	i := Intent{ID: key.NewID().String(), Kind: kind, Object: object, Principal: t.who.SPIFFEID, CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
	t.detail(detailIntent, i.ID)
	entry, err := t.record(audit.Intent, nil)
	if err != nil {
		return err
	}
	// Settling destroys keys: a row that a writer to the database made up must not choose which.
	data = t.door.attach("intent", data, i.columns()...)
	change := storage.Change{Epoch: t.epoch, Entries: []storage.Entry{entry}}
	change.Apply = func(tx *storage.Tx) error {
		_, err := tx.Exec(`INSERT INTO intent (id, kind, object, data, principal, created_at, resolved_at, outcome) VALUES ($1, $2, $3, $4, $5, $6, 0, '')`,
			i.ID, i.Kind, i.Object, data, i.Principal, i.CreatedAt.UnixMicro())
		return err
	}
	if _, err := t.door.db.Commit(ctx, change); err != nil {
		return fmt.Errorf("recording an intent: %w", err)
	}
	t.mu.Lock()
	t.intent = i.ID
	t.mu.Unlock()
	return nil
}

// columns are what the MAC covers besides the data. Whether the intent is
// resolved is not in it: that the log knows.
func (i Intent) columns() []any {
	return []any{i.ID, i.Kind, i.Object, i.Principal, i.CreatedAt.UnixMicro()}
}

// resolveIntent closes an intent in the transaction of its outcome.
func resolveIntent(tx *storage.Tx, id, outcome string) error {
	n, err := tx.Exec(`UPDATE intent SET resolved_at = $1, outcome = $2 WHERE id = $3 AND resolved_at = 0`, time.Now().UnixMicro(), outcome, id)
	if err == nil && n != 1 {
		err = fmt.Errorf("%w: intent %s is already resolved", key.ErrConflict, id)
	}
	return err
}

// Intents lists the effects of one kind whose outcome is unknown, oldest first.
// key.ErrIntegrity: somebody wrote one into the store.
func (d *Door) Intents(ctx context.Context, kind string) ([]Intent, error) {
	rows, err := d.db.Query(ctx, `SELECT id, kind, object, data, principal, created_at FROM intent WHERE resolved_at = 0 AND kind = $1 ORDER BY created_at`, kind)
	if err != nil {
		return nil, fmt.Errorf("listing open intents: %w", err)
	}
	defer rows.Close()
	var open []Intent
	for rows.Next() {
		var i Intent
		var at int64
		if err := rows.Scan(&i.ID, &i.Kind, &i.Object, &i.Data, &i.Principal, &at); err != nil {
			return nil, fmt.Errorf("listing open intents: %w", err)
		}
		i.CreatedAt = time.UnixMicro(at).UTC()
		if i.Data, err = d.detach("intent", i.Data, i.columns()...); err != nil {
			return nil, fmt.Errorf("reading intent %s: %w", i.ID, err)
		}
		open = append(open, i)
	}
	return open, rows.Err()
}

// Reconcile resolves one open intent as the service itself: settle finds out
// what happened in the outside world, mends it, and names the outcome. The
// outcome and its entry are one transaction. key.ErrIntegrity, before settle
// runs: the log has the outcome already, so somebody opened the intent again.
func (d *Door) Reconcile(ctx context.Context, i Intent, act Act, settle func(context.Context) (outcome string, err error)) error {
	settled := false
	err := d.replay(ctx, audit.WithDetail(detailIntent, i.ID), func(e *audit.Entry) {
		settled = settled || e.Outcome == audit.OK && e.Details[detailIntent] == i.ID
	}, func(*storage.ReadTx) error { return nil })
	if err == nil && settled {
		err = fmt.Errorf("%w: the log has its outcome, yet the store calls intent %s open", key.ErrIntegrity, i.ID)
	}
	if err != nil {
		return fmt.Errorf("reconciling %s of %s: %w", i.Kind, i.Object, err)
	}
	_, err = d.System(ctx, "reconciling "+i.Kind+" begun by "+i.Principal, []Act{act}, func(ctx context.Context, g Grant) error {
		use, err := d.Redeem(g, act.Action, act.Object.Name)
		if err != nil {
			return err
		}
		use.Detail(detailIntent, i.ID)
		outcome, err := settle(ctx)
		if err != nil {
			return err
		}
		return g.Update(ctx, func(tx *storage.Tx) error { return resolveIntent(tx, i.ID, outcome) })
	})
	if err != nil {
		return fmt.Errorf("reconciling %s of %s: %w", i.Kind, i.Object, err)
	}
	return nil
}
