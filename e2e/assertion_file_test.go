package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// assertionFile holds the lines of upstream_oauth2 for a client whose assertions stand in a file.
func (s *authServer) assertionFile(c client, file string) string {
	return fmt.Sprintf("issuer %s\nclient_id %q\nclient_auth assertion_file %s", s.config.Issuer, c.ID, file)
}

// Someone else puts the client's assertions into a file; whatever does not do there is a 502 for the
// caller, the log says why, and a good one in its place is all it takes.
func TestAssertionFile(t *testing.T) {
	for _, row := range []struct {
		name    string
		format  string // of the access token
		content func(s *authServer, c client, key jose.JSONWebKey) string
		logged  string // "": the assertion is accepted
	}{
		{"opaque", "opaque", func(s *authServer, c client, key jose.JSONWebKey) string {
			return s.newAssertion(c, key)
		}, ""},
		{"JWT", "JWT", func(s *authServer, c client, key jose.JSONWebKey) string {
			return s.newAssertion(c, key) + "\n"
		}, ""},
		{"expired", "opaque", func(s *authServer, c client, key jose.JSONWebKey) string {
			return s.newAssertion(c, key, expired)
		}, "and expired on "},
		{"another audience", "opaque", func(s *authServer, c client, key jose.JSONWebKey) string {
			return s.newAssertion(c, key, func(claims *jwt.Claims) {
				claims.Audience = jwt.Audience{"https://elsewhere.example"}
			})
		}, invalidClient},
		{"used before", "opaque", func(s *authServer, c client, key jose.JSONWebKey) string {
			assertion := s.newAssertion(c, key)
			answer, err := http.PostForm(s.metadata.TokenEndpoint, url.Values{
				"grant_type":            {"client_credentials"},
				"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
				"client_assertion":      {assertion},
			})
			if err != nil {
				s.t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				s.t.Fatalf("the first use was answered with %s", answer.Status)
			}
			return assertion
		}, invalidClient},
		{"empty", "opaque", func(*authServer, client, jose.JSONWebKey) string { return "\n" }, " is empty"},
	} {
		t.Run(row.name, func(t *testing.T) {
			key := newKey(t, "ES256")
			client := newClient("partner:1 %+", time.Hour).withKeys(t, key)
			var more string
			if row.format == "JWT" {
				more = oidcProvider.jwt(&client)
			}
			server := startAuthServer(t, oidcProvider, client)
			api := startResource(t, server)
			file := newFile(t, row.content(server, client, key))
			proxy := startProxy(t, server, client, api, server.assertionFile(client, file), more)

			if row.logged != "" {
				if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != http.StatusBadGateway {
					t.Errorf("the caller got %v, want 502", got)
				}
				eventually(t, "the log says why", func() bool { return proxy.logged(row.logged) })
				if seen := api.seen(); len(seen) > 0 {
					t.Errorf("the API got %q", seen)
				}
				replaceFile(t, file, server.newAssertion(client, key))
				eventually(t, "the good assertion is used", func() bool {
					return get(t.Context(), http.DefaultClient, proxy.URL).status == http.StatusOK
				})
			}
			welcome := fmt.Sprintf("welcome, %s, with your %s token\n", client.ID, row.format)
			if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != http.StatusOK || got.body != welcome {
				t.Errorf("the API answered %v, want %q", got, welcome)
			}
		})
	}
}

// Each token request is proven with what the file holds at that moment, and no caller notices that it is
// replaced.
func TestAssertionFileIsReplacedUnderTraffic(t *testing.T) {
	t.Parallel()
	key := newKey(t, "ES256")
	client := newClient("partner", 4*time.Second).withKeys(t, key)
	server := startAuthServer(t, oidcProvider, client)
	api := startResource(t, server)
	assertions := []string{server.newAssertion(client, key)}
	file := newFile(t, assertions[0])
	proxy := startProxy(t, server, client, api, server.assertionFile(client, file))

	const tokens = 4
	flow := startTraffic(t, proxy.URL, 4)
	for i := range tokens {
		eventually(t, "a token is granted", func() bool { return len(server.granted()) == i+1 })
		// The next token request is seconds away.
		assertions = append(assertions, server.newAssertion(client, key))
		replaceFile(t, file, assertions[i+1])
	}
	eventually(t, "the last token is in use", func() bool { return len(api.accepted()) == tokens })
	answers := flow.stop()
	allOK(t, answers)
	if refused := api.refused(); len(refused) > 0 {
		t.Errorf("the API refused %d requests: %q", len(refused), refused[0])
	}
	requests := server.tokenRequests()
	t.Logf("%d requests, %d token requests", len(answers), len(requests))
	for i, r := range requests[:min(len(requests), len(assertions))] {
		if r.status != http.StatusOK || r.clientAssertion != assertions[i] {
			t.Errorf("token request %d was not proven with assertion %d: %+v", i, i, r)
		}
	}
}
