package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/client"
	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/policy"
)

func (a *app) policyCommand() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "Apply, show, explain, test and compare policies", Example: "  sealwright policy show"}
	c.AddCommand(a.policyApply(), a.policyShow(), a.policyExplain(), a.policyTest(), a.policyDiff(), a.policySchema())
	return c
}

// readPolicy reads and checks a policy file; "-" is standard input.
func (a *app) readPolicy(file string) (*policy.Set, error) {
	var data []byte
	var err error
	if file == "-" {
		data, err = a.readAll(policy.MaxText, "")
	} else if data, err = os.ReadFile(file); err != nil {
		err = fmt.Errorf("reading the policy: %w", err)
	}
	if err != nil {
		return nil, err
	}
	set, err := policy.Parse(filepath.Base(file), data)
	if err != nil {
		return nil, cli.Hint(err, "nothing was changed")
	}
	return set, nil
}

func (a *app) policyApply() *cobra.Command {
	var base int64
	c := &cobra.Command{Use: "apply FILE", Short: "Check a policy file and make it the active policy", Args: exactly(1),
		Long: "Checks a policy file against the schema, here and on the server, and makes it the active policy.\nA policy under which no administrator could apply another is refused. - is standard input.",
		Example: `  sealwright policy diff house.cedar
  sealwright policy apply house.cedar`,
		RunE: func(c *cobra.Command, args []string) error {
			set, err := a.readPolicy(args[0])
			if err != nil {
				return err
			}
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				p, err := server.ApplyPolicy(ctx, api.ApplyPolicyRequest{Name: set.Name(), Text: set.Text(), Base: base})
				if err != nil {
					return err
				}
				return a.print(p, func(t *cli.Table) {
					t.Row(fmt.Sprintf("version %d is active: %d policies, digest %s", p.Version, p.Count, p.Digest))
				})
			})
		}}
	c.Flags().Int64Var(&base, "base", 0, "refuse if another `VERSION` than this is active by now; 0 whatever is active")
	return c
}

func (a *app) policyShow() *cobra.Command {
	return &cobra.Command{Use: "show", Short: "Print the active policy", Args: exactly(0), Example: "  sealwright policy show > house.cedar",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				p, err := server.Policy(ctx)
				if err != nil {
					return err
				}
				if a.output == "json" {
					return a.print(p, nil)
				}
				_, err = io.WriteString(a.out, p.Text)
				return err
			})
		}}
}

func (a *app) policySchema() *cobra.Command {
	return &cobra.Command{Use: "schema", Short: "Print what policies may speak of: principals, actions, objects, attributes", Args: exactly(0),
		Example: "  sealwright policy schema",
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(a.out, policy.Schema())
			return err
		}}
}

func (a *app) policyExplain() *cobra.Command {
	var in api.ExplainRequest
	var file, at string
	c := &cobra.Command{Use: "explain --principal P --action A --object O", Short: "Say what the policy decides about a request, and why", Args: exactly(0),
		Example: "  sealwright policy explain --principal service/payments --action kms:Decrypt --object dev/payments/orders"}
	pairs := contextFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		if in.Principal == "" || in.Action == "" || in.Object == "" {
			return cli.Misuse("for example:\n"+c.Example, "--principal, --action and --object say what to explain")
		}
		in.Principal = a.shortIdentity(in.Principal, in.Object)
		if in.Context, err = pairs(); err != nil {
			return err
		}
		if in.Time, err = parseTime(at); err != nil {
			return err
		}
		if file != "" {
			set, err := a.readPolicy(file)
			if err != nil {
				return err
			}
			in.Text = set.Text()
		}
		return a.with(c, func(ctx context.Context, server *client.Client) error {
			e, err := server.Explain(ctx, in)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.print(e, nil)
			}
			_, err = io.WriteString(a.out, cli.Printable(strings.TrimSuffix(e.Text, "\n"))+"\n")
			return err
		})
	}
	c.Flags().StringVar(&in.Principal, "principal", "", "`IDENTITY`: service/NAME in the object's environment, user/NAME, node/NAME, or a SPIFFE ID (required)")
	c.Flags().StringVar(&in.Action, "action", "", "`ACTION`, like kms:Decrypt; sealwright policy schema lists them (required)")
	c.Flags().StringVar(&in.Object, "object", "", "`NAME` of the object, like dev/payments/orders (required)")
	c.Flags().StringVar(&in.Kind, "kind", "", "what `KIND` of object it is, where the action leaves it open, like Certificate")
	c.Flags().StringVar(&in.Source, "source", "", "IP `ADDRESS` the request comes from; yours by default")
	c.Flags().StringVar(&at, "at", "", "decide as of this `TIME`: from now, like 12h, or like 2027-01-31T00:00:00Z; now by default")
	c.Flags().StringVar(&file, "policy", "", "explain under this `FILE` instead of the active policy")
	return c
}

