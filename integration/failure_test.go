package integration

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// tellingSite is PartnerSite with an error page that tells what the error
// routes get to know.
func tellingSite(lines string) string {
	return strings.Replace(caddytest.PartnerSiteWith(lines), "reverse_proxy {$API}", `
		reverse_proxy {$API}
		handle_errors {
			respond "{err.status_code} {err.message}"
		}`, 1)
}

// TestWithoutATokenTheCallerLearnsWhy, in our words and at most with the OAuth
// error code, and the API sees no request.
func TestWithoutATokenTheCallerLearnsWhy(t *testing.T) {
	const (
		unavailable = "503 no access token for the upstream: the authorization server is unavailable"
		refused     = "502 no access token for the upstream: the authorization server refused to issue one"
		unusable    = "502 no access token for the upstream: the authorization server's answer cannot be used"
	)
	// What a server says beyond the code is for the log only.
	const description = `"error_description":"<script>whatever</script>"`

	says := func(status int, body string) func(http.ResponseWriter, caddytest.TokenRequest) {
		return func(w http.ResponseWriter, _ caddytest.TokenRequest) { caddytest.Say(w, status, body) }
	}
	tests := []struct {
		name   string
		answer func(http.ResponseWriter, caddytest.TokenRequest)
		want   string
	}{
		{"wrong secret, status 401", says(401, `{"error":"invalid_client",`+description+`}`), refused + " (invalid_client)"},
		{"wrong scope, status 400", says(400, `{"error":"invalid_scope",`+description+`}`), refused + " (invalid_scope)"},
		{"an error with status 200", says(200, `{"error":"unauthorized_client",`+description+`}`), refused + " (unauthorized_client)"},
		{"an error as a form", says(400, `error=invalid_grant&error_description=whatever`), refused + " (invalid_grant)"},
		{"an error code that is a sentence", says(400, `{"error":"something <b>went</b> wrong"}`), refused},
		{"an error code that is the secret", says(400, `{"error":"partner-secret"}`), refused},

		{"server down for maintenance", says(503, `maintenance: whatever`), unavailable},
		{"server error with a code", says(500, `{"error":"server_error",`+description+`}`), unavailable + " (server_error)"},
		{"temporarily_unavailable with status 400", says(400, `{"error":"temporarily_unavailable",`+description+`}`), unavailable + " (temporarily_unavailable)"},
		{"throttled", says(429, `slow down, whatever`), unavailable},
		{"connection broken off", func(http.ResponseWriter, caddytest.TokenRequest) { panic(http.ErrAbortHandler) }, unavailable},
		{"no answer in time", func(_ http.ResponseWriter, r caddytest.TokenRequest) { <-r.Context().Done() }, unavailable},

		{"a web page", says(200, `<html>whatever</html>`), unusable},
		{"an empty answer", says(200, ``), unusable},
		{"no token in it", says(200, `{"token":"whatever"}`), unusable},
		{"a token that does not fit a header field", says(200, `{"access_token":"a\r\nX-Evil: b"}`), unusable},
		{"a status that means nothing", says(404, `whatever`), unusable},
		{"a token type that is not understood", says(200, `{"access_token":"T","token_type":"mac"}`), "502 no access token for the upstream: the request for one failed"},
		{"an answer without end", func(w http.ResponseWriter, r caddytest.TokenRequest) {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, strings.Repeat(" ", 64<<10))
			}
		}, unusable},
		{"an answer that is large once it is decompressed", func(w http.ResponseWriter, _ caddytest.TokenRequest) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, strings.Repeat(" ", 2<<20)+`{"access_token":"T"}`)
			_ = z.Close()
		}, unusable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Answers(test.answer)
			lines := ""
			if strings.HasPrefix(test.name, "no answer") {
				lines = "timeout 100ms"
			}
			proxy := caddytest.Run(t, tellingSite(lines))

			answer := proxy.Get("/", nil)

			if answer.Body != test.want {
				t.Errorf("the caller reads\n%s, want\n%s", answer.Body, test.want)
			}
			if got := strconv.Itoa(answer.Status); got != test.want[:3] {
				t.Errorf("status %s, want %s", got, test.want[:3])
			}
			// Retry-After is for what passes by itself.
			seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
			if want := answer.Status == http.StatusServiceUnavailable; seconds > 0 != want {
				t.Errorf("Retry-After is %q with status %d", answer.Header.Get("Retry-After"), answer.Status)
			}
			if n := len(api.Seen()); n != 0 {
				t.Errorf("%d requests reached the API", n)
			}
		})
	}
}

