package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// docs/OPERATIONS.md has one row for each key of the configuration, in order,
// and its example is a configuration that is accepted.
func TestDocumentListsConfig(t *testing.T) {
	text, err := os.ReadFile("../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| key | default | meaning |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var listed, keys []string
	for _, row := range strings.Split(table, "\n") {
		if m := regexp.MustCompile("^\\| `([a-z_]+)` \\| .+ \\| .+ \\|$").FindStringSubmatch(row); m != nil {
			listed = append(listed, m[1])
		} else {
			t.Errorf("not a row of the table: %s", row)
		}
	}
	for f := range reflect.TypeFor[Config]().Fields() {
		if tag := f.Tag.Get("yaml"); tag != "" {
			keys = append(keys, tag)
		}
	}
	if !reflect.DeepEqual(listed, keys) {
		t.Errorf("docs/OPERATIONS.md lists\n%v\nand Config has\n%v", listed, keys)
	}

	_, example, _ := strings.Cut(string(text), "```yaml\n")
	example, _, found := strings.Cut(example, "```")
	if !found {
		t.Fatal("docs/OPERATIONS.md shows no configuration")
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(regexp.MustCompile(`(?m)^ {3}`).ReplaceAllString(example, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadConfig(file); err != nil {
		t.Errorf("the example of docs/OPERATIONS.md: %v", err)
	}
}
