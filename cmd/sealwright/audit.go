package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/client"
	"github.com/sealwright/sealwright/internal/cli"
)

func (a *app) auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Read, verify, prove and export the audit log", Example: "  sealwright audit list --limit 20"}
	c.AddCommand(a.auditList(), a.auditVerify(), a.auditProve(), a.auditExport(), a.auditKeys())
	return c
}

// vkeys returns the log's keys that the user trusts.
func (a *app) vkeys() ([]string, error) {
	keys := strings.FieldsFunc(a.logKeys, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
	if len(keys) == 0 {
		return nil, cli.Misuse("set "+client.EnvLogKey+", which sealwrightd dev writes into its env file; sealwright audit keys asks the server, to compare with what its operators say",
			"verification needs the log's public key")
	}
	return keys, nil
}

// checkpoints returns the memory of the newest checkpoint of the log whose keys are given.
func (a *app) checkpoints() (*client.Checkpoints, error) {
	keys, err := a.vkeys()
	if err != nil {
		return nil, err
	}
	dir := a.state
	if dir == "" {
		if dir = a.getenv("XDG_STATE_HOME"); dir == "" {
			home := a.getenv("HOME")
			if home == "" {
				return nil, cli.Misuse("set SEALWRIGHT_STATE to a directory", "there is no home directory to remember checkpoints in")
			}
			dir = filepath.Join(home, ".local", "state")
		}
		dir = filepath.Join(dir, "sealwright")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory for checkpoints: %w", err)
	}
	id := sha256.Sum256([]byte(keys[0])) // a log's first key names it: another store, another file
	return &client.Checkpoints{
		File: filepath.Join(dir, hex.EncodeToString(id[:8])+".checkpoint"),
		Check: func(older, newer []byte, proof [][]byte) error {
			hashes := make([]tlog.Hash, len(proof))
			for i, h := range proof {
				if copy(hashes[i][:], h) != len(h) || len(h) != tlog.HashSize {
					return fmt.Errorf("%w: a hash of the consistency proof has %d bytes", api.ErrIntegrity, len(h))
				}
			}
			_, err := audit.CheckConsistency(older, newer, hashes, keys...)
			return err
		},
		Size: func(note []byte) (int64, error) {
			c, err := audit.ParseCheckpoint(note, keys...)
			return c.Size, err
		},
	}, nil
}

func (a *app) auditList() *cobra.Command {
	f := client.AuditFilter{}
	c := &cobra.Command{Use: "list", Short: "List the log, newest first", Args: exactly(0),
		Example: `  sealwright audit list --limit 20
  sealwright audit list --action kms:Decrypt --object dev/payments/orders`,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.Limit < 1 || f.Limit > api.MaxPage {
				return cli.Misuse("--before INDEX continues a list", "--limit is 1 to %d", api.MaxPage)
			}
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				list, err := server.AuditEntries(ctx, f)
				if err != nil {
					return err
				}
				return a.print(list, func(t *cli.Table) {
					t.Row("INDEX", "TIME", "OUTCOME", "ACTION", "OBJECT", "PRINCIPAL", "REASON")
					for _, e := range list.Entries {
						entryRow(t, e.Index, e.Entry)
					}
				})
			})
		}}
	c.Flags().IntVar(&f.Limit, "limit", 20, "at most `N`, 1 to 1000")
	c.Flags().Int64Var(&f.Before, "before", 0, "only entries below this `INDEX`")
	c.Flags().StringVar(&f.Principal, "principal", "", "only by this `SPIFFE-ID`")
	c.Flags().StringVar(&f.Action, "action", "", "only of this `ACTION`, like kms:Decrypt")
	c.Flags().StringVar(&f.Object, "object", "", "only about the object of this `NAME`, like dev/payments/orders")
	return c
}

func entryRow(t *cli.Table, index int64, data []byte) {
	e, err := audit.ParseEntry(data)
	if err != nil {
		t.Row(index, "", "unreadable", "", "", "", err)
		return
	}
	var objects []string
	for _, o := range e.Objects {
		name := o.Name
		if name == "" {
			name = strings.TrimSuffix(o.Kind+" "+o.ID, " ")
		}
		if o.Version != 0 {
			name += fmt.Sprintf("#%d", o.Version)
		}
		objects = append(objects, name)
	}
	why := e.Reason
	if e.Outcome != audit.OK && e.Decision.Reason != "" {
		why = e.Decision.Reason
	}
	if e.Failure != "" {
		why = strings.TrimSpace(e.Failure + " " + why)
	}
	t.Row(index, stamp(e.Time), e.Outcome, e.Action, strings.Join(objects, " "), e.Principal, why)
}

