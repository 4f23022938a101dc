package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestTokenGoesWhereTheConfigSays covers 'inject' and the token types.
func TestTokenGoesWhereTheConfigSays(t *testing.T) {
	tests := []struct {
		name   string
		inject string
		answer string // of the token endpoint
		path   string
		field  string // looked at
		want   string
		uri    string // as the API sees it; "" is the path
	}{
		{
			name:  "Authorization with the type's scheme",
			field: "Authorization", want: "Bearer T",
		},
		{
			name:   "a type in another case is sent as the scheme is written",
			answer: `{"access_token":"T","token_type":"bEaReR"}`,
			field:  "Authorization", want: "Bearer T",
		},
		{
			name:   "Apigee's type",
			answer: `{"access_token":"T","token_type":"BearerToken"}`,
			field:  "Authorization", want: "Bearer T",
		},
		{
			name:   "no type",
			answer: `{"access_token":"T"}`,
			field:  "Authorization", want: "Bearer T",
		},
		{
			name:   "a scheme of one's own",
			inject: "inject header Authorization Zoho-oauthtoken",
			field:  "Authorization", want: "Zoho-oauthtoken T",
		},
		{
			name:   "a scheme of one's own, whatever the type",
			inject: "inject header Authorization Bot",
			answer: `{"access_token":"T","token_type":"bot"}`,
			field:  "Authorization", want: "Bot T",
		},
		{
			name:   "Authorization in another case is Authorization",
			inject: "inject header authorization",
			field:  "Authorization", want: "Bearer T",
		},
		{
			name:   "another field takes the bare token",
			inject: "inject header x-amz-access-token",
			field:  "X-Amz-Access-Token", want: "T",
		},
		{
			name:   "another field with a scheme",
			inject: "inject header X-Api-Auth Token",
			field:  "X-Api-Auth", want: "Token T",
		},
		{
			name:   "a query parameter where there was no query",
			inject: "inject query access_token",
			path:   "/orders",
			uri:    "/orders?access_token=T",
		},
		{
			name:   "a query parameter behind the caller's own, which stay as they are written",
			inject: "inject query access_token",
			path:   "/orders?b=%7e&a;c&b=2",
			uri:    "/orders?b=%7e&a;c&b=2&access_token=T",
		},
		{
			name:   "a query parameter that needs escaping",
			inject: "inject query access_token",
			answer: `{"access_token":"a+b&c=d"}`,
			path:   "/orders",
			uri:    "/orders?access_token=a%2Bb%26c%3Dd",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			if test.answer == "" {
				test.answer = `{"access_token":"T","token_type":"Bearer"}`
			}
			auth.Says(http.StatusOK, test.answer)
			proxy := caddytest.Run(t, caddytest.PartnerSiteWith(test.inject))

			if test.path == "" {
				test.path = "/orders"
			}
			proxy.Get(test.path, nil)

			got := api.Last(t)
			if v := got.Header.Values(test.field); test.field != "" && !slices.Equal(v, []string{test.want}) {
				t.Errorf("%s is %q, want %q", test.field, v, test.want)
			}
			if test.field != "Authorization" && got.Header["Authorization"] != nil {
				t.Errorf("the token is in Authorization as well: %q", got.Header["Authorization"])
			}
			if test.uri == "" {
				test.uri = test.path
			}
			if got.URI != test.uri {
				t.Errorf("the API sees %s, want %s", got.URI, test.uri)
			}
		})
	}
}

// aliasesWelcome makes Caddy let header fields in whose names differ from
// X-Api-Key in a separator only; by itself it drops all with "_" or ".".
const aliasesWelcome = `{
	servers {
		expected_underscore_headers X_Api_Key X-Api_Key
		expected_dot_headers X.Api.Key
	}
}
`

