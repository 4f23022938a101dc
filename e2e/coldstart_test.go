package e2e

import (
	"testing"
	"time"
)

func TestColdStartOf10000RequestsTakesOneTokenRequest(t *testing.T) {
	client := newClient("partner", time.Hour)
	server := startAuthServer(t, oidcProvider, client)
	api := startResource(t, server)
	// No token comes before all 200 connections wait for it.
	release := server.hold()
	defer release()
	proxy := startProxy(t, server, client, api, server.directive(client))

	start := time.Now()
	answers := burst(proxy.URL, 10_000, 200, release)
	t.Logf("%d requests in %v", len(answers), time.Since(start).Round(time.Millisecond))
	allOK(t, answers)
	if got := len(server.tokenRequests()); got != 1 {
		t.Errorf("%d token requests, want 1", got)
	}
	if got := len(api.accepted()); got != 1 {
		t.Errorf("the API saw %d tokens, want 1", got)
	}
}
