package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// accessRow is the primary key of the principal→object index.
type accessRow struct {
	principal, object string
	version           int64
	host              string
}

// accessBatch adds up the uses of one batch: one row per key, because one
// INSERT … ON CONFLICT must not touch a row twice.
type accessBatch struct {
	at   map[accessRow]int
	args []any // seven columns per row
}

const (
	accessInsert = "INSERT INTO access (principal, object, version, host, first_at, last_at, count)"
	accessMerge  = "ON CONFLICT (principal, object, version, host) DO UPDATE SET" +
		" first_at = CASE WHEN excluded.first_at < access.first_at THEN excluded.first_at ELSE access.first_at END," +
		" last_at = CASE WHEN excluded.last_at > access.last_at THEN excluded.last_at ELSE access.last_at END," +
		" count = access.count + excluded.count"
	accessColumns = 7
)

func (b *accessBatch) reset() {
	clear(b.at)
	clear(b.args) // hold no caller's strings
	b.args = b.args[:0]
}

func (b *accessBatch) add(uses []storage.Access) {
	for i := range uses {
		u := &uses[i]
		k := accessRow{u.Principal, u.Object, u.Version, u.Host}
		at := u.At.UnixMicro()
		if row, ok := b.at[k]; ok {
			b.args[row+4] = min(b.args[row+4].(int64), at)
			b.args[row+5] = max(b.args[row+5].(int64), at)
			b.args[row+6] = b.args[row+6].(int64) + 1
			continue
		}
		if b.at == nil {
			b.at = make(map[accessRow]int)
		}
		b.at[k] = len(b.args)
		b.args = append(b.args, u.Principal, u.Object, u.Version, u.Host, at, at, int64(1))
	}
}

func (b *accessBatch) write(tx *storage.Tx) error {
	if len(b.args) == 0 {
		return nil
	}
	return tx.InsertRows(accessInsert, accessMerge, accessColumns, b.args)
}

// Use is one row of the principal→object index.
type Use struct {
	Principal string
	Object    string // Object.IndexKey
	Version   int64
	Host      string // the proved host
	First     time.Time
	Last      time.Time
	Count     int64
}

// UsesBy lists what principal used, newest first, at most limit rows: the blast
// radius of its credential.
func (l *Log) UsesBy(ctx context.Context, principal string, limit int) ([]Use, error) {
	return l.uses(ctx, "principal = $1", principal, limit)
}

// UsesOf lists who used the object (Object.IndexKey), newest first, at most limit rows.
func (l *Log) UsesOf(ctx context.Context, object string, limit int) ([]Use, error) {
	return l.uses(ctx, "object = $1", object, limit)
}

func (l *Log) uses(ctx context.Context, where, value string, limit int) ([]Use, error) {
	if limit < 1 {
		return nil, fmt.Errorf("%w: limit %d", key.ErrInvalid, limit)
	}
	rows, err := l.db.Query(ctx, "SELECT principal, object, version, host, first_at, last_at, count FROM access WHERE "+where+" ORDER BY last_at DESC LIMIT $2", value, limit)
	if err != nil {
		return nil, fmt.Errorf("reading uses: %w", err)
	}
	defer rows.Close()
	var list []Use
	for rows.Next() {
		var u Use
		var first, last int64
		if err := rows.Scan(&u.Principal, &u.Object, &u.Version, &u.Host, &first, &last, &u.Count); err != nil {
			return nil, fmt.Errorf("reading uses: %w", err)
		}
		u.First, u.Last = time.UnixMicro(first).UTC(), time.UnixMicro(last).UTC()
		list = append(list, u)
	}
	return list, rows.Err()
}