// TestCallersCopiesOfTheFieldNeverGoUpstream: whoever could add a second
// credential could act as somebody else there.
func TestCallersCopiesOfTheFieldNeverGoUpstream(t *testing.T) {
	tests := []struct {
		name    string
		options string // global ones
		inject  string
		path    string
		header  http.Header
		want    http.Header // of the fields that may be read as the injected one
		uri     string
	}{
		{
			name:   "one",
			header: http.Header{"Authorization": {"Basic evil"}},
			want:   http.Header{"Authorization": {"Bearer T"}},
		},
		{
			name:   "several, in any case",
			header: http.Header{"Authorization": {"Basic evil", "Bearer evil"}, "AUTHORIZATION": {"evil"}, "authorization": {"evil"}},
			want:   http.Header{"Authorization": {"Bearer T"}},
		},
		{
			name:    "with other separators, as CGI-like upstreams read them",
			options: aliasesWelcome,
			inject:  "inject header X-Api-Key",
			header:  http.Header{"X_Api_Key": {"evil"}, "x.api.key": {"evil"}, "X-api_KEY": {"evil"}},
			want:    http.Header{"X-Api-Key": {"T"}},
		},
		{
			name:   "configured with an underscore",
			inject: "inject header X_Api_Key",
			header: http.Header{"X-Api-Key": {"evil"}},
			want:   http.Header{"X_api_key": {"T"}},
		},
		{
			name:   "but not what only resembles it",
			inject: "inject header X-Api-Key",
			header: http.Header{"X-Api-Key-Id": {"mine"}, "X-Api": {"mine"}, "X-Apikeys": {"mine"}},
			want:   http.Header{"X-Api-Key": {"T"}, "X-Api-Key-Id": {"mine"}, "X-Api": {"mine"}, "X-Apikeys": {"mine"}},
		},
		{
			name:   "in the query, also escaped, repeated or without a value",
			inject: "inject query access_token",
			path:   "/?a=1&access_token=evil&%61ccess_token=evil&access_token&b=2",
			uri:    "/?a=1&b=2&access_token=T",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Says(http.StatusOK, `{"access_token":"T"}`)
			proxy := caddytest.Run(t, test.options+caddytest.PartnerSiteWith(test.inject))

			if test.path == "" {
				test.path, test.uri = "/", "/"
			}
			proxy.Get(test.path, test.header)

			got := api.Last(t)
			if got.URI != test.uri {
				t.Errorf("the API sees %s, want %s", got.URI, test.uri)
			}
			for name, values := range got.Header {
				if read := strings.ToLower(readLoosely(name)); read == "authorization" || strings.HasPrefix(read, "x-api") {
					if !slices.Equal(values, test.want[name]) {
						t.Errorf("%s is %q, want %q", name, values, test.want[name])
					}
				}
			}
			for name := range test.want {
				if got.Header[name] == nil {
					t.Errorf("%s is gone", name)
				}
			}
		})
	}
}

// TestCallersTrailersNeverBecomeTheField: an upstream may merge them into the
// header.
func TestCallersTrailersNeverBecomeTheField(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, r.Trailer, err)
	})
	proxy := caddytest.Run(t, caddytest.PartnerSite)

	r, err := http.NewRequest(http.MethodPost, "http://"+os.Getenv("SITE"), io.MultiReader(strings.NewReader("a body of unknown length")))
	if err != nil {
		t.Fatal(err)
	}
	r.Trailer = http.Header{"Authorization": {"Basic evil"}, "X-Checksum": {"7"}}
	resp, err := proxy.Client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()

	got, _ := io.ReadAll(resp.Body)
	if want := "map[X-Checksum:[7]] <nil>"; string(got) != want {
		t.Errorf("the API sees the trailers %s, want %s", got, want)
	}
}

