package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// example is one command of a document and the output shown below it.
type example struct {
	file    string
	line    int
	command string
	shown   []string
}

// notRunHere are commands of the documents that other tests run, or that start
// this very test.
var notRunHere = map[string]string{
	"make run":  "TestMakeRun",
	"make test": "CI runs it, and it runs this",
}

// examplesIn reads the ```console blocks: lines after "$ " are commands, the
// lines below are what they print; … stands for anything.
func examplesIn(t *testing.T, file string) (list []example) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case !inside:
		case strings.HasPrefix(line, "$ "):
			list = append(list, example{file: file, line: i + 1, command: strings.TrimPrefix(line, "$ ")})
		case len(list) > 0:
			last := &list[len(list)-1]
			if strings.HasSuffix(last.command, `\`) && len(last.shown) == 0 {
				last.command = strings.TrimSuffix(last.command, `\`) + strings.TrimSpace(line)
			} else {
				last.shown = append(last.shown, line)
			}
		}
	}
	return list
}

// matches reports whether what was printed is what is shown: … stands for
// anything, and a line that is only … for any lines, or none.
func (e example) matches(printed string) bool {
	var pattern strings.Builder
	for _, line := range strings.Split(strings.TrimSpace(strings.Join(e.shown, "\n")), "\n") {
		if strings.TrimSpace(line) == "…" {
			pattern.WriteString(`(?:[^\n]*\n)*?`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", `[\s\S]*?`) + `\n`)
	}
	// Columns are as wide as their content.
	wide := regexp.MustCompile(`(\\?\x20){2,}`).ReplaceAllString(pattern.String(), `\s+`)
	return regexp.MustCompile(`^` + wide + `$`).MatchString(strings.TrimSpace(printed) + "\n")
}

// Every command in README and docs runs, in order, and prints what is shown.
func TestDocuments(t *testing.T) {
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../README.md") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			list := examplesIn(t, file)
			if len(list) == 0 {
				t.Skip("it shows no commands")
			}
			home := t.TempDir()
			// The reader stands in the repository; here only its examples are at hand.
			examples, err := filepath.Abs("../examples")
			if err == nil {
				err = os.Symlink(examples, filepath.Join(home, "examples"))
			}
			if err != nil {
				t.Fatal(err)
			}
			s := start(t, filepath.Join(home, ".sealwright"))
			for _, e := range list {
				if _, elsewhere := notRunHere[e.command]; elsewhere {
					continue
				}
				out, problems, code := s.sh("cd " + home + "; " + e.command)
				wantFail := strings.Contains(strings.Join(e.shown, "\n"), "sealwright: ")
				if (code != 0) != wantFail {
					t.Fatalf("%s:%d: %s\nended with %d\n%s%s", e.file, e.line, e.command, code, out, problems)
				}
				if len(e.shown) > 0 && !e.matches(out+problems) {
					t.Errorf("%s:%d: %s\nshown:\n%s\nprinted:\n%s%s", e.file, e.line, e.command, strings.Join(e.shown, "\n"), out, problems)
				}
			}
		})
	}
}

// Every relative link of a document leads to a file.
func TestDocumentLinks(t *testing.T) {
	var files []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../examples/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#]+)`).FindAllStringSubmatch(string(text), -1) {
			if target := filepath.Join(filepath.Dir(file), link[1]); !strings.Contains(link[1], "://") && !exists(target) {
				t.Errorf("%s links to %s, which is not there", file, link[1])
			}
		}
	}
}
