package integration

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestNonsenseFromACallerIsTheCallers: what no server could accept costs no token
// request, and tells the caller what is wrong. It is no failure of ours.
func TestNonsenseFromACallerIsTheCallers(t *testing.T) {
	const (
		noToken    = "no access token for the upstream: "
		badChars   = "401 " + noToken + "the caller's token holds characters that do not belong in a token"
		badScope   = "400 " + noToken + "what the request has for scope is not a scope (RFC 6749 section 3.3)"
		badURI     = "400 " + noToken + "what the request has for resource is not an absolute URI without a fragment (RFC 8707 section 2)"
		noText     = " holds characters that are no text"
		wrongToken = `Bearer error="invalid_token"`
		fromHeader = "token_exchange {\nsubject_token {http.request.header.X-A}\n}"
		value      = "{http.request.uri.query.a}"
	)
	long := strings.Repeat("a", 9<<10) // which is not too long for Caddy, but twice
	tests := []struct {
		name         string
		grant, lines string
		query        string // the parameter a, decoded
		header       http.Header
		want         string
		authenticate string // the WWW-Authenticate field
	}{
		{"a resource that is no URI", "client_credentials", "resource " + value, "orders", nil, badURI, ""},
		{"a resource with a fragment", "client_credentials", "resource " + value, "https://api.example/#", nil, badURI, ""},
		{"a resource with a space", "client_credentials", "resource " + value, "https://api.example/a b", nil, badURI, ""},
		{"a resource with a line break", "client_credentials", "resource " + value, "https://api.example/\r\nX: y", nil, badURI, ""},
		{"a resource that is made no URI", "client_credentials", "resource https://" + value + ".example", "%", nil, badURI, ""},
		{"a scope with a quote", "client_credentials", "scope " + value, `a"b`, nil, badScope, ""},
		{"a scope with a backslash", "client_credentials", "scope " + value, `a\b`, nil, badScope, ""},
		{"a scope with a tab", "client_credentials", "scope " + value, "a\tb", nil, badScope, ""},
		{"a scope that is not ASCII", "client_credentials", "scope " + value, "ä", nil, badScope, ""},
		{"a second scope behind a part of one", "client_credentials", "scope read:" + value, "one admin", nil, badScope, ""},
		{"an audience with a NUL", "client_credentials", "audience " + value, "a\x00b", nil, "400 " + noToken + "what the request has for audience" + noText, ""},
		{"a form field with a line break", "client_credentials", "token_param tenant " + value, "a\nb", nil, "400 " + noToken + "what the request has for token_param" + noText, ""},
		{"an account that is not UTF-8", "client_credentials", "account " + value, "a\xff", nil, "400 " + noToken + "what the request has for account" + noText, ""},
		{"an endless account", "client_credentials", "account " + value + value, long, nil, "400 " + noToken + "what the request has for account is too long", ""},
		{"a subject with a line break", "jwt_bearer {\nkey {$KEY_FILE}\nsubject " + value + "\n}", "", "a\nb", nil, "400 " + noToken + "what the request has for subject" + noText, ""},

		{"a token with a space", "token_exchange", "", "", bearing("one two"), badChars, wrongToken},
		{"a token that is not ASCII", fromHeader, "", "", http.Header{"X-A": {"tökén"}}, badChars, wrongToken},
		{"two tokens", "token_exchange", "", "", http.Header{"Authorization": {"Bearer one", "Bearer two"}}, badChars, wrongToken},
		{"an endless token", "token_exchange {\nsubject_token {http.request.header.X-A}{http.request.header.X-A}\n}", "", "", http.Header{"X-A": {long}}, "401 " + noToken + "the caller's token is too long", wrongToken},
		{"a password", "token_exchange", "", "", http.Header{"Authorization": {"Basic dXNlcjpwYXNzd29yZA=="}}, "401 " + noToken + "the request does not say whom one would be for", "Bearer"},
		{"a password, the field in lower case", "token_exchange {\nsubject_token {http.request.header.authorization}\n}", "", "", http.Header{"Authorization": {"Basic dXNlcjpwYXNzd29yZA=="}}, "401 " + noToken + "the request does not say whom one would be for", "Bearer"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			t.Setenv("KEY_FILE", caddytest.SecretFile(t, pkcs8Text(t, newEdKey(t))))
			proxy := caddytest.Run(t, grantSiteWith(test.grant, test.lines))

			answer := proxy.Get("/?a="+url.QueryEscape(test.query), test.header)

			if answer.Body != test.want {
				t.Errorf("the caller reads\n%s, want\n%s", answer.Body, test.want)
			}
			if got := answer.Header.Get("WWW-Authenticate"); answer.Status/100 != 4 || got != test.authenticate {
				t.Errorf("status %d, and WWW-Authenticate is %q, want %q", answer.Status, got, test.authenticate)
			}
			if auth.Count() != 0 || len(api.Seen()) != 0 {
				t.Errorf("%d token requests, and %d requests reached the API", auth.Count(), len(api.Seen()))
			}
			proxy.WantNoAlarm()
		})
	}
}