// TestKeepExistingLeavesTheCallersFieldAlone, and asks for no token then.
func TestKeepExistingLeavesTheCallersFieldAlone(t *testing.T) {
	tests := []struct {
		name   string
		inject string
		path   string
		header http.Header
		want   string // Authorization as the API sees it
		uri    string
	}{
		{
			name:   "a header field",
			header: http.Header{"Authorization": {"Basic own"}},
			want:   "Basic own", uri: "/",
		},
		{
			name: "no header field",
			want: "Bearer T", uri: "/",
		},
		{
			name:   "an empty header field brings nothing",
			header: http.Header{"Authorization": {""}},
			want:   "Bearer T", uri: "/",
		},
		{
			name:   "a query parameter",
			inject: "inject query access_token",
			path:   "?access_token=own", uri: "/?access_token=own",
		},
		{
			name:   "no query parameter",
			inject: "inject query access_token",
			path:   "?a=1", uri: "/?a=1&access_token=T",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Says(http.StatusOK, `{"access_token":"T"}`)
			proxy := caddytest.Run(t, caddytest.PartnerSiteWith("keep_existing\n"+test.inject))

			proxy.Get("/"+test.path, test.header)

			got := api.Last(t)
			if v := got.Header.Get("Authorization"); v != test.want {
				t.Errorf("Authorization is %q, want %q", v, test.want)
			}
			if got.URI != test.uri {
				t.Errorf("the API sees %s, want %s", got.URI, test.uri)
			}
		})
	}
}

// TestConnectionCannotStripTheToken: a proxy drops what Connection names, so a
// caller could have the API answer 401 at will.
func TestConnectionCannotStripTheToken(t *testing.T) {
	tests := []struct {
		name       string
		inject     string
		field      string
		connection []string
	}{
		{"plain", "", "Authorization", []string{"Authorization"}},
		{"in odd case", "", "Authorization", []string{"aUTHorization"}},
		{"among others", "", "Authorization", []string{"close, Authorization , X-Hop"}},
		{"with empty members", "", "Authorization", []string{", ,authorization,, "}},
		{"on a second line", "", "Authorization", []string{"X-Hop", "authorization"}},
		{"twice", "", "Authorization", []string{"authorization, Authorization", "AUTHORIZATION"}},
		{"another field", "inject header X-Api-Key", "X-Api-Key", []string{"X-Api-Key"}},
		{"another field in odd case", "inject header X-Api-Key", "X-Api-Key", []string{"x-aPI-kEY"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Says(http.StatusOK, `{"access_token":"T"}`)
			proxy := caddytest.Run(t, caddytest.PartnerSiteWith(test.inject))

			// What else Connection names is still dropped on the way.
			header := http.Header{"Connection": test.connection, "X-Hop": {"for Caddy only"}}
			proxy.Get("/", header)

			got := api.Last(t)
			if got.Header.Get(test.field) == "" {
				t.Errorf("the caller stripped the token with 'Connection: %s'", strings.Join(test.connection, "' and '"))
			}
			named := strings.Contains(strings.Join(test.connection, " "), "X-Hop")
			if dropped := got.Header.Get("X-Hop") == ""; dropped != named {
				t.Errorf("Connection names X-Hop: %v, but it was dropped: %v", named, dropped)
			}
		})
	}
}

// TestConnectionKeepsItsOtherOptions: an upgrade still goes through when the
// same field nominates ours.
func TestConnectionKeepsItsOtherOptions(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	caddytest.Run(t, caddytest.PartnerSite)
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		connection, buffer, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer connection.Close()
		_, _ = buffer.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + r.Header.Get("Upgrade") + "\r\n\r\n")
		_ = buffer.Flush()
		line, _ := buffer.ReadString('\n')
		_, _ = buffer.WriteString("echo " + line)
		_ = buffer.Flush()
	})

	connection, err := net.Dial("tcp", os.Getenv("SITE"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_, _ = io.WriteString(connection, "GET /chat HTTP/1.1\r\nHost: "+os.Getenv("SITE")+"\r\nConnection: authorization, Upgrade\r\nUpgrade: chat\r\n\r\n")
	reader := bufio.NewReader(connection)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d, want 101", answer.StatusCode)
	}
	_, _ = io.WriteString(connection, "hello\n")
	if line, err := reader.ReadString('\n'); line != "echo hello\n" {
		t.Errorf("over the upgraded connection came %q, %v", line, err)
	}
	if got := api.LastAuthorization(t); got != "Bearer access-token-1" {
		t.Errorf("Authorization is %q", got)
	}
}

