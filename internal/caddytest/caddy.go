// Package caddytest puts a real Caddy, in this process, between a stand-in
// authorization server and a stand-in API, all on loopback:
//
//	test ───► Caddy ───► APIServer
//	            └──────► AuthServer
//
// The Caddyfiles of tests are written as a user writes them, and name their
// surroundings by Caddy's own variables:
//
//	{$SITE}, {$OTHER_SITE}   free addresses to listen on
//	{$ADMIN}                 the address of the admin API
//	{$TOKEN_ENDPOINT}        the URL of the AuthServer's token endpoint
//	{$API}                   the address of the APIServer
//
// A process has one Caddy and one environment, so none of these tests runs in
// parallel with another of its package. Packages do run at the same time: each
// has ports and files of its own.
//
// This package does not import the plugin, so that the plugin's own tests can use
// it. Tests of other packages import the plugin for its modules.
package caddytest

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// surroundings is what every test's Caddyfile begins with: no trace of the
// tests is left on the machine, and every log line can be read.
const surroundings = `
	admin {$ADMIN}
	persist_config off
	auto_https off
	default_bind 127.0.0.1
	grace_period 5s
	storage file_system {$STORAGE}
	storage_clean_interval off
	log {
		output file {$LOG_FILE} {
			roll_disabled
		}
		format json
		level DEBUG
	}
`

// Caddy is the Caddy under test.
type Caddy struct {
	Client  *http.Client // that sends the test's requests
	LogFile string       // that Caddy logs to: {$LOG_FILE}

	t     testing.TB
	loads int // of a config
}

// Run loads a Caddyfile and stops Caddy at the end of the test.
func Run(t testing.TB, caddyfile string) *Caddy {
	t.Helper()
	c := &Caddy{
		t:       t,
		Client:  &http.Client{Timeout: Patience, Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
		LogFile: filepath.Join(t.TempDir(), "log"),
	}
	for _, name := range []string{"SITE", "OTHER_SITE", "ADMIN"} {
		t.Setenv(name, FreeAddress(t))
	}
	t.Setenv("STORAGE", t.TempDir())
	t.Setenv("LOG_FILE", c.LogFile)

	t.Cleanup(func() {
		c.Client.CloseIdleConnections()
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	c.Reload(caddyfile)
	return c
}

// Reload loads a Caddyfile in place of the one that is running.
func (c *Caddy) Reload(caddyfile string) {
	c.t.Helper()
	if err := c.TryReload(caddyfile); err != nil {
		c.t.Fatalf("the config does not load: %v", err)
	}
	c.loads++
}

// TryReload is Reload for a Caddyfile that adapts and may be refused after that. It is
// forced, as Caddy skips a config that has not changed.
func (c *Caddy) TryReload(caddyfile string) error {
	c.t.Helper()
	config, _, err := Adapt(inSurroundings(caddyfile))
	if err != nil {
		c.t.Fatalf("the Caddyfile is refused: %v", err)
	}
	return caddy.Load(config, true)
}

// inSurroundings adds to the global options.
func inSurroundings(caddyfile string) string {
	if options, ok := strings.CutPrefix(strings.TrimLeft(caddyfile, "\n"), "{\n"); ok {
		return "{" + surroundings + options
	}
	return "{" + surroundings + "}\n" + caddyfile
}
