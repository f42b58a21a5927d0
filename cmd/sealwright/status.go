package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealwright/sealwright/client"
	"github.com/sealwright/sealwright/internal/cli"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "What runs, and who you are to it", Example: "  sealwright status", Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c, func(ctx context.Context, server *client.Client) error {
				s, err := server.Status(ctx)
				if err != nil {
					return err
				}
				return a.print(s, func(t *cli.Table) {
					mode := s.Mode
					if s.OnlineRoot {
						mode += ", root made online"
					}
					t.Row("server", a.config.Address, "version "+s.Version+", "+mode)
					for _, d := range s.Devices {
						health := "healthy"
						if !d.Healthy {
							health = "NOT HEALTHY " + d.Detail
						}
						t.Row("device", d.Name, d.Kind+", "+health)
					}
					t.Row("environments", strings.Join(s.Environments, " "), "of "+s.Domain)
					t.Row("log", s.Log.Origin, fmt.Sprintf("%d entries, checkpoint over %d", s.Log.Size, s.Log.Checkpoint))
					t.Row("policy", fmt.Sprintf("version %d", s.Policy.Version), s.Policy.Digest)
					t.Row("you", s.You.SPIFFEID, strings.Join(s.You.Roles, " "))
				})
			})
		}}
}
