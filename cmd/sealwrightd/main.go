// Command sealwrightd is the Sealwright service.
package main

import (
	"io"
	"os"

	"github.com/sealwright/sealwright/internal/cli"
)

// version is set when a release is built.
var version = "unversioned"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main without the process: it returns the exit code.
func run(args []string, _ io.Reader, out, problems io.Writer) int {
	root := rootCommand(out, problems)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(problems)
	return cli.Report(problems, "sealwrightd", withExitCode(root.Execute()))
}
