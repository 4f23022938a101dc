package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// grantRefreshToken returns the directive's lines for a refresh token that stands in a file.
func grantRefreshToken(t *testing.T, token string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "refresh-token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("grant refresh_token {\nrefresh_token {file.%s}\n}", file)
}

// Every server gives a new refresh token with each access token and refuses the old one from then on;
// oidc-provider and Hydra even revoke everything when they see an old one again.
func TestRefreshTokensRotateUnderTraffic(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			const rotations = 6
			client := newClient("partner", 5*time.Second)
			server := startAuthServer(t, kind, client)
			first := server.signIn(client, "read:data")
			api := startResource(t, server)
			proxy := startProxy(t, server, client, api,
				server.directive(client), grantRefreshToken(t, first), "refresh_ahead 50%")

			flow := startTraffic(t, proxy.URL, 4)
			eventually(t, "the refresh token has rotated often enough", func() bool {
				return len(server.granted()) >= rotations
			})
			allOK(t, flow.stop())
			if refused := api.refused(); len(refused) > 0 {
				t.Errorf("the API refused %d requests: %q", len(refused), refused[0])
			}

			used := make(map[string]bool)
			for i, r := range server.tokenRequests() {
				if used[r.refreshToken] {
					t.Errorf("token request %d used a refresh token again", i)
				}
				used[r.refreshToken] = true
				if r.grant != "refresh_token" || i == 0 && r.refreshToken != first {
					t.Errorf("token request %d: %+v", i, r)
				}
			}
		})
	}
}

// At Hydra a refresh also ends the access token that is in use. Requests that are on their way with it are
// refused by an API that asks each time, and no caller notices.
func TestRefreshThatEndsTheTokenInUse(t *testing.T) {
	t.Parallel()
	client := newClient("partner", 5*time.Second)
	server := startAuthServer(t, hydra, client)
	first := server.signIn(client, "read:data")
	api := startResource(t, server)
	api.asksAgain = true
	proxy := startProxy(t, server, client, api,
		server.directive(client), grantRefreshToken(t, first), "refresh_ahead 50%")

	flow := startTraffic(t, proxy.URL, 4)
	eventually(t, "requests were refused in flight, and the token was renewed", func() bool {
		return len(api.refused()) > 0 && len(server.granted()) > 3
	})
	answers := flow.stop()
	allOK(t, answers)
	t.Logf("%d requests, %d token requests, %d answers of 401 that no caller saw",
		len(answers), len(server.tokenRequests()), len(api.refused()))
	if got, granted := len(server.tokenRequests()), len(server.granted()); got != granted {
		t.Errorf("%d of %d token requests were refused", got-granted, got)
	}
}
