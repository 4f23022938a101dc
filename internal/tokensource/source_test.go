package tokensource

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// answering is a transport that answers each token request with what say makes of
// its form, and keeps the forms.
func answering(t *testing.T, forms *[]url.Values, say func(form url.Values) (status int, body string)) roundTripper {
	return func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			t.Error(err)
		}
		*forms = append(*forms, form)
		answer := httptest.NewRecorder()
		answer.Header().Set("Content-Type", "application/json")
		status, text := say(form)
		answer.WriteHeader(status)
		_, _ = io.WriteString(answer, text)
		return answer.Result(), nil
	}
}

// jwt returns something of the shape of one, with these claims.
func jwt(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("signature"))
}

// TestRefreshTokenOfEveryAnswerIsKept: a server that rotates refresh tokens revokes
// the grant when it sees the one before again.
func TestRefreshTokenOfEveryAnswerIsKept(t *testing.T) {
	for name, body := range map[string]string{
		"no access token":                     `{"refresh_token":"second"}`,
		"an access token of other characters": `{"access_token":"a b","refresh_token":"second"}`,
		"an access token that is no text":     `{"access_token":{},"refresh_token":"second"}`,
		"a type that nobody understands":      `{"access_token":"T","token_type":"mac","refresh_token":"second"}`,
		"a token that wants proofs":           `{"access_token":"T","token_type":"DPoP","refresh_token":"second"}`,
		"an access token beyond all size":     `{"access_token":"` + strings.Repeat("x", 70<<10) + `","refresh_token":"second"}`,
		"everything in order, for comparison": `{"access_token":"T","refresh_token":"second"}`,
	} {
		t.Run(name, func(t *testing.T) {
			var forms []url.Values
			source := newSource(t, config.Client{
				TokenEndpoint: "https://auth.example/token", ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret")),
				Grant: &config.Grant{Type: "refresh_token", RefreshToken: config.Credential("first of " + name)},
			}, answering(t, &forms, func(url.Values) (int, string) { return http.StatusOK, body }))

			held, _ := source.Fetch(t.Context(), nil, nil)
			_, _ = source.Fetch(t.Context(), nil, held)

			if got := forms[1].Get("refresh_token"); got != "second" {
				t.Errorf("the second request has the refresh token %q", got)
			}
		})
	}
}

// TestTokenDoesNotOutliveWhatItWasExchangedFor: the API would be told of somebody
// who has long been logged out.
func TestTokenDoesNotOutliveWhatItWasExchangedFor(t *testing.T) {
	expiresIn := func(d time.Duration) string {
		return jwt(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(d).Unix()))
	}
	tests := []struct {
		name     string
		subject  func() string
		actor    func() string
		expires  string // what the server says
		want     time.Duration
		requests int
		err      string
	}{
		{name: "an opaque one", subject: func() string { return "opaque" }, expires: `,"expires_in":3600`, want: time.Hour, requests: 1},
		{name: "a shorter life", subject: func() string { return expiresIn(10 * time.Minute) }, expires: `,"expires_in":3600`, want: 10 * time.Minute, requests: 1},
		{name: "a longer life", subject: func() string { return expiresIn(2 * time.Hour) }, expires: `,"expires_in":3600`, want: time.Hour, requests: 1},
		{name: "no life stated", subject: func() string { return expiresIn(10 * time.Minute) }, want: 10 * time.Minute, requests: 1},
		{name: "an actor who goes first", subject: func() string { return expiresIn(10 * time.Minute) }, actor: func() string { return expiresIn(time.Minute) }, want: time.Minute, requests: 1},
		{name: "an expired one", subject: func() string { return expiresIn(-time.Second) }, err: "the request's value for subject_token ({http.request.header.Authorization}) has expired"},
		{name: "an expired actor", subject: func() string { return "opaque" }, actor: func() string { return expiresIn(0) }, err: "actor_token: has expired: supply one that has not"},
		{name: "an exp that makes no sense", subject: func() string { return jwt(`{"exp":"soon"}`) }, expires: `,"expires_in":3600`, want: time.Hour, requests: 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				grant := &config.Grant{Type: "token_exchange"}
				if test.actor != nil {
					grant.ActorToken = config.Credential(test.actor())
				}
				var forms []url.Values
				source := newSource(t, config.Client{
					TokenEndpoint: "https://auth.example/token", ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret")), Grant: grant,
				}, answering(t, &forms, func(url.Values) (int, string) {
					return http.StatusOK, `{"access_token":"T"` + test.expires + `}`
				}))

				token, err := source.Fetch(t.Context(), []string{test.subject()}, nil)

				if len(forms) != test.requests {
					t.Errorf("%d token requests, want %d", len(forms), test.requests)
				}
				switch {
				case test.err != "":
					if err == nil || err.Error() != test.err {
						t.Errorf("the error is %v, want %s", err, test.err)
					}
				case err != nil:
					t.Error(err)
				case token.Lifetime.Round(time.Second) != test.want:
					t.Errorf("it lives %v, want %v", token.Lifetime, test.want)
				}
			})
		})
	}
}

// claimsOf returns whom an assertion is for, and its typ.
func claimsOf(t *testing.T, form url.Values) (audience, typ string) {
	t.Helper()
	parts := strings.Split(form.Get("client_assertion"), ".")
	if len(parts) != 3 {
		return "", ""
	}
	var header, claims struct{ Typ, Aud string }
	for i, into := range []any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return claims.Aud, header.Typ
}