// TestSenseFromACallerIsPassedOn: what looks odd, and is allowed.
func TestSenseFromACallerIsPassedOn(t *testing.T) {
	const value = "{http.request.uri.query.a}"
	tests := []struct {
		name, lines string
		query       string
		field       string
		want        []string
	}{
		{"a list of scopes", "scope openid " + value, "read write", "scope", []string{"openid read write"}},
		{"a resource that is a URN", "resource " + value, "urn:example:orders", "resource", []string{"urn:example:orders"}},
		{"a resource with a query", "resource " + value, "https://api.example/?a=b", "resource", []string{"https://api.example/?a=b"}},
		{"an audience with a name in it", "audience " + value, "Bücher & mehr", "audience", []string{"Bücher & mehr"}},
		{"what looks like a placeholder", "token_param tenant " + value, "{env.SECRET}", "tenant", []string{"{env.SECRET}"}},
		{"a parameter with an odd name", "token_param tenant {http.request.uri.query.filter[user]}", "", "tenant", []string{"alice"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			t.Setenv("SECRET", "secret")
			proxy := caddytest.Run(t, grantSiteWith("client_credentials", test.lines))

			answer := proxy.Get("/?"+url.Values{"a": {test.query}, "filter[user]": {"alice"}}.Encode(), nil)

			if answer.Status != http.StatusOK {
				t.Fatalf("status %d: %s", answer.Status, answer.Body)
			}
			if got := auth.Seen()[0].PostForm[test.field]; !reflect.DeepEqual(got, test.want) {
				t.Errorf("%s is %q, want %q", test.field, got, test.want)
			}
		})
	}
}

// TestOnePlaceholderInTwoPlaces: what a subject token is stripped of stays where
// the very same placeholder means something else.
func TestOnePlaceholderInTwoPlaces(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	const field = "{http.request.header.Authorization}"
	proxy := caddytest.Run(t, grantSiteWith("token_exchange", "account "+field, "token_param raw "+field))

	if answer := proxy.Get("/", bearing("mine")); answer.Status != http.StatusOK {
		t.Fatalf("status %d: %s", answer.Status, answer.Body)
	}

	form := auth.Seen()[0].PostForm
	if token, raw := form.Get("subject_token"), form.Get("raw"); token != "mine" || raw != "Bearer mine" {
		t.Errorf("the subject token is %q and the other field %q", token, raw)
	}
}

// TestRefusalsThatAreAboutTheRequest: whose fault a refusal is depends on who
// filled in what the server refuses.
func TestRefusalsThatAreAboutTheRequest(t *testing.T) {
	const (
		value      = "{http.request.header.X-A}"
		notAccept  = "400 the authorization server does not accept what the request asks for "
		denies     = "403 the authorization server denies the caller a token for the upstream "
		notToken   = "401 the authorization server does not accept the caller's token "
		ours       = "502 no access token for the upstream: the authorization server refused to issue one "
		badWish    = "; a value that comes from the request is not accepted; if none ever is, check the option that holds its placeholder"
		badToken   = "; the caller's token may have expired, or be meant for somebody else; if no caller's token is accepted, check its type and what else the grant sends"
		deniesHint = "; the server does not let this caller have a token"
	)
	tests := []struct {
		name         string
		grant, lines string
		code         string
		want         string
		hint         string // at the end of the log line
		level        string
	}{
		{"a resource of the caller's", "client_credentials", "resource https://" + value + ".example", "invalid_target", notAccept, badWish, "info"},
		{"an audience of the caller's", "client_credentials", "audience " + value, "invalid_target", notAccept, badWish, "info"},
		{"an audience of the caller's, as Hydra refuses it", "client_credentials", "audience " + value, "invalid_request", notAccept, badWish, "info"},
		{"an audience of the caller's, as Auth0 refuses it", "client_credentials", "audience " + value, "access_denied", denies, deniesHint, "info"},
		{"a scope of the caller's", "client_credentials", "scope read:" + value, "invalid_scope", notAccept, badWish, "info"},
		{"a form field of the caller's", "client_credentials", "token_param tenant " + value, "invalid_request", notAccept, badWish, "info"},
		{"a target of the caller's in an exchange", "token_exchange", "audience " + value, "invalid_target", notAccept, badWish, "info"},
		{"the caller's token", "token_exchange", "audience partner", "invalid_grant", notToken, badToken, "info"},
		{"the caller's token, as RFC 8693 has it", "token_exchange", "audience partner", "invalid_request", notToken, badToken, "info"},
		{"the caller's assertion", "jwt_bearer {\nassertion {http.request.header.Authorization}\n}", "", "invalid_grant", notToken, badToken, "info"},
		{"the caller's rights", "token_exchange", "", "access_denied", denies, deniesHint, "info"},

		{"a resource of ours", "client_credentials", "account " + value + "\nresource https://api.example", "invalid_target", ours, "; check 'resource' and 'audience' against what the server knows", "error"},
		{"a scope of ours beside a caller's audience", "client_credentials", "audience " + value + "\nscope read", "invalid_scope", ours, "; check 'scope' against what the server grants this client", "error"},
		{"a right of ours", "client_credentials", "account " + value, "access_denied", ours, " (access_denied)", "error"},
		{"our credentials", "token_exchange", "audience " + value, "invalid_client", ours, "; check 'client_id' and 'client_secret', and whether the server wants them as client_secret_basic: 'client_auth client_secret_post' is another way", "error"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Says(http.StatusBadRequest, `{"error":"`+test.code+`"}`)
			proxy := caddytest.Run(t, grantSiteWith(test.grant, test.lines))

			answer := proxy.Get("/", http.Header{"Authorization": {"Bearer mine"}, "X-A": {"tenant-7"}})

			if want := test.want + "(" + test.code + ")"; answer.Body != want {
				t.Errorf("the caller reads\n%s, want\n%s", answer.Body, want)
			}
			line := proxy.AwaitLog(caddytest.LogFailed)
			if text, _ := line["error"].(string); !strings.HasSuffix(text, test.hint) {
				t.Errorf("the log says\n%s, which should end with\n%s", text, test.hint)
			}
			if line["level"] != test.level {
				t.Errorf("it says so at the level %v, want %s", line["level"], test.level)
			}
		})
	}
}

