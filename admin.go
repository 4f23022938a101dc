package upstreamoauth2

import (
	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(AdminAPI{})
}

// AdminAPI is what the admin endpoint has of this module's.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.upstream_oauth2",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// Provision registers the metrics before anything of the config can fail: the admin
// endpoint of a config that is refused stays, and serves /metrics from that config's
// registry.
func (AdminAPI) Provision(ctx caddy.Context) error {
	return registerMetrics(ctx.GetMetricsRegistry())
}

// Routes implements caddy.AdminRouter.
func (AdminAPI) Routes() []caddy.AdminRoute { return nil }

// Interface guards
var (
	_ caddy.Provisioner = AdminAPI{}
	_ caddy.AdminRouter = AdminAPI{}
)
