package e2e

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// byIssuer holds the lines of upstream_oauth2 that every client with a key file needs.
func (s *authServer) byIssuer(c client, keyFile string, inBlock ...string) string {
	if s.kind.forTokenEndpoint && !strings.Contains(strings.Join(inBlock, "\n"), "audience") {
		inBlock = append(inBlock, "audience token_endpoint")
	}
	return s.byIssuerAlone(c, keyFile, inBlock...)
}

// byIssuerAlone holds those lines and no other: the server is found to take another audience than its issuer.
func (s *authServer) byIssuerAlone(c client, keyFile string, inBlock ...string) string {
	return fmt.Sprintf("issuer %s\nclient_id %q\nclient_auth private_key_jwt {\nkey %s\n%s\n}",
		s.config.Issuer, c.ID, keyFile, strings.Join(inBlock, "\n"))
}

// keyKinds are the servers that take an assertion of the client with every grant; zitadel's example takes a
// secret with client_credentials.
var keyKinds = []*kind{oidcProvider, hydra}

// An issuer, an id and a key file are a complete configuration.
func TestIssuerAndKeyFile(t *testing.T) {
	for _, kind := range keyKinds {
		for _, algorithm := range kind.algorithms {
			for _, file := range []struct {
				format string
				write  func(*testing.T, jose.JSONWebKey) string
			}{{"PEM", asPEM}, {"JWK", asJWK}} {
				for _, format := range []string{"opaque", "JWT"} {
					t.Run(strings.Join([]string{kind.name, algorithm, file.format, format}, "/"), func(t *testing.T) {
						t.Parallel()
						key := newKey(t, algorithm)
						client := newClient("partner:1 %+", time.Hour).withKeys(t, key)
						var lines, inBlock string
						if format == "JWT" {
							lines = kind.jwt(&client)
						}
						if algorithm == "PS256" { // else RSA means RS256
							inBlock = "algorithm PS256"
						}
						server := startAuthServer(t, kind, client)
						api := startResource(t, server)
						proxy := startProxy(t, server, client, api,
							server.byIssuerAlone(client, newFile(t, file.write(t, key)), inBlock), lines)

						welcome := fmt.Sprintf("welcome, %s, with your %s token\n", client.ID, format)
						for range 3 {
							if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != http.StatusOK || got.body != welcome {
								t.Errorf("the API answered %v, want %q", got, welcome)
							}
						}
						requests := server.tokenRequests()
						want := 1
						if kind.forTokenEndpoint {
							want = 2 // the first one was for the issuer
						}
						if len(requests) != want {
							t.Fatalf("%d token requests, want %d", len(requests), want)
						}
						if got := requests[want-1]; got.clientAuth != "private_key_jwt" || got.grant != "client_credentials" || !signedBy(got.clientAssertion, key) {
							t.Errorf("the token request was %+v", got)
						}
					})
				}
			}
		}
	}
}

// A key file and a refresh token go together too.
func TestRefreshTokenAndKeyFile(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			key := newKey(t, kind.algorithms[0])
			client := newClient("partner", time.Hour).withKeys(t, key)
			server := startAuthServer(t, kind, client)
			api := startResource(t, server)
			proxy := startProxy(t, server, client, api,
				server.byIssuer(client, newFile(t, asJWK(t, key))), grantRefreshToken(t, server.signIn(client, "read:data")))

			const welcome = "welcome, partner, with your opaque token\n"
			for range 3 {
				if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != http.StatusOK || got.body != welcome {
					t.Errorf("the API answered %v, want %q", got, welcome)
				}
			}
			requests := server.tokenRequests()
			if len(requests) != 1 {
				t.Fatalf("%d token requests, want 1", len(requests))
			}
			if got := requests[0]; got.clientAuth != "private_key_jwt" || got.grant != "refresh_token" || !signedBy(got.clientAssertion, key) {
				t.Errorf("the token request was %+v", got)
			}
		})
	}
}

// signedBy reports whether an assertion was signed with this key, and says so in its header if that names
// a key at all.
func signedBy(assertion string, key jose.JSONWebKey) bool {
	signed, err := jose.ParseSignedCompact(assertion, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(key.Algorithm)})
	if err != nil {
		return false
	}
	if kid := signed.Signatures[0].Header.KeyID; kid != "" && kid != key.KeyID {
		return false
	}
	_, err = signed.Verify(key.Public())
	return err == nil
}

