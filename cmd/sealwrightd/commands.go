package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/internal/locked"
	"github.com/sealwright/sealwright/key"
)

// exitPIN says that the device refused the PIN. A supervisor must not restart
// the service then: the next tries would lock the token.
const exitPIN = 5

func withExitCode(err error) error {
	if errors.Is(err, key.ErrAuth) || errors.Is(err, key.ErrLockedOut) {
		return &cli.Error{Err: err, Code: exitPIN, Hint: "correct the PIN in the file that pin-source names before starting again: every wrong try brings the token closer to locking"}
	}
	return err
}

func rootCommand(out, problems io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "sealwrightd",
		Short: "Hardware-backed keys, certificates and secrets, behind one audited door",
		Long: `sealwrightd is the Sealwright service.

  sealwrightd dev                       try it: a SoftHSM2 token, a store and an administrator in ./.sealwright
  sealwrightd init --config FILE …      create a store; never overwrites
  sealwrightd serve --config FILE       serve a store; never creates
  sealwrightd enrol IDENTITY …          issue the certificate of a person or a machine
  sealwrightd config check --config FILE

Exit codes: 0 done, 1 failed, 2 misused, 5 the device refused the PIN (do not
restart before it is corrected: tokens lock).`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return locked.HardenProcess()
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return cli.Misuse("sealwrightd --help", "%w", err)
	})
	onlyCommands(root)
	root.AddCommand(devCommand(out, problems), initCommand(out), serveCommand(problems), enrolCommand(out), configCommand(out))
	cli.Help(root)
	return root
}

// onlyCommands makes a command that has only commands show its help, and refuse what is none.
func onlyCommands(cmd *cobra.Command) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return cli.Misuse(cmd.CommandPath()+" --help", "%s has no command %q", cmd.CommandPath(), args[0])
	}
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return cli.Misuse(cmd.CommandPath()+" --help", "%s takes no argument %q", cmd.CommandPath(), args[0])
	}
	return nil
}

func devCommand(out, problems io.Writer) *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one directory, for development only",
		Long: `Runs Sealwright in one directory: a SoftHSM2 token (or swtpm), a store, a root
that lies in the token, the environment dev, and an administrator. The first
run creates it, later runs find it again. Loopback only; not for production.`,
		Example: `  sealwrightd dev
  source .sealwright/env && sealwright status`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			err := dev(ctx, o, out, problems)
			if errors.Is(err, syscall.EADDRINUSE) {
				err = cli.Hint(err, "is a Sealwright running here already? --listen 127.0.0.1:9470 takes another port and the next one; with make: make run ARGS='--listen 127.0.0.1:9470'")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&o.dir, "dir", ".sealwright", "the `DIR` of everything")
	cmd.Flags().StringVar(&o.listen, "listen", "127.0.0.1:8470", "loopback `ADDRESS` of the API, CRLs on the next port; port 0 takes free ones")
	cmd.Flags().StringVar(&o.device, "device", "softhsm", "`DEVICE`: softhsm or swtpm; fixed by the first run")
	return cmd
}

func initCommand(out io.Writer) *cobra.Command {
	var o initOptions
	var config string
	cmd := &cobra.Command{
		Use:   "init --config FILE --admin-csr FILE --online-root (--recovery-recipient FILE | --no-recovery)",
		Short: "Create a store, its keys in the device, and the first administrator",
		Long: `Creates what the configuration names: the store, the root key and the log's key
in the device, a keyring for each environment and for ops, a root CA and an
issuer for each, and the first administrator from a certificate request.
It creates and never overwrites.

A recovery recipient opens the keyrings when every device is lost. Make one
offline with 'sealwrightd init --make-recovery-key FILE'. This version writes
its slots; the command that uses them is not there yet.`,
		Example: `  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout admin.key -out admin.csr
  sealwrightd init --config config.yaml --admin-csr admin.csr --online-root --no-recovery --out admin`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.makeRecovery != "" {
				return makeRecoveryKey(o.makeRecovery, out)
			}
			c, err := readConfig(config)
			if err != nil {
				return err
			}
			return initStore(cmd.Context(), c, o, out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", "", "the configuration `FILE` (required)")
	f.StringVar(&o.adminCSR, "admin-csr", "", "certificate request `FILE` (PEM) of the first administrator, good for 30 days; its key stays where it is (required)")
	f.StringVar(&o.adminName, "admin-name", "admin", "the administrator is user/`NAME`")
	f.StringVar(&o.out, "out", ".", "`DIR` for the administrator's cert.pem and ca.pem")
	f.BoolVar(&o.onlineRoot, "online-root", false, "keep the root CA's key in this device, without an offline ceremony; status shows it for ever")
	f.StringVar(&o.recipient, "recovery-recipient", "", "`FILE` with the recovery recipient")
	f.BoolVar(&o.noRecovery, "no-recovery", false, "no recovery: when the device is lost, everything is lost")
	f.StringVar(&o.makeRecovery, "make-recovery-key", "", "only make a recovery key `FILE` and its recipient FILE.pub; do this offline")
	return cmd
}

func serveCommand(problems io.Writer) *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:     "serve --config FILE",
		Short:   "Serve a store that init created",
		Example: `  sealwrightd serve --config /etc/sealwright/config.yaml`,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := readConfig(config)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return serveConfig(ctx, c, problems)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "the configuration `FILE` (required)")
	return cmd
}

func configCommand(out io.Writer) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Work with the configuration file"}
	var config string
	check := &cobra.Command{
		Use:     "check --config FILE",
		Short:   "Check the file without opening anything it names",
		Example: `  sealwrightd config check --config /etc/sealwright/config.yaml`,
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			if _, err := readConfig(config); err != nil {
				return err
			}
			fmt.Fprintf(out, "%s is good.\n", config)
			return nil
		},
	}
	check.Flags().StringVar(&config, "config", "", "the configuration `FILE` (required)")
	onlyCommands(cmd)
	cmd.AddCommand(check)
	return cmd
}

func readConfig(path string) (Config, error) {
	if path == "" {
		return Config{}, cli.Misuse("sealwrightd --help", "name the configuration: --config FILE")
	}
	return loadConfig(path)
}
