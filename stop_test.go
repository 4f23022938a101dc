package upstreamoauth2

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestStoppedCaddyLeavesNothingBehind: no timers, no tokens; also after a
// config that was refused half-way.
func TestStoppedCaddyLeavesNothingBehind(t *testing.T) {
	caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	proxy.Want(http.StatusOK)
	before := openCaches()

	halfGood := strings.NewReplacer(
		"partner-secret\n", "other-secret\n",
		"reverse_proxy", caddytest.RefusedClient+"\treverse_proxy",
	).Replace(caddytest.PartnerSite)
	if err := proxy.TryReload(halfGood); err == nil || !strings.Contains(err.Error(), `client "refused": client_secret: `) {
		t.Fatalf("the refused config loads: %v", err)
	}
	if n := openCaches(); n != before {
		t.Errorf("%d caches are open after a refused config, and %d were before", n, before)
	}
	proxy.Want(http.StatusOK)

	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if n := openCaches(); n != before-1 {
		t.Errorf("%d caches are open when Caddy has stopped, want %d", n, before-1)
	}
}

// openCaches counts the clients that some config uses.
func openCaches() int {
	n := 0
	caches.Range(func(_, _ any) bool {
		n++
		return true
	})
	return n
}
