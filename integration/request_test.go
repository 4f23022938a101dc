package integration

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestTokenRequestSaysWhatTheCaddyfileSays looks at what reaches the token
// endpoint: every form field, and the Authorization field.
func TestTokenRequestSaysWhatTheCaddyfileSays(t *testing.T) {
	basic := func(id, secret string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
	}
	const ordinary = "client_id partner-id\nclient_secret partner-secret\n"
	const oddSecret = "p%s: {+}/é\""
	tests := []struct {
		name   string
		lines  string
		want   url.Values
		auth   string
		header http.Header
	}{
		{
			name:  "the least",
			lines: ordinary,
			want:  url.Values{"grant_type": {"client_credentials"}},
			auth:  basic("partner-id", "partner-secret"),
			header: http.Header{
				"Accept":       {"application/json"},
				"Content-Type": {"application/x-www-form-urlencoded"},
			},
		},
		{
			name:  "client_secret_basic form-encodes both",
			lines: "client_id \"an id\"\nclient_secret {env.ODD_SECRET}",
			want:  url.Values{"grant_type": {"client_credentials"}},
			auth:  basic("an+id", "p%25s%3A+%7B%2B%7D%2F%C3%A9%22"),
		},
		{
			name:  "client_secret_basic_raw leaves them as they are",
			lines: "client_id \"an id\"\nclient_secret {env.ODD_SECRET}\nclient_auth client_secret_basic_raw",
			want:  url.Values{"grant_type": {"client_credentials"}},
			auth:  basic("an id", oddSecret),
		},
		{
			name:  "client_secret_post",
			lines: "client_id \"an id\"\nclient_secret {env.ODD_SECRET}\nclient_auth client_secret_post",
			want:  url.Values{"grant_type": {"client_credentials"}, "client_id": {"an id"}, "client_secret": {oddSecret}},
		},
		{
			name:  "none",
			lines: "client_id partner-id\nclient_auth none",
			want:  url.Values{"grant_type": {"client_credentials"}, "client_id": {"partner-id"}},
		},
		{
			name:  "scopes become one field, audiences and resources one each",
			lines: ordinary + "scope read:a \"b c\"\nscope d\naudience one \"number two\"\naudience three\nresource https://a.example https://b.example/x?y",
			want: url.Values{
				"grant_type": {"client_credentials"},
				"scope":      {"read:a b c d"},
				"audience":   {"one", "number two", "three"},
				"resource":   {"https://a.example", "https://b.example/x?y"},
			},
			auth: basic("partner-id", "partner-secret"),
		},
		{
			name:  "further form fields",
			lines: ordinary + "token_param tenant \"a b&c\"\ntoken_param otp {env.ODD_SECRET}",
			want:  url.Values{"grant_type": {"client_credentials"}, "tenant": {"a b&c"}, "otp": {oddSecret}},
			auth:  basic("partner-id", "partner-secret"),
		},
		{
			name:   "further header fields, which win",
			lines:  ordinary + "token_header user-agent my-agent/1\ntoken_header X-Tenant {env.TENANT}\ntoken_header accept application/xml",
			want:   url.Values{"grant_type": {"client_credentials"}},
			auth:   basic("partner-id", "partner-secret"),
			header: http.Header{"User-Agent": {"my-agent/1"}, "X-Tenant": {"tenant-7"}, "Accept": {"application/xml"}},
		},
		{
			name:  "an Authorization field of one's own",
			lines: "client_id partner-id\nclient_auth none\ntoken_header Authorization \"Bearer initial\"",
			want:  url.Values{"grant_type": {"client_credentials"}, "client_id": {"partner-id"}},
			auth:  "Bearer initial",
		},
		{
			name:  "Zoom's grant",
			lines: ordinary + "grant account_credentials\ntoken_param account_id {env.TENANT}",
			want:  url.Values{"grant_type": {"account_credentials"}, "account_id": {"tenant-7"}},
			auth:  basic("partner-id", "partner-secret"),
		},
		{
			name:  "a grant type that is a URN",
			lines: ordinary + "grant urn:example:grant\nscope a",
			want:  url.Values{"grant_type": {"urn:example:grant"}, "scope": {"a"}},
			auth:  basic("partner-id", "partner-secret"),
		},
		{
			name:  "refresh_token",
			lines: ordinary + "scope a\ntoken_param tenant {env.TENANT}\ngrant refresh_token {\nrefresh_token {env.ODD_SECRET}\n}",
			want:  url.Values{"grant_type": {"refresh_token"}, "refresh_token": {oddSecret}, "scope": {"a"}, "tenant": {"tenant-7"}},
			auth:  basic("partner-id", "partner-secret"),
		},
		{
			name:  "placeholders in everything",
			lines: "client_id {env.TENANT}-id\nclient_secret {env.TENANT}\nscope {env.TENANT}\naudience x-{env.TENANT}\nresource https://{env.TENANT}.example",
			want: url.Values{
				"grant_type": {"client_credentials"},
				"scope":      {"tenant-7"},
				"audience":   {"x-tenant-7"},
				"resource":   {"https://tenant-7.example"},
			},
			auth: basic("tenant-7-id", "tenant-7"),
		},
		{
			name:  "braces that are no placeholder belong to the secret",
			lines: "client_id partner-id\nclient_secret \"a{b}{c\"",
			want:  url.Values{"grant_type": {"client_credentials"}},
			auth:  basic("partner-id", "a%7Bb%7D%7Bc"),
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("ODD_SECRET", oddSecret)
			t.Setenv("TENANT", "tenant-7")
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			proxy := caddytest.Run(t, `
http://{$SITE} {
	upstream_oauth2 {
		token_endpoint {$TOKEN_ENDPOINT}?v=2&x=%20
		`+test.lines+`
	}
	reverse_proxy {$API}
}`)
			proxy.Want(http.StatusOK)

			got := auth.Seen()[0]
			if !reflect.DeepEqual(got.PostForm, test.want) {
				t.Errorf("the form is\n%v, want\n%v", got.PostForm, test.want)
			}
			if a := got.Header.Get("Authorization"); a != test.auth {
				t.Errorf("Authorization is %q, want %q", a, test.auth)
			}
			for name := range maps.Keys(test.header) {
				if !reflect.DeepEqual(got.Header[name], test.header[name]) {
					t.Errorf("%s is %q, want %q", name, got.Header[name], test.header[name])
				}
			}
			if got.Method != http.MethodPost || got.RequestURI != "/token?v=2&x=%20" {
				t.Errorf("the request is %s %s", got.Method, got.RequestURI)
			}
			if agent := got.UserAgent(); test.header["User-Agent"] == nil && !strings.HasPrefix(agent, "caddy-upstream-oauth2/") {
				t.Errorf("the User-Agent is %q", agent)
			}
		})
	}
}

