package kms

import (
	"database/sql"
	"errors"
	"fmt"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// Review compares keys with what the log says was done to them: one that was
// disabled must not work, and none may go back to an older version.
func (s *Service) Review() guard.Review {
	type said struct {
		disabled bool
		version  int64
	}
	log := map[string]said{} // by the key's id
	return guard.Review{
		Actions: []policy.Action{policy.RotateKey, policy.DisableKey, policy.EnableKey},
		Seen: func(e *audit.Entry) {
			for _, o := range e.Objects {
				k := log[o.ID]
				switch policy.Action(e.Action) {
				case policy.RotateKey:
					k.version = max(k.version, o.Version)
				default:
					k.disabled = e.Action == string(policy.DisableKey)
				}
				log[o.ID] = k
			}
		},
		Compare: func(tx *storage.ReadTx) error {
			var found []error
			for id, k := range log {
				r, err := s.scanRecord(tx.QueryRow(`SELECT `+recordColumns+`, mac FROM kms_key WHERE id = $1`, id), 0)
				switch {
				case errors.Is(err, sql.ErrNoRows):
					found = append(found, fmt.Errorf("%w: key %s is missing from the store", key.ErrIntegrity, id))
				case err != nil:
					return fmt.Errorf("reading key %s: %w", id, err)
				case k.disabled && r.State == Enabled:
					found = append(found, fmt.Errorf("%w: key %s is enabled, the log says that it was disabled: disable it again", key.ErrIntegrity, r.object.Name))
				case r.CurrentVersion < k.version:
					found = append(found, fmt.Errorf("%w: the current version of key %s is %d, the log says that it was rotated to %d", key.ErrIntegrity, r.object.Name, r.CurrentVersion, k.version))
				}
			}
			return errors.Join(found...)
		},
	}
}
