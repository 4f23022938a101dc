package signin_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// TestSignInServesRequests: requests live on what somebody has consented to, without
// another token request.
func TestSignInServesRequests(t *testing.T) {
	server := newAuthServer(t)
	client := server.client(t)
	result := signIn(t, server, client, "")
	if result.Asked != "read write" || result.Granted != "read" || !result.Renewable || result.Unusable != nil {
		t.Errorf("it came to %+v", result)
	}
	token, err := client.Source.Fetch(t.Context(), nil, nil)
	if err != nil || token.AccessToken.Reveal() != "access-1" {
		t.Errorf("requests get %v and %v", token, err)
	}
	forms := server.posted("/token")
	if len(forms) != 1 {
		t.Fatalf("%d token requests, want 1", len(forms))
	}
	if form := forms[0]; form.Get("grant_type") != "authorization_code" || form.Get("redirect_uri") != redirectURI || form.Has("scope") {
		t.Errorf("the code was exchanged by %v", form)
	}
}

// TestPendingSurvives: the browser may come back to another process.
func TestPendingSurvives(t *testing.T) {
	server := newAuthServer(t)
	client := server.client(t, withAccounts)
	pending, address, err := client.Begin(t.Context(), "ann", redirectURI)
	if err != nil {
		t.Fatal(err)
	}
	again, err := signin.ParsePending(pending.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Finish(t.Context(), again, server.agree(t, address), false); err != nil {
		t.Error(err)
	}
	if conn, err := client.Connection(t.Context(), "ann"); err != nil || conn.State != signin.Connected {
		t.Errorf("the connection is %+v, %v", conn, err)
	}
	if conn, err := client.Connection(t.Context(), "bob"); err != nil || conn.State != signin.SignInNeeded {
		t.Errorf("another account's is %+v, %v", conn, err)
	}
}

// TestForeignResponses cost the sign-in nothing: the right one may still come.
func TestForeignResponses(t *testing.T) {
	server := newAuthServer(t)
	client := server.client(t)
	pending, address, err := client.Begin(t.Context(), "", redirectURI)
	if err != nil {
		t.Fatal(err)
	}
	right, _ := url.ParseQuery(server.agree(t, address))
	for name, change := range map[string]func(url.Values){
		"another state": func(q url.Values) { q.Set("state", "forged") },
		"no state":      func(q url.Values) { q.Del("state") },
		"another iss":   func(q url.Values) { q.Set("iss", "https://evil.example") },
		"no iss":        func(q url.Values) { q.Del("iss") },
		"no code":       func(q url.Values) { q.Del("code") },
	} {
		query, _ := url.ParseQuery(right.Encode())
		change(query)
		_, err := client.Finish(t.Context(), pending, query.Encode(), false)
		if failed, ok := errors.AsType[*authserver.Error](err); !ok || failed.Kind != authserver.Unreadable {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	if n := len(server.posted("/token")); n != 0 {
		t.Errorf("%d token requests", n)
	}
	if _, err := client.Finish(t.Context(), pending, right.Encode(), false); err != nil {
		t.Error(err)
	}
}

// TestLateAndChanged: what comes back is for the sign-in that began, and in time.
func TestLateAndChanged(t *testing.T) {
	server := newAuthServer(t)
	client := server.client(t)
	pending, address, err := client.Begin(t.Context(), "", redirectURI)
	if err != nil {
		t.Fatal(err)
	}
	query := server.agree(t, address)

	changed := server.client(t, func(o *signin.Options) { o.Definition.Scope = []string{"admin"} })
	if _, err := changed.Finish(t.Context(), pending, query, false); !errors.Is(err, signin.ErrChanged) {
		t.Errorf("with another scope: %v", err)
	}
	pending.Expires = time.Now()
	if _, err := client.Finish(t.Context(), pending, query, false); !errors.Is(err, signin.ErrExpired) {
		t.Errorf("too late: %v", err)
	}
	if n := len(server.posted("/token")); n != 0 {
		t.Errorf("%d token requests", n)
	}
}

// TestNobodyIsSentWhereItCannotWork.
func TestNobodyIsSentWhereItCannotWork(t *testing.T) {
	tests := []struct {
		name    string
		member  string
		value   any
		options func(*signin.Options)
		account string
		err     string
	}{
		{name: "no authorization endpoint", member: "authorization_endpoint", err: "no authorization endpoint"},
		{name: "no PKCE", member: "code_challenge_methods_supported", value: []string{"plain"}, err: "S256"},
		{name: "no code", member: "response_types_supported", value: []string{"token"}, err: "response"},
		{name: "no authorization code grant", member: "grant_types_supported", value: []string{"refresh_token"}, err: "authorization_code"},
		{name: "no account", options: withAccounts, err: "a grant for each account"},
		{name: "an account too many", account: "ann", err: "one grant for all"},
		{name: "another grant", options: func(o *signin.Options) {
			o.Definition.Grant = &config.Grant{Type: "client_credentials"}
		}, err: "nobody signs in"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := newAuthServer(t)
			server.metadata[test.member] = test.value
			options := test.options
			if options == nil {
				options = func(*signin.Options) {}
			}
			_, address, err := server.client(t, options).Begin(t.Context(), test.account, redirectURI)
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("the address is %q and the error %v", address, err)
			}
		})
	}
}

// TestLiveGrantStays, unless it is to be replaced.
func TestLiveGrantStays(t *testing.T) {
	server := newAuthServer(t)
	var changed int
	client := server.client(t, func(o *signin.Options) { o.Changed = func([]string) { changed++ } })
	if err := client.Ready(t.Context(), "", false); err != nil {
		t.Fatal(err)
	}
	signIn(t, server, client, "")
	if err := client.Ready(t.Context(), "", false); !errors.Is(err, vault.ErrAlive) {
		t.Errorf("ready with %v", err)
	}
	pending, address, err := client.Begin(t.Context(), "", redirectURI)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Finish(t.Context(), pending, server.agree(t, address), false); !errors.Is(err, vault.ErrAlive) {
		t.Errorf("finished with %v", err)
	}
	if err := client.Ready(t.Context(), "", true); err != nil {
		t.Error(err)
	}
	pending, address, _ = client.Begin(t.Context(), "", redirectURI)
	if _, err := client.Finish(t.Context(), pending, server.agree(t, address), true); err != nil {
		t.Error(err)
	}
	if changed != 2 {
		t.Errorf("%d changes were told, want 2", changed)
	}
}

// TestWithoutRefreshToken: the access token serves while it lasts, and then somebody
// has to sign in.
func TestWithoutRefreshToken(t *testing.T) {
	server := newAuthServer(t)
	server.says("authorization_code", `{"access_token":"access-1","token_type":"Bearer"}`)
	for life, want := range map[caddy.Duration]signin.State{caddy.Duration(time.Hour): signin.Connected, 1: signin.SignInNeeded} {
		client := server.client(t, func(o *signin.Options) { o.Definition.DefaultLifetime = life })
		result := signIn(t, server, client, "")
		if result.Renewable || result.Granted != "read write" {
			t.Errorf("it came to %+v", result)
		}
		conn, err := client.Connection(t.Context(), "")
		if err != nil || conn.State != want {
			t.Errorf("with a life of %v the connection is %+v, %v", life, conn, err)
		}
		_, err = client.Source.Fetch(t.Context(), nil, nil)
		if _, dead := errors.AsType[*tokensource.GrantError](err); dead != (want == signin.SignInNeeded) {
			t.Errorf("with a life of %v requests get %v", life, err)
		}
	}
}
