package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestThousandFirstRequestsCostOneTokenRequest: all of them find no token, and
// share the one that is on its way.
func TestThousandFirstRequestsCostOneTokenRequest(t *testing.T) {
	const requests = 1000
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	allIn := make(chan bool)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		select {
		case <-allIn:
		case <-r.Context().Done():
		}
		caddytest.Issue(w, fmt.Sprintf("access-token-%d", r.Number), time.Hour)
	})
	proxy := caddytest.Run(t, caddytest.Tracing+caddytest.PartnerSite)

	var wg sync.WaitGroup
	failed := make(chan string, requests)
	for range requests {
		wg.Go(func() {
			if answer, err := proxy.Try(http.MethodGet, os.Getenv("SITE"), "/", nil); err != nil || answer.Status != http.StatusOK {
				failed <- fmt.Sprint(answer, err)
			}
		})
	}
	caddytest.Eventually(t, "all requests came in", func() bool { return proxy.Entered() == requests })
	close(allIn)
	wg.Wait()

	if n := len(failed); n > 0 {
		t.Errorf("%d requests failed, the first with %s", n, <-failed)
	}
	if n := auth.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	for _, r := range api.Seen() {
		if got := r.Header.Get("Authorization"); got != "Bearer access-token-1" {
			t.Fatalf("a request reached the API with Authorization %q", got)
		}
	}
}