// TestCallersCannotHideTheCode: a code counts even if what the caller brought is a
// part of it, or whoever likes could raise alarms.
func TestCallersCannotHideTheCode(t *testing.T) {
	tests := []struct {
		code, token string
		status      int
	}{
		{"invalid_token", "token", http.StatusUnauthorized},
		{"interaction_required", "required", http.StatusUnauthorized},
		{"access_denied", "e", http.StatusForbidden},
		{"access_denied", "access_denied", http.StatusForbidden},
	}
	for _, test := range tests {
		t.Run(test.code+" "+test.token, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Says(http.StatusBadRequest, `{"error":"`+test.code+`"}`)
			proxy := caddytest.Run(t, grantSiteWith("token_exchange", ""))

			answer := proxy.Get("/", bearing(test.token))

			if answer.Status != test.status {
				t.Errorf("status %d, want %d: %s", answer.Status, test.status, answer.Body)
			}
			if level := proxy.AwaitLog(caddytest.LogFailed)["level"]; level != "info" {
				t.Errorf("it is logged at the level %v", level)
			}
		})
	}
}

// TestWhatReadsLikeAPlaceholder in a value is not what a placeholder is: clients
// that differ in this share nothing.
func TestWhatReadsLikeAPlaceholder(t *testing.T) {
	const placeholder = "{http.request.header.X-A}"
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	t.Setenv("PLAIN", placeholder)
	site := func(address, value string) string {
		return "http://" + address + " {\nupstream_oauth2 {\ntoken_endpoint {$TOKEN_ENDPOINT}\nclient_id partner-id\nclient_secret partner-secret\ntoken_param tenant " +
			value + "\n}\nreverse_proxy {$API}\n}\n"
	}
	proxy := caddytest.Run(t, site("{$SITE}", placeholder)+site("{$OTHER_SITE}", "{env.PLAIN}"))

	for _, address := range []string{os.Getenv("SITE"), os.Getenv("OTHER_SITE")} {
		if answer, err := proxy.Try(http.MethodGet, address, "/", http.Header{"X-A": {"tenant-7"}}); err != nil || answer.Status != http.StatusOK {
			t.Errorf("status %d, %v", answer.Status, err)
		}
	}

	sent := make(map[string]bool)
	for _, r := range auth.Seen() {
		sent[r.PostForm.Get("tenant")] = true
	}
	if !sent["tenant-7"] || !sent[placeholder] || len(sent) != 2 || len(api.Seen()) != 2 {
		t.Errorf("the tenants are %v, and %d requests came through", sent, len(api.Seen()))
	}
}

// TestProofsThatTakeADetour through a variable or a map: they most likely come from
// the Authorization field, which therefore goes no further.
func TestProofsThatTakeADetour(t *testing.T) {
	for name, lines := range map[string]string{
		"a variable": "vars tok {header.Authorization}\n\tPLACEHOLDER",
		"a map":      "map {header.Authorization} {tok} {\n~(.*) ${1}\n}\n\tPLACEHOLDER",
	} {
		t.Run(name, func(t *testing.T) {
			caddytest.NewAuthServer(t)
			api := caddytest.NewAPIServer(t)
			placeholder := map[string]string{"a variable": "{vars.tok}", "a map": "{tok}"}[name]
			site := grantSiteWith("token_exchange {\nsubject_token "+placeholder+"\n}", "inject header X-Api-Key")
			site = strings.Replace(site, "\tupstream_oauth2 ", "\t"+strings.Replace(lines, "PLACEHOLDER", "", 1)+"\n\tupstream_oauth2 ", 1)
			proxy := caddytest.Run(t, site)

			if answer := proxy.Get("/", bearing("mine")); answer.Status != http.StatusOK {
				t.Fatalf("status %d: %s", answer.Status, answer.Body)
			}
			if got := api.Last(t).Header; got.Get("X-Api-Key") == "" || strings.Contains(fmt.Sprint(got), "mine") {
				t.Errorf("the API gets %v", got)
			}
		})
	}
}
