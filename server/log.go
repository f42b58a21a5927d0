package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/policy"
)

// withLog asks the door for one action on the log and then reads it.
func (c *call) withLog(action policy.Action, read func(context.Context) error) error {
	act := guard.Act{Action: action, Object: policy.Object{Kind: policy.KindLog, Name: "log"}}
	return c.enter(on(act), nil, func(ctx context.Context, g guard.Grant) error {
		if _, err := c.Door.Redeem(g, action, act.Object.Name); err != nil {
			return err
		}
		return read(ctx)
	})
}

func (c *call) auditEntries() (any, error) {
	_, limit, err := c.page()
	if err != nil {
		return nil, err
	}
	f := audit.Filter{Principal: c.query.Get("principal"), Action: c.query.Get("action"), Object: c.query.Get("object"), Limit: limit}
	if f.Before, err = number(c.query.Get("before"), 0); err != nil {
		return nil, fmt.Errorf("before: %w", err)
	}
	out := api.AuditList{Entries: []api.AuditEntry{}}
	err = c.withLog(policy.ReadAudit, func(ctx context.Context) error {
		list, next, err := c.Log.List(ctx, f)
		if err != nil {
			return err
		}
		out.Next, out.Entries = next, out.Entries[:0] // the door may run an act again
		for _, r := range list {
			data, err := r.Entry.Append(nil)
			if err != nil {
				return fmt.Errorf("entry %d: %w", r.Index, err)
			}
			out.Entries = append(out.Entries, api.AuditEntry{Index: r.Index, Entry: data})
		}
		return nil
	})
	return out, err
}

func (c *call) auditCheckpoint() (any, error) {
	var note []byte
	err := c.withLog(policy.ReadAudit, func(ctx context.Context) (err error) {
		note, err = c.Log.Checkpoint(ctx)
		return err
	})
	return text(string(note)), err
}

func (c *call) auditProof() (any, error) {
	index, err := number(c.r.PathValue("index"), -1)
	if err != nil || index < 0 {
		return nil, fmt.Errorf("%w: an entry is named by its index, 0 or more", key.ErrInvalid)
	}
	var out api.AuditProof
	err = c.withLog(policy.ReadAudit, func(ctx context.Context) error {
		proof, err := c.Log.Prove(ctx, index)
		if err != nil {
			return err
		}
		checked, err := audit.VerifyProof(proof, c.Log.VerifierKey())
		if err != nil {
			return err
		}
		out = api.AuditProof{Index: index, Entry: checked.Data, Proof: string(proof)}
		return nil
	})
	return out, err
}

func (c *call) auditConsistency() (any, error) {
	older, err := number(c.query.Get("old"), -1)
	if err != nil || older < 0 {
		return nil, fmt.Errorf("%w: old: the size of the checkpoint seen before", key.ErrInvalid)
	}
	out := api.AuditConsistency{Old: older, Proof: [][]byte{}}
	err = c.withLog(policy.ReadAudit, func(ctx context.Context) error {
		note, err := c.Log.Checkpoint(ctx)
		if err != nil {
			return err
		}
		newest, err := audit.ParseCheckpoint(note, c.Log.VerifierKey())
		if err != nil {
			return err
		}
		proof, err := c.Log.Consistency(ctx, older, newest.Size)
		if err != nil {
			return err
		}
		out.Checkpoint, out.Proof = string(note), nil // the door may run an act again
		for _, h := range proof {
			out.Proof = append(out.Proof, h[:])
		}
		return nil
	})
	return out, err
}

func (c *call) auditTile() (any, error) {
	var tile []byte
	err := c.withLog(policy.ExportAudit, func(ctx context.Context) (err error) {
		tile, err = c.Log.Resource(ctx, "tile/"+c.r.PathValue("path"))
		return err
	})
	return raw{media: "application/octet-stream", body: tile}, err
}

func (c *call) auditKeys() (any, error) {
	out := api.AuditKeys{Origin: c.Log.Origin(), Keys: []string{c.Log.VerifierKey()}}
	err := c.withLog(policy.ReadAudit, func(context.Context) error { return nil })
	return out, err
}

// Review verifies the stored log, and then compares everything that decides with
// it; see guard.Review. What it finds, readiness reports until it is mended.
func (s *Server) Review(ctx context.Context) error {
	_, err := s.Log.VerifyStored(ctx, nil)
	return errors.Join(err, s.compare(ctx))
}

func (s *Server) compare(ctx context.Context) error {
	return s.Door.Review(ctx, s.Keys.Review(), s.CA.Review())
}

func (c *call) auditVerify() (any, error) {
	var out api.AuditReport
	err := c.withLog(policy.ReadAudit, func(ctx context.Context) error {
		select {
		case c.verifying <- struct{}{}:
			defer func() { <-c.verifying }()
		default:
			return fmt.Errorf("%w: the log is being verified for somebody else: retry", key.ErrBusy)
		}
		out = api.AuditReport{} // the door may run an act again
		report, err := c.Log.VerifyStored(ctx, nil)
		if err != nil && len(report.Problems) == 0 {
			return err
		}
		out = api.AuditReport{OK: len(report.Problems) == 0, Size: report.Entries, Root: report.Checkpoint.Root[:], Checkpoint: string(report.Note)}
		for _, p := range report.Problems {
			out.Problems = append(out.Problems, p.String())
		}
		if err := c.compare(ctx); err != nil {
			if !errors.Is(err, key.ErrIntegrity) {
				return err
			}
			out.OK = false
			out.Problems = append(out.Problems, err.Error())
		}
		return nil
	})
	return out, err
}

// number reads a decimal of a query or path; absent is what the caller says.
func number(text string, absent int64) (int64, error) {
	if text == "" {
		return absent, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%w: %.40q is not a number of 0 or more", key.ErrInvalid, text)
	}
	return n, nil
}