// TestUnreachableServerTellsWhatToCheck: Caddy's transport keeps the cause of a failed
// connection to itself.
func TestUnreachableServerTellsWhatToCheck(t *testing.T) {
	for _, test := range []struct{ name, endpoint, want string }{
		{"nobody listens", "http://" + caddytest.FreeAddress(t) + "/token", "connection refused; check host and port in the URL"},
		{"no such name", "https://auth.invalid/token", "; check the host in the URL, and what this machine's DNS says of it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			caddytest.NewAPIServer(t)
			t.Setenv("TOKEN_ENDPOINT", test.endpoint)
			proxy := caddytest.Run(t, caddytest.PartnerSite)
			if got := proxy.Failure(); !strings.Contains(got, test.want) {
				t.Errorf("the log says %q, want %q in it", got, test.want)
			}
		})
	}
}

// TestUnreachableServerIs503: nobody listens at the token endpoint.
func TestUnreachableServerIs503(t *testing.T) {
	caddytest.NewAPIServer(t)
	t.Setenv("TOKEN_ENDPOINT", "http://"+caddytest.FreeAddress(t)+"/token")
	proxy := caddytest.Run(t, tellingSite(""))

	answer := proxy.Get("/", nil)

	if want := "503 no access token for the upstream: the authorization server is unavailable"; answer.Body != want {
		t.Errorf("the caller reads\n%s, want\n%s", answer.Body, want)
	}
	if answer.Header.Get("Retry-After") == "" {
		t.Error("there is no Retry-After")
	}
}

// TestRedirectsAreNotFollowed: they would carry the credentials elsewhere.
func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			var followed atomic.Bool
			other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				followed.Store(true)
				caddytest.Issue(w, "evil", time.Hour)
			}))
			t.Cleanup(other.Close)
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
				http.Redirect(w, r.Request, other.URL, status)
			})
			proxy := caddytest.Run(t, tellingSite(""))

			proxy.Want(http.StatusBadGateway)

			if followed.Load() {
				t.Error("the redirect was followed")
			}
			// The way out is in the log.
			line := proxy.AwaitLog(caddytest.LogFailed)
			if text, _ := line["error"].(string); !strings.Contains(text, "write the final address as 'token_endpoint'") {
				t.Errorf("the log says %v", line)
			}
		})
	}
}

// TestServerIsLeftAloneWhileItFails: requests fail at once instead of asking
// again, for as long as the server says.
func TestServerIsLeftAloneWhileItFails(t *testing.T) {
	tests := []struct{ name, field, value string }{
		{"Retry-After in seconds", "Retry-After", "300"},
		{"Retry-After as a date", "Retry-After", time.Now().Add(5 * time.Minute).UTC().Format(http.TimeFormat)},
		{"a rate limit's reset", "RateLimit-Reset", "300"},
		{"Okta's reset, in seconds since 1970", "X-Rate-Limit-Reset", strconv.FormatInt(time.Now().Add(5*time.Minute).Unix(), 10)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Answers(func(w http.ResponseWriter, _ caddytest.TokenRequest) {
				w.Header().Set(test.field, test.value)
				caddytest.Say(w, http.StatusTooManyRequests, "")
			})
			proxy := caddytest.Run(t, caddytest.PartnerSite)

			for range 20 {
				answer := proxy.Get("/", nil)
				if answer.Status != http.StatusServiceUnavailable {
					t.Fatalf("status %d", answer.Status)
				}
				// Backoff alone ends within a minute.
				if seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After")); seconds <= 60 {
					t.Errorf("Retry-After is %q", answer.Header.Get("Retry-After"))
				}
			}
			if n := auth.Count(); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
		})
	}
}

