package keeping

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(refusedHandler{})
	httpcaddyfile.RegisterHandlerDirective("refused", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(refusedHandler), nil
	})
}

// refusedHandler is a handler with which no config loads.
type refusedHandler struct{}

// whileRefused is called while a config with a refusedHandler is being loaded.
var whileRefused func()

func (refusedHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.refused", New: func() caddy.Module { return new(refusedHandler) }}
}

func (*refusedHandler) Provision(caddy.Context) error {
	whileRefused()
	return errors.New("refused")
}

func (*refusedHandler) ServeHTTP(http.ResponseWriter, *http.Request, caddyhttp.Handler) error {
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*refusedHandler)(nil)
	_ caddyhttp.MiddlewareHandler = (*refusedHandler)(nil)
)
