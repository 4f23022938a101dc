package caddytest

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// PartnerSite is the Caddyfile of tests that are not about Caddyfiles.
const PartnerSite = `
http://{$SITE} {
	upstream_oauth2 partner {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      partner-id
		client_secret  partner-secret
	}
	reverse_proxy {$API}
}`

// RefusedClient is a directive that adapts and does not load.
const RefusedClient = `upstream_oauth2 refused {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      refused-id
		client_secret  {env.NOT_SET}
	}
`

// PartnerSiteWith is PartnerSite with further lines in the directive's block.
func PartnerSiteWith(lines string) string {
	return strings.Replace(PartnerSite, "partner-secret\n", "partner-secret\n"+lines+"\n", 1)
}

// Adapt is "caddy adapt".
func Adapt(text string) ([]byte, []caddyconfig.Warning, error) {
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	return adapter.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
}

// Validate is "caddy validate".
func Validate(text string) error {
	config, _, err := Adapt(text)
	if err != nil {
		return err
	}
	var c *caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &c); err != nil {
		return err
	}
	return caddy.Validate(c)
}
