package policy_test

import (
	"os"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/policy"
)

// docs/POLICY.md lists every action, in order, with its objects and what it lets one do.
func TestDocumentListsActions(t *testing.T) {
	text, err := os.ReadFile("../docs/POLICY.md")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for _, a := range policy.Actions() {
		var kinds []string
		for _, k := range a.Kinds {
			kinds = append(kinds, string(k))
		}
		want.WriteString("| `" + string(a.Action) + "` | " + strings.Join(kinds, ", ") + " | " + a.Summary + " |\n")
	}
	if !strings.HasSuffix(strings.TrimSpace(string(text))+"\n", "|---|---|---|\n"+want.String()) {
		t.Errorf("docs/POLICY.md must end with this table:\n%s", want.String())
	}
}

// The statements it shows are those of the example file, which another test applies.
func TestDocumentShowsTheExample(t *testing.T) {
	text, err := os.ReadFile("../docs/POLICY.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../examples/policy/payments.cedar")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := policy.Parse("payments.cedar", example); err != nil {
		t.Error(err)
	}
	for _, block := range strings.Split(string(text), "```cedar\n")[1:] {
		shown, _, _ := strings.Cut(block, "```")
		if !strings.Contains(string(example), shown) {
			t.Errorf("examples/policy/payments.cedar does not hold:\n%s", shown)
		}
	}
}
