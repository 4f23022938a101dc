package connect

import (
	"errors"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const directive = "upstream_oauth2_connect"

func init() {
	httpcaddyfile.RegisterHandlerDirective(directive, parseDirective)
	// Behind basic_auth and forward_auth, which say who is looking, and ahead of
	// upstream_oauth2, which is ordered before encode.
	httpcaddyfile.RegisterDirectiveOrder(directive, httpcaddyfile.After, "request_header")
}

func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	upstream_oauth2_connect [<matcher>] [<client>...] {
//		base_url <url>
//		user     <placeholder>|anyone
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive
	start := *d
	h.Clients = d.RemainingArgs()
	lines := make(map[string]caddyfile.Dispenser)
	for d.NextBlock(0) {
		name := d.Val()
		var field *string
		usage := ""
		switch name {
		case "base_url":
			field, usage = &h.BaseURL, "base_url <url>"
		case "user":
			field, usage = &h.User, "user <placeholder>|anyone"
		default:
			return d.Errf("%s has no option %q: write 'base_url <url>' or 'user <placeholder>|anyone'", directive, name)
		}
		if given, ok := lines[name]; ok {
			return d.Errf("%s is given twice, first at %s:%d: remove one", name, given.File(), given.Line())
		}
		lines[name] = *d
		switch args := d.RemainingArgs(); {
		case len(args) == 0 || args[0] == "":
			return d.Errf("%s has no value: write '%s' (an unset {$NAME} leaves none)", name, usage)
		case len(args) > 1:
			return d.Errf("%s has too many values: write '%s'", name, usage)
		default:
			*field = args[0]
		}
		line := *d
		if d.NextBlock(1) {
			return line.Errf("%s takes no block: write '%s'", name, usage)
		}
	}
	err := h.check()
	if err == nil {
		return nil
	}
	line := start
	if o, ok := errors.AsType[*optionError](err); ok {
		if given, ok := lines[o.option]; ok {
			line = given
		}
	}
	return line.WrapErr(err)
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
