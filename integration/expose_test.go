package integration

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// exposingSite hands what the answer said on to the API.
const exposingSite = `
http://{$SITE} {
	upstream_oauth2 partner {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      partner-id
		client_secret  partner-secret
		expose         instance_url shard
	}
	reverse_proxy {$API} {
		header_up X-Instance {http.upstream_oauth2.answer.instance_url}
		header_up X-Shard "<{http.upstream_oauth2.answer.shard}>"
		header_up X-Hidden {http.upstream_oauth2.answer.hidden}
	}
}`

// TestExposedMembers are there for other handlers, and the answer's other members are
// not. What the answer lacks is empty. A request that is sent again has what its
// second token came with.
func TestExposedMembers(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		caddytest.Say(w, http.StatusOK, fmt.Sprintf(
			`{"access_token":"access-token-%d","token_type":"Bearer","expires_in":3600,"instance_url":"https://eu%d.example","hidden":"x"}`, r.Number, r.Number))
	})
	caddy := caddytest.Run(t, exposingSite)
	wantInstance := func(want string) {
		t.Helper()
		header := api.Last(t).Header
		if got := header.Get("X-Instance"); got != want {
			t.Errorf("the API is told %q, want %q", got, want)
		}
		if got := header.Get("X-Shard"); got != "<>" {
			t.Errorf("of a member that the answer lacks, the API is told %q", got)
		}
		if got := header.Get("X-Hidden"); got == "x" {
			t.Error("a member shows that is not exposed")
		}
	}

	caddy.Want(http.StatusOK)
	wantInstance("https://eu1.example")

	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer access-token-1" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	caddy.Want(http.StatusOK)
	api.WantAttempts(t, "access-token-1", "access-token-1", "access-token-2")
	wantInstance("https://eu2.example")
}
