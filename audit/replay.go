package audit

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/sealwright/sealwright/internal/canon"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// Match sorts entries by their canonical bytes, before they are parsed.
type Match func(data []byte) bool

// OfActions matches the entries of some actions.
func OfActions(actions ...string) Match {
	var prefixes [][]byte // canonical JSON has its first key first
	for _, action := range actions {
		prefixes = append(prefixes, append([]byte(`{"action":`), quoted(action)...))
	}
	return func(data []byte) bool {
		return slices.ContainsFunc(prefixes, func(p []byte) bool { return bytes.HasPrefix(data, p) })
	}
}

// WithDetail matches the entries that may have this detail; parse them to know.
func WithDetail(name, value string) Match {
	needle := slices.Concat(quoted(name), []byte{':'}, quoted(value))
	return func(data []byte) bool { return bytes.Contains(data, needle) }
}

// quoted is a string of ours in canonical JSON.
func quoted(s string) []byte {
	w := canon.NewEncoder(nil)
	w.String(s)
	text, _ := w.Bytes() // our own words are UTF-8; others match nothing
	return text
}

// Replay gives use the entries that match, in order, from an index on. It looks
// at no more than limit entries and returns where to go on, and how many
// entries there are: at the end both are equal. Entries are read as stored:
// VerifyStored, not this, shows that they are what was recorded.
func (l *Log) Replay(tx *storage.ReadTx, from int64, limit int, match Match, use func(*Entry)) (next, size int64, err error) {
	if size, _, err = readHead(tx); err != nil {
		return 0, 0, err
	}
	next = min(size, from+int64(limit))
	if from >= next {
		return next, size, nil
	}
	err = eachEntry(tx, from, next, func(index int64, data []byte) error {
		if !match(data) {
			return nil
		}
		e, err := ParseEntry(data)
		if err != nil {
			return fmt.Errorf("%w: stored entry %d: %w", key.ErrIntegrity, index, err)
		}
		use(&e)
		return nil
	})
	return next, size, err
}
