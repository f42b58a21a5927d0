package guard

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
	"github.com/sealwright/sealwright/storage"
)

// Rules is one applied version of the policy.
type Rules struct {
	Version   int64
	Text      string
	Digest    string // SHA-256 of Text, hex
	CreatedBy string
	CreatedAt time.Time
	entry     int64
}

// RulesObject is the policy as policies and entries name it.
var rulesObject = policy.Object{Kind: policy.KindPolicySet, Name: "active"}

// RulesObject returns the one object that policy:Apply and policy:Read are about.
func RulesObject() policy.Object { return rulesObject }

func (r Rules) columns() []any {
	return []any{r.Version, r.Text, r.Digest, r.CreatedBy, r.CreatedAt.UnixMicro()}
}

const newestRules = `SELECT version, text, digest, created_by, created_at, entry, mac FROM policy ORDER BY version DESC LIMIT 1`

// Rules returns the policy in force, or key.ErrNotFound before the first.
func (d *Door) Rules(ctx context.Context) (Rules, error) {
	return d.scanRules(d.db.QueryRow(ctx, newestRules))
}

func (d *Door) scanRules(row scanner) (Rules, error) {
	var r Rules
	var at int64
	var mac []byte
	switch err := row.Scan(&r.Version, &r.Text, &r.Digest, &r.CreatedBy, &at, &r.entry, &mac); {
	case errors.Is(err, sql.ErrNoRows):
		return Rules{}, fmt.Errorf("policy: %w", key.ErrNotFound)
	case err != nil:
		return Rules{}, fmt.Errorf("reading the policy: %w", err)
	}
	r.CreatedAt = time.UnixMicro(at).UTC()
	if err := d.rows.CheckRow(mac, "policy", r.columns()...); err != nil {
		return Rules{}, fmt.Errorf("policy version %d: %w", r.Version, err)
	}
	return r, nil
}

// loadPolicy returns the policy in force; before the first is applied, one that allows nothing.
func (d *Door) loadPolicy(ctx context.Context) (int64, *policy.Set, error) {
	r, err := d.Rules(ctx)
	if errors.Is(err, key.ErrNotFound) {
		set, err := policy.Parse("none", nil)
		return 0, set, err
	}
	if err != nil {
		return 0, nil, err
	}
	if st := d.state.Load(); st != nil && st.version == r.Version {
		return r.Version, st.set, nil
	}
	set, err := r.parse()
	return r.Version, set, err
}

func (r Rules) parse() (*policy.Set, error) {
	set, err := policy.Parse(fmt.Sprintf("policy version %d", r.Version), []byte(r.Text))
	if err != nil {
		return nil, fmt.Errorf("policy version %d does not parse: %w", r.Version, err)
	}
	return set, nil
}

// Parsed returns the policies of r. Those in force are parsed already, which
// matters: a large set takes seconds.
func (d *Door) Parsed(ctx context.Context, r Rules) (*policy.Set, error) {
	st, err := d.current(ctx)
	if err != nil {
		return nil, err
	}
	if st.version == r.Version && st.set.Digest() == r.Digest {
		return st.set, nil
	}
	return r.parse()
}

// NewRules is a policy to be put in force.
type NewRules struct {
	Name string // for messages: the file's name
	Text string
	Base int64 // refuse unless this is the version in force; 0: whatever it is
}

// Apply puts a policy in force as a new version. One under which no
// administrator could apply the next is refused.
func (d *Door) Apply(ctx context.Context, g Grant, in NewRules) (Rules, error) {
	use, err := d.Redeem(g, policy.ApplyPolicy, rulesObject.Name)
	if err != nil {
		return Rules{}, err
	}
	set, err := policy.Parse(cmp.Or(in.Name, "policy"), []byte(in.Text))
	if err != nil {
		return Rules{}, err
	}
	if err := d.checkWayBack(ctx, set, g.t, ""); err != nil {
		return Rules{}, err
	}
	now, err := d.Rules(ctx)
	if err != nil && !errors.Is(err, key.ErrNotFound) {
		return Rules{}, err
	}
	if in.Base != 0 && in.Base != now.Version {
		return Rules{}, fmt.Errorf("%w: version %d is in force, not %d: look at it, then apply again", key.ErrConflict, now.Version, in.Base)
	}
	sum := sha256.Sum256([]byte(in.Text))
	r := Rules{Version: now.Version + 1, Text: in.Text, Digest: hex.EncodeToString(sum[:]), CreatedBy: use.Principal.SPIFFEID, CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
	use.Created(policy.Object{Kind: policy.KindPolicySet, Name: rulesObject.Name, ID: r.Digest})
	use.Touched(r.Version)
	mac := d.rows.RowMAC("policy", r.columns()...)
	err = g.Update(ctx, func(tx *storage.Tx) error {
		tx.BumpEpoch()
		n, err := tx.Exec(`INSERT INTO policy (version, text, digest, created_by, created_at, entry, mac) VALUES ($1, $2, $3, $4, $5, -1, $6) ON CONFLICT (version) DO NOTHING`,
			r.Version, r.Text, r.Digest, r.CreatedBy, r.CreatedAt.UnixMicro(), mac)
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: another policy was applied meanwhile: look at it, then apply again", key.ErrConflict)
		}
		return err
	})
	if err != nil {
		return Rules{}, err
	}
	// Where to find the entry again; it is a pointer, not part of what decides.
	return r, d.db.Update(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(`UPDATE policy SET entry = $1 WHERE version = $2`, g.t.index, r.Version)
		return err
	})
}

// checkWayBack refuses a policy under which nobody, the principal with the id
// without left out, could apply a policy.
func (d *Door) checkWayBack(ctx context.Context, set *policy.Set, t *ticket, without string) error {
	if t.who.Kind == kindSystem {
		return nil // the first policy comes before the first principal
	}
	rows, err := d.db.Query(ctx, principalColumns+`WHERE disabled_at = 0`)
	if err != nil {
		return fmt.Errorf("checking who could apply the next policy: %w", err)
	}
	defer rows.Close()
	var holders []policy.Principal
	for rows.Next() {
		p, err := d.scanPrincipal(rows)
		if err != nil {
			return err
		}
		if p.ID != without && (p.ExpiresAt.IsZero() || time.Now().Before(p.ExpiresAt)) {
			holders = append(holders, p.policyForm())
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return set.CheckApply(time.Now(), t.req.Source, t.who.AuthMethod, holders)
}

// CheckRules compares the policy in force with its entry in the log: enough for
// the start. Whether a newer one was deleted, only Review finds out.
func (d *Door) CheckRules(ctx context.Context) error {
	r, err := d.Rules(ctx)
	if err != nil || r.entry < 0 {
		return err
	}
	found, err := d.log.Entries(ctx, r.entry, 1)
	if err != nil {
		return fmt.Errorf("reading the policy's entry: %w", err)
	}
	if len(found) != 1 || !recordsRules(found[0], r.Digest) {
		return fmt.Errorf("%w: the policy in force (version %d, digest %s) is not the one entry %d of the log recorded", key.ErrIntegrity, r.Version, r.Digest, r.entry)
	}
	return nil
}

func recordsRules(e audit.Entry, digest string) bool {
	return e.Action == string(policy.ApplyPolicy) && e.Outcome == audit.OK && len(e.Objects) == 1 && e.Objects[0].ID == digest
}