func TestClientSecretJWT(t *testing.T) {
	for _, row := range []struct {
		name   string
		byHand bool // the token endpoint, in place of the issuer
		wrong  bool // the secret that Caddy has
	}{
		{name: "issuer"},
		{name: "token endpoint", byHand: true},
		{name: "wrong secret", wrong: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			client := newClient("partner:1 %+", time.Hour)
			client.AuthMethod = "client_secret_jwt"
			server := startAuthServer(t, oidcProvider, client)
			api := startResource(t, server)
			where := "issuer " + server.config.Issuer
			if row.byHand {
				where = "token_endpoint " + server.metadata.TokenEndpoint
			}
			if row.wrong {
				client.Secret = "another " + client.Secret
			}
			proxy := startProxy(t, server, client, api, where,
				fmt.Sprintf("client_id %q\nclient_secret {env.CLIENT_SECRET}\nclient_auth client_secret_jwt", client.ID))

			want, granted := http.StatusOK, http.StatusOK
			if row.wrong {
				want, granted = http.StatusBadGateway, http.StatusUnauthorized
			}
			if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != want {
				t.Errorf("the caller got %v, want %d", got, want)
			}
			if row.wrong {
				eventually(t, "the log says why", func() bool { return proxy.logged(invalidClient) })
			}
			requests := server.tokenRequests()
			if len(requests) == 0 || requests[0].clientAuth != "client_secret_jwt" || requests[0].status != granted {
				t.Errorf("the token requests were %+v", requests)
			}
		})
	}
}

const invalidClient = "the authorization server refused the token request (invalid_client)"

// Whatever the server does not accept is a 502 for the caller, and the log names the server's error.
func TestRefusedAssertions(t *testing.T) {
	for _, row := range []struct {
		name string
		// lines returns the directive of a client that has registered the key.
		lines func(t *testing.T, s *authServer, c client, key jose.JSONWebKey) string
		says  string           // in the log, so that the operator sees what was sent
		why   map[*kind]string // in the log, where that is not invalid_client
	}{
		{name: "another key under the same id", lines: func(t *testing.T, s *authServer, c client, key jose.JSONWebKey) string {
			other := newKey(t, key.Algorithm)
			other.KeyID = key.KeyID
			return s.byIssuer(c, newFile(t, asJWK(t, other)))
		}},
		{name: "another key without an id", lines: func(t *testing.T, s *authServer, c client, key jose.JSONWebKey) string {
			return s.byIssuer(c, newFile(t, asPEM(t, newKey(t, key.Algorithm))))
		}},
		{name: "an unknown key id", lines: func(t *testing.T, s *authServer, c client, key jose.JSONWebKey) string {
			return s.byIssuer(c, newFile(t, asPEM(t, key)), "key_id nobody-knows-it")
		}, says: "nobody-knows-it", why: map[*kind]string{
			hydra: strings.Replace(invalidClient, "invalid_client", "invalid_request", 1),
		}},
		{name: "another audience", lines: func(t *testing.T, s *authServer, c client, key jose.JSONWebKey) string {
			return s.byIssuer(c, newFile(t, asPEM(t, key)), "audience https://elsewhere.example")
		}, says: `the audience \"https://elsewhere.example\"`},
		{name: "an algorithm the server does not take", lines: func(t *testing.T, s *authServer, c client, key jose.JSONWebKey) string {
			return s.byIssuer(c, newFile(t, asPEM(t, newKey(t, "RS256"))), "algorithm RS512")
		}, says: "RS512", why: map[*kind]string{
			oidcProvider: "the authorization server does not list",
		}},
		{name: "another client", lines: func(t *testing.T, s *authServer, c client, key jose.JSONWebKey) string {
			c.ID = "nobody"
			return s.byIssuer(c, newFile(t, asPEM(t, key)))
		}},
		{name: "a secret in place of the key", lines: func(t *testing.T, s *authServer, c client, key jose.JSONWebKey) string {
			return fmt.Sprintf("issuer %s\nclient_id %q\nclient_secret {env.CLIENT_SECRET}\nclient_auth client_secret_post", s.config.Issuer, c.ID)
		}},
	} {
		for _, kind := range keyKinds {
			t.Run(kind.name+"/"+row.name, func(t *testing.T) {
				t.Parallel()
				key := newKey(t, "ES256")
				client := newClient("partner", time.Hour).withKeys(t, key)
				server := startAuthServer(t, kind, client)
				api := startResource(t, server)
				proxy := startProxy(t, server, client, api, row.lines(t, server, client, key))

				if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != http.StatusBadGateway {
					t.Errorf("the caller got %v, want 502", got)
				}
				why := cmp.Or(row.why[kind], invalidClient)
				eventually(t, "the log says why", func() bool { return proxy.logged(why) && proxy.logged(row.says) })
				if seen := api.seen(); len(seen) > 0 {
					t.Errorf("the API got %q", seen)
				}
			})
		}
	}
}

