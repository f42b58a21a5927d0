package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// Review compares what the log says was done with the rows that decide now. A
// row's MAC keeps it from being changed; only the log tells that a row was
// deleted or set back to an older copy of itself: a revocation undone, a former
// policy in force again, a disabled key or principal switched on.
type Review struct {
	Actions []policy.Action
	// Seen is told each of these acts that changed something, in the order of the log.
	Seen func(*audit.Entry)
	// Compare returns a key.ErrIntegrity that names each row that is not what the acts seen make it.
	Compare func(*storage.ReadTx) error
}

// reviewStep is how many entries one snapshot looks at: a long snapshot keeps
// SQLite from folding its write-ahead log.
const reviewStep = 10_000

// Review replays the log from its beginning and compares policy and principals,
// and what other services ask for, with it. It trusts the log as stored: verify
// that first. What it finds, Check reports from then on.
func (d *Door) Review(ctx context.Context, others ...Review) error {
	reviews := append([]Review{d.reviewRules(), d.reviewPrincipals()}, others...)
	var actions []string
	for _, r := range reviews {
		for _, a := range r.Actions {
			actions = append(actions, string(a))
		}
	}
	seen := func(e *audit.Entry) {
		// A repeat, or an act that found everything done, changed nothing.
		if e.Outcome != audit.OK || e.Details[detailRepeat] != "" || e.Details[detailUnchanged] != "" {
			return
		}
		for _, r := range reviews {
			if slices.Contains(r.Actions, policy.Action(e.Action)) {
				r.Seen(e)
			}
		}
	}
	var found error
	err := d.replay(ctx, audit.OfActions(actions...), seen, func(tx *storage.ReadTx) error {
		for _, r := range reviews {
			err := r.Compare(tx)
			if err != nil && !errors.Is(err, key.ErrIntegrity) {
				return err
			}
			found = errors.Join(found, err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("comparing the store with its log: %w", err)
	}
	d.found.Store(&found)
	return found
}

// replay gives use every entry that matches, then calls end in the snapshot in
// which there was no further one.
func (d *Door) replay(ctx context.Context, match audit.Match, use func(*audit.Entry), end func(*storage.ReadTx) error) error {
	for next, size := int64(0), int64(-1); next != size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := d.db.Snapshot(ctx, func(tx *storage.ReadTx) (err error) {
			if next, size, err = d.log.Replay(tx, next, reviewStep, match, use); err != nil || next < size {
				return err
			}
			return end(tx)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Check is the readiness test: what the last Review found.
func (d *Door) Check() error {
	if found := d.found.Load(); found != nil {
		return *found
	}
	return nil
}

// Unchanged notes that the act found done what it was asked to do.
func (u Use) Unchanged() { u.Detail(detailUnchanged, "it was so already") }

// The details that a Review reads: which entries changed nothing, and which
// intent an entry is about.
const (
	detailIntent    = "intent"
	detailRepeat    = "repeat"
	detailUnchanged = "unchanged"
)

func (d *Door) reviewRules() Review {
	var version int64
	var digest string
	return Review{
		Actions: []policy.Action{policy.ApplyPolicy},
		Seen: func(e *audit.Entry) {
			if len(e.Objects) == 1 {
				version, digest = e.Objects[0].Version, e.Objects[0].ID
			}
		},
		Compare: func(tx *storage.ReadTx) error {
			r, err := d.scanRules(tx.QueryRow(newestRules))
			if err != nil && !errors.Is(err, key.ErrNotFound) {
				return err
			}
			if r.Version != version || r.Digest != digest {
				return fmt.Errorf("%w: policy version %d (digest %.16s) is in force, the log says version %d (digest %.16s): apply the right one", key.ErrIntegrity, r.Version, r.Digest, version, digest)
			}
			return nil
		},
	}
}

func (d *Door) reviewPrincipals() Review {
	disabled := map[string]bool{}
	return Review{
		Actions: []policy.Action{policy.DisablePrincipal},
		Seen: func(e *audit.Entry) {
			for _, o := range e.Objects {
				disabled[o.Name] = true
			}
		},
		Compare: func(tx *storage.ReadTx) error {
			rows, err := tx.Query(principalColumns)
			if err != nil {
				return err
			}
			defer rows.Close()
			found, missing := []error{}, len(disabled)
			for rows.Next() {
				p, err := d.scanPrincipal(rows)
				if err != nil {
					return err
				}
				if !disabled[p.Object().Name] {
					continue
				}
				missing--
				if p.DisabledAt.IsZero() {
					found = append(found, fmt.Errorf("%w: principal %s is enabled, the log says that it was disabled: disable it again", key.ErrIntegrity, p.SPIFFEID))
				}
			}
			if missing > 0 {
				found = append(found, fmt.Errorf("%w: %d disabled principals are missing from the store", key.ErrIntegrity, missing))
			}
			return errors.Join(append(found, rows.Err())...)
		},
	}
}
