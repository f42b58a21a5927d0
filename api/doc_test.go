package api_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/api"
)

// docs/API.md lists every code a problem may have, in order, with its status,
// and says of the same ones as Retryable that they may pass by themselves.
func TestDocumentListsCodes(t *testing.T) {
	text, err := os.ReadFile("../docs/API.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| code | status | may pass by itself | means |\n|---|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(table, "\n")
	codes := api.Codes()
	if !found || len(rows) != len(codes) {
		t.Fatalf("docs/API.md lists %d codes, api.Codes has %d", len(rows), len(codes))
	}
	for i, c := range codes {
		again := ""
		if (&api.Problem{Code: c.Code, Status: c.Status}).Retryable() {
			again = "yes "
		}
		want := fmt.Sprintf("| `%s` | %d | %s| ", c.Code, c.Status, again)
		if !strings.HasPrefix(rows[i], want) || strings.HasSuffix(rows[i], "| |") {
			t.Errorf("docs/API.md says\n%s\nand api.Codes\n%s…", rows[i], want)
		}
	}
}
