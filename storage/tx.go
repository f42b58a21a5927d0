package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/key"
)

// maxEntry is what the two length bytes of a C2SP entry bundle can say.
const maxEntry = 65535

var (
	errClosed    = fmt.Errorf("%w: the store is closed", key.ErrUnavailable)
	errNoLog     = errors.New("no log takes entries yet: call SetLog first")
	errEntrySize = fmt.Errorf("%w: an entry is at most %d bytes", key.ErrInvalid, maxEntry)
	errTxOver    = errors.New("the transaction is over: a Tx must not outlive Apply")
)

// Tx is one change's view of the batch's transaction. It is valid until Apply
// returns and belongs to one goroutine.
//
// Placeholders are $1, $2, …. Read rows to the end or close them before the next
// statement. A failed statement fails its change, whatever Apply returns after
// it: PostgreSQL allows nothing else, so SQLite does the same.
type Tx struct {
	db      *DB
	conn    Conn
	logs    bool // a log takes entries
	err     error
	entries []Entry
	bump    bool
	cursors []cursor
}

// cursor is an open result; Scan without targets closes an sql.Row.
type cursor struct {
	rows *sql.Rows
	row  *sql.Row
}

// Exec runs one statement and returns how many rows it changed.
func (tx *Tx) Exec(query string, args ...any) (int64, error) { return tx.exec(query, args) }

func (tx *Tx) exec(query string, args []any) (int64, error) {
	if tx.err != nil {
		return 0, tx.err
	}
	rows, err := tx.conn.Exec(query, args)
	if err != nil {
		tx.err = err
	}
	return rows, err
}

// Query reads rows as this transaction sees them.
func (tx *Tx) Query(query string, args ...any) (*sql.Rows, error) {
	if tx.err != nil {
		return nil, tx.err
	}
	rows, err := tx.conn.Query(query, args)
	if err != nil {
		tx.err = err
		return nil, err
	}
	tx.cursors = append(tx.cursors, cursor{rows: rows})
	return rows, nil
}

// QueryRow reads at most one row as this transaction sees it; errors come from Scan.
func (tx *Tx) QueryRow(query string, args ...any) *sql.Row {
	if tx.err != nil {
		// An sql.Row that carries an error can only be had from a query that fails.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return tx.db.engine.Readers.QueryRowContext(ctx, "SELECT 1")
	}
	row := tx.conn.QueryRow(query, args)
	tx.cursors = append(tx.cursors, cursor{row: row})
	return row
}

// InsertRows inserts len(args)/columns rows with few statements. into is
// "INSERT INTO t (a, b)"; suffix is "" or what follows the values, like "ON
// CONFLICT DO NOTHING". args holds the rows one after another.
func (tx *Tx) InsertRows(into, suffix string, columns int, args []any) error {
	if columns <= 0 || len(args)%columns != 0 {
		return fmt.Errorf("%w: %d arguments are no rows of %d columns", key.ErrInvalid, len(args), columns)
	}
	for len(args) > 0 {
		rows := chunk(len(args) / columns)
		if _, err := tx.exec(tx.db.texts.insert(into, suffix, columns, rows), args[:rows*columns]); err != nil {
			return err
		}
		args = args[rows*columns:]
	}
	return nil
}

// Append adds an entry to the log with this change, after those of Change.Entries.
func (tx *Tx) Append(e Entry) {
	switch {
	case tx.err != nil:
	case !tx.logs:
		tx.err = errNoLog
	case len(e.Data) > maxEntry:
		tx.err = errEntrySize
	default:
		tx.entries = append(tx.entries, e)
	}
}

// BumpEpoch narrows access: when this change commits, authz_epoch moves on, and
// whatever was decided before it is refused with [ErrStaleEpoch].
func (tx *Tx) BumpEpoch() { tx.bump = true }

// end closes what Apply left open and makes the Tx useless.
func (tx *Tx) end() {
	for _, c := range tx.cursors {
		if c.rows != nil {
			c.rows.Close()
		} else {
			c.row.Scan() //nolint:errcheck // it closes the row; the caller has had its own error
		}
	}
	tx.cursors = nil
	tx.err = errTxOver
}

// chunk is how many of n rows go into the next statement. Few sizes mean few
// prepared statements.
func chunk(n int) int {
	return min(1<<(bits.Len(uint(n))-1), 32)
}

// texts remembers the multi-row statements, which are long to build.
type texts map[textKey]string

type textKey struct {
	into, suffix  string
	columns, rows int
}

func (t *texts) insert(into, suffix string, columns, rows int) string {
	k := textKey{into, suffix, columns, rows}
	if text, ok := (*t)[k]; ok {
		return text
	}
	var b strings.Builder
	b.WriteString(into)
	b.WriteString(" VALUES ")
	for n := range rows * columns {
		switch {
		case n == 0:
			b.WriteString("(")
		case n%columns == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n + 1))
	}
	b.WriteByte(')')
	if suffix != "" {
		b.WriteByte(' ')
		b.WriteString(suffix)
	}
	if len(*t) < maxTexts {
		(*t)[k] = b.String()
	}
	return b.String()
}

// maxTexts bounds the memory of callers who build queries from data.
const maxTexts = 256
