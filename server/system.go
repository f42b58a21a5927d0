package server

import (
	"context"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/api"
	"github.com/sealwright/sealwright/guard"
	"github.com/sealwright/sealwright/policy"
)

var systemStatus = guard.Act{Action: policy.SystemStatus, Object: policy.Object{Kind: policy.KindSystem, Name: "status"}}

func (c *call) status() (any, error) {
	out := api.Status{
		Version: c.Version, Mode: c.Store.Mode, StoreID: c.Store.ID, Domain: c.Store.Domain, OnlineRoot: c.Store.OnlineRoot,
		Environments: c.Store.Environments,
		Log:          api.LogStatus{Origin: c.Log.Origin(), Checkpoint: c.Log.CheckpointSize()},
		Time:         time.Now().UTC(),
	}
	err := c.enter(on(systemStatus), nil, func(ctx context.Context, g guard.Grant) error {
		use, err := c.Door.Redeem(g, systemStatus.Action, systemStatus.Object.Name)
		if err != nil {
			return err
		}
		rules, err := c.Door.Rules(ctx)
		if err != nil {
			return err
		}
		out.Policy = api.PolicyStatus{Version: rules.Version, Digest: rules.Digest}
		p, err := c.Door.Principal(ctx, use.Principal.SPIFFEID)
		if err != nil {
			return err
		}
		out.You = principal(p)
		if out.Log.Size, err = c.Log.Size(ctx); err != nil {
			return err
		}
		out.Devices = nil // the door may run an act again
		for _, d := range c.Devices {
			st := api.DeviceStatus{Name: d.Name, Kind: d.Kind, Healthy: true}
			if err := d.Device.Health(ctx); err != nil {
				st.Healthy, st.Detail = false, api.FromError(err).Detail
			}
			out.Devices = append(out.Devices, st)
		}
		return nil
	})
	return out, err
}

func text(s string) raw { return raw{media: "text/plain; charset=utf-8", body: []byte(s)} }

func (c *call) openapi() (any, error) {
	doc, err := c.openAPI()
	if err != nil {
		return nil, fmt.Errorf("%w: writing the API's description: %w", api.ErrInternal, err)
	}
	return raw{media: "application/json", body: doc}, nil
}
