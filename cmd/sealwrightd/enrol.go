package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/key"
	"github.com/sealwright/sealwright/pki/ca"
)

type enrolOptions struct {
	csr, out string
	ttl      time.Duration
}

func enrolCommand(out io.Writer) *cobra.Command {
	var o enrolOptions
	var config string
	cmd := &cobra.Command{
		Use:   "enrol IDENTITY --config FILE --csr FILE",
		Short: "Issue the certificate of a registered person or machine",
		Long: `Issues a certificate that a person or a machine authenticates with, over the key
of its certificate request; the key stays where it is. IDENTITY is user/NAME or
ENVIRONMENT/node/NAME and must be registered ('sealwright principal register').
The operator of this host does it, because no certificate of this kind can be had
over the network: also when an administrator's certificate has ended.

The service must be stopped: a store has one owner at a time.`,
		Example: `  systemctl stop sealwrightd
  sealwrightd enrol user/ada --config /etc/sealwright/config.yaml --csr ada.csr --out ada
  systemctl start sealwrightd`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.Misuse(cmd.CommandPath()+" --help", "%s takes one identity, like user/ada", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := readConfig(config)
			if err != nil {
				return err
			}
			return enrol(cmd.Context(), c, args[0], o, out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", "", "the configuration `FILE` (required)")
	f.StringVar(&o.csr, "csr", "", "certificate request `FILE` (PEM), of which only the key counts (required)")
	f.StringVar(&o.out, "out", ".", "`DIR` for cert.pem and ca.pem; what is there is replaced")
	f.DurationVar(&o.ttl, "ttl", adminLifetime, "good for this `DURATION`, at most 2160h for user/, 720h for node/")
	return cmd
}

// enrol is 'sealwrightd enrol'.
func enrol(ctx context.Context, c Config, identity string, o enrolOptions, out io.Writer) (err error) {
	if o.csr == "" {
		return cli.Misuse("make one: openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout ada.key -out ada.csr", "name the certificate request: --csr FILE")
	}
	csr, err := os.ReadFile(o.csr)
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	if info, err := os.Stat(o.out); err != nil || !info.IsDir() {
		return cli.Misuse("mkdir "+o.out, "--out %s is not a directory", o.out)
	}
	spiffeID, err := api.SPIFFEID(identity, "", c.Domain)
	if err != nil {
		return err
	}
	environment, kind, _, err := guard.ParseSPIFFE(spiffeID)
	if err != nil {
		return err
	}
	if kind != "user" && kind != "node" {
		return cli.Misuse("services get theirs over the network: sealwright cert issue", "%s is neither user/ nor node/", identity)
	}
	h, err := openHouse(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	switch p, err := h.door.Principal(ctx, spiffeID); {
	case errors.Is(err, key.ErrNotFound):
		return cli.Hint(err, "register it first: sealwright principal register %s", identity)
	case err != nil:
		return err
	case !p.DisabledAt.IsZero():
		return fmt.Errorf("enrolling %s: %w: no certificate is issued to it", spiffeID, key.ErrDisabled)
	}
	issued, err := h.issue(ctx, "enrolment by the operator of the host", ca.Order{CSR: csr, Profile: kind, Environment: environment, Identity: spiffeID, TTL: o.ttl})
	if err != nil {
		return fmt.Errorf("issuing the certificate: %w", err)
	}
	if err := writeAdmin(o.out, issued, nil); err != nil {
		return err
	}
	fmt.Fprintf(out, "Enrolled %s: certificate in %s, until %s.\n", spiffeID, filepath.Join(o.out, "cert.pem"), issued.Leaf.NotAfter.Format("2006-01-02"))
	return nil
}
