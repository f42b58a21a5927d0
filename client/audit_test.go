package client_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/client"
)

// growing is a log that a test can grow, rewind and fork.
type growing struct {
	t       *testing.T
	signer  note.Signer
	vkey    string
	records []string
}

func newGrowing(t *testing.T) *growing {
	secret, vkey, err := note.GenerateKey(rand.Reader, "test.example/log")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	return &growing{t: t, signer: signer, vkey: vkey}
}

func (g *growing) hashes() tlog.HashReaderFunc {
	var stored []tlog.Hash
	reader := func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	}
	for i, r := range g.records {
		more, err := tlog.StoredHashes(int64(i), []byte(r), tlog.HashReaderFunc(reader))
		if err != nil {
			g.t.Fatal(err)
		}
		stored = append(stored, more...)
	}
	return reader
}

func (g *growing) checkpoint() []byte {
	root, err := tlog.TreeHash(int64(len(g.records)), g.hashes())
	if err != nil {
		g.t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("test.example/log\n%d\n%s\n", len(g.records), root)}, g.signer)
	if err != nil {
		g.t.Fatal(err)
	}
	return signed
}

func (g *growing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/audit/checkpoint" {
		w.Write(g.checkpoint())
		return
	}
	old, _ := strconv.ParseInt(r.FormValue("old"), 10, 64)
	if old > int64(len(g.records)) || old < 1 {
		refuse(w, fmt.Errorf("%w: the log has %d entries", api.ErrInvalid, len(g.records)))
		return
	}
	proof, err := tlog.ProveTree(int64(len(g.records)), old, g.hashes())
	if err != nil {
		g.t.Error(err)
	}
	answer := api.AuditConsistency{Old: old, Checkpoint: string(g.checkpoint())}
	for _, h := range proof {
		answer.Proof = append(answer.Proof, h[:])
	}
	reply(w, answer)
}

func checkpoints(vkey, file string) *client.Checkpoints {
	return &client.Checkpoints{
		File: file,
		Check: func(older, newer []byte, proof [][]byte) error {
			hashes := make([]tlog.Hash, len(proof))
			for i, h := range proof {
				hashes[i] = tlog.Hash(h)
			}
			_, err := audit.CheckConsistency(older, newer, hashes, vkey)
			return err
		},
		Size: func(note []byte) (int64, error) {
			c, err := audit.ParseCheckpoint(note, vkey)
			return c.Size, err
		},
	}
}

func TestCheckpointsAreRemembered(t *testing.T) {
	log := newGrowing(t)
	file := filepath.Join(t.TempDir(), "checkpoint")
	c := serve(t, log.ServeHTTP, func(c *client.Config) { c.Checkpoints = checkpoints(log.vkey, file) })

	for range 5 { // from nothing, unchanged, and growing
		for range 2 {
			got, err := c.Checkpoint(t.Context())
			if err != nil {
				t.Fatalf("at %d entries: %v", len(log.records), err)
			}
			if kept, _ := os.ReadFile(file); !bytes.Equal(kept, got) || !bytes.Equal(got, log.checkpoint()) {
				t.Fatalf("at %d entries: remembered %q", len(log.records), kept)
			}
		}
		log.records = append(log.records, fmt.Sprint(len(log.records)), "x")
	}
	kept, _ := os.ReadFile(file)

	whole := log.records
	for name, history := range map[string][]string{
		"rewound":          whole[:3],
		"emptied":          nil,
		"forked":           append([]string{"other"}, whole[1:8]...),
		"forked and grown": append([]string{"other"}, whole[1:]...),
	} {
		log.records = history
		if _, err := c.Checkpoint(t.Context()); !errors.Is(err, api.ErrIntegrity) {
			t.Errorf("%s: %v", name, err)
		}
		if now, _ := os.ReadFile(file); !bytes.Equal(now, kept) {
			t.Errorf("%s: the evidence was overwritten", name)
		}
	}

	log.records = whole
	if _, err := c.Checkpoint(t.Context()); err != nil {
		t.Errorf("the true log again: %v", err)
	}
	other := newGrowing(t) // another key, the same log
	log.signer = other.signer
	if _, err := c.Checkpoint(t.Context()); !errors.Is(err, api.ErrIntegrity) {
		t.Errorf("signed by another key: %v", err)
	}
}
