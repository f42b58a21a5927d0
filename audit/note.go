package audit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealwright/sealwright/key"
)

// Signature types of C2SP signed-note. Only these two sign our checkpoints.
const (
	algEd25519 = 1
	algECDSA   = 2
)

// Checkpoint is a signed tree head: the log's whole content up to Size in one hash.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
}

func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// VerifierKey returns the public key as a signed-note vkey, the text that
// verification needs and people pass around. name is the log's origin. Keys are
// Ed25519 and ECDSA P-256; others are key.ErrUnsupported.
func VerifierKey(name string, public crypto.PublicKey) (string, error) {
	if err := checkOrigin(name); err != nil {
		return "", err
	}
	switch public := public.(type) {
	case ed25519.PublicKey:
		return note.NewEd25519VerifierKey(name, public)
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return "", fmt.Errorf("%w: checkpoint key on another curve than P-256", key.ErrUnsupported)
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return "", fmt.Errorf("encoding checkpoint key: %w", err)
		}
		encoded := base64.StdEncoding.EncodeToString(append([]byte{algECDSA}, der...))
		return fmt.Sprintf("%s+%08x+%s", name, ecdsaKeyID(der), encoded), nil
	}
	return "", fmt.Errorf("%w: checkpoint key of type %T", key.ErrUnsupported, public)
}

// checkOrigin accepts what signed-note accepts as a key name, since it is one.
func checkOrigin(s string) error {
	if s == "" || len(s) > 255 || !utf8.ValidString(s) || strings.Contains(s, "+") ||
		strings.IndexFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) >= 0 {
		return fmt.Errorf("%w: log origin %.80q: use a name like sealwright.example.org/log, without spaces and plus signs", key.ErrInvalid, s)
	}
	return nil
}

// ecdsaKeyID: for ECDSA the key id hashes the key alone (signed-note, type 0x02).
func ecdsaKeyID(der []byte) uint32 {
	sum := sha256.Sum256(der)
	return binary.BigEndian.Uint32(sum[:])
}

// parseVerifierKey reads a vkey of a checkpoint key.
func parseVerifierKey(vkey string) (note.Verifier, error) {
	bad := func(why string) error {
		return fmt.Errorf("%w: verifier key %.120q: %s", key.ErrInvalid, vkey, why)
	}
	name, rest, _ := strings.Cut(vkey, "+")
	id, encoded, _ := strings.Cut(rest, "+")
	data, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(data) < 2 || checkOrigin(name) != nil {
		return nil, bad("want NAME+KEYID+BASE64")
	}
	switch data[0] {
	case algEd25519:
		v, err := note.NewVerifier(vkey)
		if err != nil {
			return nil, bad(err.Error())
		}
		return v, nil
	case algECDSA:
		if id != fmt.Sprintf("%08x", ecdsaKeyID(data[1:])) {
			return nil, bad("the key id does not belong to the key")
		}
		public, err := x509.ParsePKIXPublicKey(data[1:])
		if err != nil {
			return nil, bad(err.Error())
		}
		ec, ok := public.(*ecdsa.PublicKey)
		if !ok || ec.Curve != elliptic.P256() {
			return nil, bad("not a P-256 key")
		}
		return &ecdsaVerifier{name: name, id: ecdsaKeyID(data[1:]), public: ec}, nil
	}
	return nil, bad(fmt.Sprintf("signature type %d is not one of a checkpoint key", data[0]))
}

// ecdsaVerifier is a note.Verifier for signature type 0x02, as transparency-dev's.
type ecdsaVerifier struct {
	name   string
	id     uint32
	public *ecdsa.PublicKey
}

func (v *ecdsaVerifier) Name() string    { return v.name }
func (v *ecdsaVerifier) KeyHash() uint32 { return v.id }
func (v *ecdsaVerifier) Verify(msg, sig []byte) bool {
	digest := sha256.Sum256(msg)
	return ecdsa.VerifyASN1(v.public, digest[:], sig)
}

// noteSigner is a note.Signer on a device key.
type noteSigner struct {
	name   string
	id     uint32
	signer crypto.Signer
}

