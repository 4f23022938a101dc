package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// readySite has a client that is ready, one that never is and one with accounts.
const readySite = `
{
	upstream_oauth2 {
		client broken {
			token_endpoint http://127.0.0.1:1/token
			client_id      broken-id
			client_secret  broken-secret
		}
	}
}
http://{$OTHER_SITE} {
	upstream_oauth2 accounts {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      accounts-id
		client_secret  accounts-secret
		account        {http.request.header.X-User}
	}
	reverse_proxy {$API}
}
http://{$SITE} {
	@ready upstream_oauth2_ready CLIENTS
	respond @ready 204
	upstream_oauth2 partner {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      partner-id
		client_secret  partner-secret
	}
	reverse_proxy {$API}
}
`

func TestReadyMatchesWhileClientsHaveAToken(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t).Answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	proxy := caddytest.Run(t, strings.Replace(readySite, "CLIENTS", "partner", 1))
	adminState(t, adminPartner, "fresh")
	proxy.Want(http.StatusNoContent)

	t.Run("all but those with accounts", func(t *testing.T) {
		proxy.Reload(strings.Replace(readySite, "CLIENTS", "", 1))
		proxy.Want(http.StatusTeapot)
	})
	t.Run("several", func(t *testing.T) {
		proxy.Reload(strings.Replace(readySite, "CLIENTS", "partner broken", 1))
		proxy.Want(http.StatusTeapot)
	})
	t.Run("not any more", func(t *testing.T) {
		proxy.Reload(strings.Replace(readySite, "CLIENTS", "partner", 1))
		auth.Says(http.StatusUnauthorized, `{"error":"invalid_client"}`)
		admin(t, http.MethodPost, adminPartner+"/forget", "", http.StatusNoContent)
		if answer := proxy.Get("/", nil); answer.Status == http.StatusNoContent {
			t.Errorf("without a token the matcher matches: %+v", answer)
		}
	})
}

func TestReadyRefuses(t *testing.T) {
	caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, strings.Replace(readySite, "CLIENTS", "", 1))
	for clients, want := range map[string]string{
		"nobody":   `there is no client "nobody"`,
		"accounts": `the tokens of client "accounts" depend on the request`,
	} {
		if err := proxy.TryReload(strings.Replace(readySite, "CLIENTS", clients, 1)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with %s the error is %v, want %s", clients, err, want)
		}
	}
	if _, _, err := caddytest.Adapt(strings.Replace(readySite, "CLIENTS", "partner {\nwhile fresh\n}", 1)); err == nil || !strings.Contains(err.Error(), "takes no block") {
		t.Errorf("with a block the error is %v", err)
	}
}
