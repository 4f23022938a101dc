package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// clientAuths are the ways in which a client proves itself: the name and what the directive says.
var clientAuths = []struct{ name, line string }{
	{"client_secret_basic", ""}, // the default
	{"client_secret_post", "client_auth client_secret_post"},
}

func TestClientCredentials(t *testing.T) {
	for _, kind := range kinds {
		for _, auth := range clientAuths {
			for _, secret := range []struct{ name, text string }{
				{"plain secret", "s3cret-of-the-simplest-kind"},
				{"secret that needs form-encoding", `50%+2B: a&b=c%20d "e" \ ~/?{f}`},
			} {
				for _, format := range []string{"opaque", "JWT"} {
					t.Run(strings.Join([]string{kind.name, auth.name, secret.name, format}, "/"), func(t *testing.T) {
						t.Parallel()
						client := newClient("partner:1 %+", time.Hour)
						client.Secret, client.AuthMethod = secret.text, auth.name
						lines := auth.line
						if format == "JWT" {
							lines += "\n" + kind.jwt(&client)
						}
						server := startAuthServer(t, kind, client)
						api := startResource(t, server)
						proxy := startProxy(t, server, client, api,
							server.directive(client), "scope read:data write:data", lines)

						welcome := fmt.Sprintf("welcome, %s, with your %s token\n", client.ID, format)
						for range 3 {
							if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != http.StatusOK || got.body != welcome {
								t.Errorf("the API answered %v, want %q", got, welcome)
							}
						}
						requests := server.tokenRequests()
						if len(requests) != 1 {
							t.Fatalf("%d token requests, want 1", len(requests))
						}
						got := requests[0]
						got.at = time.Time{}
						want := tokenRequest{
							grant:      "client_credentials",
							clientAuth: auth.name,
							scope:      "read:data write:data",
							status:     http.StatusOK,
						}
						if got != want {
							t.Errorf("the token request was %+v, want %+v", got, want)
						}
					})
				}
			}
		}
	}
}
