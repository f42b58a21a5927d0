package ca

import (
	"context"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

const (
	issuerCRLLifetime = 24 * time.Hour
	rootCRLLifetime   = 7 * 24 * time.Hour // it changes only when an issuer goes

	retryCRL    = 5 * time.Second // after a failure
	maxAttempts = 8               // at a number that another server took
)

func (i *Issuer) crlLifetime() time.Duration {
	if i.Parent == "" {
		return rootCRLLifetime
	}
	return issuerCRLLifetime
}

// CRL returns the newest complete CRL as DER. The issuer is named by its id, by
// its environment, or root. CRLs are public: this asks no door.
func (s *Service) CRL(ctx context.Context, issuer string) ([]byte, error) {
	i, err := s.byName(ctx, issuer)
	if err != nil {
		return nil, err
	}
	var der []byte
	err = s.config.DB.QueryRow(ctx, `SELECT der FROM crl WHERE issuer = $1`, i.ID).Scan(&der)
	if noRows(err) {
		return nil, fmt.Errorf("%w: the CRL of %s is being made: retry", key.ErrUnavailable, i.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("reading the CRL of %s: %w", i.Name(), err)
	}
	return der, nil
}

// renewCRLs makes CRLs that are due until ctx ends.
func (s *Service) renewCRLs(ctx context.Context) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-wait.C:
		}
		next := s.config.every()
		if err := s.renewDue(ctx); err != nil && ctx.Err() == nil {
			s.config.log().Error("renewing CRLs", "error", err)
			next = min(next, retryCRL)
		}
		wait.Reset(next)
	}
}

// hurry makes the loop look now.
func (s *Service) hurry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Service) renewDue(ctx context.Context) error {
	all, err := s.current(ctx)
	if err != nil {
		return err
	}
	var failures []error
	for _, i := range all.list {
		if i.State == stateRevoked || time.Now().After(i.Certificate.NotAfter) {
			continue
		}
		due, err := s.due(ctx, i)
		if err == nil && due {
			err = s.makeCRL(ctx, i.ID, "")
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("CRL of %s: %w", i.Name(), err))
		}
	}
	return errors.Join(failures...)
}

// due says whether an issuer needs a new CRL: it has none, half of the old
// one's life is over, or it lacks a revocation, because a crash or a fault came
// between the two.
func (s *Service) due(ctx context.Context, i *Issuer) (bool, error) {
	var this int64
	var der []byte
	err := s.config.DB.QueryRow(ctx, `SELECT this_update, der FROM crl WHERE issuer = $1`, i.ID).Scan(&this, &der)
	if noRows(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if time.Since(time.UnixMicro(this).Add(pki.Backdate)) > i.crlLifetime()/2 {
		return true, nil
	}
	listed, err := serials(der)
	if err != nil {
		return true, nil // a CRL that does not read is replaced
	}
	rows, err := s.config.DB.Query(ctx, `SELECT serial FROM revocation WHERE issuer = $1 AND not_after > $2`, i.ID, time.Now().UnixMicro())
	if err != nil {
		return false, err
	}
	defer rows.Close()
	for rows.Next() {
		var serial string
		if err := rows.Scan(&serial); err != nil {
			return false, err
		}
		if !listed[serial] {
			return true, nil
		}
	}
	return false, rows.Err()
}

// serials returns what a CRL lists.
func serials(der []byte) (map[string]bool, error) {
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("%w: reading a CRL: %w", key.ErrIntegrity, err)
	}
	listed := make(map[string]bool, len(l.RevokedCertificateEntries))
	for _, e := range l.RevokedCertificateEntries {
		listed[e.SerialNumber.Text(16)] = true
	}
	return listed, nil
}

