package integration

import (
	"cmp"
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// grantSite is the Caddyfile of these tests: who a token is for is in the grant.
const grantSite = `
http://{$SITE} {
	upstream_oauth2 partner {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      partner-id
		client_secret  partner-secret
		grant GRANT
	}
	reverse_proxy {$API}
	handle_errors {
		respond "{err.status_code} {err.message}"
	}
}`

// grantSiteWith is grantSite with a grant, and with further lines behind it.
func grantSiteWith(grant string, lines ...string) string {
	return strings.Replace(grantSite, "GRANT", grant+"\n"+strings.Join(lines, "\n"), 1)
}

// bearing is the header of a caller with that token.
func bearing(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

const (
	jwtBearerURN     = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	tokenExchangeURN = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessTokenURN   = "urn:ietf:params:oauth:token-type:access_token"
	jwtURN           = "urn:ietf:params:oauth:token-type:jwt"
)

// TestJWTBearerSignsAnAssertion with the claims that the config says.
func TestJWTBearerSignsAnAssertion(t *testing.T) {
	key := newECKey(t, elliptic.P256())
	tests := []struct {
		name  string
		grant string // lines beside the key
		lines string // beside the grant
		want  map[string]any
		kid   string
	}{
		{
			"by default about ourselves, for the token endpoint", "", "",
			map[string]any{"iss": "partner-id", "sub": "partner-id", "aud": "ENDPOINT"}, "",
		},
		{
			"for the client's issuer", "", "issuer https://issuer.example",
			map[string]any{"iss": "partner-id", "sub": "partner-id", "aud": "https://issuer.example"}, "",
		},
		{
			"about someone", "subject alice@example.com", "",
			map[string]any{"iss": "partner-id", "sub": "alice@example.com", "aud": "ENDPOINT"}, "",
		},
		{
			"all of it", "issuer integration\nsubject alice\naudience https://login.example\nclaim tenant 7\nclaim box sandbox\nkey_id first", "",
			map[string]any{"iss": "integration", "sub": "alice", "aud": "https://login.example", "tenant": float64(7), "box": "sandbox"}, "first",
		},
		{
			"from the environment", "issuer {env.WHO}\nsubject {env.WHO}-sub\naudience https://{env.WHO}\nclaim who {env.WHO}\nkey_id {env.WHO}", "",
			map[string]any{"iss": "somebody", "sub": "somebody-sub", "aud": "https://somebody", "who": "somebody"}, "somebody",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			t.Setenv("WHO", "somebody")
			t.Setenv("KEY_FILE", caddytest.SecretFile(t, pkcs8Text(t, key)))
			proxy := caddytest.Run(t, grantSiteWith("jwt_bearer {\nkey {$KEY_FILE}\n"+test.grant+"\n}", test.lines))

			proxy.Want(http.StatusOK)

			request := auth.Seen()[0]
			if got := request.PostForm.Get("grant_type"); got != jwtBearerURN {
				t.Errorf("grant_type is %q", got)
			}
			if id, secret, _ := request.BasicAuth(); id != "partner-id" || secret != "partner-secret" {
				t.Errorf("the client proves itself as %q with %q", id, secret)
			}
			j, err := verify(request.PostForm.Get("assertion"), "ES256", key.Public())
			if err != nil {
				t.Fatal(err)
			}
			checkLife(t, j, time.Minute)
			for name, want := range test.want {
				if want == "ENDPOINT" {
					want = auth.URL + "/token"
				}
				if got := j.claims[name]; got != want {
					t.Errorf("the claim %s is %v, want %v", name, got, want)
				}
			}
			if j.header.KeyID != test.kid || j.extra("typ") != "JWT" {
				t.Errorf("kid is %q and typ %q", j.header.KeyID, j.extra("typ"))
			}
		})
	}
}

// checkLife fails the test unless an assertion is good now, for as long, and once.
func checkLife(t testing.TB, j jwt, want time.Duration) {
	t.Helper()
	now := time.Now()
	if j.time("iat").After(now) || !j.time("exp").After(now) || j.time("exp").Sub(j.time("iat")) != want {
		t.Errorf("it lives from %v to %v, and it is %v", j.time("iat"), j.time("exp"), now)
	}
	if j.text("jti") == "" {
		t.Error("it has no jti")
	}
}

// TestGooglesKeyFileIsEnough: it says where tokens are and who we are, and Google
// wants the scope in the assertion.
func TestGooglesKeyFileIsEnough(t *testing.T) {
	tests := []struct {
		name, grant string
		want        map[string]any
		life        time.Duration
	}{
		{"one line", "", map[string]any{"sub": nil}, time.Hour},
		{"on behalf of a user of the domain", "subject alice@example.com", map[string]any{"sub": "alice@example.com"}, time.Hour},
		{"a short life", "lifetime 5m", map[string]any{"sub": nil}, 5 * time.Minute},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			file, err := json.Marshal(map[string]string{
				"type": "service_account", "project_id": "project", "universe_domain": "googleapis.com",
				"client_email": "robot@project.iam.gserviceaccount.com", "client_id": "117",
				"private_key_id": "key-1", "private_key": pkcs8Text(t, rsaKey()),
				"token_uri": auth.URL + "/google/token",
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Setenv("GOOGLE_FILE", caddytest.SecretFile(t, string(file)))
			proxy := caddytest.Run(t, `
http://{$SITE} {
	upstream_oauth2 google {
		grant jwt_bearer {
			service_account {$GOOGLE_FILE}
			`+test.grant+`
		}
		scope https://scope.example/read https://scope.example/write
	}
	reverse_proxy {$API}
}`)

			proxy.Want(http.StatusOK)

			request := auth.Seen()[0]
			if request.URL.Path != "/google/token" {
				t.Errorf("the token is requested from %s", request.URL.Path)
			}
			j, err := verify(request.PostForm.Get("assertion"), "RS256", rsaKey().Public())
			if err != nil {
				t.Fatal(err)
			}
			checkLife(t, j, test.life)
			want := map[string]any{
				"iss": "robot@project.iam.gserviceaccount.com", "aud": auth.URL + "/google/token",
				"scope": "https://scope.example/read https://scope.example/write",
			}
			for _, claims := range []map[string]any{want, test.want} {
				for name, value := range claims {
					if j.claims[name] != value {
						t.Errorf("the claim %s is %v, want %v", name, j.claims[name], value)
					}
				}
			}
			if j.header.KeyID != "key-1" {
				t.Errorf("kid is %q", j.header.KeyID)
			}
			if got := api.LastAuthorization(t); got != "Bearer access-token-1" {
				t.Errorf("Authorization is %q", got)
			}
		})
	}
}

// TestTokenRequestsOfGrantsOnBehalf: what the server gets to see, field by field.
func TestTokenRequestsOfGrantsOnBehalf(t *testing.T) {
	const caller = "the-callers-token"
	tests := []struct {
		name   string
		grant  string
		lines  string
		header http.Header
		want   url.Values
	}{
		{
			name: "a ready-made assertion from the environment", grant: "jwt_bearer {\nassertion {env.READY}\n}",
			want: url.Values{"grant_type": {jwtBearerURN}, "assertion": {"ready-made"}},
		},
		{
			name: "a ready-made assertion from a file", grant: "jwt_bearer {\nassertion {file.{$READY_FILE}}\n}",
			want: url.Values{"grant_type": {jwtBearerURN}, "assertion": {"from-the-file"}},
		},
		{
			name: "a ready-made assertion for each caller", grant: "jwt_bearer {\nassertion {header.X-Assertion}\n}",
			header: http.Header{"X-Assertion": {"signed-for-me"}},
			want:   url.Values{"grant_type": {jwtBearerURN}, "assertion": {"signed-for-me"}},
		},
		{
			name: "Microsoft's on-behalf-of", grant: "jwt_bearer {\nassertion {http.request.header.Authorization}\n}",
			lines:  "token_param requested_token_use on_behalf_of\nscope https://graph.example/.default",
			header: bearing(caller),
			want: url.Values{
				"grant_type": {jwtBearerURN}, "assertion": {caller},
				"requested_token_use": {"on_behalf_of"}, "scope": {"https://graph.example/.default"},
			},
		},
		{
			name: "token exchange", grant: "token_exchange",
			header: bearing(caller),
			want:   url.Values{"grant_type": {tokenExchangeURN}, "subject_token": {caller}, "subject_token_type": {accessTokenURN}},
		},
		{
			name: "token exchange, the scheme in another case", grant: "token_exchange",
			header: http.Header{"Authorization": {"bEARER  " + caller}},
			want:   url.Values{"grant_type": {tokenExchangeURN}, "subject_token": {caller}, "subject_token_type": {accessTokenURN}},
		},
		{
			name: "token exchange with all there is",
			grant: `token_exchange {
				subject_token        {http.request.header.X-Subject}
				subject_token_type   jwt
				actor_token          {env.READY}
				actor_token_type     urn:example:actor
				requested_token_type access_token
			}`,
			lines:  "audience a b\nresource https://r.example https://s.example\nscope read write",
			header: http.Header{"X-Subject": {caller}},
			want: url.Values{
				"grant_type": {tokenExchangeURN}, "subject_token": {caller}, "subject_token_type": {jwtURN},
				"actor_token": {"ready-made"}, "actor_token_type": {"urn:example:actor"}, "requested_token_type": {accessTokenURN},
				"audience": {"a", "b"}, "resource": {"https://r.example", "https://s.example"}, "scope": {"read write"},
			},
		},
		{
			name: "an actor whose token has the usual type", grant: "token_exchange {\nactor_token {http.request.header.X-Actor}\n}",
			header: http.Header{"Authorization": {"Bearer " + caller}, "X-Actor": {"Bearer the-actors"}},
			want: url.Values{
				"grant_type": {tokenExchangeURN}, "subject_token": {caller}, "subject_token_type": {accessTokenURN},
				"actor_token": {"the-actors"}, "actor_token_type": {accessTokenURN},
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			t.Setenv("READY", "ready-made")
			t.Setenv("READY_FILE", caddytest.SecretFile(t, "from-the-file"))
			proxy := caddytest.Run(t, grantSiteWith(test.grant, test.lines))

			if answer := proxy.Get("/", test.header); answer.Status != http.StatusOK {
				t.Fatalf("status %d: %s\n%v", answer.Status, answer.Body, proxy.Logged(caddytest.LogFailed))
			}

			if got := auth.Seen()[0].PostForm; !reflect.DeepEqual(got, test.want) {
				t.Errorf("the token request is\n%v, want\n%v", got, test.want)
			}
			if got := api.LastAuthorization(t); got != "Bearer access-token-1" {
				t.Errorf("Authorization is %q", got)
			}
			// What proves the caller was meant for us.
			for _, name := range []string{"X-Subject", "X-Actor", "X-Assertion"} {
				if values, ok := api.Last(t).Header[name]; ok {
					t.Errorf("%s goes upstream: %q", name, values)
				}
			}
		})
	}
}

// TestIssuedTokenTypesOfAnExchange (RFC 8693 section 2.2.1): N_A says that the
// token is no access token. It has no scheme then, which matters where one is
// needed and the config names none. A refresh token never goes upstream.
func TestIssuedTokenTypesOfAnExchange(t *testing.T) {
	const (
		notOurs = `"token_type":"N_A","issued_token_type":"` + jwtURN + `"`
		refresh = `"issued_token_type":"urn:ietf:params:oauth:token-type:refresh_token"`

		noScheme  = `the token_type "N_A" is not understood: write 'inject header Authorization <scheme>' to use the token whatever its type (RFC 6749 section 7.1)`
		isRefresh = "the authorization server's answer cannot be used: it holds a refresh token as access_token, by its issued_token_type: write 'requested_token_type access_token'"
	)
	tests := []struct {
		name, answer, lines string
		want                string // of the Authorization and X-Api-Token fields and the URI
		says                string // in the log, if the token is refused
	}{
		{"an access token", `"token_type":"Bearer","issued_token_type":"` + accessTokenURN + `"`, "", "Bearer T||/", ""},
		{"a JWT as bearer token", `"token_type":"Bearer","issued_token_type":"` + jwtURN + `"`, "", "Bearer T||/", ""},
		{"N_A", notOurs, "", "", noScheme},
		{"N_A in Authorization", notOurs, "inject header Authorization", "", noScheme},
		{"N_A with a scheme of our own", notOurs, "inject header Authorization Token", "Token T||/", ""},
		{"N_A in another field", notOurs, "inject header X-Api-Token", "|T|/", ""},
		{"N_A in another field, with a scheme", notOurs, "inject header X-Api-Token Token", "|Token T|/", ""},
		{"N_A in the query", notOurs, "inject query token", "||/?token=T", ""},
		{"N_A in small letters", `"token_type":"n_a"`, "inject query token", "||/?token=T", ""},
		{"another type in another field", `"token_type":"mac"`, "inject header X-Api-Token", "|T|/", ""},
		{"another type in Authorization", `"token_type":"mac"`, "", "", `the token_type "mac" is not understood`},
		{"a refresh token", `"token_type":"N_A",` + refresh, "", "", isRefresh},
		{"a refresh token as bearer token", `"token_type":"Bearer",` + refresh, "", "", isRefresh},
		{"a refresh token in another field", `"token_type":"N_A",` + refresh, "inject header X-Api-Token", "", isRefresh},
		{"a refresh token with a scheme of our own", `"token_type":"N_A",` + refresh, "inject header Authorization Token", "", isRefresh},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Says(http.StatusOK, `{"access_token":"T",`+test.answer+`}`)
			proxy := caddytest.Run(t, grantSiteWith("token_exchange", test.lines))

			answer := proxy.Get("/", bearing("mine"))

			if test.says != "" {
				if got := proxy.Failure(); answer.Status != http.StatusBadGateway || !strings.Contains(got, test.says) {
					t.Errorf("status %d, and the log says\n%s, want 502 and\n%s", answer.Status, got, test.says)
				}
				if n := len(api.Seen()); n != 0 {
					t.Errorf("%d requests went upstream", n)
				}
				return
			}
			if answer.Status != http.StatusOK {
				t.Fatalf("status %d: %s", answer.Status, answer.Body)
			}
			r := api.Last(t)
			if got := r.Header.Get("Authorization") + "|" + r.Header.Get("X-Api-Token") + "|" + r.URI; got != test.want {
				t.Errorf("upstream gets %s, want %s", got, test.want)
			}
		})
	}
}