func (s *noteSigner) Name() string    { return s.name }
func (s *noteSigner) KeyHash() uint32 { return s.id }
func (s *noteSigner) Sign(msg []byte) ([]byte, error) {
	if _, ok := s.signer.Public().(ed25519.PublicKey); ok {
		return s.signer.Sign(rand.Reader, msg, crypto.Hash(0))
	}
	digest := sha256.Sum256(msg)
	return s.signer.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// ParseCheckpoint reads a checkpoint and verifies that one of the keys signed
// it for the origin it names. Signatures by unknown keys (witnesses) are
// ignored. key.ErrInvalid: no usable key was given. key.ErrIntegrity: anything
// about the checkpoint.
func ParseCheckpoint(signed []byte, vkeys ...string) (Checkpoint, error) {
	verifiers, err := parseVerifierKeys(vkeys)
	if err != nil {
		return Checkpoint{}, err
	}
	return openCheckpoint(signed, verifiers)
}

func parseVerifierKeys(vkeys []string) ([]note.Verifier, error) {
	var list []note.Verifier
	seen := map[string]bool{}
	for _, vkey := range vkeys {
		if vkey = strings.TrimSpace(vkey); vkey == "" || seen[vkey] {
			continue
		}
		seen[vkey] = true
		v, err := parseVerifierKey(vkey)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: no verifier key given: verification needs the log's public key", key.ErrInvalid)
	}
	return list, nil
}

func openCheckpoint(signed []byte, verifiers []note.Verifier) (Checkpoint, error) {
	n, err := note.Open(signed, note.VerifierList(verifiers...))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint: %w", key.ErrIntegrity, err)
	}
	c, err := parseCheckpointText(n.Text)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint: %w", key.ErrIntegrity, err)
	}
	ours := false
	for _, sig := range n.Sigs {
		// A key signs for the log it is named after: a key of two logs must not vouch for the other.
		ours = ours || sig.Name == c.Origin
		// The decoder inside note.Open ignores stray bits; a signed file should have one text.
		if _, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil {
			return Checkpoint{}, fmt.Errorf("%w: checkpoint: signature by %s: %w", key.ErrIntegrity, sig.Name, err)
		}
	}
	if !ours {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint of %.80q is signed by %.80q", key.ErrIntegrity, c.Origin, n.Sigs[0].Name)
	}
	return c, nil
}

func parseCheckpointText(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, fmt.Errorf("want the three lines origin, size and root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("size %.40q is no decimal number", lines[1])
	}
	root, err := parseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("root: %w", err)
	}
	if err := checkOrigin(lines[0]); err != nil {
		return Checkpoint{}, err
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: root}, nil
}

// parseHash reads a hash in the only base64 text it has.
func parseHash(s string) (tlog.Hash, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != tlog.HashSize || strings.ContainsAny(s, "\r\n") {
		return tlog.Hash{}, fmt.Errorf("%w: %.60q is no base64 SHA-256 hash", key.ErrInvalid, s)
	}
	return tlog.Hash(b), nil
}

// signCheckpoint signs c and checks the signature before anybody sees it.
func signCheckpoint(c Checkpoint, signer *noteSigner, vkey string) ([]byte, error) {
	signed, err := note.Sign(&note.Note{Text: c.text()}, signer)
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint of %d entries: %w", c.Size, err)
	}
	if back, err := ParseCheckpoint(signed, vkey); err != nil || back != c {
		return nil, fmt.Errorf("%w: the device's signature of a checkpoint does not verify", key.ErrIntegrity)
	}
	return signed, nil
}

// CheckConsistency verifies that newer extends older: everything older vouched
// for is unchanged in newer. proof comes from Log.Consistency. An empty older is
// the first contact and accepts newer as it is. It returns newer, which the
// caller should remember. key.ErrIntegrity: the log was rewound or forked, and
// both notes are the evidence.
func CheckConsistency(older, newer []byte, proof []tlog.Hash, vkeys ...string) (Checkpoint, error) {
	next, err := ParseCheckpoint(newer, vkeys...)
	if err != nil {
		return Checkpoint{}, err
	}
	if len(older) == 0 {
		return next, nil
	}
	last, err := ParseCheckpoint(older, vkeys...)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("reading the remembered checkpoint: %w", err)
	}
	if err := checkSuccessor(last, next, proof); err != nil {
		return Checkpoint{}, err
	}
	return next, nil
}

func checkSuccessor(last, next Checkpoint, proof []tlog.Hash) error {
	switch {
	case last.Origin != next.Origin:
		return fmt.Errorf("%w: checkpoint of the log %.80q where %.80q is expected", key.ErrIntegrity, next.Origin, last.Origin)
	case next.Size < last.Size:
		return fmt.Errorf("%w: the log was rewound: it had %d entries and now shows %d", key.ErrIntegrity, last.Size, next.Size)
	case next.Size == last.Size:
		if next.Root != last.Root {
			return fmt.Errorf("%w: the log was forked: two different trees of %d entries", key.ErrIntegrity, last.Size)
		}
		return nil
	case last.Size == 0:
		return nil // everything extends the empty log
	}
	if err := tlog.CheckTree(proof, next.Size, next.Root, last.Size, last.Root); err != nil {
		return fmt.Errorf("%w: the log of %d entries is not shown to extend the one of %d: forked, or the proof is wrong", key.ErrIntegrity, next.Size, last.Size)
	}
	return nil
}
