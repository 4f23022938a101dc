package upstreamoauth2

import (
	"net/textproto"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// What stands behind the directive sees the token. Where the config's routes show that
// this is most likely not meant, a warning says so once Caddy has started.

// warnOfRoutes looks at the routes of all servers.
func (a *App) warnOfRoutes() {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return // a config without sites
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		warnOfRoutes(server.Routes, nil)
	}
}

// warnOfRoutes looks at routes that run behind ahead, nil for none, and returns the
// handler that what comes next runs behind.
func warnOfRoutes(routes caddyhttp.RouteList, ahead *Handler) *Handler {
	for _, route := range routes {
		if ahead != nil && ahead.matchedBy(route.MatcherSets) {
			ahead.live.logger.Warn("a matcher behind upstream_oauth2 looks at the field that holds the token by then: decide about callers ahead of it, in a route block")
		}
		inner := ahead
		for _, handler := range route.Handlers {
			var responses []caddyhttp.ResponseHandler
			switch h := handler.(type) {
			case *Handler:
				inner = h
			case *caddyhttp.Subroute:
				inner = warnOfRoutes(h.Routes, inner)
			case *reverseproxy.Handler:
				responses = h.HandleResponse
			case *intercept.Intercept:
				responses = h.HandleResponse
			}
			for _, response := range responses {
				if inner != nil && hasUpstream(response.Routes) {
					inner.live.logger.Warn("a second upstream, in handle_response or intercept, gets the token as well: take it off there with header_up, unless it is meant to have it")
				}
			}
		}
		if route.Group == "" && !route.Terminal { // else what comes next is another choice
			ahead = inner
		}
	}
	return ahead
}

// matchedBy reports whether a matcher looks at the header field that takes the token.
func (h *Handler) matchedBy(sets caddyhttp.MatcherSets) bool {
	place := h.live.definition.Placement()
	for _, set := range sets {
		for _, matcher := range set {
			switch m := matcher.(type) {
			case *caddyhttp.MatchHeader:
				for name := range *m {
					if !place.Query && textproto.CanonicalMIMEHeaderKey(name) == place.Name {
						return true
					}
				}
			case *caddyhttp.MatchNot:
				for _, not := range m.MatcherSets {
					if h.matchedBy(caddyhttp.MatcherSets{not}) {
						return true
					}
				}
			}
		}
	}
	return false
}

// hasUpstream reports whether a request may leave by the routes.
func hasUpstream(routes caddyhttp.RouteList) bool {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch h := handler.(type) {
			case *reverseproxy.Handler:
				return true
			case *caddyhttp.Subroute:
				if hasUpstream(h.Routes) {
					return true
				}
			}
		}
	}
	return false
}