// TestTokenWithoutATypeIsNotShared with a client that cannot send it.
func TestTokenWithoutATypeIsNotShared(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Says(http.StatusOK, `{"access_token":"T","token_type":"N_A"}`)
	other := strings.NewReplacer("{$SITE}", "{$OTHER_SITE}", "partner {", "other {").Replace(grantSiteWith("token_exchange"))
	proxy := caddytest.Run(t, grantSiteWith("token_exchange", "inject header X-Api-Token")+other)

	if answer := proxy.Get("/", bearing("mine")); answer.Status != http.StatusOK {
		t.Errorf("status %d in a field of its own: %s", answer.Status, answer.Body)
	}
	if answer := proxy.Send(http.MethodGet, os.Getenv("OTHER_SITE"), "/", bearing("mine")); answer.Status != http.StatusBadGateway {
		t.Errorf("status %d in Authorization, want 502", answer.Status)
	}
}

// TestCallersMistakesAreTheCallers, and ours are not: each gets the status that
// tells who has to mend what, and nothing goes upstream.
func TestCallersMistakesAreTheCallers(t *testing.T) {
	const (
		challenge     = "Bearer"
		wrongToken    = `Bearer error="invalid_token"`
		saysNobody    = "401 no access token for the upstream: the request does not say whom one would be for"
		notAccepted   = "401 the authorization server does not accept the caller's token "
		serverRefused = "502 no access token for the upstream: the authorization server refused to issue one "
	)
	type answering struct {
		status int
		body   string
	}
	refusing := func(code string) answering {
		return answering{400, `{"error":"` + code + `","error_description":"whatever of the-callers-token"}`}
	}
	const fromHeader = "token_exchange {\nsubject_token {http.request.header.X-Subject}\n}"
	onBehalf := "jwt_bearer {\nassertion {http.request.header.Authorization}\n}"
	tests := []struct {
		name         string
		grant        string
		header       http.Header
		server       answering
		want         string
		authenticate string // the WWW-Authenticate field
		requests     int    // that reach the server
	}{
		{"no token", "token_exchange", nil, answering{}, saysNobody, challenge, 0},
		{"an empty token", "token_exchange", http.Header{"Authorization": {""}}, answering{}, saysNobody, challenge, 0},
		{"a token in another field", fromHeader, bearing("the-callers-token"), answering{}, saysNobody, challenge, 0},
		{"no assertion", onBehalf, nil, answering{}, saysNobody, challenge, 0},
		{"a subject but no actor", "token_exchange {\nactor_token {http.request.header.X-Actor}\n}", bearing("the-callers-token"), answering{}, saysNobody, challenge, 0},

		{"a token that is refused", "token_exchange", bearing("the-callers-token"), refusing("invalid_grant"), notAccepted + "(invalid_grant)", wrongToken, 1},
		{"as RFC 8693 has it", "token_exchange", bearing("the-callers-token"), refusing("invalid_request"), notAccepted + "(invalid_request)", wrongToken, 1},
		{"an assertion that is refused", onBehalf, bearing("the-callers-token"), refusing("invalid_grant"), notAccepted + "(invalid_grant)", wrongToken, 1},
		{"a caller who has to sign in again", onBehalf, bearing("the-callers-token"), refusing("interaction_required"), notAccepted + "(interaction_required)", wrongToken, 1},
		{"a caller without the right", "token_exchange", bearing("the-callers-token"), refusing("access_denied"), "403 the authorization server denies the caller a token for the upstream (access_denied)", "", 1},

		{"a client that is refused", "token_exchange", bearing("the-callers-token"), refusing("invalid_client"), serverRefused + "(invalid_client)", "", 1},
		{"a client without the grant", "token_exchange", bearing("the-callers-token"), refusing("unauthorized_client"), serverRefused + "(unauthorized_client)", "", 1},
		{"a target of ours that is refused", "token_exchange", bearing("the-callers-token"), refusing("invalid_target"), serverRefused + "(invalid_target)", "", 1},
		{"a malformed assertion request", onBehalf, bearing("the-callers-token"), refusing("invalid_request"), serverRefused + "(invalid_request)", "", 1},
		{"an assertion of ours that is refused", "jwt_bearer {\nassertion {env.READY}\n}", nil, refusing("invalid_grant"), serverRefused + "(invalid_grant)", "", 1},
		{"a server that is down", "token_exchange", bearing("the-callers-token"), answering{503, ""}, "503 no access token for the upstream: the authorization server is unavailable", "", 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Says(cmp.Or(test.server.status, http.StatusOK), test.server.body)
			t.Setenv("READY", "ready-made")
			proxy := caddytest.Run(t, grantSiteWith(test.grant))

			answer := proxy.Get("/", test.header)

			if answer.Body != test.want {
				t.Errorf("the caller reads\n%s, want\n%s", answer.Body, test.want)
			}
			if got := fmt.Sprint(answer.Status); got != test.want[:3] {
				t.Errorf("status %s, want %s", got, test.want[:3])
			}
			if got := answer.Header.Get("WWW-Authenticate"); got != test.authenticate {
				t.Errorf("WWW-Authenticate is %q, want %q", got, test.authenticate)
			}
			if auth.Count() != test.requests || len(api.Seen()) != 0 {
				t.Errorf("%d token requests, want %d; and %d requests reached the API", auth.Count(), test.requests, len(api.Seen()))
			}
		})
	}
}

