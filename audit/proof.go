package audit

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/key"
)

// proofHeader begins a C2SP tlog-proof.
const proofHeader = "c2sp.org/tlog-proof@v1"

// Proof is one verified entry: it stands at Index in the log that Checkpoint vouches for.
type Proof struct {
	Index      int64
	Entry      Entry
	Data       []byte // the entry's bytes
	Checkpoint Checkpoint
}

// VerifyProof verifies a .tlog-proof file made by Log.Prove with nothing but
// the log's public keys. key.ErrIntegrity: the proof does not hold.
// key.ErrInvalid: not such a file, or no usable key. key.ErrUnsupported: the
// proof holds and the entry is of a newer format; Index, Data and Checkpoint are set.
func VerifyProof(file []byte, vkeys ...string) (Proof, error) {
	p, err := parseProof(file)
	if err != nil {
		return Proof{}, err
	}
	c, err := ParseCheckpoint(p.checkpoint, vkeys...)
	if err != nil {
		return Proof{}, fmt.Errorf("verifying proof: %w", err)
	}
	if p.index >= c.Size {
		return Proof{}, fmt.Errorf("%w: the proof is for entry %d, its checkpoint covers %d entries", key.ErrIntegrity, p.index, c.Size)
	}
	if err := tlog.CheckRecord(p.hashes, c.Size, c.Root, p.index, tlog.RecordHash(p.extra)); err != nil {
		return Proof{}, fmt.Errorf("%w: entry %d is not proved to be in the log of %d entries: the entry, the index or a hash was altered", key.ErrIntegrity, p.index, c.Size)
	}
	proved := Proof{Index: p.index, Data: p.extra, Checkpoint: c}
	if proved.Entry, err = ParseEntry(p.extra); err != nil {
		return proved, fmt.Errorf("the proof of entry %d holds, but %w", p.index, err)
	}
	return proved, nil
}

// proofFile is a tlog-proof whose extra data is the entry.
type proofFile struct {
	extra      []byte
	index      int64
	hashes     []tlog.Hash
	checkpoint []byte
}

func (p *proofFile) format() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", proofHeader, base64.StdEncoding.EncodeToString(p.extra), p.index)
	for _, h := range p.hashes {
		fmt.Fprintf(&b, "%s\n", h)
	}
	b.WriteByte('\n')
	b.Write(p.checkpoint)
	return b.Bytes()
}

func parseProof(file []byte) (*proofFile, error) {
	bad := func(why string) error {
		return fmt.Errorf("%w: not a proof of an audit entry: %s", key.ErrInvalid, why)
	}
	head, checkpoint, ok := strings.Cut(string(file), "\n\n")
	lines := strings.Split(head, "\n")
	if lines[0] != proofHeader {
		return nil, bad("it does not begin with " + proofHeader)
	}
	if !ok || len(lines) < 3 {
		return nil, bad("it is truncated")
	}
	extra, ok := strings.CutPrefix(lines[1], "extra ")
	if !ok {
		return nil, bad("it carries no entry (no extra line)")
	}
	data, err := base64.StdEncoding.Strict().DecodeString(extra)
	if err != nil || strings.Contains(extra, "\r") || len(data) > MaxEntry {
		return nil, bad("the extra line is no base64 entry")
	}
	digits, ok := strings.CutPrefix(lines[2], "index ")
	index, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || index < 0 || strconv.FormatInt(index, 10) != digits {
		return nil, bad("the index line is no decimal number")
	}
	p := &proofFile{extra: data, index: index, checkpoint: []byte(checkpoint)}
	for _, line := range lines[3:] {
		h, err := parseHash(line)
		if err != nil {
			return nil, err
		}
		if p.hashes = append(p.hashes, h); len(p.hashes) > 64 {
			return nil, bad("more hashes than any tree is high")
		}
	}
	return p, nil
}
