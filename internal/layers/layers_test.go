// Package layers holds one test: a package imports strictly lower floors, and
// production code imports no test kit. The floors are the house of the design.
package layers

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sealwright/sealwright/"

// kit marks a package that only tests may import.
const kit = 100

// floors lists every package. A package that is not listed fails the test.
var floors = map[string]int{
	"key": 0, "policy": 0, "pki/lint": 0,
	"internal/durable": 0, "internal/canon": 0, "internal/cli": 0, "internal/locked": 0, "internal/strictyaml": 0, "internal/layers": 0,
	"storage": 1, "hsm": 1, "tpm": 1, "pki": 1, "kms/envelope": 1, "api": 1,
	"audit": 2, "client": 2, "storage/sqlite": 2, "storage/postgres": 2, "hsm/softhsm": 2, "tpm/swtpm": 2, "kms/keyring": 2,
	"guard": 3,
	"kms":   4, "pki/ca": 4,
	"server":          5,
	"cmd/sealwrightd": 6, "cmd/sealwright": 6,

	"softhsm-test": kit, "key/devicetest": kit, "storage/storagetest": kit, "guard/guardtest": kit, "bench": kit, "e2e": kit,
}

// leaves may be imported by their own floor and above although they stand on floor 0:
// nothing below floor 0 exists, so floor 0 packages import only these.
var words = map[string]bool{"key": true}

func TestImportsPointDown(t *testing.T) {
	root := filepath.Join("..", "..")
	fset := token.NewFileSet()
	seen := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (name == "testdata" || strings.HasPrefix(name, ".") || name == "examples") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(rel)
		seen[pkg] = true
		floor, ok := floors[pkg]
		if !ok {
			t.Errorf("%s: package %s stands on no floor; give it one in internal/layers", path, pkg)
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		test := strings.HasSuffix(name, "_test.go")
		for _, spec := range file.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if below, ok := strings.CutPrefix(target, module); ok {
				checkImport(t, path, pkg, floor, below, test)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range floors {
		if !seen[pkg] {
			t.Errorf("floor list names %s, in which nothing lives", pkg)
		}
	}
}

func checkImport(t *testing.T, path, pkg string, floor int, target string, test bool) {
	t.Helper()
	below, ok := floors[target]
	switch {
	case !ok:
		t.Errorf("%s imports %s, which stands on no floor", path, target)
	case test, floor == kit, target == pkg:
		// A test may stand anywhere, and so may a kit.
	case below == kit:
		t.Errorf("%s: production code imports the test kit %s", path, target)
	case below < floor, words[target] && floor == 0 && pkg != "key":
	default:
		t.Errorf("%s: %s (floor %d) imports %s (floor %d): imports point strictly down", path, pkg, floor, target, below)
	}
}
