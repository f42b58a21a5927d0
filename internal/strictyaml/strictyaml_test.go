package strictyaml

import (
	"strings"
	"testing"
)

type sheet struct {
	Name  string            `yaml:"name"`
	List  []string          `yaml:"list"`
	Pairs map[string]string `yaml:"pairs"`
}

func TestDecode(t *testing.T) {
	var s sheet
	if err := Decode([]byte("name: x\nlist: [a, b]\npairs: {a: b}\n"), &s); err != nil || s.Name != "x" || len(s.List) != 2 || s.Pairs["a"] != "b" {
		t.Errorf("%+v, %v", s, err)
	}
	if err := Decode(nil, &s); err != nil || s.Name != "" {
		t.Errorf("an empty text: %+v, %v", s, err)
	}
	for name, c := range map[string][2]string{
		"unknown key":        {"name: x\nnme: y\n# hunter2\n", `line 2: unknown field "nme"`},
		"key twice":          {"name: x\nname: hunter2\n", "line 2: "},
		"wrong type":         {"# hunter2\nlist: {a: b}\n", "line 2: "},
		"broken":             {"name: [\n", "line 1: "},
		"tab":                {"pairs:\n\ta: b\n", "line 2: "},
		"second document":    {"name: x\n---\nname: hunter2\n", "second document"},
		"what trips parsers": {"list: !0000\n0000", "no YAML that makes sense"},
	} {
		err := Decode([]byte(c[0]), new(sheet))
		if err == nil || !strings.Contains(err.Error(), c[1]) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", name, err, c[1])
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("name: x\nlist: [a]\n"))
	f.Add([]byte("list: !0000\n0000"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		_ = Decode(text, new(sheet)) // whatever it says, it says it
	})
}
