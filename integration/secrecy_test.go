package integration

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// secretKinds are all the secrets and tokens in these tests.
var secretKinds = []string{"client-secret", "token-param", "token-header", "refresh-token", "rotated-token", "access-token"}

// secretText makes up a secret. Each kind has letters of its own, so that
// blanking out one of them does not hide another.
func secretText(kind string) string {
	return kind + "-" + secretLetters(kind)
}

func secretLetters(kind string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(kind)))[:20]
}

// leaks are what no text may hold: either half of a secret, as one that is cut
// short is still one, and what Basic makes of the client's.
func leaks() []string {
	basic := base64.StdEncoding.EncodeToString([]byte("partner-id:" + secretText("client-secret")))
	found := []string{basic}
	for _, kind := range secretKinds {
		letters := secretLetters(kind)
		found = append(found, letters[:10], letters[10:])
	}
	return found
}

// checkSecrecy fails the test for each line of text that holds a leak, unless
// the line also holds the excuse.
func checkSecrecy(t testing.TB, text, excuse string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if excuse != "" && strings.Contains(line, excuse) {
			continue
		}
		for _, leak := range leaks() {
			if strings.Contains(line, leak) {
				t.Errorf("a secret shows: %s", line)
				break
			}
		}
	}
}

// TestSecretsAndTokensAppearNowhere: with all logging there is, through every
// way in which a request can fail, and with servers that repeat what they were
// sent.
func TestSecretsAndTokensAppearNowhere(t *testing.T) {
	echo := func(r caddytest.TokenRequest) string {
		_, secret, _ := r.BasicAuth()
		return fmt.Sprintf("I got %v and %v, %s", r.PostForm, r.Header, secret)
	}
	grant := func(w http.ResponseWriter, r caddytest.TokenRequest) {
		caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":"%s-%d","refresh_token":"%s-%[2]d","expires_in":10}`, secretText("access-token"), r.Number, secretText("rotated-token")))
	}
	// first gives a token, and then lets the renewals fail.
	first := func(then func(http.ResponseWriter, caddytest.TokenRequest)) func(http.ResponseWriter, caddytest.TokenRequest) {
		return func(w http.ResponseWriter, r caddytest.TokenRequest) {
			if r.Number == 1 {
				grant(w, r)
				return
			}
			then(w, r)
		}
	}
	tests := []struct {
		name   string
		lines  string // beside those that every case has
		answer func(http.ResponseWriter, caddytest.TokenRequest)
		until  string // the log line to wait for

		// The line in which Caddy itself shows the token, and how the operator
		// learns of it.
		excuse, warns string
	}{
		{
			name:   "all is well",
			answer: grant,
			until:  caddytest.LogRenewed,
		},
		{
			name:   "client_secret_post",
			lines:  "client_auth client_secret_post",
			answer: grant,
			until:  caddytest.LogObtained,
		},
		{
			name:   "the token in the query",
			lines:  "inject query access_token",
			answer: grant,
			until:  caddytest.LogObtained,
		},
		{
			name:   "the token in another header field",
			lines:  "inject header X-Api-Key",
			answer: grant,
			until:  caddytest.LogObtained,
			// At debug level reverse_proxy logs what it sends, and blanks out
			// Authorization and three other fields only.
			excuse: `"msg":"upstream roundtrip"`,
			warns:  "Caddy's own logs can show the token or its proof: when a caller hangs up, reverse_proxy logs the request that carries it, at level warn; hide these fields with a log filter",
		},
		{
			name: "the server repeats what it got in error_description",
			answer: func(w http.ResponseWriter, r caddytest.TokenRequest) {
				caddytest.Say(w, http.StatusBadRequest, fmt.Sprintf(`{"error":"invalid_client","error_description":%q}`, echo(r)))
			},
			until: caddytest.LogFailed,
		},
		{
			name:  "the server repeats what it got in the error code",
			lines: "client_auth client_secret_post",
			answer: func(w http.ResponseWriter, r caddytest.TokenRequest) {
				caddytest.Say(w, http.StatusBadRequest, fmt.Sprintf(`{"error":%q}`, r.PostForm.Get("client_secret")))
			},
			until: caddytest.LogFailed,
		},
		{
			name: "the server repeats half of it",
			answer: func(w http.ResponseWriter, r caddytest.TokenRequest) {
				_, secret, _ := r.BasicAuth()
				caddytest.Say(w, http.StatusBadRequest, fmt.Sprintf(`{"error":"invalid_client","error_description":"wrong secret %s..., not ...%s"}`, secret[:len(secret)-7], secret[len(secret)-10:]))
			},
			until: caddytest.LogFailed,
		},
		{
			name: "the server repeats what it got in an error object",
			answer: func(w http.ResponseWriter, r caddytest.TokenRequest) {
				caddytest.Say(w, http.StatusBadRequest, fmt.Sprintf(`{"error":{"message":%q}}`, echo(r)))
			},
			until: caddytest.LogFailed,
		},
		{
			name: "the server repeats what it got as plain text",
			answer: func(w http.ResponseWriter, r caddytest.TokenRequest) {
				w.Header().Set("Content-Type", "text/"+r.Header.Get("X-Key"))
				_, _ = io.WriteString(w, echo(r))
			},
			until: caddytest.LogFailed,
		},
		{
			name: "the server repeats what it got in the token type",
			answer: func(w http.ResponseWriter, r caddytest.TokenRequest) {
				_, secret, _ := r.BasicAuth()
				caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":"T","token_type":%q}`, secret))
			},
			until: caddytest.LogFailed,
		},
		{
			name: "the server repeats what it got in a redirect",
			answer: func(w http.ResponseWriter, r caddytest.TokenRequest) {
				http.Redirect(w, r.Request, "https://elsewhere.example/?"+r.PostForm.Encode(), http.StatusFound)
			},
			until: caddytest.LogFailed,
		},
		{
			name: "the server repeats an earlier token when it refuses another",
			answer: first(func(w http.ResponseWriter, r caddytest.TokenRequest) {
				caddytest.Say(w, http.StatusBadRequest, fmt.Sprintf(`{"error":"invalid_grant","error_description":"%s-1 and %s-1 were revoked"}`, secretText("access-token"), secretText("rotated-token")))
			}),
			until: caddytest.LogFailedEarly,
		},
		{
			name: "the server breaks the connection off",
			answer: first(func(http.ResponseWriter, caddytest.TokenRequest) {
				panic(http.ErrAbortHandler)
			}),
			until: caddytest.LogFailedEarly,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("CLIENT_SECRET", secretText("client-secret"))
			t.Setenv("TOKEN_PARAM", secretText("token-param"))
			t.Setenv("TOKEN_HEADER", secretText("token-header"))
			t.Setenv("REFRESH_FILE", caddytest.SecretFile(t, secretText("refresh-token")))
			t.Setenv("DEAD", caddytest.FreeAddress(t))
			auth := caddytest.NewAuthServer(t)
			auth.Answers(test.answer)
			caddytest.NewAPIServer(t)
			proxy := caddytest.Run(t, `{
	debug
	servers {
		trace
	}
	upstream_oauth2 {
		client partner {
			token_endpoint {$TOKEN_ENDPOINT}
			client_id      partner-id
			client_secret  {env.CLIENT_SECRET}
			token_param    otp {env.TOKEN_PARAM}
			token_header   X-Key {env.TOKEN_HEADER}
			refresh_ahead  90%
			grant refresh_token {
				refresh_token {file.{$REFRESH_FILE}}
			}
			`+test.lines+`
		}
	}
}
http://{$SITE} {
	log
	upstream_oauth2 partner
	handle /dead* {
		reverse_proxy {$DEAD}
	}
	reverse_proxy {$API}
	handle_errors {
		respond "{err.status_code} {err.message} {err.trace} {http.error}"
	}
}`)
			var shown strings.Builder
			for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodTrace} {
				for _, path := range []string{"/", "/dead?a=b"} {
					answer := proxy.Send(method, os.Getenv("SITE"), path, nil)
					fmt.Fprintln(&shown, answer.Status, answer.Header, answer.Body)
				}
			}
			caddytest.Eventually(t, "the log said: "+test.until, func() bool {
				proxy.Get("/", nil)
				return proxy.Logged(test.until) != nil
			})
			config := proxy.Send(http.MethodGet, os.Getenv("ADMIN"), "/config/", nil)
			if !strings.Contains(config.Body, "{env.CLIENT_SECRET}") {
				t.Fatalf("the admin API does not show the config: %s", config.Body)
			}
			if err := caddy.Stop(); err != nil { // and have the last line written
				t.Fatal(err)
			}

			checkSecrecy(t, shown.String(), "")
			checkSecrecy(t, config.Body, "")
			checkSecrecy(t, proxy.Log(), test.excuse)
			if test.warns != "" && proxy.Logged(test.warns) == nil {
				t.Error("the log does not warn of the line that shows the token")
			}
		})
	}
}

