package integration

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestClientsLogUnderOneName, wherever they are defined: the app's.
func TestClientsLogUnderOneName(t *testing.T) {
	caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, `{
	upstream_oauth2 {
		client global {
			token_endpoint {$TOKEN_ENDPOINT}
			client_id      global-id
			client_secret  partner-secret
		}
	}
}
`+caddytest.PartnerSite)

	caddytest.Eventually(t, "both clients had a token", func() bool { return len(proxy.Logged(caddytest.LogObtained)) == 2 })

	clients := make(map[any]bool)
	for _, line := range proxy.Logged(caddytest.LogObtained) {
		clients[line["client"]] = true
		if line["logger"] != "upstream_oauth2" {
			t.Errorf("the logger is %q in %v", line["logger"], line)
		}
	}
	if !clients["global"] || !clients["partner"] {
		t.Errorf("the log tells of %v", clients)
	}
}

// TestFailuresTellWhatTheServerAnswered: its URL without the query, the status and
// the OAuth error code, as far as there are any, and at a level that says whether
// requests fail.
func TestFailuresTellWhatTheServerAnswered(t *testing.T) {
	tests := []struct {
		name   string
		token  bool // one is in hand, which lasts
		status int  // 0 for no answer at all
		body   string

		level string
		want  map[string]any // nil for a field that must not be there
	}{
		{
			"an OAuth error", false, 401, `{"error":"invalid_client"}`,
			"error", map[string]any{"oauth_error": "invalid_client", "status": 401.0, "expires_in": nil},
		},
		{
			"an outage", false, 503, `maintenance`,
			"error", map[string]any{"oauth_error": nil, "status": 503.0, "expires_in": nil},
		},
		{
			"no answer", false, 0, ``,
			"error", map[string]any{"oauth_error": nil, "status": nil, "expires_in": nil},
		},
		{
			"an outage while the token lasts", true, 503, `maintenance`,
			"warn", map[string]any{"oauth_error": nil, "status": 503.0},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
				switch {
				case test.token && r.Number == 1:
					caddytest.Issue(w, "T", 8*time.Second)
				case test.status == 0:
					panic(http.ErrAbortHandler)
				default:
					caddytest.Say(w, test.status, test.body)
				}
			})
			endpoint := os.Getenv("TOKEN_ENDPOINT")
			t.Setenv("TOKEN_ENDPOINT", endpoint+"?api_key=k")
			lines, message := "", caddytest.LogFailed
			if test.token {
				lines, message = "refresh_ahead 90%", caddytest.LogFailedEarly
			}
			proxy := caddytest.Run(t, caddytest.PartnerSiteWith(lines))

			proxy.Get("/", nil)
			line := proxy.AwaitLog(message)

			if line["level"] != test.level {
				t.Errorf("the level is %v, want %s", line["level"], test.level)
			}
			if line["url"] != endpoint {
				t.Errorf("the URL is %v, want %s", line["url"], endpoint)
			}
			for field, want := range test.want {
				if got := line[field]; got != want {
					t.Errorf("%s is %v, want %v", field, got, want)
				}
			}
		})
	}
}

// TestErrorRoutesLearnWhichClientItWas, and so does Caddy's log of errors. The text
// for the caller stays the same for all clients.
func TestErrorRoutesLearnWhichClientItWas(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Says(http.StatusUnauthorized, `{"error":"invalid_client"}`)
	const text = "no access token for the upstream: the authorization server refused to issue one (invalid_client)"

	t.Run("an error route", func(t *testing.T) {
		proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "reverse_proxy {$API}", `
			reverse_proxy {$API}
			handle_errors {
				respond "{http.upstream_oauth2.client}: {err.message}"
			}`, 1))
		if answer := proxy.Get("/", nil); answer.Body != "partner: "+text {
			t.Errorf("the error route says %q", answer.Body)
		}
	})
	t.Run("Caddy's log", func(t *testing.T) {
		proxy := caddytest.Run(t, caddytest.PartnerSite)
		proxy.Want(http.StatusBadGateway)
		if line := proxy.AwaitLog(text); line["err_trace"] != "upstream_oauth2 partner" || line["status"] != 502.0 {
			t.Errorf("the log says %v", line)
		}
	})
}

// TestLogFilterHidesTheToken: reverse_proxy logs what it sent when a caller hangs
// up, and docs/limits.md says how to hide the token there.
func TestLogFilterHidesTheToken(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil { // until the caller is gone, whatever is buffered on the way
			_, _ = io.WriteString(w, strings.Repeat("x", 1000))
		}
	})
	filtered := filepath.Join(t.TempDir(), "filtered")
	t.Setenv("FILTERED", filtered)
	proxy := caddytest.Run(t, `{
	log filtered {
		output file {$FILTERED}
		level WARN
		format filter {
			wrap json
			request>headers>X-Api-Key delete
		}
	}
}
`+caddytest.PartnerSiteWith("inject header X-Api-Key"))

	resp, err := proxy.Client.Get("http://" + os.Getenv("SITE"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // the caller hangs up

	const message = "aborting with incomplete response"
	line := proxy.AwaitLog(message)
	request, _ := line["request"].(map[string]any)
	header, _ := request["headers"].(map[string]any)
	if line["level"] != "warn" || header["X-Api-Key"] == nil {
		t.Errorf("Caddy shows no token any more, and no warning is needed: %v", line)
	}
	warning := proxy.AwaitLog("Caddy's own logs can show the token or its proof: when a caller hangs up, reverse_proxy logs the request that carries it, at level warn; hide these fields with a log filter")
	if fields, _ := warning["fields"].([]any); len(fields) != 1 || fields[0] != "request>headers>X-Api-Key" {
		t.Errorf("the warning names the fields %v", warning["fields"])
	}

	var text []byte
	caddytest.Eventually(t, "the filtered log had the line", func() bool {
		text, _ = os.ReadFile(filtered)
		return strings.Contains(string(text), message)
	})
	if strings.Contains(string(text), "access-token-1") {
		t.Errorf("the filtered log has the token: %s", text)
	}
}