// TestErrorRoutesNeverSeeTheToken: their upstreams are other servers, which
// the token is not for. They see the request as the caller sent it.
func TestErrorRoutesNeverSeeTheToken(t *testing.T) {
	tests := []struct {
		name   string
		inject string
		path   string
		header http.Header
	}{
		{
			name:   "a header field the caller did not send",
			path:   "/",
			header: http.Header{"X-Own": {"1"}},
		},
		{
			name:   "a header field the caller sent",
			path:   "/",
			header: http.Header{"Authorization": {"Basic own", "Basic other"}},
		},
		{
			name:   "a header field the caller sent under other names",
			inject: "inject header X-Api-Key",
			path:   "/",
			header: http.Header{"X_Api_Key": {"own"}, "X.Api.Key": {"own"}},
		},
		{
			name:   "a query parameter the caller did not send",
			inject: "inject query access_token",
			path:   "/?a=1",
			header: http.Header{},
		},
		{
			name:   "a query parameter the caller sent",
			inject: "inject query access_token",
			path:   "/?access_token=own&a=1",
			header: http.Header{},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, errorPages := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Says(http.StatusOK, `{"access_token":"THE-TOKEN"}`)
			t.Setenv("DEAD", caddytest.FreeAddress(t))
			proxy := caddytest.Run(t, aliasesWelcome+strings.Replace(caddytest.PartnerSiteWith(test.inject), "reverse_proxy {$API}", `
				reverse_proxy {$DEAD}
				handle_errors {
					reverse_proxy {$API}
				}`, 1))

			proxy.Get(test.path, test.header)

			got := errorPages.Last(t)
			for name, values := range got.Header {
				if strings.Contains(strings.Join(values, " "), "THE-TOKEN") {
					t.Errorf("%s holds the token", name)
				}
			}
			for name, values := range test.header {
				if name = http.CanonicalHeaderKey(name); !slices.Equal(got.Header[name], values) {
					t.Errorf("%s is %q, and was %q", name, got.Header[name], values)
				}
			}
			if got.URI != test.path {
				t.Errorf("the URI is %s, and was %s", got.URI, test.path)
			}
		})
	}
}

// TestConnectionIsPutBack: what follows in the error routes sees Connection as
// the caller sent it.
func TestConnectionIsPutBack(t *testing.T) {
	caddytest.NewAuthServer(t)
	t.Setenv("DEAD", caddytest.FreeAddress(t))
	proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "reverse_proxy {$API}", `
		reverse_proxy {$DEAD}
		handle_errors {
			respond "{header.Connection}"
		}`, 1))

	answer := proxy.Get("/", http.Header{"Connection": {"close, Authorization"}})
	if answer.Body != "close, Authorization" {
		t.Errorf("Connection is %q afterwards", answer.Body)
	}
}

