// Command caddy-redis is cmd/caddy with a storage in Redis.
//
// It has a module of its own so that nobody else downloads that storage.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/pberkel/caddy-storage-redis"

	_ "github.com/upstream-oauth2/caddy-upstream-oauth2"
)

func main() {
	caddycmd.Main()
}
