package upstreamoauth2

import (
	"encoding/json"
	"strings"

	"go.uber.org/zap"
)

// Caddy shows some credentials where this module cannot keep them out. The warnings
// here say so at start, to those whose config makes it possible, with the way out.

// warnOfExposure logs the warnings that go with the client's settings.
func (c *client) warnOfExposure() {
	if fields := c.exposedFields(); len(fields) > 0 {
		c.logger.Warn("Caddy's own logs can show the token or its proof: when a caller hangs up, reverse_proxy logs the request that carries it, at level warn; hide these fields with a log filter", zap.Strings("fields", fields))
	}
	if fields := c.exposedCallerFields(); len(fields) > 0 {
		c.logger.Warn("Caddy's logs show the header field in which callers bring their token: have them send it as Authorization, or hide these fields with a log filter", zap.Strings("fields", fields))
	}
	if showsProxy(c.definition.TransportRaw) {
		c.logger.Warn("at debug level, Caddy logs the URL of network_proxy, with the password if it has one: set another level, or hide the field \"url\" with a log filter")
	}
}

// exposedFields are the fields of Caddy's log lines that may hold the token or a
// proof of it. A query parameter is in the URI there once it has been rewritten.
func (c *client) exposedFields() []string {
	var fields []string
	switch place := c.definition.Placement(); {
	case place.Query:
		fields = append(fields, "request>uri")
	case !isHidden(place.Name):
		fields = append(fields, "request>headers>"+place.Name)
	}
	if c.definition.DPoP != nil {
		fields = append(fields, "request>headers>Dpop")
	}
	return fields
}

// exposedCallerFields are those that may hold a caller's own token: Caddy notes each
// request's header for its logs before any handler runs.
func (c *client) exposedCallerFields() []string {
	var fields []string
	for _, name := range c.inputs.CallerFields() {
		if !isHidden(name) {
			fields = append(fields, "request>headers>"+name)
		}
	}
	return fields
}

// isHidden reports whether Caddy's logs hide the header field.
func isHidden(name string) bool {
	switch name {
	case "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie":
		return true
	}
	return false
}

// showsProxy reports whether the transport logs the URL of its proxy: it does where
// that holds placeholders.
func showsProxy(transport json.RawMessage) bool {
	var t struct {
		Old   string `json:"forward_proxy_url"`
		Proxy struct {
			URL string `json:"url"`
		} `json:"network_proxy"`
	}
	_ = json.Unmarshal(transport, &t) // checked when the transport was loaded
	return strings.Contains(t.Old+t.Proxy.URL, "{")
}