// shortIdentity leaves a short identity to the server, which resolves it in the
// environment of the object, unless the object names none: then it gets the default one.
func (a *app) shortIdentity(identity, object string) string {
	if strings.Contains(object, "/") || a.environment == "" || strings.Contains(identity, "://") || strings.HasPrefix(identity, "user/") ||
		strings.Count(identity, "/") != 1 {
		return identity
	}
	return a.environment + "/" + identity
}

func (a *app) policyTest() *cobra.Command {
	var file string
	c := &cobra.Command{Use: "test TABLE.yaml", Short: "Check a policy against a table of expected decisions, offline", Args: exactly(1),
		Long: `Checks a policy against a table of expected decisions. No server is asked, so it runs
where the policies are kept, before they are applied. The table:

  policy: house.cedar               # beside the table; --policy says another
  tests:
    - name: payments decrypts its own orders
      principal: service/payments   # in the environment of the object, or dev/service/payments
      roles: []
      action: kms:Decrypt
      object: dev/payments/orders
      kind: Key                     # only where the action leaves it open
      attributes: {classification: secret}
      context: {tenant: "42"}
      source: 10.0.0.1
      time: 2027-01-29T10:00:00Z    # now by default
      expect: allow                 # deny, needs-approvals
      by: [payments]                # the deciding policies, if it matters`,
		Example: "  sealwright policy test house-test.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			table, err := readTable(args[0])
			if err != nil {
				return err
			}
			if file == "" {
				if table.Policy == "" {
					return cli.Misuse("--policy FILE, or policy: FILE in the table", "%s names no policy", args[0])
				}
				file = filepath.Join(filepath.Dir(args[0]), table.Policy)
			}
			set, err := a.readPolicy(file)
			if err != nil {
				return err
			}
			return a.runTable(set, table)
		}}
	c.Flags().StringVar(&file, "policy", "", "policy `FILE`; the table's by default")
	return c
}

func (a *app) policyDiff() *cobra.Command {
	var source, against string
	c := &cobra.Command{Use: "diff FILE", Short: "Show what a policy file would change, and for whom", Args: exactly(1),
		Long: `Asks the active policy and the file about every registered principal, every action
and every key you may see, and shows where the answers differ. It asks with an empty
encryption context, now, from --source: differences that show only under other
conditions it does not see; sealwright policy test does.`,
		Example: "  sealwright policy diff house.cedar",
		RunE: func(c *cobra.Command, args []string) error {
			next, err := a.readPolicy(args[0])
			if err != nil {
				return err
			}
			d := differ{next: next, now: time.Now()}
			if d.source, err = parseSource(source); err != nil {
				return err
			}
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				if against != "" {
					d.last, err = a.readPolicy(against)
				} else {
					d.last, err = activePolicy(ctx, server)
				}
				if err != nil {
					return err
				}
				return a.diff(ctx, server, &d)
			})
		}}
	c.Flags().StringVar(&source, "source", "127.0.0.1", "IP `ADDRESS` the requests come from")
	c.Flags().StringVar(&against, "against", "", "compare with this `FILE` instead of the active policy")
	return c
}

func activePolicy(ctx context.Context, server *client.Client) (*policy.Set, error) {
	p, err := server.Policy(ctx)
	if err != nil {
		return nil, err
	}
	set, err := policy.Parse("active", []byte(p.Text))
	if err != nil {
		return nil, fmt.Errorf("reading the active policy, which a newer server may have accepted: %w", err)
	}
	return set, nil
}
