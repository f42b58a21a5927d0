package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/client"
	"github.com/sealwright/sealwright/internal/cli"
	"github.com/sealwright/sealwright/key"
)

func (a *app) principalCommand() *cobra.Command {
	c := &cobra.Command{Use: "principal", Short: "Register, list and disable those who may ask", Example: "  sealwright principal list"}
	c.AddCommand(a.principalRegister(), a.principalList(), a.principalDisable())
	return c
}

func principalHead(t *cli.Table) {
	t.Row("IDENTITY", "ROLES", "PERSON", "STATE", "REGISTERED", "ID")
}

func principalRow(t *cli.Table, p api.Principal) {
	state := "enabled"
	if !p.DisabledAt.IsZero() {
		state = "disabled"
	}
	if !p.ExpiresAt.IsZero() {
		state += " until " + stamp(p.ExpiresAt)
	}
	t.Row(p.SPIFFEID, strings.Join(p.Roles, ","), p.PersonID, state, stamp(p.CreatedAt), p.ID)
}

func (a *app) printPrincipal(p api.Principal) error {
	return a.print(p, func(t *cli.Table) { principalHead(t); principalRow(t, p) })
}

func (a *app) principalRegister() *cobra.Command {
	var in api.RegisterRequest
	var expires string
	c := &cobra.Command{Use: "register IDENTITY", Short: "Let an identity ask: service/payments, or a SPIFFE ID", Args: exactly(1),
		Long: "Registers an identity. A certificate alone opens nothing; what a principal may do the policy says.\nA service then gets its certificate by cert issue, a person or a machine by sealwrightd enrol.",
		Example: `  sealwright principal register service/payments --environment dev
  sealwright principal register user/ada --role operator`,
		RunE: func(c *cobra.Command, args []string) (err error) {
			in.Identity, in.Environment = args[0], a.environment
			if strings.HasPrefix(args[0], "user/") {
				in.Environment = "ops" // people live there
			}
			if in.ExpiresAt, err = parseTime(expires); err != nil {
				return err
			}
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				p, err := server.RegisterPrincipal(ctx, in)
				if err != nil {
					return err
				}
				return a.printPrincipal(p)
			})
		}}
	c.Flags().StringSliceVar(&in.Roles, "role", nil, "a `ROLE` it holds; repeatable; developer, operator and security do not go together")
	c.Flags().StringVar(&in.PersonID, "person", "", "for user/: `WHO` it is, as several identities may be one person")
	c.Flags().StringVar(&expires, "expires", "", "registered until this `TIME`: from now, like 720h, or like 2027-01-31T00:00:00Z; for ever by default")
	return c
}

// principals returns all of them.
func principals(ctx context.Context, server *client.Client, limit int) (all []api.Principal, err error) {
	all = []api.Principal{}
	err = pages(limit, func(page client.Page) (int, string, error) {
		list, err := server.ListPrincipals(ctx, page)
		all = append(all, list.Principals...)
		return len(list.Principals), list.Next, err
	})
	return all, err
}

func (a *app) principalList() *cobra.Command {
	var limit int
	c := &cobra.Command{Use: "list", Short: "List the principals", Args: exactly(0), Example: "  sealwright principal list",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				all, err := principals(ctx, server, limit)
				if err != nil {
					return err
				}
				return a.print(api.PrincipalList{Principals: all}, func(t *cli.Table) {
					principalHead(t)
					for _, p := range all {
						principalRow(t, p)
					}
				})
			})
		}}
	c.Flags().IntVar(&limit, "limit", 0, "at most `N`; 0 for all")
	return c
}

func (a *app) principalDisable() *cobra.Command {
	return &cobra.Command{Use: "disable IDENTITY|ID", Short: "Disable a principal; its next request is refused", Args: exactly(1),
		Example: "  sealwright principal disable service/payments",
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				id := args[0]
				if _, err := key.ParseID(id); err != nil {
					p, err := a.findPrincipal(ctx, server, id)
					if err != nil {
						return err
					}
					id = p.ID
				}
				p, err := server.DisablePrincipal(ctx, id)
				if err != nil {
					return err
				}
				return a.printPrincipal(p)
			})
		}}
}

// findPrincipal finds the principal that an identity, short or whole, names.
func (a *app) findPrincipal(ctx context.Context, server *client.Client, identity string) (api.Principal, error) {
	all, err := principals(ctx, server, 0)
	if err != nil {
		return api.Principal{}, err
	}
	for _, p := range all {
		environment := a.environment
		if p.Kind == "user" {
			environment = "ops"
		}
		if p.SPIFFEID == identity || p.Kind+"/"+p.Path == identity && p.Environment == environment {
			return p, nil
		}
	}
	return api.Principal{}, cli.Misuse("sealwright principal list shows them; short names need --environment", "no principal %s", identity)
}
