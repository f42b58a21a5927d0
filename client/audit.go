package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/internal/durable"
)

// AuditFilter selects entries of the log.
type AuditFilter struct {
	Limit     int
	Before    int64 // only entries below this index; 0: from the newest
	Principal string
	Action    string
	Object    string
}

// AuditEntries lists the log, newest first.
func (c *Client) AuditEntries(ctx context.Context, f AuditFilter) (out api.AuditList, err error) {
	query := Page{Limit: f.Limit}.values("principal", f.Principal, "action", f.Action, "object", f.Object)
	if f.Before > 0 {
		query.Set("before", strconv.FormatInt(f.Before, 10))
	}
	return out, c.do(ctx, call{pattern: api.RouteAuditEntries, query: query, out: &out})
}

// AuditProof proves that an entry is in the log.
func (c *Client) AuditProof(ctx context.Context, index int64) (out api.AuditProof, err error) {
	return out, c.do(ctx, call{pattern: api.RouteAuditProof, args: []string{strconv.FormatInt(index, 10)}, out: &out})
}

// AuditConsistency proves that the log of size old grew into the newest checkpoint.
func (c *Client) AuditConsistency(ctx context.Context, old int64) (out api.AuditConsistency, err error) {
	query := url.Values{"old": {strconv.FormatInt(old, 10)}}
	return out, c.do(ctx, call{pattern: api.RouteAuditConsistency, query: query, out: &out})
}

// AuditTile returns one resource of the tiled log: tile/<L>/<N>[.p/<W>] or tile/entries/<N>[.p/<W>].
func (c *Client) AuditTile(ctx context.Context, path string) (data []byte, err error) {
	return data, c.do(ctx, call{pattern: api.RouteAuditTile, args: []string{strings.TrimPrefix(path, "tile/")}, out: &data})
}

// AuditKeys returns the keys that sign checkpoints. Trust them no more than the server: pin one instead.
func (c *Client) AuditKeys(ctx context.Context) (out api.AuditKeys, err error) {
	return out, c.do(ctx, call{pattern: api.RouteAuditKeys, out: &out})
}

// AuditVerify has the server read its whole log and check it.
func (c *Client) AuditVerify(ctx context.Context) (out api.AuditReport, err error) {
	return out, c.do(ctx, call{pattern: api.RouteAuditVerify, out: &out})
}

// Checkpoints remembers the newest checkpoint in a file, so that a log that was
// rewound or forked is noticed by whoever saw it before.
type Checkpoints struct {
	File string // made when it does not exist; one per server
	// Check verifies the signature of newer and that it extends older (empty at
	// first contact) by proof, RFC 6962 hashes; audit.CheckConsistency does.
	Check func(older, newer []byte, proof [][]byte) error
	// Size returns the number of entries a verified checkpoint covers.
	Size func(note []byte) (int64, error)
}

// Checkpoint returns the newest checkpoint of the log, a signed note. With
// Config.Checkpoints it has been shown to extend the newest one seen before,
// and is remembered; an error that is api.ErrIntegrity means the log was
// rewound or forked: keep the file, it is the evidence.
func (c *Client) Checkpoint(ctx context.Context) (note []byte, err error) {
	remembered := c.config.Checkpoints
	if remembered == nil {
		return note, c.do(ctx, call{pattern: api.RouteAuditCheckpoint, out: &note})
	}
	older, err := os.ReadFile(remembered.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the remembered checkpoint: %w", err)
	}
	if len(older) == 0 {
		if err := c.do(ctx, call{pattern: api.RouteAuditCheckpoint, out: &note}); err != nil {
			return nil, err
		}
		if err := remembered.Check(nil, note, nil); err != nil {
			return nil, fmt.Errorf("checking the checkpoint: %w", err)
		}
	} else if note, err = c.successor(ctx, remembered, older); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(remembered.File, note, 0o600); err != nil {
		return nil, fmt.Errorf("remembering the checkpoint: %w", err)
	}
	return note, nil
}

// successor returns the newest checkpoint, shown to extend older.
func (c *Client) successor(ctx context.Context, remembered *Checkpoints, older []byte) ([]byte, error) {
	size, err := remembered.Size(older)
	if err != nil {
		return nil, fmt.Errorf("reading the remembered checkpoint %s: %w", remembered.File, err)
	}
	answer, err := c.AuditConsistency(ctx, size)
	if errors.Is(err, api.ErrInvalid) || errors.Is(err, api.ErrNotFound) {
		// The server has fewer entries than we have seen. Its newest checkpoint is the proof.
		var note []byte
		if err := c.do(ctx, call{pattern: api.RouteAuditCheckpoint, out: &note}); err != nil {
			return nil, err
		}
		if err := remembered.Check(older, note, nil); err != nil {
			return nil, fmt.Errorf("checking the checkpoint against the one remembered in %s: %w", remembered.File, err)
		}
		return note, nil
	}
	if err != nil {
		return nil, err
	}
	note := []byte(answer.Checkpoint)
	if err := remembered.Check(older, note, answer.Proof); err != nil {
		return nil, fmt.Errorf("checking the checkpoint against the one remembered in %s: %w", remembered.File, err)
	}
	return note, nil
}
