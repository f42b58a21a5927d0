package ca

import (
	"context"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// detailSerial is where an entry names the certificate; Review reads it again.
const detailSerial = "serial"

// revocation is a row, its columns in the order of the table.
type revocation struct {
	issuer, serial string
	reason         int
	notAfter       int64
	at             int64
	by             string
}

func (r revocation) columns() []any {
	return []any{r.issuer, r.serial, int64(r.reason), r.notAfter, r.at, r.by}
}

func (s *Service) checkRevocation(r revocation, mac []byte) error {
	if err := s.config.Rows.CheckRow(mac, "revocation", r.columns()...); err != nil {
		return fmt.Errorf("revocation of %s: %w", r.serial, err)
	}
	return nil
}

// Revoke ends a certificate for ever. The grant is for pki:RevokeCertificate on
// its Object. When it returns, no request will be let in on it, and the
// issuer's CRL lists it; if the CRL could not be made just now, that is tried
// again until it is, and the revocation stands all the same.
// key.ErrConflict when it is revoked already.
func (s *Service) Revoke(ctx context.Context, g guard.Grant, serial string, reason int) (*Certificate, error) {
	c, use, err := s.redeemFor(ctx, g, policy.RevokeCertificate, serial)
	if err != nil {
		return nil, err
	}
	if err := pki.CheckReason(reason); err != nil {
		return nil, err
	}
	switch {
	case !c.RevokedAt.IsZero():
		return nil, fmt.Errorf("%w: certificate %s was revoked at %s", key.ErrConflict, serial, c.RevokedAt.Format(time.RFC3339))
	case c.Profile == "issuer":
		return nil, fmt.Errorf("%w: %s is an issuer's own certificate: replace the issuer instead of revoking it under everybody's feet", key.ErrUnsupported, serial)
	}
	c.RevokedAt, c.RevokedBy, c.Reason = time.Now().UTC().Truncate(time.Microsecond), use.Principal.SPIFFEID, reason
	use.Created(c.Object())
	use.Detail(detailSerial, c.Serial)
	use.Detail("reason", fmt.Sprint(reason))
	r := revocation{c.Issuer, c.Serial, reason, c.NotAfter.UnixMicro(), c.RevokedAt.UnixMicro(), c.RevokedBy}
	columns := append(r.columns(), s.config.Rows.RowMAC("revocation", r.columns()...))
	err = g.Update(ctx, func(tx *storage.Tx) error {
		tx.BumpEpoch()
		n, err := tx.Exec(`INSERT INTO revocation (issuer, serial, reason, not_after, revoked_at, revoked_by, mac) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (issuer, serial) DO NOTHING`, columns...)
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: certificate %s was revoked meanwhile", key.ErrConflict, serial)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	// The caller may be gone; the CRL is owed all the same.
	if err := s.makeCRL(context.WithoutCancel(ctx), c.Issuer, serial); err != nil {
		s.config.log().Error("a certificate was revoked, but the CRL could not be made; trying again", "serial", serial, "error", err)
		s.hurry()
	}
	return c, nil
}