// TestOnErrorPassGoesOnWithoutAToken, and never with the caller's own
// credential in its place.
func TestOnErrorPassGoesOnWithoutAToken(t *testing.T) {
	tests := []struct {
		name   string
		lines  string
		path   string
		header http.Header
		gone   string // the header field
		uri    string
	}{
		{
			name: "a request without the field",
			path: "/", uri: "/", gone: "Authorization",
		},
		{
			name:   "a request with the field",
			path:   "/",
			header: http.Header{"Authorization": {"Basic own", "Bearer own"}},
			uri:    "/", gone: "Authorization",
		},
		{
			name:   "a request that nominates the field",
			path:   "/",
			header: http.Header{"Authorization": {"Basic own"}, "Connection": {"Authorization"}},
			uri:    "/", gone: "Authorization",
		},
		{
			name:   "a request with the field under another name",
			lines:  "inject header X-Api-Key",
			path:   "/",
			header: http.Header{"X_Api_Key": {"own"}},
			uri:    "/", gone: "X_api_key",
		},
		{
			name:  "a request with the query parameter",
			lines: "inject query access_token",
			path:  "/?access_token=own&a=1",
			uri:   "/?a=1",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Says(http.StatusUnauthorized, `{"error":"invalid_client"}`)
			proxy := caddytest.Run(t, aliasesWelcome+caddytest.PartnerSiteWith("on_error pass\n"+test.lines))

			if answer := proxy.Get(test.path, test.header); answer.Status != http.StatusOK {
				t.Fatalf("status %d", answer.Status)
			}

			got := api.Last(t)
			if values, ok := got.Header[test.gone]; ok {
				t.Errorf("%s goes upstream: %q", test.gone, values)
			}
			if got.URI != test.uri {
				t.Errorf("the API sees %s, want %s", got.URI, test.uri)
			}
		})
	}
}

// TestShortOutageIsInvisible: while the token in hand lives, the server may be
// gone; and when it is back, nobody has to do anything.
func TestShortOutageIsInvisible(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	auth.Answers(caddytest.Issuing(15 * time.Second))
	// Renewal is due at once, with nearly all of the token's life left.
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("refresh_ahead 90%"))
	proxy.Want(http.StatusOK)

	auth.Says(http.StatusServiceUnavailable, "")
	caddytest.Eventually(t, "a renewal failed twice", func() bool {
		proxy.Want(http.StatusOK)
		return auth.Count() >= 3
	})

	auth.Answers(caddytest.Issuing(time.Hour))
	caddytest.Eventually(t, "a new token was used", func() bool {
		proxy.Want(http.StatusOK)
		return api.LastAuthorization(t) != "Bearer access-token-1"
	})
	proxy.AwaitLog(caddytest.LogFailedEarly)
	proxy.AwaitLog(caddytest.LogObtainedAgain)
}

// TestLongOutageIsToldAndEndsByItself: an expired token is never injected, and
// when the server is back, nobody has to do anything.
func TestLongOutageIsToldAndEndsByItself(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	auth.Answers(caddytest.Issuing(time.Second))
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	proxy.Want(http.StatusOK)

	auth.Says(http.StatusServiceUnavailable, "")
	caddytest.Eventually(t, "the token expired", func() bool {
		answer := proxy.Get("/", nil)
		if answer.Status == http.StatusServiceUnavailable && answer.Header.Get("Retry-After") == "" {
			t.Fatal("there is no Retry-After")
		}
		return answer.Status == http.StatusServiceUnavailable
	})
	reached := len(api.Seen())
	for range 20 {
		proxy.Want(http.StatusServiceUnavailable)
	}
	if n := len(api.Seen()); n != reached {
		t.Errorf("%d requests reached the API after the token had expired", n-reached)
	}

	auth.Answers(caddytest.Issuing(time.Hour))
	caddytest.Eventually(t, "requests succeeded again", func() bool {
		return proxy.Get("/", nil).Status == http.StatusOK
	})
}

