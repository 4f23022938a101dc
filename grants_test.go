package upstreamoauth2

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// TestSignInIsFoundWithoutAReload: a Caddy that has no grant finds the one that
// somebody else, as 'login' is, puts into the storage.
func TestSignInIsFoundWithoutAReload(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	gateway := caddytest.Run(t, `{
	upstream_oauth2 {
		encryption_key MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=
		client partner {
			token_endpoint         {$TOKEN_ENDPOINT}
			authorization_endpoint {$TOKEN_ENDPOINT}/authorize
			client_id              partner-id
			client_secret          partner-secret
			grant                  authorization_code
		}
	}
}
http://{$SITE} {
	upstream_oauth2 partner
	reverse_proxy {$API}
	handle_errors {
		respond "{err.message}"
	}
}`)
	answer := gateway.Get("/", nil)
	if answer.Status != http.StatusServiceUnavailable || !strings.Contains(answer.Body, `client "partner" has no grant: sign in first`) {
		t.Errorf("without a grant: %d %s", answer.Status, answer.Body)
	}
	if retry := answer.Header.Get("Retry-After"); retry == "" || retry > "5" {
		t.Errorf("Retry-After: %q", retry)
	}

	app, err := caddy.ActiveContext().AppIfConfigured("upstream_oauth2")
	if err != nil {
		t.Fatal(err)
	}
	partner := app.(*App).named["partner"]
	settings, err := partner.resolver.Resolve(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := vault.New(app.(*App).keeping)
	if _, err := elsewhere.Put(t.Context(), partner.Grant(settings, nil), vault.Record{
		RefreshToken: authserver.NewSecret("signed-in"), SignedInAt: time.Now(),
	}, false); err != nil {
		t.Fatal(err)
	}

	caddytest.Eventually(t, "the grant was found", func() bool { return gateway.Get("/", nil).Status == http.StatusOK })
	if got := auth.Seen()[0].PostForm.Get("refresh_token"); got != "signed-in" || auth.Count() != 1 {
		t.Errorf("%d token requests, the first with %q", auth.Count(), got)
	}
}
