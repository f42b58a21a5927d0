package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki/lint"
)

// Revoked is one entry of a CRL.
type Revoked struct {
	Serial *big.Int
	At     time.Time
	Reason int // RFC 5280 5.3.1; 0 (unspecified) is left out of the entry
}

// CheckReason accepts a reason to revoke: 0, 1 to 5, 9 and 10. A hold (6) is refused: revocation is for ever.
func CheckReason(reason int) error {
	if reason == 0 || lint.Reason(reason) {
		return nil
	}
	return fmt.Errorf("%w: revocation reason %d: use 0 (unspecified), 1 (key compromise), 2 (CA compromise), 3 (affiliation changed), 4 (superseded), 5 (cessation), 9 (privilege withdrawn) or 10", key.ErrInvalid, reason)
}

// CRL makes the complete CRL of the issuer, checked and signed like a
// certificate, as DER. Number must grow from CRL to CRL.
//
// thisUpdate is backdated, because a verifier whose clock is behind refuses
// every peer while the CRL lies in its future; an entry younger than that gets
// thisUpdate as its date, as an entry may not lie after it.
func (i *Issuer) CRL(number int64, revoked []Revoked, lifetime time.Duration, now time.Time) ([]byte, error) {
	if number < 1 || lifetime < time.Minute {
		return nil, fmt.Errorf("%w: a CRL needs a positive number and lives a minute or more", key.ErrInvalid)
	}
	now = now.UTC().Truncate(time.Second)
	list := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: now.Add(-Backdate), NextUpdate: now.Add(lifetime)}
	for _, r := range revoked {
		if err := CheckReason(r.Reason); err != nil {
			return nil, err
		}
		at := r.At.UTC().Truncate(time.Second)
		if at.After(list.ThisUpdate) {
			at = list.ThisUpdate
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: r.Serial, RevocationTime: at, ReasonCode: r.Reason})
	}
	twin, err := i.crlTwin(list)
	if err != nil {
		return nil, err
	}
	if err := lint.CRL(twin, lint.CRLRules{Parent: i.certificate, MaxLifetime: lifetime + Backdate}); err != nil {
		return nil, fmt.Errorf("%w: the CRL would break the rules: %w", key.ErrInvalid, err)
	}
	if err := i.zlint.CRL(twin.Raw); err != nil {
		return nil, fmt.Errorf("%w: the CRL would break the rules: %w", key.ErrInvalid, err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, i.certificate, i.signer)
	if err != nil {
		return nil, fmt.Errorf("signing the CRL: %w", err)
	}
	signed, err := x509.ParseRevocationList(der)
	if err != nil || !bytes.Equal(signed.RawTBSRevocationList, twin.RawTBSRevocationList) {
		return nil, fmt.Errorf("%w: the signed CRL is not the one that was checked", key.ErrIntegrity)
	}
	if err := signed.CheckSignatureFrom(i.certificate); err != nil {
		return nil, fmt.Errorf("%w: signing the CRL: %w", key.ErrIntegrity, err)
	}
	return der, nil
}

// crlTwin signs list with a throwaway key of the issuer's curve: x509 has no
// way to encode a CRL without signing, and CRLs are rare.
func (i *Issuer) crlTwin(list *x509.RevocationList) (*x509.RevocationList, error) {
	i.mu.Lock()
	if i.throwaway == nil {
		k, err := ecdsa.GenerateKey(i.public.Curve, rand.Reader)
		if err != nil {
			i.mu.Unlock()
			return nil, fmt.Errorf("making a throwaway key: %w", err)
		}
		i.throwaway = k
	}
	throwaway := i.throwaway
	i.mu.Unlock()
	der, err := x509.CreateRevocationList(rand.Reader, list, i.certificate, throwaway)
	if err != nil {
		return nil, fmt.Errorf("%w: encoding the CRL: %w", key.ErrInvalid, err)
	}
	twin, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("%w: the CRL would not be readable: %w", key.ErrInvalid, err)
	}
	return twin, nil
}
