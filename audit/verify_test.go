package audit_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sealwright/sealwright/audit"
	"github.com/sealwright/sealwright/key"
)

// exported makes a log of n entries and exports it.
func exported(t testing.TB, n int) (*fixture, string) {
	t.Helper()
	f := newLog(t, p256(t))
	f.add(t, n-1, 50)
	dir := filepath.Join(t.TempDir(), "export")
	var done, total int64
	c, err := f.Export(t.Context(), dir, func(d, t int64) { done, total = max(done, d), t })
	if err != nil || c.Size != int64(n) || done != c.Size || total != c.Size {
		t.Fatalf("exported %d of %d entries, progress %d of %d, %v", c.Size, n, done, total, err)
	}
	return f, dir
}

func (f *fixture) verify(t testing.TB, dir string) (audit.Report, error) {
	t.Helper()
	return audit.VerifyExport(context.Background(), dir, []string{f.VerifierKey()}, nil)
}

// files lists the files of an export, relative.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, name)
			list = append(list, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// entryAt says in which entry of a bundle a byte lies, its length prefix included.
func entryAt(bundle []byte, pos int) int64 {
	for i, end := int64(0), 0; ; i++ {
		end += 2 + int(binary.BigEndian.Uint16(bundle[end:]))
		if pos < end {
			return i
		}
	}
}

// owner says which entry a byte of an exported file is about.
func owner(t testing.TB, name string, content []byte, pos int) (index int64, what string) {
	t.Helper()
	var n, level int64
	number := strings.SplitN(name, ".p/", 2)[0]
	if _, err := fmt.Sscanf(number, "tile/entries/%d", &n); err == nil {
		return n*256 + entryAt(content, pos), "entry"
	}
	if _, err := fmt.Sscanf(number, "tile/%d/%d", &level, &n); err != nil {
		t.Fatal(err)
	}
	return (n*256 + int64(pos/32)) << (8 * level), "hash"
}

func TestEveryFlippedByteIsNamed(t *testing.T) {
	f, dir := exported(t, 600)
	if r, err := f.verify(t, dir); err != nil || r.Entries != 600 {
		t.Fatalf("%+v, %v", r, err)
	}
	samples := 150
	if testing.Short() {
		samples = 20
	}
	for _, name := range files(t, dir) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		step := max(1, len(good)/samples)
		for pos := 0; pos < len(good); pos += step {
			bad := append([]byte(nil), good...)
			bad[pos] ^= 1 << (pos % 8)
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := f.verify(t, dir)
			if !errors.Is(err, key.ErrIntegrity) {
				t.Fatalf("%s byte %d of %d flipped: %v", name, pos, len(good), err)
			}
			if name == "checkpoint" {
				continue
			}
			want, what := owner(t, name, good, pos)
			if p := r.Problems[0]; p.Index != want || p.File != name || !strings.Contains(p.What, what) {
				t.Fatalf("%s byte %d flipped: %+v; want entry %d named", name, pos, r.Problems, want)
			}
			if len(r.Problems) > 1 && what == "hash" {
				t.Fatalf("%s byte %d flipped: %+v; want one problem", name, pos, r.Problems)
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.verify(t, dir); err != nil {
		t.Fatalf("restored: %v", err)
	}
}

// TestSeveralFlips: however many bytes are flipped, each hit entry or hash is among the problems.
func TestSeveralFlips(t *testing.T) {
	f, dir := exported(t, 700)
	names := files(t, dir)
	content := map[string][]byte{}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		content[name] = b
	}
	rapid.Check(t, func(rt *rapid.T) {
		spoiled := map[string][]byte{}
		type place struct {
			bundle int64
			what   string
		}
		hit := map[place]int64{}
		for range rapid.IntRange(1, 4).Draw(rt, "flips") {
			name := rapid.SampledFrom(names).Draw(rt, "file")
			if name == "checkpoint" {
				continue
			}
			good := content[name]
			pos := rapid.IntRange(0, len(good)-1).Draw(rt, "byte")
			index, what := owner(t, name, good, pos)
			if _, again := hit[place{index / 256, what}]; again || strings.HasPrefix(name, "tile/1") {
				continue // two flips under one hash may be beyond telling
			}
			hit[place{index / 256, what}] = index
			bad := append([]byte(nil), good...)
			bad[pos] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
			spoiled[name] = bad
		}
		for name, bad := range spoiled {
			os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), bad, 0o600)
			defer os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), content[name], 0o600)
		}
		r, err := f.verify(t, dir)
		if (len(hit) > 0) != errors.Is(err, key.ErrIntegrity) {
			rt.Fatalf("%v flipped: %v", hit, err)
		}
		for p, index := range hit {
			found := false
			for _, problem := range r.Problems {
				found = found || problem.Index == index
			}
			if !found {
				rt.Errorf("%v %d is not named in %+v", p, index, r.Problems)
			}
		}
	})
}

