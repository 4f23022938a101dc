package upstreamoauth2

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(MatchReady{})
}

// MatchReady matches requests while clients have a token to use, so that a site can
// tell a load balancer or Kubernetes whether this instance is ready:
//
//	@ready upstream_oauth2_ready
//	respond /readyz @ready 200
//	respond /readyz 503
//
// It makes nobody wait. To ask is to want a token: one that has expired is fetched.
type MatchReady struct {
	// The names of the clients that have to be ready. Default: all of the config but
	// those with accounts, whose tokens depend on the caller.
	Clients []string `json:"clients,omitempty"`

	app *App
}

// CaddyModule returns the Caddy module information.
func (MatchReady) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.upstream_oauth2_ready",
		New: func() caddy.Module { return new(MatchReady) },
	}
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	upstream_oauth2_ready [<client>…]
func (m *MatchReady) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		m.Clients = append(m.Clients, d.RemainingArgs()...)
		if d.NextBlock(0) {
			return d.Errf("upstream_oauth2_ready takes no block: write the names of clients behind it, or nothing for all of them")
		}
	}
	return nil
}

// Provision finds the app. Handlers may still define the clients, so that App.Start
// looks whether they are there.
func (m *MatchReady) Provision(ctx caddy.Context) error {
	app, err := ctx.App("upstream_oauth2")
	if err != nil {
		return err
	}
	m.app = app.(*App)
	m.app.expected = append(m.app.expected, m.Clients...)
	return nil
}

// MatchWithError implements caddyhttp.RequestMatcherWithError.
func (m *MatchReady) MatchWithError(*http.Request) (bool, error) {
	return len(m.app.notReady(m.Clients)) == 0, nil
}

// checkExpected returns an error if a matcher names a client that cannot be ready.
func (a *App) checkExpected() error {
	for _, name := range a.expected {
		switch c := a.find(name); {
		case c == nil:
			return fmt.Errorf("upstream_oauth2_ready: there is no client %q in this config", name)
		case len(c.inputs) > 0:
			return fmt.Errorf("upstream_oauth2_ready: the tokens of client %q depend on the request, so that it cannot be ready ahead: remove it", name)
		}
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner                 = (*MatchReady)(nil)
	_ caddyfile.Unmarshaler             = (*MatchReady)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchReady)(nil)
)
