package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const jwtBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"

// jwtBearerLines holds the lines of upstream_oauth2 for a client with this grant. The token endpoint is
// written by hand where the server doesn't tell that it takes the grant.
func (s *authServer) jwtBearerLines(c client, inGrant ...string) string {
	where := "issuer " + s.config.Issuer
	if s.kind.hidesGrants {
		where += "\ntoken_endpoint " + s.metadata.TokenEndpoint
	}
	return fmt.Sprintf("%s\nclient_id %q\nclient_secret {env.CLIENT_SECRET}\nscope read:data\ngrant jwt_bearer {\n%s\n}",
		where, c.ID, strings.Join(inGrant, "\n"))
}

// startJWTBearerServer starts a server that takes assertions of the client, signed with a key that it does not
// prove itself with.
func startJWTBearerServer(t *testing.T, k *kind) (server *authServer, c client, key jose.JSONWebKey) {
	t.Helper()
	c, key = newClient("partner", time.Hour), newKey(t, k.algorithms[0])
	c.Grants = []string{jwtBearer}
	c.private = tellTales(t, key)
	server = startAuthServer(t, k, c)
	server.config.Trusted = []assertionIssuer{{Issuer: c.ID, Key: key.Public()}}
	server.process.end()
	server.start()
	return server, c, key
}

// An assertion of the grant is signed here or comes ready-made from a file.
func TestJWTBearer(t *testing.T) {
	for _, kind := range kinds {
		for _, row := range []struct {
			name  string
			lines func(*testing.T, *authServer, client, jose.JSONWebKey) string
		}{
			{"signed here", func(t *testing.T, s *authServer, c client, key jose.JSONWebKey) string {
				return s.jwtBearerLines(c, "key "+newFile(t, asJWK(t, key)), "audience "+s.audience())
			}},
			{"ready-made", func(t *testing.T, s *authServer, c client, key jose.JSONWebKey) string {
				return s.jwtBearerLines(c, "assertion {file."+newFile(t, s.newAssertion(c, key))+"}")
			}},
		} {
			t.Run(kind.name+"/"+row.name, func(t *testing.T) {
				t.Parallel()
				server, client, key := startJWTBearerServer(t, kind)
				api := startResource(t, server)
				proxy := startProxy(t, server, client, api, row.lines(t, server, client, key))

				const welcome = "welcome, partner, with your opaque token\n"
				for range 3 {
					if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != http.StatusOK || got.body != welcome {
						t.Errorf("the API answered %v, want %q", got, welcome)
					}
				}
				requests := server.tokenRequests()
				if len(requests) != 1 || requests[0].grant != jwtBearer || !signedBy(requests[0].assertion, key) {
					t.Errorf("the token requests were %+v, want one with an assertion of %s", requests, client.ID)
				}
			})
		}
	}
}

// What the server does not accept as an assertion is a 502 for the caller, and the log names the error.
func TestJWTBearerRefusals(t *testing.T) {
	for _, kind := range kinds {
		for _, row := range []struct {
			name    string
			inGrant func(*testing.T, *authServer, client, jose.JSONWebKey) string
			says    string // in the log, so that the operator sees what was sent
			unasked bool   // the server need not be asked
		}{
			{"another key under the same id", func(t *testing.T, s *authServer, _ client, key jose.JSONWebKey) string {
				other := newKey(t, key.Algorithm)
				other.KeyID = key.KeyID
				return "key " + newFile(t, asJWK(t, other)) + "\naudience " + s.audience()
			}, "was signed with RS256", false},
			{"an unknown key id", func(t *testing.T, s *authServer, _ client, key jose.JSONWebKey) string {
				return "key " + newFile(t, asJWK(t, key)) + "\nkey_id nobody-knows-it\naudience " + s.audience()
			}, `the key \"nobody-knows-it\"`, false},
			{"another issuer", func(t *testing.T, s *authServer, _ client, key jose.JSONWebKey) string {
				return "key " + newFile(t, asJWK(t, key)) + "\nissuer nobody\naudience " + s.audience()
			}, `the assertion of \"nobody\"`, false},
			{"another audience", func(t *testing.T, s *authServer, _ client, key jose.JSONWebKey) string {
				return "key " + newFile(t, asJWK(t, key)) + "\naudience https://elsewhere.example"
			}, `the audience \"https://elsewhere.example\"`, false},
			{"expired", func(t *testing.T, s *authServer, c client, key jose.JSONWebKey) string {
				return "assertion {file." + newFile(t, s.newAssertion(c, key, expired)) + "}"
			}, "assertion: has expired: supply one that has not", true},
		} {
			t.Run(kind.name+"/"+row.name, func(t *testing.T) {
				t.Parallel()
				server, client, key := startJWTBearerServer(t, kind)
				api := startResource(t, server)
				proxy := startProxy(t, server, client, api, server.jwtBearerLines(client, row.inGrant(t, server, client, key)))

				if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != http.StatusBadGateway {
					t.Errorf("the caller got %v, want 502", got)
				}
				eventually(t, "the log says why", func() bool {
					return proxy.logged(row.says) && (row.unasked || proxy.logged("the authorization server refused the token request (invalid_grant)"))
				})
				if n := len(server.tokenRequests()); row.unasked && n > 0 {
					t.Errorf("%d token requests, want none", n)
				}
				if seen := api.seen(); len(seen) > 0 {
					t.Errorf("the API got %q", seen)
				}
			})
		}
	}
}