// makeCRL makes and stores the next CRL of an issuer, as the service itself and
// recorded like any act. Numbers never repeat and never go back, on any number
// of servers: the new CRL replaces only the one it was made after. With a
// serial it does so only if the newest CRL does not list that yet: a CRL made
// while this call waited serves all revocations before it.
func (s *Service) makeCRL(ctx context.Context, id, serial string) error {
	s.making.Lock()
	defer s.making.Unlock()
	i, err := s.byName(ctx, id)
	if err != nil {
		return err
	}
	for range maxAttempts {
		if serial != "" {
			if der, err := s.CRL(ctx, i.ID); err == nil {
				if listed, err := serials(der); err == nil && listed[serial] {
					return nil
				}
			}
		}
		act := guard.Act{Action: policy.SignCRL, Object: i.Object()}
		var stored bool
		_, err := s.config.Door.System(ctx, "making the CRL of issuer "+i.Name(), []guard.Act{act}, func(ctx context.Context, g guard.Grant) error {
			use, err := s.config.Door.Redeem(g, act.Action, act.Object.Name)
			if err != nil {
				return err
			}
			stored, err = s.nextCRL(ctx, g, use, i)
			return err
		})
		if stored && err == nil {
			return nil
		}
		if err != nil && !errors.Is(err, errTaken) {
			return err
		}
	}
	return fmt.Errorf("%w: other servers keep making the CRL of %s", key.ErrBusy, i.Name())
}

func (s *Service) nextCRL(ctx context.Context, g guard.Grant, use guard.Use, i *Issuer) (stored bool, err error) {
	var number, last int64
	var list []pki.Revoked
	err = s.config.DB.Snapshot(ctx, func(tx *storage.ReadTx) error {
		err := tx.QueryRow(`SELECT number, this_update FROM crl WHERE issuer = $1`, i.ID).Scan(&number, &last)
		if err != nil && !noRows(err) {
			return err
		}
		// An entry stays until it was on one CRL made after the certificate's end
		// (RFC 5280 3.3): then nobody accepts the certificate any more.
		rows, err := tx.Query(selectRevocation+` WHERE issuer = $1 AND not_after > $2 ORDER BY serial`, i.ID, last)
		if err != nil {
			return err
		}
		defer rows.Close()
		list, err = s.scanRevoked(rows)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("reading revocations of %s: %w", i.Name(), err)
	}
	now := time.Now()
	der, err := i.issuer.CRL(number+1, list, i.crlLifetime(), now)
	if err != nil {
		return false, err
	}
	this, next := now.Truncate(time.Second).Add(-pki.Backdate), now.Truncate(time.Second).Add(i.crlLifetime())
	use.Detail("crl", strconv.FormatInt(number+1, 10))
	use.Detail("revoked", strconv.Itoa(len(list)))
	err = g.Update(ctx, func(tx *storage.Tx) error {
		n, err := tx.Exec(`INSERT INTO crl (issuer, number, der, this_update, next_update) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (issuer) DO UPDATE SET number = excluded.number, der = excluded.der, this_update = excluded.this_update, next_update = excluded.next_update
			WHERE crl.number = $6`, i.ID, number+1, der, this.UnixMicro(), next.UnixMicro(), number)
		if err == nil && n != 1 {
			err = errTaken
		}
		return err
	})
	return err == nil, err
}

const selectRevocation = `SELECT issuer, serial, reason, not_after, revoked_at, revoked_by, mac FROM revocation`

// errTaken: another server stored a CRL meanwhile.
var errTaken = fmt.Errorf("%w: the CRL was made elsewhere meanwhile", key.ErrConflict)

func (s *Service) scanRevoked(rows *sql.Rows) ([]pki.Revoked, error) {
	var list []pki.Revoked
	for rows.Next() {
		var r revocation
		var mac []byte
		if err := rows.Scan(&r.issuer, &r.serial, &r.reason, &r.notAfter, &r.at, &r.by, &mac); err != nil {
			return nil, err
		}
		if err := s.checkRevocation(r, mac); err != nil {
			return nil, err
		}
		serial, ok := new(big.Int).SetString(r.serial, 16)
		if !ok || strings.HasPrefix(r.serial, "-") {
			return nil, fmt.Errorf("%w: revocation of serial %.40q", key.ErrIntegrity, r.serial)
		}
		list = append(list, pki.Revoked{Serial: serial, At: time.UnixMicro(r.at), Reason: r.reason})
	}
	return list, rows.Err()
}