func (a *app) auditProve() *cobra.Command {
	return &cobra.Command{Use: "prove INDEX", Short: "Write a proof of one entry, good offline and for ever", Args: exactly(1),
		Example: `  sealwright audit prove 42 > entry.tlog-proof
  sealwright audit verify entry.tlog-proof`,
		RunE: func(c *cobra.Command, args []string) error {
			index, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || index < 0 {
				return cli.Misuse("the index of an entry, as audit list shows it", "index %q", args[0])
			}
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				p, err := server.AuditProof(ctx, index)
				if err != nil {
					return err
				}
				if a.logKeys != "" { // a proof that does not hold is worse than none
					keys, err := a.vkeys()
					if err != nil {
						return err
					}
					if proved, err := audit.VerifyProof([]byte(p.Proof), keys...); err != nil && !errors.Is(err, api.ErrUnsupported) {
						return err
					} else if proved.Index != index {
						return fmt.Errorf("%w: the server proved entry %d instead of %d", api.ErrIntegrity, proved.Index, index)
					}
				}
				if a.output == "json" {
					return a.print(p, nil)
				}
				_, err = fmt.Fprint(a.out, p.Proof)
				return err
			})
		}}
}

func (a *app) auditExport() *cobra.Command {
	return &cobra.Command{Use: "export DIR", Short: "Write the whole log to a directory (C2SP tlog-tiles)", Args: exactly(1),
		Long:    "Writes the log to a directory that sealwright audit verify, or any C2SP tlog-tiles tool, verifies\nwithout a server. Run again, it adds what is new.",
		Example: "  sealwright audit export log-2027",
		RunE: func(c *cobra.Command, args []string) error {
			keys, err := a.vkeys()
			if err != nil {
				return err
			}
			a.timeout = 0 // as long as it takes; it can be resumed
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				progress := cli.NewProgress(a.problems, "exporting")
				defer progress.Done()
				fetch := func(ctx context.Context, path string) ([]byte, error) {
					if path == "checkpoint" {
						return server.Checkpoint(ctx)
					}
					return server.AuditTile(ctx, path)
				}
				done, err := audit.Export(ctx, args[0], fetch, keys, progress.Set)
				if err != nil {
					return err
				}
				progress.Done()
				return a.print(map[string]any{"directory": args[0], "origin": done.Origin, "size": done.Size, "root": done.Root[:]}, func(t *cli.Table) {
					t.Row("log", done.Origin)
					t.Row("entries", done.Size)
					t.Row("root", done.Root)
					t.Row("written to", args[0])
				})
			})
		}}
}

func (a *app) auditKeys() *cobra.Command {
	return &cobra.Command{Use: "keys", Short: "Print the keys that sign the log, as the server tells them", Args: exactly(0),
		Long:    "Prints the public keys that sign checkpoints. Compare them with what the operators published:\na server that lies about its log lies about its keys too.",
		Example: "  sealwright audit keys",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				k, err := server.AuditKeys(ctx)
				if err != nil {
					return err
				}
				return a.print(k, func(t *cli.Table) {
					for _, vkey := range k.Keys {
						t.Row(vkey)
					}
				})
			})
		}}
}