// TestRotatedSecretFileIsPickedUpAtTheNextTokenRequest, without a reload.
func TestRotatedSecretFileIsPickedUpAtTheNextTokenRequest(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Answers(caddytest.Issuing(time.Second))
	path := caddytest.SecretFile(t, "first-secret")
	t.Setenv("SECRET_FILE", path)
	proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "partner-secret\n", "{file.{$SECRET_FILE}}\n", 1))
	proxy.Want(http.StatusOK)

	caddytest.WriteSecret(t, path, "second-secret")
	caddytest.Eventually(t, "the new secret was used", func() bool {
		proxy.Want(http.StatusOK)
		seen := auth.Seen()
		_, secret, _ := seen[len(seen)-1].BasicAuth()
		return secret == "second-secret"
	})
	if _, secret, _ := auth.Seen()[0].BasicAuth(); secret != "first-secret" {
		t.Errorf("the first secret was %q", secret)
	}
}

// TestRefreshTokenRotation follows the refresh token from one token request to
// the next (RFC 6749 section 6).
func TestRefreshTokenRotation(t *testing.T) {
	tests := []struct {
		name   string
		answer string // the refresh_token member, to every request
		want   []string
	}{
		{"a new one replaces the old", `,"refresh_token":"refresh-%d"`, []string{"configured", "refresh-1", "refresh-2"}},
		{"an absent one keeps the old", ``, []string{"configured", "configured", "configured"}},
		{"an empty one keeps the old", `,"refresh_token":""`, []string{"configured", "configured", "configured"}},
		{"null keeps the old", `,"refresh_token":null`, []string{"configured", "configured", "configured"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("REFRESH_TOKEN", "configured")
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
				member := test.answer
				if strings.Contains(member, "%d") {
					member = fmt.Sprintf(member, r.Number)
				}
				caddytest.Say(w, http.StatusOK, `{"access_token":"T","expires_in":1`+member+`}`)
			})
			proxy := caddytest.Run(t, caddytest.PartnerSiteWith("refresh_ahead 90%\ngrant refresh_token {\nrefresh_token {env.REFRESH_TOKEN}\n}"))

			caddytest.Eventually(t, "the token was renewed twice", func() bool {
				proxy.Want(http.StatusOK)
				return auth.Count() >= len(test.want)
			})
			for i, want := range test.want {
				if got := auth.Seen()[i].PostForm.Get("refresh_token"); got != want {
					t.Errorf("token request %d has refresh token %q, want %q", i+1, got, want)
				}
			}
		})
	}
}

