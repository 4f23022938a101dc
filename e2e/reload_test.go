package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReloadsUnderLoadTakeNoTokenRequest(t *testing.T) {
	const reloads = 50
	for _, tt := range []struct {
		name string
		line func(*testing.T, *authServer, client) string
	}{
		{"client_credentials", func(*testing.T, *authServer, client) string {
			return "grant client_credentials"
		}},
		// The config goes on naming the first refresh token, which is used up.
		{"refresh_token", func(t *testing.T, s *authServer, c client) string {
			return grantRefreshToken(t, s.signIn(c, "read:data"))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := newClient("partner", time.Hour)
			server := startAuthServer(t, oidcProvider, client)
			api := startResource(t, server)
			lines := []string{server.directive(client), tt.line(t, server, client)}
			proxy := startProxy(t, server, client, api, lines...)

			flow := startTraffic(t, proxy.URL, 20)
			eventually(t, "a first token is in use", func() bool { return len(api.accepted()) == 1 })
			for range reloads {
				flow.awaitMore(t, 5)
				proxy.reload(lines...)
			}
			answers := flow.stop()
			reached := proxy.reachedBy(answers)
			t.Logf("%d requests during %d reloads; %d more did not reach caddy", len(reached), reloads, len(answers)-len(reached))
			allOK(t, reached)
			if got := len(server.tokenRequests()); got != 1 {
				t.Errorf("%d token requests, want 1", got)
			}
		})
	}
}

func TestReloadWithAnotherScopeTakesOneTokenRequest(t *testing.T) {
	client := newClient("partner", time.Hour)
	server := startAuthServer(t, oidcProvider, client)
	api := startResource(t, server)
	proxy := startProxy(t, server, client, api, server.directive(client), "scope read:data")

	flow := startTraffic(t, proxy.URL, 4)
	eventually(t, "a first token is in use", func() bool { return len(api.accepted()) == 1 })
	proxy.reload(server.directive(client), "scope read:data write:data")
	eventually(t, "a second token is in use", func() bool { return len(api.accepted()) == 2 })
	allOK(t, proxy.reachedBy(flow.stop()))
	requests := server.tokenRequests()
	if len(requests) != 2 || requests[1].scope != "read:data write:data" {
		t.Errorf("the token requests were %+v, want one for each scope", requests)
	}
}

func TestRefreshTokenRotatesOnThroughReloads(t *testing.T) {
	t.Parallel()
	const rotations = 4
	client := newClient("partner", 5*time.Second)
	server := startAuthServer(t, oidcProvider, client)
	lines := []string{server.directive(client), grantRefreshToken(t, server.signIn(client)), "refresh_ahead 50%"}
	api := startResource(t, server)
	proxy := startProxy(t, server, client, api, lines...)

	flow := startTraffic(t, proxy.URL, 4)
	eventually(t, "the refresh token has rotated often enough", func() bool {
		flow.awaitMore(t, 5)
		proxy.reload(lines...)
		return len(server.granted()) >= rotations
	})
	allOK(t, proxy.reachedBy(flow.stop()))
	if got, granted := len(server.tokenRequests()), len(server.granted()); got != granted {
		t.Errorf("%d of %d token requests were refused", got-granted, got)
	}
}

// reachedBy leaves out the requests that never reached Caddy, with the plugin or without it: a reload closes
// the old config's listener, and the system resets those connections to it that were not accepted yet.
func (p *proxy) reachedBy(answers []answer) []answer {
	p.t.Helper()
	return slices.DeleteFunc(answers, func(a answer) bool {
		_, id, _ := strings.Cut(a.url, "?")
		return a.err != nil && !p.logged(id)
	})
}