// What the server's metadata do not list is not even tried, and the log says what they list.
func TestWhatTheServerDoesNotList(t *testing.T) {
	for _, row := range []struct{ name, lines, logged string }{
		{
			"client authentication", "client_secret {env.CLIENT_SECRET}\nclient_auth client_secret_jwt",
			`does not list \"client_secret_jwt\" for 'client_auth'; it supports client_secret_post, client_secret_basic, private_key_jwt, none`,
		},
		{
			"grant", "client_secret {env.CLIENT_SECRET}\ngrant jwt_bearer {\nkey KEY\n}",
			`does not list \"` + jwtBearer + `\" for 'grant'; it supports authorization_code, implicit, client_credentials, refresh_token`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			client := newClient("partner", time.Hour)
			server := startAuthServer(t, hydra, client)
			api := startResource(t, server)
			proxy := startProxy(t, server, client, api, "issuer "+server.config.Issuer, "client_id partner",
				strings.ReplaceAll(row.lines, "KEY", newFile(t, asJWK(t, newKey(t, "ES256")))))

			if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != http.StatusBadGateway {
				t.Errorf("the caller got %v, want 502", got)
			}
			eventually(t, "the log says why", func() bool { return proxy.logged(row.logged) })
			if n := len(server.tokenRequests()); n != 0 {
				t.Errorf("%d token requests were made", n)
			}
		})
	}
}

// A key file that is replaced counts from the next token request on, and no caller notices.
func TestKeyFilesAreReplacedUnderTraffic(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name       string
		algorithms [2]string
		write      func(*testing.T, jose.JSONWebKey) string
	}{
		{"JWK, ES256", [2]string{"ES256", "ES256"}, asJWK},
		{"PEM, from RS256 to ES256", [2]string{"RS256", "ES256"}, asPEM},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			keys := []jose.JSONWebKey{newKey(t, row.algorithms[0]), newKey(t, row.algorithms[1])}
			client := newClient("partner", 4*time.Second).withKeys(t, keys...)
			server := startAuthServer(t, oidcProvider, client)
			api := startResource(t, server)
			file := newFile(t, row.write(t, keys[0]))
			proxy := startProxy(t, server, client, api, server.byIssuer(client, file))

			flow := startTraffic(t, proxy.URL, 4)
			var want []jose.JSONWebKey
			for i := range 4 {
				want = append(want, keys[i%2])
				eventually(t, "a token is granted", func() bool { return len(server.granted()) == len(want) })
				// The next token request is seconds away.
				replaceFile(t, file, row.write(t, keys[(i+1)%2]))
			}
			eventually(t, "the last token is in use", func() bool { return len(api.accepted()) == len(want) })
			answers := flow.stop()
			allOK(t, answers)
			if refused := api.refused(); len(refused) > 0 {
				t.Errorf("the API refused %d requests: %q", len(refused), refused[0])
			}
			requests := server.tokenRequests()
			t.Logf("%d requests, %d token requests, %d replacements", len(answers), len(requests), len(want))
			for i, r := range requests[:min(len(requests), len(want))] {
				if r.status != http.StatusOK || !signedBy(r.clientAssertion, want[i]) {
					t.Errorf("token request %d was not proven with key %d: %+v", i, i%2, r)
				}
			}
		})
	}
}
