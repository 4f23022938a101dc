// Package command tests the commands as people run them: the Caddy of cmd/caddy as a process.
package command

import _ "github.com/upstream-oauth2/caddy-upstream-oauth2"