// TestRefusedCallersAreNotTriedAgainAndAgain: each backs off by himself.
func TestRefusedCallersAreNotTriedAgainAndAgain(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		if r.PostForm.Get("subject_token") == "bad" {
			w.Header().Set("Retry-After", "300")
			caddytest.Say(w, http.StatusBadRequest, `{"error":"invalid_grant"}`)
			return
		}
		caddytest.Issuing(time.Hour)(w, r)
	})
	proxy := caddytest.Run(t, grantSiteWith("token_exchange"))

	for range 10 {
		if answer := proxy.Get("/", bearing("bad")); answer.Status != http.StatusUnauthorized {
			t.Fatalf("status %d: %s", answer.Status, answer.Body)
		}
		if answer := proxy.Get("/", bearing("good")); answer.Status != http.StatusOK {
			t.Fatalf("status %d: %s", answer.Status, answer.Body)
		}
	}

	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// TestCallersTokenGoesNowhereElse than to the authorization server: not upstream,
// not to the error routes, and into no log at any level, whatever happens.
func TestCallersTokenGoesNowhereElse(t *testing.T) {
	const caller = "the-token-of-the-caller"
	tests := []struct {
		name   string
		grant  string
		lines  string
		status int
		body   string // of the token answer
	}{
		{"a token is issued", "token_exchange", "", 200, `{"access_token":"T"}`},
		{"the token is injected elsewhere", "token_exchange", "inject header X-Api-Key", 200, `{"access_token":"T"}`},
		{"the token is injected into the query", "token_exchange", "inject query access_token", 200, `{"access_token":"T"}`},
		{"on behalf of", "jwt_bearer {\nassertion {http.request.header.Authorization}\n}", "inject header X-Api-Key", 200, `{"access_token":"T"}`},
		{"without a token the request goes on", "token_exchange", "on_error pass\ninject header X-Api-Key", 400, `{"error":"invalid_grant"}`},
		{"the server repeats it", "token_exchange", "", 400, `{"error":"invalid_grant","error_description":"I do not know ` + caller + `"}`},
		{"the server repeats it as code", "token_exchange", "", 400, `{"error":"` + caller + `"}`},
		{"the server repeats it in nonsense", "token_exchange", "", 200, `{"error":{"message":"Bearer ` + caller + `"}}`},
		{"the server repeats it as token type", "token_exchange", "", 200, `{"access_token":"T","token_type":"` + caller + `"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Says(test.status, test.body)
			site := grantSiteWith(test.grant, test.lines)
			proxy := caddytest.Run(t, caddytest.Tracing+strings.Replace(site, "http://{$SITE} {", "http://{$SITE} {\nlog", 1))

			answer := proxy.Get("/", bearing(caller))

			for _, r := range api.Seen() {
				if text := fmt.Sprint(r.URI, r.Header); strings.Contains(text, caller) {
					t.Errorf("the API sees %s", text)
				}
			}
			if strings.Contains(answer.Body, caller) {
				t.Errorf("the caller reads %s", answer.Body)
			}
			if !strings.Contains(auth.Seen()[0].PostForm.Encode(), caller) {
				t.Error("the server does not get it")
			}
			caddytest.Eventually(t, "the request was logged", func() bool { return strings.Contains(proxy.Log(), `"msg":"handled request"`) })
			for line := range strings.Lines(proxy.Log()) {
				if strings.Contains(line, caller) {
					t.Errorf("the log holds it: %s", line)
				}
			}
		})
	}
}

// TestErrorRoutesNeverSeeTheCallersToken, whether it was refused or the upstream
// is down: they may have an upstream of their own.
func TestErrorRoutesNeverSeeTheCallersToken(t *testing.T) {
	const caller = "the-token-of-the-caller"
	tests := []struct {
		name   string
		grant  string
		lines  string
		header http.Header
		status int
		body   string // of the token answer
	}{
		{"the token is refused", "token_exchange", "", bearing(caller), 400, `{"error":"invalid_grant"}`},
		{"the token is malformed", "token_exchange", "", bearing(caller + " " + caller), 0, ""},
		{"the upstream is down", "token_exchange", "", bearing(caller), 200, `{"access_token":"T"}`},
		{"the token goes elsewhere", "token_exchange", "inject header X-Api-Key", bearing(caller), 200, `{"access_token":"T"}`},
		{"the token goes into the query", "token_exchange", "inject query access_token", bearing(caller), 200, `{"access_token":"T"}`},
		{"without a token the request goes on", "token_exchange", "on_error pass", bearing(caller), 400, `{"error":"invalid_grant"}`},
		{"the caller brings one for the upstream", "token_exchange {\nsubject_token {http.request.header.X-Subject}\n}", "keep_existing", http.Header{"X-Subject": {caller}, "Authorization": {"Bearer own"}}, 0, ""},
		{"from a field of its own", "token_exchange {\nsubject_token {http.request.header.X-Subject}\n}", "", http.Header{"X-Subject": {caller}}, 200, `{"access_token":"T"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, errorPages := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Says(test.status, test.body)
			t.Setenv("DEAD", caddytest.FreeAddress(t))
			site := grantSiteWith(test.grant, test.lines)
			site = strings.Replace(site, "reverse_proxy {$API}", "reverse_proxy {$DEAD}", 1)
			site = strings.Replace(site, `respond "{err.status_code} {err.message}"`, "reverse_proxy {$API}", 1)
			proxy := caddytest.Run(t, site)

			proxy.Get("/", test.header)

			if text := fmt.Sprint(errorPages.Last(t).Header); strings.Contains(text, caller) {
				t.Errorf("the error routes' upstream sees %s", text)
			}
		})
	}
}

