package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestWhatStandsBehindIsWarnedOf: it sees the token, and only those are warned whose
// routes show that this is hardly meant.
func TestWhatStandsBehindIsWarnedOf(t *testing.T) {
	const (
		matcher = "a matcher behind upstream_oauth2 looks at the field that holds the token by then: decide about callers ahead of it, in a route block"
		second  = "a second upstream, in handle_response or intercept, gets the token as well: take it off there with header_up, unless it is meant to have it"
	)
	client := strings.TrimSuffix(caddytest.PartnerSite[strings.Index(caddytest.PartnerSite, "upstream_oauth2"):], "reverse_proxy {$API}\n}")
	tests := []struct {
		name  string
		lines string // of the site; CLIENT is the directive
		want  string // "" for no warning
	}{
		{"nothing of the kind", "CLIENT\nreverse_proxy {$API}", ""},
		{"a matcher of another field", "@a header Accept *\nCLIENT\nrespond @a 204\nreverse_proxy {$API}", ""},
		{"a matcher ahead", "@a not header Authorization *\nroute {\nrespond @a 401\nCLIENT\nreverse_proxy {$API}\n}", ""},
		{"a matcher behind", "@a header Authorization *\nCLIENT\nrespond @a 204\nreverse_proxy {$API}", matcher},
		{"a negated one", "@a not header authorization *\nCLIENT\nrespond @a 401\nreverse_proxy {$API}", matcher},
		{"a matcher of another handle block", "handle /a {\nCLIENT\nreverse_proxy {$API}\n}\n@a header Authorization *\nhandle @a {\nrespond 204\n}", ""},

		{"handle_response with a text", "CLIENT\nreverse_proxy {$API} {\nhandle_response {\nrespond 204\n}\n}", ""},
		{"with an upstream", "CLIENT\nreverse_proxy {$API} {\nhandle_response {\nreverse_proxy {$API}\n}\n}", second},
		{"intercept with an upstream", "CLIENT\nintercept {\nhandle_response {\nreverse_proxy {$API}\n}\n}\nrespond 204", second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			proxy := caddytest.Run(t, "http://{$SITE} {\n"+strings.ReplaceAll(test.lines, "CLIENT", client)+"\n}")
			_ = proxy.Get("/", http.Header{}) // by now the routes have been looked at

			for _, message := range []string{matcher, second} {
				if got, want := len(proxy.Logged(message)) > 0, message == test.want; got != want {
					t.Errorf("%q is logged: %t, want %t", message, got, want)
				}
			}
		})
	}
}
