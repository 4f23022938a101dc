// Package integration tests the plugin in a whole Caddy, through the doors that users
// have: Caddyfiles, requests, the log. What it knows of the plugin's insides is
// nothing; see package caddytest for the surroundings.
package integration

import _ "github.com/upstream-oauth2/caddy-upstream-oauth2"