// TestEachCallerGetsTheOwnToken: 1,000 callers at the same time, and each
// request reaches the API with what its caller's token was exchanged for.
func TestEachCallerGetsTheOwnToken(t *testing.T) {
	const callers, inParallel = 1000, 100
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		caddytest.Issue(w, "exchanged-"+r.PostForm.Get("subject_token"), time.Hour)
	})
	api.Answers(func(w http.ResponseWriter, r *http.Request) { // who the API takes the caller for
		_, _ = fmt.Fprint(w, r.Header.Get("X-Caller")+" has "+r.Header.Get("Authorization"))
	})
	proxy := caddytest.Run(t, grantSiteWith("token_exchange"))

	site := os.Getenv("SITE")
	next := make(chan string)
	go func() {
		defer close(next)
		for range 2 { // with a token request, and without
			for i := range callers {
				next <- fmt.Sprint("caller-", i)
			}
		}
	}()
	var calling sync.WaitGroup
	for range inParallel {
		calling.Go(func() {
			for caller := range next {
				answer, err := proxy.Try(http.MethodGet, site, "/", http.Header{"X-Caller": {caller}, "Authorization": {"Bearer " + caller}})
				if want := caller + " has Bearer exchanged-" + caller; err != nil || answer.Body != want {
					t.Errorf("the API says %q, want %q (%v)", answer.Body, want, err)
				}
			}
		})
	}
	calling.Wait()

	if n := auth.Count(); n != callers {
		t.Errorf("%d token requests, want %d", n, callers)
	}
}

// TestCallersTokenMustNotComeFromWhatGoesUpstream: only header fields are kept from
// there.
func TestCallersTokenMustNotComeFromWhatGoesUpstream(t *testing.T) {
	for _, placeholder := range []string{
		"{http.request.cookie.token}", "{cookie.token}", "{query.token}", "{http.request.uri.query}",
		"{http.request.orig_uri.query}", "{http.request.body}",
	} {
		for _, grant := range []string{"token_exchange {\nsubject_token ", "token_exchange {\nactor_token ", "jwt_bearer {\nassertion "} {
			err := caddytest.Validate("http://localhost:8080 {\n\tupstream_oauth2 {\n\t\ttoken_endpoint https://auth.example/token\n\t\tclient_id a\n\t\tclient_secret b\n\t\tgrant " +
				grant + placeholder + "\n}\n}\n}\n")
			if err == nil || !strings.Contains(err.Error(), "must not come from a cookie, the body or the URL, which go upstream: take it from a header field, which does not") {
				t.Errorf("grant %s%s: %v", grant, placeholder, err)
			}
		}
	}
}