// TestLiteralSecretsAreNotLogged: they stand in the config, and nowhere else.
func TestLiteralSecretsAreNotLogged(t *testing.T) {
	caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	client := `{
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      partner-id
		client_secret  ` + secretText("client-secret") + `
		token_param    otp ` + secretText("token-param") + `
		token_header   X-Key ` + secretText("token-header") + `
		grant refresh_token {
			refresh_token ` + secretText("refresh-token") + `
		}
	}
`
	for name, caddyfile := range map[string]string{
		"in the directive": `{
	debug
	servers {
		trace
	}
}
http://{$SITE} {
	upstream_oauth2 partner ` + client + `
	reverse_proxy {$API}
}`,
		"under the global option": `{
	debug
	servers {
		trace
	}
	upstream_oauth2 {
		client partner ` + client + `
	}
}
http://{$SITE} {
	upstream_oauth2 partner
	reverse_proxy {$API}
}`,
	} {
		t.Run(name, func(t *testing.T) {
			proxy := caddytest.Run(t, caddyfile)
			proxy.Want(http.StatusOK)
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
			checkSecrecy(t, proxy.Log(), "")
		})
	}
}

// TestLiteralSecretsAreWarnedOf: the admin API and its autosave show them. What
// looks like a placeholder, and is none that a secret may hold, is literal, too.
func TestLiteralSecretsAreWarnedOf(t *testing.T) {
	for _, test := range []struct {
		name, lines string
		options     []string // those the warning names
	}{
		{"a word", "client_secret partner-secret", []string{"client_secret"}},
		{"a word with braces", "client_secret partner{secret}", []string{"client_secret"}},
		{"another credential", "client_secret {env.PARTNER_SECRET}\ngrant jwt_bearer {\nassertion partner-assertion\n}", []string{"assertion"}},
		{"a placeholder", "client_secret {env.PARTNER_SECRET}", nil},
		{"a placeholder of the request", "client_secret {env.PARTNER_SECRET}\ngrant jwt_bearer {\nassertion {http.request.header.X-Assertion}\n}", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PARTNER_SECRET", "partner-secret")
			proxy := caddytest.Run(t, `
http://{$SITE} {
	upstream_oauth2 partner {
		token_endpoint https://auth.example/token
		client_id      partner-id
		account        {http.request.header.X-Account}
		`+test.lines+`
	}
}`)
			var named []any
			if lines := proxy.Logged("a credential stands in the config, where the admin API and its autosave show it: write {env.NAME} or {file./absolute/path} instead"); lines != nil {
				named, _ = lines[0]["options"].([]any)
			}
			if fmt.Sprint(named) != fmt.Sprint(test.options) {
				t.Errorf("the warning names %v, want %v", named, test.options)
			}
		})
	}
}
