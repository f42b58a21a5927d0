package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestHelp(t *testing.T) {
	var out bytes.Buffer
	run := func(args ...string) string {
		root := &cobra.Command{Use: "prog", Short: "Do things", SilenceUsage: true}
		root.PersistentFlags().String("server", "", "the `ADDRESS` to ask")
		sub := &cobra.Command{Use: "make NAME", Short: "Make a thing", Example: "  prog make x", RunE: func(*cobra.Command, []string) error { return nil }}
		sub.Flags().BoolP("quick", "q", false, "be quick")
		sub.Flags().Int("count", 3, "`N` of them")
		root.AddCommand(sub)
		Help(root)
		out.Reset()
		root.SetOut(&out)
		root.SetArgs(args)
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := `Make a thing.

Usage:
  prog make NAME [flags]

Example:
  prog make x

Flags:
      --count N  N of them (default 3)
  -q, --quick    be quick

prog --help shows the flags that all commands share, and their environment variables.
`
	if got := run("make", "--help"); got != want {
		t.Errorf("help:\n%s\nwant:\n%s", got, want)
	}
	for _, part := range []string{"Do things.\n", "prog COMMAND", "  make        Make a thing", "--server ADDRESS"} {
		if got := run("--help"); !strings.Contains(got, part) {
			t.Errorf("the root's help has no %q:\n%s", part, got)
		}
	}
}