// TestHandlersAheadSeeTheRequestAsItWas, when it comes back to them.
func TestHandlersAheadSeeTheRequestAsItWas(t *testing.T) {
	const (
		inHeader = "inject header X-Api-Key\n"
		inQuery  = "inject query a\n"
		without  = "on_error pass\nscope refused\n"
	)
	tests := []struct {
		name, lines string
		field       []string // X-Api-Key, as the caller sends it
	}{
		{"a header field the caller did not send", inHeader, nil},
		{"a header field the caller sent", inHeader, []string{"own"}},
		{"a query parameter the caller sent", inQuery, nil},
		{"a header field, and no token", inHeader + without, []string{"own"}},
		{"a query parameter, and no token", inQuery + without, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
				if r.PostForm.Has("scope") {
					caddytest.Say(w, http.StatusBadRequest, `{"error":"invalid_scope"}`)
					return
				}
				caddytest.Issue(w, "T", time.Hour)
			})
			// log_append looks at the request when all others are done.
			proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSiteWith(test.lines), "upstream_oauth2", `log
				log_append query {query}
				log_append field {header.X-Api-Key}
				upstream_oauth2`, 1))

			header := http.Header{}
			if test.field != nil {
				header["X-Api-Key"] = test.field
			}
			proxy.Get("/?a=1&b", header)

			line := proxy.AwaitLog("handled request")
			if want := strings.Join(test.field, ""); line["query"] != "a=1&b" || line["field"] != want {
				t.Errorf("afterwards the query is %q and the field %q, want %q and %q", line["query"], line["field"], "a=1&b", want)
			}
		})
	}
}

// TestForwardAuthNeverSeesTheToken: the order of directives puts the token on
// behind it, whatever the order in the file.
func TestForwardAuthNeverSeesTheToken(t *testing.T) {
	caddytest.NewAuthServer(t)
	portal := caddytest.NewAPIServer(t)
	t.Setenv("PORTAL", os.Getenv("API"))
	api := caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "reverse_proxy", `forward_auth {$PORTAL} {
			uri /check
		}
		reverse_proxy`, 1))

	proxy.Want(http.StatusOK)

	if got := portal.LastAuthorization(t); got != "" {
		t.Errorf("forward_auth's server got %q", got)
	}
	if got := api.LastAuthorization(t); got != "Bearer access-token-1" {
		t.Errorf("the API got %q", got)
	}
}

// TestLaterHandlersEditTheirOwnCopy: request_header changes values in place,
// and the next request must not get what the last one was made into.
func TestLaterHandlersEditTheirOwnCopy(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, `
http://{$SITE} {
	route {
		upstream_oauth2 {
			token_endpoint {$TOKEN_ENDPOINT}
			client_id      partner-id
			client_secret  partner-secret
		}
		request_header Authorization access spoilt-access
		reverse_proxy {$API}
	}
}`)
	for range 2 {
		proxy.Want(http.StatusOK)
		if got := api.LastAuthorization(t); got != "Bearer spoilt-access-token-1" {
			t.Errorf("Authorization is %q", got)
		}
	}
}

// TestTraceIsRefused: its answer would show the caller our token.
func TestTraceIsRefused(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, caddytest.PartnerSite)

	answer := proxy.Send(http.MethodTrace, os.Getenv("SITE"), "/", nil)

	if answer.Status != http.StatusMethodNotAllowed {
		t.Errorf("status %d, want 405", answer.Status)
	}
	if n := len(api.Seen()); n != 0 {
		t.Errorf("%d requests reached the API", n)
	}
}

// TestTokenIsForTheMatchedRequestsOnly covers the directive's matcher.
func TestTokenIsForTheMatchedRequestsOnly(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "upstream_oauth2 partner", "upstream_oauth2 /api/* partner", 1))

	for path, want := range map[string]string{"/api/orders": "Bearer access-token-1", "/pages": ""} {
		proxy.Get(path, nil)
		if got := api.LastAuthorization(t); got != want {
			t.Errorf("%s goes upstream with %q, want %q", path, got, want)
		}
	}
}

// TestTheURLOfTheCallerIsNotRewritten: injecting into the header leaves the
// URL alone, and the path as it was escaped.
func TestTheURLOfTheCallerIsNotRewritten(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	uri := "/a%2Fb/%7Ec?x=%20&y=" + url.QueryEscape("é")

	proxy.Get(uri, nil)

	if got := api.Last(t).URI; got != uri {
		t.Errorf("the API sees %s, want %s", got, uri)
	}
}