// TestRotatedRefreshTokenOutlivesAReload, also where metadata tells the token
// endpoint: which one that is has nothing to do with the grant.
func TestRotatedRefreshTokenOutlivesAReload(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Answers(publishing(map[string]string{rfc8414Place: metadata("", nil)}, func(w http.ResponseWriter, r caddytest.TokenRequest) {
		caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":"T","expires_in":3600,"refresh_token":"%s+"}`, r.PostForm.Get("refresh_token")))
	}))
	t.Setenv("ISSUER", auth.URL)
	site := issuerSiteWith("grant refresh_token {\nrefresh_token configured\n}")
	proxy := caddytest.Run(t, site)
	proxy.Want(http.StatusOK)

	// Each of these changes gives the client a new cache, and so a new token.
	proxy.Reload(strings.Replace(site, "client_secret", "scope more\nclient_secret", 1))
	proxy.Want(http.StatusOK)
	proxy.Reload(strings.Replace(site, "client_secret", "scope yet more\nclient_secret", 1))
	proxy.Want(http.StatusOK)

	var got []string
	for _, r := range auth.Seen() {
		if r.Method == http.MethodPost {
			got = append(got, r.PostForm.Get("refresh_token"))
		}
	}
	if want := []string{"configured", "configured+", "configured++"}; !slices.Equal(got, want) {
		t.Errorf("the refresh tokens are %q, want %q", got, want)
	}
}

// TestFailedRefreshKeepsTheRefreshToken: an error does not cost the grant, whatever
// refresh token stands in it. The one in an answer of success counts, even if the
// access token beside it is of no use.
func TestFailedRefreshKeepsTheRefreshToken(t *testing.T) {
	for name, test := range map[string]struct{ answer, next string }{
		"an error":           {`{"error":"invalid_request","refresh_token":"another"}`, "rotated"},
		"a malformed answer": {`{"access_token":"a b","refresh_token":"another"}`, "another"},
	} {
		t.Run(name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
				switch r.Number {
				case 1:
					caddytest.Say(w, http.StatusOK, `{"access_token":"T","expires_in":10,"refresh_token":"rotated"}`)
				case 2:
					caddytest.Say(w, http.StatusOK, test.answer)
				default:
					caddytest.Issue(w, "T", time.Hour)
				}
			})
			proxy := caddytest.Run(t, caddytest.PartnerSiteWith("refresh_ahead 90%\ngrant refresh_token {\nrefresh_token configured\n}"))

			caddytest.Eventually(t, "it was tried again", func() bool {
				proxy.Want(http.StatusOK)
				return auth.Count() >= 3
			})
			for i, want := range []string{"configured", "rotated", test.next} {
				if got := auth.Seen()[i].PostForm.Get("refresh_token"); got != want {
					t.Errorf("token request %d has refresh token %q, want %q", i+1, got, want)
				}
			}
		})
	}
}

// TestChangedConfiguredRefreshTokenWins over what it was rotated to: somebody
// has signed in anew.
func TestChangedConfiguredRefreshTokenWins(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		caddytest.Say(w, http.StatusOK, `{"access_token":"T","expires_in":1,"refresh_token":"rotated-`+r.PostForm.Get("refresh_token")+`"}`)
	})
	path := caddytest.SecretFile(t, "old")
	t.Setenv("REFRESH_FILE", path)
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("refresh_ahead 90%\ngrant refresh_token {\nrefresh_token {file.{$REFRESH_FILE}}\n}"))
	used := func(refreshToken string) func() bool {
		return func() bool {
			proxy.Want(http.StatusOK)
			seen := auth.Seen()
			return seen[len(seen)-1].PostForm.Get("refresh_token") == refreshToken
		}
	}
	caddytest.Eventually(t, "the rotated one was used", used("rotated-old"))

	caddytest.WriteSecret(t, path, "new")

	caddytest.Eventually(t, "the new one was used", used("new"))
	caddytest.Eventually(t, "the new one was rotated as well", used("rotated-new"))
}
