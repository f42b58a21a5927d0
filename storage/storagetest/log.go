// Package storagetest holds the suite that every engine of package storage
// passes, the PostgreSQL its tests run on, and a log for those who need one.
package storagetest

import (
	"crypto/sha256"
	"fmt"

	"github.com/sealwright/sealwright/storage"
)

// Log is a storage.Log that keeps the rows, and a hash chain instead of a tree.
// It has no state of its own, so one may serve any number of stores.
type Log struct{}

// Append inserts the entries and chains their hashes into the edge.
func (Log) Append(tx *storage.Tx, head storage.Head, entries []storage.Entry) ([]byte, error) {
	edge := head.Edge
	args := make([]any, 0, 2*len(entries))
	for i, e := range entries {
		edge = Chain(edge, e.Data)
		args = append(args, head.Size+int64(i), e.Data)
	}
	if err := tx.InsertRows("INSERT INTO log_entry (idx, data)", "", 2, args); err != nil {
		return nil, fmt.Errorf("inserting %d entries: %w", len(entries), err)
	}
	return edge, nil
}

// Chain is the edge after one more entry.
func Chain(edge, data []byte) []byte {
	h := sha256.New()
	h.Write(edge)
	h.Write(data)
	return h.Sum(nil)
}
