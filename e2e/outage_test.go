package e2e

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"
)

// While the token lives nobody notices that the authorization server is away. Then requests fail fast
// and honestly, only few token requests knock at the server's door, and it is found again by itself.
func TestAuthorizationServerGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		how outage
		// How long no token is to be had.
		length time.Duration
	}{
		{dropped, time.Minute},
		{refused, 5 * time.Second},
		{unavailable, 5 * time.Second},
		{silent, 5 * time.Second},
	} {
		t.Run(string(tt.how), func(t *testing.T) {
			t.Parallel()
			const timeout = time.Second
			client := newClient("partner", 8*time.Second)
			server := startAuthServer(t, oidcProvider, client)
			api := startResource(t, server)
			proxy := startProxy(t, server, client, api, server.directive(client), "timeout "+timeout.String())
			once := func() answer { return get(t.Context(), http.DefaultClient, proxy.URL) }

			flow := startTraffic(t, proxy.URL, 4)
			eventually(t, "a token is in use", func() bool { return len(api.accepted()) == 1 })
			server.stop(tt.how)
			stopped, knocks, expiry := time.Now(), len(server.tokenRequests()), api.accepted()[0].facts.expires

			eventually(t, "no usable token is left", func() bool {
				return once().status == http.StatusServiceUnavailable
			})
			// Servers round the expiry down to the second; a tenth of the life is the margin.
			usable := expiry.Add(-time.Second - 8*time.Second/10)
			served := slices.DeleteFunc(flow.stop(), func(a answer) bool { return a.at.Add(a.took).After(usable) })
			allOK(t, served)
			t.Logf("%d requests served in the %v without the server", len(served), usable.Sub(stopped).Round(time.Second/10))

			flow = startTraffic(t, proxy.URL, 4)
			<-time.After(tt.length)
			failed := flow.stop()
			longest := 0 // Retry-After, in seconds
			for _, a := range failed {
				after, err := strconv.Atoi(a.retryAfter)
				if a.status != http.StatusServiceUnavailable || err != nil || after < 1 {
					t.Fatalf("without a token: %v, Retry-After %q; want 503 with a Retry-After", a, a.retryAfter)
				}
				longest = max(longest, after)
			}
			slices.SortFunc(failed, func(a, b answer) int { return cmp.Compare(a.took, b.took) })
			typical, slowest := failed[len(failed)/2].took, failed[len(failed)-1].took
			knocks = len(server.tokenRequests()) - knocks
			t.Logf("%d requests failed in %v typically, %v at most; %d token requests in %v",
				len(failed), typical, slowest, knocks, time.Since(stopped).Round(time.Second))
			// Without a token a request fails at once, except that it waits for a token request under way: here
			// that takes no time unless the server is silent.
			if tt.how != silent && typical >= timeout {
				t.Errorf("requests failed in %v typically, which is as long as a token request may take", typical)
			}
			if knocks > 12 {
				t.Errorf("%d token requests in %v, want a handful", knocks, time.Since(stopped))
			}

			server.start()
			back := time.Now()
			eventually(t, "the server is found again", func() bool { return once().status == http.StatusOK })
			t.Logf("found again in %v, Retry-After was %d s at most", time.Since(back).Round(time.Second/10), longest)
			for range 10 {
				if a := once(); a.status != http.StatusOK {
					t.Errorf("after the return: %v", a)
				}
			}
			if refused := api.refused(); len(refused) > 0 {
				t.Errorf("the API refused %d requests: %q", len(refused), refused[0])
			}
		})
	}
}

func TestAuthorizationServerStartsAfterTheProxy(t *testing.T) {
	t.Parallel()
	client := newClient("partner", time.Hour)
	server := startAuthServer(t, oidcProvider, client)
	server.stop(refused)
	api := startResource(t, server)
	proxy := startProxy(t, server, client, api, server.directive(client))

	if a := get(t.Context(), http.DefaultClient, proxy.URL); a.status != http.StatusServiceUnavailable || a.retryAfter == "" {
		t.Errorf("without the server: %v, Retry-After %q; want 503 with a Retry-After", a, a.retryAfter)
	}
	server.start()
	eventually(t, "the server is found", func() bool {
		return get(t.Context(), http.DefaultClient, proxy.URL).status == http.StatusOK
	})
}

func TestServerRefusesTheClient(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			client := newClient("partner", time.Hour)
			server := startAuthServer(t, kind, client)
			api := startResource(t, server)
			client.Secret = "mistaken"
			proxy := startProxy(t, server, client, api, server.directive(client))

			for range 100 {
				if a := get(t.Context(), http.DefaultClient, proxy.URL); a.status != http.StatusBadGateway {
					t.Fatalf("without a token: %v, want 502", a)
				}
			}
			if got := len(server.tokenRequests()); got > 2 {
				t.Errorf("%d token requests, want one or two", got)
			}
			eventually(t, "the log says why", func() bool { return proxy.logged("invalid_client") })
		})
	}
}
