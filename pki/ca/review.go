package ca

import (
	"errors"
	"fmt"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// Review compares revocations with the log: none may be gone.
func (s *Service) Review() guard.Review {
	revoked := map[string]bool{} // by serial, which the whole house has once
	return guard.Review{
		Actions: []policy.Action{policy.RevokeCertificate},
		Seen:    func(e *audit.Entry) { revoked[e.Details[detailSerial]] = true },
		Compare: func(tx *storage.ReadTx) error {
			rows, err := tx.Query(selectRevocation)
			if err != nil {
				return err
			}
			defer rows.Close()
			list, err := s.scanRevoked(rows)
			if err != nil {
				return err
			}
			for _, r := range list {
				delete(revoked, r.Serial.Text(16))
			}
			var found []error
			for serial := range revoked {
				found = append(found, fmt.Errorf("%w: the revocation of certificate %s is gone from the store, the log has it: revoke it again", key.ErrIntegrity, serial))
			}
			return errors.Join(found...)
		},
	}
}
