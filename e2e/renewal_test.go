package e2e

import (
	"testing"
	"time"
)

func TestShortLivedTokensAreRenewedBehindTheTraffic(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			const life, renewals = 5 * time.Second, 4
			client := newClient("partner", life)
			server := startAuthServer(t, kind, client)
			api := startResource(t, server)
			proxy := startProxy(t, server, client, api, server.directive(client))

			start := time.Now()
			flow := startTraffic(t, proxy.URL, 4)
			eventually(t, "the token has been renewed often enough", func() bool {
				return len(api.accepted()) > renewals
			})
			answers, took := flow.stop(), time.Since(start)
			allOK(t, answers)
			if refused := api.refused(); len(refused) > 0 {
				t.Errorf("the API refused %d requests: %q", len(refused), refused[0])
			}
			// A renewal leaves a fifth of the life unused, rounding and jitter some more.
			got, most := len(server.tokenRequests()), 2+int(took/(life*2/5))
			t.Logf("%d requests in %v, %d token requests", len(answers), took.Round(time.Second/10), got)
			if got > most {
				t.Errorf("%d token requests in %v, want %d at most", got, took, most)
			}
		})
	}
}

// The promise is that no request waits while a usable token exists. Here each renewal takes longer than
// any request may. A busy machine holds up one request or the other, but not every caller at every renewal.
func TestNoRequestWaitsForASlowRenewal(t *testing.T) {
	t.Parallel()
	const callers, renewals, slow = 4, 2, 1500 * time.Millisecond
	client := newClient("partner", 8*time.Second)
	server := startAuthServer(t, oidcProvider, client)
	api := startResource(t, server)
	proxy := startProxy(t, server, client, api, server.directive(client), "refresh_ahead 50%")
	flow := startTraffic(t, proxy.URL, callers)
	eventually(t, "a first token is in use", func() bool { return len(api.accepted()) == 1 })

	for renewal := range renewals {
		release := server.hold()
		t.Cleanup(release)
		eventually(t, "the renewal begins", func() bool { return len(server.tokenRequests()) == 2+renewal })
		time.AfterFunc(slow, release)
		eventually(t, "the renewed token is in use", func() bool { return len(api.accepted()) == 2+renewal })
	}
	answers := flow.stop()
	allOK(t, answers)
	waited := 0
	for _, a := range answers[callers:] { // the first ones waited for the first token
		if a.took > slow/2 {
			waited++
		}
	}
	if waited >= callers*renewals {
		t.Errorf("%d requests waited, which is each caller at each renewal", waited)
	}
}
