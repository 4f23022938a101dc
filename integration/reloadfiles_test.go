package integration

import (
	"crypto/elliptic"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestReloadWhileAFileCannotBeUsed: what was read before and the token in hand outlive
// the reload, so no request fails and no token is fetched.
func TestReloadWhileAFileCannotBeUsed(t *testing.T) {
	key := pkcs8Text(t, newECKey(t, elliptic.P256()))
	const (
		secret = "client_secret {file.{$FILE}}"
		keyJWT = "client_auth private_key_jwt {\nkey {$FILE}\n}"
	)
	missing := func(path string) error { return os.Remove(path) }
	emptied := func(path string) error { return os.Truncate(path, 0) }
	half := func(path string) error { return os.Truncate(path, int64(len(key)/2)) }
	for _, test := range []struct {
		name, lines, file string
		becomes           func(path string) error
	}{
		{"a secret, missing", secret, "secret", missing},
		{"a secret, empty", secret, "secret", emptied},
		{"a key, missing", keyJWT, key, missing},
		{"a key, empty", keyJWT, key, emptied},
		{"a key, half written", keyJWT, key, half},
		{"an assertion, empty", "client_auth assertion_file {$FILE}", assertionOf(t, "workload"), emptied},
	} {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			path := caddytest.SecretFile(t, test.file)
			t.Setenv("FILE", path)
			site := keySiteWith(test.lines)
			proxy := caddytest.Run(t, site)
			proxy.WantAs("alice", http.StatusOK)

			if err := test.becomes(path); err != nil {
				t.Fatal(err)
			}
			for range 3 { // each one ends what the one before began with
				proxy.Reload(site)
				proxy.WantAs("alice", http.StatusOK)
			}
			if n := auth.Count(); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
			// A newcomer's token is asked for with what was read before.
			proxy.WantAs("bob", http.StatusOK)
			if n := auth.Count(); n != 2 {
				t.Errorf("%d token requests with the newcomer's, want 2", n)
			}
		})
	}
}

// TestReloadWithoutTheFirstRefreshToken: while the file is missing, the one that the
// server gave last goes on being used; the first would revoke the grant.
func TestReloadWithoutTheFirstRefreshToken(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":"T","expires_in":1,"refresh_token":"refresh-%d"}`, r.Number))
	})
	path := caddytest.SecretFile(t, "refresh-0")
	t.Setenv("FILE", path)
	site := caddytest.PartnerSiteWith("grant refresh_token {\nrefresh_token {file.{$FILE}}\n}")
	proxy := caddytest.Run(t, site)
	proxy.Want(http.StatusOK)

	renewed := func() {
		t.Helper()
		before := auth.Count()
		caddytest.Eventually(t, "the token was renewed", func() bool {
			proxy.Want(http.StatusOK)
			return auth.Count() > before
		})
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	proxy.Reload(site)
	renewed()
	caddytest.WriteSecret(t, path, "refresh-0")
	proxy.Reload(site)
	renewed()

	for i, r := range auth.Seen() {
		if got, want := r.PostForm.Get("refresh_token"), fmt.Sprintf("refresh-%d", i); got != want {
			t.Errorf("token request %d has the refresh token %q, want %q", i+1, got, want)
		}
	}
	if strings.Contains(proxy.Log(), `"refresh-`) {
		t.Error("a refresh token is in the log")
	}
}

// TestReloadThatFindsAnotherTenant in a file has nothing to do with the token of the one
// before.
func TestReloadThatFindsAnotherTenant(t *testing.T) {
	for name, lines := range map[string]string{
		"a parameter":     "token_param tenant {file.{$TENANT_FILE}}",
		"a refresh token": "grant refresh_token {\nrefresh_token {file.{$TENANT_FILE}}\n}",
		"a scope":         "scope {file.{$TENANT_FILE}}",
	} {
		t.Run(name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			path := caddytest.SecretFile(t, "blue")
			t.Setenv("TENANT_FILE", path)
			site := caddytest.PartnerSiteWith(lines)
			proxy := caddytest.Run(t, site)
			proxy.Want(http.StatusOK)

			caddytest.WriteSecret(t, path, "red")
			before := len(api.Seen())
			auth.Says(http.StatusServiceUnavailable, "")
			proxy.Reload(site)
			proxy.Want(http.StatusServiceUnavailable)
			if n := len(api.Seen()) - before; n != 0 {
				t.Errorf("a request reached the API with %q", api.LastAuthorization(t))
			}
		})
	}
}
