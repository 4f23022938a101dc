// Command caddy is Caddy with the upstream_oauth2 module linked in, as
// "xcaddy build --with github.com/upstream-oauth2/caddy-upstream-oauth2" makes
// it. It runs example.Caddyfile from a checkout without installing anything.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/upstream-oauth2/caddy-upstream-oauth2"
)

func main() {
	caddycmd.Main()
}
