package audit

import (
	"context"

	"github.com/sealwright/sealwright/storage"
)

// Origin returns the log's name, the first line of its checkpoints.
func (l *Log) Origin() string { return l.origin }

// Size returns the number of entries in the store.
func (l *Log) Size(ctx context.Context) (size int64, err error) {
	err = l.db.Snapshot(ctx, func(tx *storage.ReadTx) error {
		size, _, err = readHead(tx)
		return err
	})
	return size, err
}

// CheckpointSize returns the number of entries under the newest checkpoint this
// process knows; 0 before the first.
func (l *Log) CheckpointSize() int64 {
	if c := l.signed.Load(); c != nil {
		return c.Size
	}
	return 0
}