// TestAudienceOfTheClientsAssertion: what is not configured is found out, once, and
// never with something that can be spent.
func TestAudienceOfTheClientsAssertion(t *testing.T) {
	const (
		issuer, endpoint = "https://auth.example", "https://auth.example/token"
		secret           = "a-secret-of-more-than-thirty-two-bytes"
		toIssuer         = issuer + " client-authentication+jwt"
		toEndpoint       = endpoint + " JWT"
	)
	withGrant := func(g config.Grant) func(*config.Client) { return func(c *config.Client) { c.Grant = &g } }
	withAudience := func(aud string) func(*config.Client) {
		return func(c *config.Client) { c.ClientAuth.Audience = aud }
	}
	tests := []struct {
		name   string
		change func(*config.Client)
		takes  string   // the audience that the server takes
		want   []string // of the requests of three fetches
		logs   int
	}{
		{"a server that takes the issuer", nil, issuer, []string{toIssuer, toIssuer, toIssuer}, 0},
		{"a server that takes its endpoint", nil, endpoint, []string{toIssuer, toEndpoint, toEndpoint, toEndpoint}, 1},
		{"a server that takes neither", nil, "somebody", []string{toIssuer, toEndpoint, toIssuer, toEndpoint, toIssuer, toEndpoint}, 0},
		{"the word token_endpoint", withAudience("token_endpoint"), endpoint, []string{toEndpoint, toEndpoint, toEndpoint}, 0},
		{"the word issuer", withAudience("issuer"), endpoint, []string{toIssuer, toIssuer, toIssuer}, 0},
		{"a configured audience is never second-guessed", withAudience("urn:partner"), endpoint, []string{"urn:partner JWT", "urn:partner JWT", "urn:partner JWT"}, 0},
		{"a refresh token can be spent once", withGrant(config.Grant{Type: "refresh_token", RefreshToken: "R"}), endpoint, []string{toIssuer, toIssuer, toIssuer}, 0},
		{"and so may a ready-made assertion", withGrant(config.Grant{Type: "jwt_bearer", Assertion: "A"}), endpoint, []string{toIssuer, toIssuer, toIssuer}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			client := config.Client{
				Issuer: issuer, TokenEndpoint: endpoint, ClientID: "partner-id", ClientSecret: new(config.Credential(secret)),
				ClientAuth: &config.ClientAuth{Method: "client_secret_jwt"},
			}
			if test.change != nil {
				test.change(&client)
			}
			var forms []url.Values
			source := newSource(t, client, answering(t, &forms, func(form url.Values) (int, string) {
				if audience, _ := claimsOf(t, form); audience != test.takes {
					return http.StatusUnauthorized, `{"error":"invalid_client"}`
				}
				return http.StatusOK, `{"access_token":"T"}`
			}))
			core, logs := observer.New(zap.InfoLevel)
			source.logger = zap.New(core)

			for range 3 {
				_, _ = source.Fetch(t.Context(), nil, nil)
			}

			var got []string
			for _, form := range forms {
				audience, typ := claimsOf(t, form)
				got = append(got, audience+" "+typ)
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("the assertions are for\n%q, want\n%q", got, test.want)
			}
			if logs.Len() != test.logs {
				t.Errorf("%d lines in the log, want %d: %v", logs.Len(), test.logs, logs.All())
			}
		})
	}
}

// TestTokenTypes: whether a token of some type can be sent depends on where it goes.
func TestTokenTypes(t *testing.T) {
	field := &config.Inject{In: "header", Name: "X-Api-Token"}
	tests := []struct {
		name, tokenType string
		inject          *config.Inject
		refused         bool
	}{
		{"bearer", "bearer", nil, false},
		{"eBay's, without a place of its own", "Application Access Token", nil, true},
		{"eBay's, with a scheme", "Application Access Token", &config.Inject{Name: "Authorization", Scheme: "Bearer"}, false},
		{"eBay's, in another field", "Application Access Token", field, false},
		{"mac, in a query parameter", "mac", &config.Inject{In: "query", Name: "key"}, false},
		{"DPoP without a key", "DPoP", nil, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var forms []url.Values
			source := newSource(t, config.Client{
				TokenEndpoint: "https://auth.example/token", ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret")), Inject: test.inject,
			}, answering(t, &forms, func(url.Values) (int, string) {
				return http.StatusOK, `{"access_token":"T","token_type":"` + test.tokenType + `"}`
			}))
			_, err := source.Fetch(t.Context(), nil, nil)
			if (err != nil) != test.refused {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// errUnreachable is what a transport returns where nobody listens.
var errUnreachable = errors.New("connection refused")

// TestMetadataFetchBelongsToNoConfig: requests that wait for it are served although
// the config that began it is gone.
func TestMetadataFetchBelongsToNoConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &movingServer{at: "/token", grants: `["client_credentials"]`, requests: make(map[string]int)}
		source := newSource(t, config.Client{Issuer: "https://auth.example", ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret"))},
			roundTripper(func(r *http.Request) (*http.Response, error) {
				select {
				case <-time.After(time.Second):
					return server.RoundTrip(r)
				case <-r.Context().Done():
					return nil, errUnreachable
				}
			}))
		ctx, reload := context.WithCancel(t.Context())
		go func() { _ = source.Prepare(ctx) }()
		synctest.Wait()
		fetched := make(chan error)
		go func() {
			_, err := source.Fetch(t.Context(), nil, nil)
			fetched <- err
		}()
		synctest.Wait()
		reload()
		if err := <-fetched; err != nil {
			t.Error(err)
		}
	})
}