func TestExportWithFilesAmiss(t *testing.T) {
	f, dir := exported(t, 600)
	in := func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	for _, name := range files(t, dir) {
		if name == "checkpoint" {
			continue
		}
		good, _ := os.ReadFile(in(name))
		check := func(what string, words ...string) {
			t.Helper()
			r, err := f.verify(t, dir)
			if !errors.Is(err, key.ErrIntegrity) {
				t.Errorf("%s %s: %v", name, what, err)
				return
			}
			if p := r.Problems[0]; p.File != name || !strings.Contains(p.What, words[0]) {
				t.Errorf("%s %s: %+v", name, what, r.Problems)
			}
		}
		os.Remove(in(name))
		check("missing", "missing")
		os.WriteFile(in(name), good[:len(good)-1], 0o600)
		check("truncated", "truncated")
		os.WriteFile(in(name), append(append([]byte(nil), good...), 0), 0o600)
		if strings.Contains(name, "entries") {
			check("with a byte more", "after the last entry")
		} else {
			check("with a byte more", "overwritten")
		}
		os.Truncate(in(name), 0)
		check("emptied", "")
		os.WriteFile(in(name), good, 0o600)
	}
	for _, stranger := range []string{"tile/0/009", "tile/0/002.p/87", "tile/0/002.p/89", "tile/0/003.p/88", "tile/2/000.p/1", "tile/entries/x001/000", "tile/readme", "tile/0/000.p/12"} {
		os.MkdirAll(filepath.Dir(in(stranger)), 0o700)
		os.WriteFile(in(stranger), []byte("x"), 0o600)
		r, err := f.verify(t, dir)
		if !errors.Is(err, key.ErrIntegrity) || len(r.Problems) != 1 || r.Problems[0].File != stranger {
			t.Errorf("stranger %s: %+v, %v", stranger, r.Problems, err)
		}
		os.Remove(in(stranger))
	}
	if _, err := f.verify(t, dir); err != nil {
		t.Errorf("restored: %v", err)
	}
	os.Remove(in("checkpoint"))
	if _, err := f.verify(t, dir); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("no checkpoint: %v", err)
	}
}

// TestRewrittenTogether: an attacker who keeps the tree consistent up to some level is found at the next.
func TestRewrittenTogether(t *testing.T) {
	f, dir := exported(t, 600)
	g, other := exported(t, 600) // another history of the same size, signed by another key
	swap := func(names ...string) {
		for _, name := range names {
			b, err := os.ReadFile(filepath.Join(other, filepath.FromSlash(name)))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Both histories differ in entry 0 (the signer) only, so the first bundle and everything above it differ.
	swap("tile/entries/000")
	if r, err := f.verify(t, dir); !errors.Is(err, key.ErrIntegrity) || r.Problems[0].Index != 0 || r.Problems[0].File != "tile/entries/000" {
		t.Errorf("entry: %+v, %v", r.Problems, err)
	}
	swap("tile/0/000")
	if r, err := f.verify(t, dir); !errors.Is(err, key.ErrIntegrity) || !strings.Contains(r.Problems[0].What, "0 to 255") {
		t.Errorf("entry and its hash: %+v, %v", r.Problems, err)
	}
	swap("tile/1/000.p/2")
	if r, err := f.verify(t, dir); !errors.Is(err, key.ErrIntegrity) || r.Problems[0].File != "checkpoint" {
		t.Errorf("all but the checkpoint: %+v, %v", r.Problems, err)
	}
	swap("checkpoint")
	if _, err := f.verify(t, dir); !errors.Is(err, key.ErrIntegrity) {
		t.Errorf("a forked log under another key: %v", err)
	}
	if _, err := g.verify(t, dir); err != nil {
		t.Errorf("the other log under its own key: %v", err)
	}
}

func TestVerifierKeys(t *testing.T) {
	f, dir := exported(t, 5)
	other, err := audit.VerifierKey(origin, p256(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	renamed, _ := audit.VerifierKey("another.example.org", f.signer.Public())
	for name, c := range map[string]struct {
		vkeys []string
		want  error
	}{
		"none":                  {nil, key.ErrInvalid},
		"empty":                 {[]string{" "}, key.ErrInvalid},
		"garbage":               {[]string{"garbage"}, key.ErrInvalid},
		"flipped":               {[]string{strings.Replace(f.VerifierKey(), "A", "B", 1)}, key.ErrInvalid},
		"another key":           {[]string{other}, key.ErrIntegrity},
		"same key, other name":  {[]string{renamed}, key.ErrIntegrity},
		"ours among others":     {[]string{other, f.VerifierKey(), renamed}, nil},
		"ours with a line feed": {[]string{f.VerifierKey() + "\n"}, nil},
	} {
		if _, err := audit.VerifyExport(t.Context(), dir, c.vkeys, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestEverySizeVerifies(t *testing.T) {
	f := newLog(t, p256(t))
	dir := filepath.Join(t.TempDir(), "export")
	size := 1
	for _, to := range []int{1, 2, 3, 128, 255, 256, 257, 258, 400, 511, 512, 513, 1000} {
		f.add(t, to-size, 17)
		size = to
		for _, d := range []string{dir, filepath.Join(t.TempDir(), "fresh")} { // brought up to date, and at once
			if _, err := f.Export(t.Context(), d, nil); err != nil {
				t.Fatal(err)
			}
			if r, err := f.verify(t, d); err != nil || r.Entries != int64(to) {
				t.Fatalf("%d entries: %+v, %v", to, r, err)
			}
		}
		if r, err := f.VerifyStored(t.Context(), nil); err != nil || r.Entries != int64(to) {
			t.Fatalf("%d stored entries: %+v, %v", to, r, err)
		}
	}
}