// TestEqualClientsShareOneToken, however they are written and wherever the
// token goes.
func TestEqualClientsShareOneToken(t *testing.T) {
	const client = `{
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      partner-id
		client_secret  {env.PARTNER_SECRET}
		scope          read write
	}`
	tests := []struct {
		name      string
		caddyfile string
	}{
		{"two sites with the same lines", `
			http://{$SITE} {
				upstream_oauth2 ` + client + `
				reverse_proxy {$API}
			}
			http://{$OTHER_SITE} {
				upstream_oauth2 ` + client + `
				reverse_proxy {$API}
			}`},
		{"two sites that refer to one client", `{
				upstream_oauth2 {
					client partner ` + client + `
				}
			}
			http://{$SITE} {
				upstream_oauth2 partner
				reverse_proxy {$API}
			}
			http://{$OTHER_SITE} {
				upstream_oauth2 partner
				reverse_proxy {$API}
			}`},
		{"two names", `
			http://{$SITE} {
				upstream_oauth2 one ` + client + `
				reverse_proxy {$API}
			}
			http://{$OTHER_SITE} {
				upstream_oauth2 other ` + client + `
				reverse_proxy {$API}
			}`},
		{"one name twice, with the same lines", `
			http://{$SITE} {
				upstream_oauth2 partner ` + client + `
				reverse_proxy {$API}
			}
			http://{$OTHER_SITE} {
				upstream_oauth2 partner ` + client + `
				reverse_proxy {$API}
			}`},
		{"two places for the token", `
			http://{$SITE} {
				upstream_oauth2 ` + client + `
				reverse_proxy {$API}
			}
			http://{$OTHER_SITE} {
				upstream_oauth2 ` + strings.Replace(client, "scope", "inject header X-Token\nscope", 1) + `
				reverse_proxy {$API}
			}`},
		{"the secret from two places", `
			http://{$SITE} {
				upstream_oauth2 ` + client + `
				reverse_proxy {$API}
			}
			http://{$OTHER_SITE} {
				upstream_oauth2 ` + strings.Replace(client, "{env.PARTNER_SECRET}", "partner-secret", 1) + `
				reverse_proxy {$API}
			}`},
		{"two routes of one site", `
			http://{$SITE}, http://{$OTHER_SITE} {
				handle /a/* {
					upstream_oauth2 ` + client + `
					reverse_proxy {$API}
				}
				handle {
					upstream_oauth2 ` + client + `
					reverse_proxy {$API}
				}
			}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PARTNER_SECRET", "partner-secret")
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			proxy := caddytest.Run(t, test.caddyfile)

			for _, site := range []string{os.Getenv("SITE"), os.Getenv("OTHER_SITE")} {
				for _, path := range []string{"/a/", "/b/"} {
					proxy.Send(http.MethodGet, site, path, nil)
					if got := fmt.Sprint(api.Last(t).Header); !strings.Contains(got, "access-token-1") {
						t.Errorf("%s%s goes upstream with %v", site, path, got)
					}
				}
			}
			if n := auth.Count(); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
		})
	}
}

// TestUnequalClientsShareNothing: whatever a token depends on keeps it apart.
func TestUnequalClientsShareNothing(t *testing.T) {
	for option, value := range map[string]string{
		"token_endpoint": "{$TOKEN_ENDPOINT}?tenant=other",
		"client_id":      "other-id",
		"client_secret":  "other-secret",
		"client_auth":    "client_secret_basic_raw",
		"grant":          "account_credentials",
		"scope":          "other",
		"audience":       "other",
		"resource":       "https://other.example",
		"token_param":    "account_id other",
		"token_header":   "X-Tenant other",
	} {
		t.Run(option, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			lines := map[string]string{
				"token_endpoint": "{$TOKEN_ENDPOINT}",
				"client_id":      "partner-id",
				"client_secret":  "partner-secret",
			}
			lines[option] = value
			var other strings.Builder
			for option, value := range lines {
				fmt.Fprintf(&other, "\t\t%s %s\n", option, value)
			}
			proxy := caddytest.Run(t, caddytest.PartnerSite+`
http://{$OTHER_SITE} {
	upstream_oauth2 {
`+other.String()+`
	}
	reverse_proxy {$API}
}`)
			proxy.Send(http.MethodGet, os.Getenv("SITE"), "/", nil)
			one := api.LastAuthorization(t)
			proxy.Send(http.MethodGet, os.Getenv("OTHER_SITE"), "/", nil)
			two := api.LastAuthorization(t)

			if one == two || auth.Count() != 2 {
				t.Errorf("both go upstream with %q, after %d token requests", one, auth.Count())
			}
		})
	}
}

// TestFirstTokensAreFetchedAtStart: a wrong secret shows in the log before
// anybody needs the token, also of a client that no site uses yet.
func TestFirstTokensAreFetchedAtStart(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		if id, _, _ := r.BasicAuth(); id == "wrong" {
			caddytest.Say(w, http.StatusUnauthorized, `{"error":"invalid_client"}`)
			return
		}
		caddytest.Issue(w, "access-token", time.Hour)
	})
	proxy := caddytest.Run(t, `{
	upstream_oauth2 {
		client right {
			token_endpoint {$TOKEN_ENDPOINT}
			client_id      right
			client_secret  secret
		}
		client wrong {
			token_endpoint {$TOKEN_ENDPOINT}
			client_id      wrong
			client_secret  secret
		}
	}
}`)
	right, wrong := proxy.AwaitLog(caddytest.LogObtained), proxy.AwaitLog(caddytest.LogFailed)
	if right["client"] != "right" || right["level"] != "info" {
		t.Errorf("of the right secret the log says %v", right)
	}
	if wrong["client"] != "wrong" || wrong["level"] != "error" || wrong["oauth_error"] != "invalid_client" || wrong["next_attempt_in"] == nil {
		t.Errorf("of the wrong secret the log says %v", wrong)
	}
}

// TestTokenEndpointMayBeASiteOfTheSameCaddy, and still the first token is
// fetched at start.
func TestTokenEndpointMayBeASiteOfTheSameCaddy(t *testing.T) {
	api := caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, strings.ReplaceAll(caddytest.PartnerSite, "{$TOKEN_ENDPOINT}", "http://{$OTHER_SITE}/token")+`
http://{$OTHER_SITE} {
	respond /token `+"`"+`{"access_token":"from-the-same-caddy","expires_in":3600}`+"`"+`
}`)
	proxy.AwaitLog(caddytest.LogObtained)
	if failed := proxy.Logged(caddytest.LogFailed); failed != nil {
		t.Errorf("a token request failed first: %v", failed)
	}
	proxy.Want(http.StatusOK)
	if got := api.LastAuthorization(t); got != "Bearer from-the-same-caddy" {
		t.Errorf("Authorization is %q", got)
	}
}

// TestAdaptAndValidateMakeNoTokenRequest: configs are checked where the
// credentials work, and where they do not.
func TestAdaptAndValidateMakeNoTokenRequest(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, `http://{$SITE}`)

	for range 5 {
		if err := caddytest.Validate(caddytest.PartnerSite); err != nil {
			t.Fatal(err)
		}
	}
	if n := auth.Count(); n != 0 {
		t.Errorf("%d token requests", n)
	}

	// A fetch that validation had begun behind our back would show by now, or
	// have left its token.
	proxy.Reload(caddytest.PartnerSite)
	proxy.Want(http.StatusOK)
	if n := auth.Count(); n != 1 {
		t.Errorf("%d token requests for one token", n)
	}
}
