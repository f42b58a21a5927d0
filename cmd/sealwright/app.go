package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/client"
	"github.com/sealwright/sealwright/internal/cli"
)

// app is one run of the command line.
type app struct {
	in       io.Reader
	out      io.Writer
	problems io.Writer
	getenv   func(string) string

	config      client.Config
	environment string
	logKeys     string
	state       string
	output      string
	timeout     time.Duration
}

// run is main without the process: 0 done, 1 failed, 2 misused, 3 denied, 4 needs approval.
func run(args []string, in io.Reader, out, problems io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{in: in, out: out, problems: problems, getenv: os.Getenv}
	root := a.root()
	root.SetArgs(args)
	return cli.Report(problems, "sealwright", advise(root.ExecuteContext(ctx)))
}

// root builds the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "sealwright",
		Short: "Keys in hardware, certificates, encryption, and an audit log that cannot be rewritten",
		Long: `Sealwright keeps root keys in an HSM or a TPM and puts them to work.

This is its command line. It needs a server and a certificate: "sealwrightd dev"
starts one on this machine and writes a file to source.

Exit codes: 0 done, 1 failed, 2 misused, 3 denied or not known, 4 needs approval.`,
		Example: `  source .sealwright/env
  sealwright status
  sealwright key create dev/payments/orders
  sealwright encrypt dev/payments/orders --context tenant=42 < plain > sealed`,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.problems)
	a.globals(root.PersistentFlags())
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != "table" && a.output != "json" {
			return cli.Misuse("use --output table or --output json", "unknown output %q", a.output)
		}
		return nil
	}
	root.AddCommand(a.statusCommand(), a.keyCommand(), a.encryptCommand(), a.decryptCommand(), a.dataKeyCommand(), a.rewrapCommand(),
		a.certCommand(), a.auditCommand(), a.policyCommand(), a.principalCommand(), a.versionCommand())
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return cli.Misuse(c.CommandPath()+" --help shows the flags", "%w", err)
	})
	group(root)
	cli.Help(root)
	return root
}

func (a *app) globals(f *pflag.FlagSet) {
	env := client.FromEnvironment(a.getenv)
	f.StringVar(&a.config.Address, "addr", env.Address, "server `ADDRESS`, https://host:port ($"+client.EnvAddress+")")
	f.StringVar(&a.config.Certificate, "cert", env.Certificate, "your certificate and its chain, a PEM `FILE` ($"+client.EnvCertificate+")")
	f.StringVar(&a.config.Key, "key", env.Key, "its private key, a PEM `FILE` ($"+client.EnvKey+")")
	f.StringVar(&a.config.CA, "ca", env.CA, "the roots the server must be under, a PEM `FILE` ($"+client.EnvCA+")")
	f.StringVar(&a.environment, "environment", a.getenv(client.EnvEnvironment), "the `ENVIRONMENT` of short identities like service/payments, and of lists ($"+client.EnvEnvironment+")")
	f.StringVar(&a.logKeys, "log-key", a.getenv(client.EnvLogKey), "public `KEY` of the audit log, to verify it; several with commas ($"+client.EnvLogKey+")")
	f.StringVar(&a.state, "state", a.getenv("SEALWRIGHT_STATE"), "`DIR` for the newest checkpoints seen ($SEALWRIGHT_STATE; ~/.local/state/sealwright by default)")
	f.StringVar(&a.config.Reason, "reason", "", "why you do this, for the audit log: `TEXT` of one line, up to 256 bytes")
	f.StringVarP(&a.output, "output", "o", "table", "`FORM` of what is printed, table or json")
	f.DurationVar(&a.timeout, "timeout", 2*time.Minute, "give up after this `DURATION`, like 30s; 0 never")
	for _, flag := range []string{"addr", "cert", "key", "ca", "environment", "log-key", "state"} {
		f.Lookup(flag).DefValue = "" // what the environment says is not the program's default
	}
}

// group makes the commands that only hold others answer a missing or wrong verb.
func group(c *cobra.Command) {
	for _, sub := range c.Commands() {
		group(sub)
	}
	if c.Runnable() || !c.HasSubCommands() {
		return
	}
	c.Args = cobra.ArbitraryArgs
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(c *cobra.Command, args []string) error {
		hint := c.CommandPath() + " --help shows the commands"
		if len(args) == 0 {
			return cli.Misuse(hint, "%s needs a command", c.CommandPath())
		}
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "did you mean " + c.CommandPath() + " " + near[0] + "?"
		}
		return cli.Misuse(hint, "%s has no command %q", c.CommandPath(), args[0])
	}
}

// exactly demands the arguments that a command's Use names in capitals.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return cli.Misuse("for example:\n"+c.Example, "usage: %s", c.UseLine())
		}
		return nil
	}
}

// connect returns a client of the server, and a context with the time the command has.
func (a *app) connect(ctx context.Context) (*client.Client, context.Context, context.CancelFunc, error) {
	config := a.config
	config.UserAgent = "sealwright/" + version()
	if a.logKeys != "" {
		remembered, err := a.checkpoints()
		if err != nil {
			return nil, nil, nil, err
		}
		config.Checkpoints = remembered
	}
	c, err := client.New(config)
	if errors.Is(err, api.ErrInvalid) {
		err = cli.Hint(err, "source the env file that sealwrightd dev wrote (.sealwright/env), or see sealwright --help")
	}
	if err != nil {
		return nil, nil, nil, err
	}
	cancel := func() {}
	if a.timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
	}
	return c, ctx, func() { cancel(); c.Close() }, nil
}

// with runs act with a connected client.
func (a *app) with(c *cobra.Command, act func(context.Context, *client.Client) error) error {
	server, ctx, done, err := a.connect(c.Context())
	if err != nil {
		return err
	}
	defer done()
	return act(ctx, server)
}

func (a *app) print(v any, table func(*cli.Table)) error {
	return cli.Printer{Out: a.out, JSON: a.output == "json"}.Print(v, table)
}

// advise adds the exit code and what to do next to errors of the kinds that have one.
func advise(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, api.ErrUnauthenticated):
		return &cli.Error{Err: err, Code: cli.Denied, Hint: "the server knows principals, not certificates: is yours registered (sealwright principal register), enabled, and not ended?"}
	case errors.Is(err, api.ErrDenied):
		return cli.Hint(err, "sealwright policy explain --principal P --action A --object O says why")
	case errors.Is(err, api.ErrNeedsApproval):
		return cli.Hint(err, "nothing was done; it needs approvals first")
	case errors.Is(err, api.ErrUnavailable):
		return cli.Hint(err, "is the server running? sealwrightd dev starts one on this machine; its log says more")
	case errors.Is(err, api.ErrIntegrity):
		return cli.Hint(err, "do not repeat it: keep what you have as evidence, and tell those who run the server")
	case errors.Is(err, context.DeadlineExceeded):
		return cli.Hint(err, "--timeout gives it longer")
	case errors.Is(err, api.ErrInvalid) && cli.Code(err) == cli.Failed:
		return &cli.Error{Err: err, Code: cli.Misused}
	}
	return err
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Example: "  sealwright version", Args: exactly(0),
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": version()}
			return a.print(v, func(t *cli.Table) { t.Row("sealwright " + v["version"]) })
		}}
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return strings.TrimPrefix(info.Main.Version, "v")
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// readAll reads standard input up to limit bytes.
func (a *app) readAll(limit int64, hint string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(a.in, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading standard input: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, cli.Misuse(hint, "standard input is over %d bytes", limit)
	}
	return data, nil
}
