package audit

import (
	"bytes"
	"fmt"

	"github.com/sealwright/sealwright/internal/canon"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/storage"
)

// Replay gives use the entries of some actions, in order, from an index on. It
// looks at no more than limit entries and returns where to go on, and how many
// entries there are: at the end both are equal. Entries are read as stored:
// VerifyStored, not this, shows that they are what was recorded.
func (l *Log) Replay(tx *storage.ReadTx, from int64, limit int, actions []string, use func(*Entry)) (next, size int64, err error) {
	if size, _, err = readHead(tx); err != nil {
		return 0, 0, err
	}
	var wanted [][]byte // how an entry of each action begins: canonical JSON has its first key first
	for _, action := range actions {
		w := canon.NewEncoder(nil)
		w.String(action)
		name, err := w.Bytes()
		if err != nil {
			return 0, 0, err
		}
		wanted = append(wanted, append([]byte(`{"action":`), name...))
	}
	next = min(size, from+int64(limit))
	if from >= next {
		return next, size, nil
	}
	err = eachEntry(tx, from, next, func(index int64, data []byte) error {
		for _, prefix := range wanted {
			if !bytes.HasPrefix(data, prefix) {
				continue
			}
			e, err := ParseEntry(data)
			if err != nil {
				return fmt.Errorf("%w: stored entry %d: %w", key.ErrIntegrity, index, err)
			}
			use(&e)
			break
		}
		return nil
	})
	return next, size, err
}