// TestRenewalIsBehindTheTraffic: no request waits for it while the token lives.
func TestRenewalIsBehindTheTraffic(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	renewing, done := make(chan bool, 1), make(chan bool)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		if r.Number == 1 {
			caddytest.Issue(w, "access-token-1", 15*time.Second)
			return
		}
		renewing <- true
		select {
		case <-done:
		case <-r.Context().Done():
		}
		caddytest.Issue(w, "access-token-2", time.Hour)
	})
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("refresh_ahead 90%"))
	proxy.Want(http.StatusOK) // an unused token is not renewed
	<-renewing

	for range 20 {
		proxy.Want(http.StatusOK)
		if got := api.LastAuthorization(t); got != "Bearer access-token-1" {
			t.Fatalf("Authorization is %q during the renewal", got)
		}
	}

	close(done)
	caddytest.Eventually(t, "the new token was used", func() bool {
		proxy.Want(http.StatusOK)
		return api.LastAuthorization(t) == "Bearer access-token-2"
	})
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// TestCallerWhoLeavesDoesNotEndTheFetch: it belongs to no request, and the
// next one finds its token.
func TestCallerWhoLeavesDoesNotEndTheFetch(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	done := make(chan bool)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		select {
		case <-done:
		case <-r.Context().Done():
		}
		caddytest.Issue(w, fmt.Sprintf("access-token-%d", r.Number), time.Hour)
	})
	proxy := caddytest.Run(t, caddytest.Tracing+caddytest.PartnerSite)

	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+os.Getenv("SITE"), nil)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error)
	go func() {
		_, err := proxy.Client.Do(r)
		left <- err
	}()
	caddytest.Eventually(t, "the request came in", func() bool { return proxy.Entered() == 1 })
	leave()
	if err := <-left; err == nil {
		t.Fatal("the request was answered while the token request was held up")
	}
	caddytest.Eventually(t, "the request was let go", func() bool {
		return strings.Contains(proxy.Log(), "the caller went away while waiting for an access token")
	})

	close(done)
	proxy.Want(http.StatusOK)
	if got := api.LastAuthorization(t); got != "Bearer access-token-1" {
		t.Errorf("Authorization is %q", got)
	}
	if n := auth.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// TestUnreadableSecretFileHealsByItself: it is a warning when the config
// loads, an error for the requests, and over when the file is there.
func TestUnreadableSecretFileHealsByItself(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	path := filepath.Join(t.TempDir(), "not-yet")
	t.Setenv("SECRET_FILE", path)
	site := strings.Replace(tellingSite(""), "partner-secret\n", "{file.{$SECRET_FILE}}\n", 1)
	proxy := caddytest.Run(t, site)

	warning := proxy.AwaitLog("a credential cannot be read yet; it is tried again at each token request")
	if want := "client_secret: cannot read the file: open " + path + ": no such file or directory"; warning["error"] != want || warning["level"] != "warn" {
		t.Errorf("when the config loads the log says %v", warning)
	}

	answer := proxy.Get("/", nil)
	if want := "502 no access token for the upstream: the request for one failed"; answer.Body != want {
		t.Errorf("the caller reads\n%s, want\n%s", answer.Body, want)
	}
	if n := auth.Count(); n != 0 {
		t.Errorf("%d token requests without a secret", n)
	}

	caddytest.WriteSecret(t, path, "secret")
	caddytest.Eventually(t, "requests succeeded", func() bool { return proxy.Get("/", nil).Status == http.StatusOK })
	if _, secret, _ := auth.Seen()[0].BasicAuth(); secret != "secret" {
		t.Errorf("the secret is %q", secret)
	}
}