func (a *app) auditVerify() *cobra.Command {
	return &cobra.Command{Use: "verify [DIR|FILE.tlog-proof]", Short: "Verify the server's log, an exported log or one proof", Args: atMostOne,
		Long: `Without an argument: the server reads its whole log and checks it, and this program
checks what it cannot leave to the server: that the checkpoint is signed by the key
you trust, and that it extends the newest one seen from here.

With a directory of audit export, or a file of audit prove: verifies it here, offline,
with nothing but the log's public key (--log-key, or $SEALWRIGHT_LOG_KEY).`,
		Example: `  sealwright audit verify
  sealwright audit verify log-2027 --log-key "$KEY"
  sealwright audit verify entry.tlog-proof`,
		RunE: func(c *cobra.Command, args []string) error {
			trusted, err := a.vkeys()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				if !c.Flags().Changed("timeout") {
					a.timeout = 10 * time.Minute // the server reads its whole log
				}
				return a.with(c, func(ctx context.Context, server *client.Client) error { return a.verifyServer(ctx, server, trusted) })
			}
			info, err := os.Stat(args[0])
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return cli.Misuse("a directory of audit export, or a file of audit prove", "there is no %s", args[0])
			case err != nil:
				return err
			case info.IsDir():
				return a.verifyExport(c.Context(), args[0], trusted)
			default:
				return a.verifyProof(args[0], trusted)
			}
		}}
}

func atMostOne(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return cli.Misuse("for example:\n"+c.Example, "usage: %s", c.UseLine())
	}
	return nil
}

// verifyServer has the server check its log, and checks the server.
func (a *app) verifyServer(ctx context.Context, server *client.Client, trusted []string) error {
	before, err := server.Checkpoint(ctx)
	if err != nil {
		return err
	}
	report, err := server.AuditVerify(ctx)
	if err != nil {
		return err
	}
	if !report.OK {
		return fmt.Errorf("%w: the server found its log altered:\n  %s", api.ErrIntegrity, strings.Join(report.Problems, "\n  "))
	}
	checked, err := audit.ParseCheckpoint([]byte(report.Checkpoint), trusted...)
	if err != nil {
		return err
	}
	seen, err := audit.ParseCheckpoint(before, trusted...)
	if err != nil {
		return err
	}
	if report.Size != checked.Size || !bytes.Equal(report.Root, checked.Root[:]) || checked.Size < seen.Size {
		return fmt.Errorf("%w: the server checked %d entries under a checkpoint of %d and shows one of %d", api.ErrIntegrity, report.Size, checked.Size, seen.Size)
	}
	if err := a.sameLog(ctx, server, report.Checkpoint, checked.Size); err != nil {
		return err
	}
	return a.verified(checked, "the server's log verifies")
}

// sameLog makes sure that the log the server checked is the one it shows us: the
// checkpoint it checked grows into the newest, and so does the one we remember.
func (a *app) sameLog(ctx context.Context, server *client.Client, checked string, size int64) error {
	memory, err := a.checkpoints()
	if err != nil {
		return err
	}
	if size > 0 {
		answer, err := server.AuditConsistency(ctx, size)
		if err != nil {
			return err
		}
		if err := memory.Check([]byte(checked), []byte(answer.Checkpoint), answer.Proof); err != nil {
			return fmt.Errorf("comparing the log that was checked with the one shown: %w", err)
		}
	}
	_, err = server.Checkpoint(ctx)
	return err
}

func (a *app) verified(c audit.Checkpoint, what string) error {
	return a.print(map[string]any{"ok": true, "origin": c.Origin, "size": c.Size, "root": c.Root[:]}, func(t *cli.Table) {
		t.Row(fmt.Sprintf("%s: %d entries of %s, root %s", what, c.Size, c.Origin, c.Root))
	})
}

func (a *app) verifyExport(ctx context.Context, dir string, trusted []string) error {
	progress := cli.NewProgress(a.problems, "verifying")
	report, err := audit.VerifyExport(ctx, dir, trusted, progress.Set)
	progress.Done()
	if err != nil {
		for _, p := range report.Problems {
			fmt.Fprintln(a.problems, cli.Printable(p.String()))
		}
		return err
	}
	return a.verified(report.Checkpoint, "the exported log verifies")
}

func (a *app) verifyProof(file string, trusted []string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the proof: %w", err)
	}
	p, err := audit.VerifyProof(data, trusted...)
	if err != nil && (!errors.Is(err, api.ErrUnsupported) || p.Data == nil) {
		return err
	}
	return a.print(api.AuditEntry{Index: p.Index, Entry: p.Data}, func(t *cli.Table) {
		t.Row(fmt.Sprintf("the proof holds: entry %d of %d in %s", p.Index, p.Checkpoint.Size, p.Checkpoint.Origin))
		t.Row(string(p.Data))
	})
}
