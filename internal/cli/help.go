package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Help makes the help of root and of all its commands: what it does, how it is
// written, an example, its commands, its own flags. The flags that all
// commands share are shown once, by root.
func Help(root *cobra.Command) {
	root.SetUsageFunc(func(c *cobra.Command) error {
		out := c.OutOrStderr()
		fmt.Fprintf(out, "Usage:\n  %s\n", useLine(c))
		if c.Example != "" {
			fmt.Fprintf(out, "\nExample:\n%s\n", strings.TrimRight(c.Example, "\n"))
		}
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		if c.HasAvailableSubCommands() {
			fmt.Fprintln(w, "\nCommands:")
			for _, sub := range c.Commands() {
				if sub.IsAvailableCommand() {
					fmt.Fprintf(w, "  %s\t%s\n", sub.Name(), sub.Short)
				}
			}
		}
		if rows := flagRows(c.LocalFlags()); len(rows) > 0 {
			fmt.Fprintln(w, "\nFlags:")
			for _, row := range rows {
				fmt.Fprintln(w, row)
			}
		}
		if c != root {
			fmt.Fprintln(w)
			if c.HasAvailableSubCommands() {
				fmt.Fprintf(w, "%s COMMAND --help says more about a command.\n", c.CommandPath())
			}
			if len(flagRows(c.InheritedFlags())) > 0 {
				fmt.Fprintf(w, "%s --help shows the flags that all commands share, and their environment variables.\n", root.Name())
			}
		}
		return w.Flush()
	})
	root.SetHelpFunc(func(c *cobra.Command, _ []string) {
		text := c.Long
		if text == "" {
			text = c.Short + "."
		}
		fmt.Fprintf(c.OutOrStdout(), "%s\n\n", strings.TrimSpace(text))
		c.SetOut(c.OutOrStdout())
		c.SetErr(c.OutOrStdout()) // help that was asked for is the result
		_ = c.Usage()
	})
}

// useLine is how the command is written.
func useLine(c *cobra.Command) string {
	if c.HasAvailableSubCommands() {
		return c.CommandPath() + " COMMAND"
	}
	return c.UseLine()
}

// flagRows are the flags as columns: the flag with its value's name, and what it is for.
func flagRows(flags *pflag.FlagSet) (rows []string) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		row := "      --" + f.Name
		if f.Shorthand != "" {
			row = "  -" + f.Shorthand + ", --" + f.Name
		}
		if f.Value.Type() != "bool" {
			row += " " + value
		}
		row += "\t" + usage
		switch f.DefValue {
		case "", "0", "0s", "false", "[]":
		default:
			row += " (default " + f.DefValue + ")"
		}
		rows = append(rows, row)
	})
	return rows
}
