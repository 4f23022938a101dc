package integration

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// issuingFor is an answer for AuthServer.Answers: a token that says what the
// form field held which tells accounts apart.
func issuingFor(field string, life time.Duration) func(http.ResponseWriter, caddytest.TokenRequest) {
	return func(w http.ResponseWriter, r caddytest.TokenRequest) {
		caddytest.Issue(w, "for-"+r.PostForm.Get(field), life)
	}
}

// TestAccountsAreKeptApart: each value of the placeholder has a token of its own,
// requested once, however its requests mix with the others'.
func TestAccountsAreKeptApart(t *testing.T) {
	const users, callers, each = 50, 8, 100
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	auth.Answers(issuingFor("user", time.Hour))
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Header.Get("X-User")+" has "+r.Header.Get("Authorization"))
	})
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("account {http.request.header.X-User}\ntoken_param user {http.request.header.X-User}"))

	site := os.Getenv("SITE")
	var calling sync.WaitGroup
	for seed := range uint64(callers) {
		calling.Go(func() {
			dice := rand.New(rand.NewPCG(seed, 1))
			for range each {
				user := fmt.Sprint("user-", dice.IntN(users))
				answer, err := proxy.Try(http.MethodGet, site, "/", http.Header{"X-User": {user}})
				if want := user + " has Bearer for-" + user; err != nil || answer.Body != want {
					t.Errorf("the API says %q, want %q (%v)", answer.Body, want, err)
				}
			}
		})
	}
	calling.Wait()

	requested := make(map[string]int)
	for _, r := range auth.Seen() {
		requested[r.PostForm.Get("user")]++
	}
	for user, n := range requested {
		if n != 1 {
			t.Errorf("%d token requests for %s, want 1", n, user)
		}
	}
}

// TestWhatTheRequestContributesTellsTokensApart, also without account: no token
// is used for a request that would have asked for another one.
func TestWhatTheRequestContributesTellsTokensApart(t *testing.T) {
	key := pkcs8Text(t, newEdKey(t))
	const signed = "grant jwt_bearer {\nkey {$KEY_FILE}\n"
	tests := []struct{ name, lines, field string }{
		{"account", "account {http.request.header.X-A}", ""},
		{"account of two parts", "account {http.request.header.X-B}/{http.request.header.X-A}", ""},
		{"account, by its short name", "account {header.X-A}", ""},
		{"scope", "scope always {http.request.header.X-A}", "scope"},
		{"audience", "audience always {http.request.header.X-A}", "audience"},
		{"resource", "resource https://{http.request.header.X-A}.example", "resource"},
		{"token_param", "token_param tenant tenant-{http.request.header.X-A}", "tenant"},
		{"assertion", "grant jwt_bearer {\nassertion {http.request.header.X-A}\n}", "assertion"},
		{"subject", signed + "subject {http.request.header.X-A}\n}", "assertion"},
		{"claim", signed + "claim tenant {http.request.header.X-A}\n}", "assertion"},
		{"subject_token", "grant token_exchange {\nsubject_token {http.request.header.X-A}\n}", "subject_token"},
		{"actor_token", "grant token_exchange {\nsubject_token {env.FIXED}\nactor_token {http.request.header.X-A}\n}", "actor_token"},
		{"the query", "account {http.request.uri.query.a}", ""},
		{"one of two", "account {http.request.header.X-B}\nscope {http.request.header.X-A}", "scope"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			t.Setenv("FIXED", "fixed")
			t.Setenv("KEY_FILE", caddytest.SecretFile(t, key))
			proxy := caddytest.Run(t, caddytest.PartnerSiteWith(test.lines))

			var got []string
			for _, a := range []string{"one", "two", "one", "two", "three"} {
				answer := proxy.Get("/?a="+a, http.Header{"X-A": {a}, "X-B": {"same"}})
				if answer.Status != http.StatusOK {
					t.Fatalf("status %d: %s\n%v", answer.Status, answer.Body, proxy.Logged(caddytest.LogFailed))
				}
				got = append(got, strings.TrimPrefix(api.LastAuthorization(t), "Bearer access-token-"))
			}

			if want := []string{"1", "2", "1", "2", "3"}; !slices.Equal(got, want) {
				t.Errorf("the tokens are %q, want %q", got, want)
			}
			if seen := auth.Seen(); test.field != "" && slices.Equal(seen[0].PostForm[test.field], seen[1].PostForm[test.field]) {
				t.Errorf("the token requests do not differ in %s: %v", test.field, seen[0].PostForm)
			}
		})
	}
}

// TestRequestWithoutAnAccountIsRefused: all of them would share a token that is
// meant for nobody.
func TestRequestWithoutAnAccountIsRefused(t *testing.T) {
	const (
		account = "account {http.request.header.X-A}"
		nobody  = "401 no access token for the upstream: the request does not say whom one would be for"
		nothing = "400 no access token for the upstream: the request has nothing for "
	)
	tests := []struct {
		name, lines string
		header      http.Header
		want        string
	}{
		{"the field is missing", account, nil, nobody},
		{"it is empty", account, http.Header{"X-A": {""}}, nobody},
		{"it is blank", account, http.Header{"X-A": {"  "}}, nobody},
		{"half of it is missing", "account {http.request.header.X-A}/{http.request.header.X-B}", http.Header{"X-A": {"a"}}, nobody},
		{"a form field's value is missing", account + "\ntoken_param tenant {http.request.header.X-B}", http.Header{"X-A": {"a"}}, nothing + "token_param"},
		{"half of a form field's value is missing", account + "\ntoken_param tenant the-literal-half{http.request.header.X-B}", http.Header{"X-A": {"a"}}, nothing + "token_param"},
		{"one scope of two is missing", "scope always {http.request.header.X-A}", nil, nothing + "scope"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			proxy := caddytest.Run(t, tellingSite(test.lines))

			answer := proxy.Get("/", test.header)

			if answer.Body != test.want {
				t.Errorf("the caller reads\n%s, want\n%s", answer.Body, test.want)
			}
			if got := answer.Header.Get("WWW-Authenticate"); (got == "Bearer") != (answer.Status == http.StatusUnauthorized) {
				t.Errorf("status %d, WWW-Authenticate %q", answer.Status, got)
			}
			if line := proxy.AwaitLog("request refused without a token request"); !strings.Contains(fmt.Sprint(line["error"]), "{http.request.header.X-") {
				t.Errorf("the log does not say what is missing: %v", line)
			}
			if strings.Contains(proxy.Log(), "the-literal-half") {
				t.Error("what stands beside the placeholder is in the log")
			}
			if auth.Count() != 0 || len(api.Seen()) != 0 {
				t.Errorf("%d token requests, and %d requests reached the API", auth.Count(), len(api.Seen()))
			}
		})
	}
}

// TestPlaceholdersOfRequestsStayOutOfOurOwnAffairs: a caller decides neither
// where credentials go nor what they are.
func TestPlaceholdersOfRequestsStayOutOfOurOwnAffairs(t *testing.T) {
	const x = "{http.request.header.X-A}"
	const wayOut = "it holds a placeholder that differs from request to request, which is allowed in account, actor_token, assertion, audience, claim, resource, scope, subject, subject_token, token_param only: use {env.*} or {file.*}"
	const endpoint, id, secret = "token_endpoint https://auth.example/token\n", "client_id partner-id\n", "client_secret secret\n"
	tests := []struct{ name, lines, option string }{
		{"the token endpoint", "token_endpoint https://" + x + "/token\n" + id + secret, "token_endpoint"},
		{"the token endpoint's path", "token_endpoint https://auth.example/" + x + "\n" + id + secret, "token_endpoint"},
		{"the issuer", "issuer https://" + x + "\n" + id + secret, "issuer"},
		{"the client id", "client_id " + x + "\n" + endpoint + secret, "client_id"},
		{"a name that a map directive may set", "client_id {tenant}\n" + endpoint + secret, "client_id"},
		{"the same in the key's id", endpoint + id + "client_auth private_key_jwt {\nkey {$KEY_FILE}\nkey_id {tenant}\n}", "client_auth"},
		{"the client secret", "client_secret " + x + "\n" + endpoint + id, "client_secret"},
		{"by its short name", "client_secret {header.X-A}\n" + endpoint + id, "client_secret"},
		{"a header field of the token request", endpoint + id + secret + "token_header X-B " + x, "token_header"},
		{"the refresh token", endpoint + id + secret + "grant refresh_token {\nrefresh_token " + x + "\n}", "grant"},
		{"the key", endpoint + id + "client_auth private_key_jwt {\nkey " + x + "\n}", "client_auth"},
		{"the key's id", endpoint + id + "client_auth private_key_jwt {\nkey {$KEY_FILE}\nkey_id " + x + "\n}", "client_auth"},
		{"the key's certificate", endpoint + id + "client_auth private_key_jwt {\nkey {$KEY_FILE}\ncertificate " + x + "\n}", "client_auth"},
		{"the assertion's audience", endpoint + id + "client_auth private_key_jwt {\nkey {$KEY_FILE}\naudience " + x + "\n}", "client_auth"},
		{"the client certificate", endpoint + id + "client_auth tls_client_auth {\ncertificate " + x + "\n}", "client_auth"},
		{"the assertion file", endpoint + id + "client_auth assertion_file " + x, "client_auth"},
		{"the grant's key", endpoint + id + secret + "grant jwt_bearer {\nkey " + x + "\n}", "grant"},
		{"the grant's issuer", endpoint + id + secret + "grant jwt_bearer {\nkey {$KEY_FILE}\nissuer " + x + "\n}", "grant"},
		{"the service account", "grant jwt_bearer {\nservice_account " + x + "\n}", "grant"},
		{"the key of proofs", endpoint + id + secret + "dpop " + x + "\nupstream_base https://api.example", "dpop"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("KEY_FILE", caddytest.SecretFile(t, pkcs8Text(t, newEdKey(t))))
			err := caddytest.Validate("http://localhost:8080 {\nupstream_oauth2 partner {\n" + test.lines + "\n}\n}\n")
			if err == nil {
				t.Fatal("it validates")
			}
			ahead, _, _ := strings.Cut(test.lines, test.option+" ")
			want := fmt.Sprintf(": %s: %s, at Caddyfile:%d", test.option, wayOut, 3+strings.Count(ahead, "\n"))
			if !strings.HasSuffix(err.Error(), want) {
				t.Errorf("the error is\n%v, want\n%s", err, want)
			}
		})
	}
}

// TestLeastRecentlyUsedAccountsMakeRoom for new ones.
func TestLeastRecentlyUsedAccountsMakeRoom(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	auth.Answers(issuingFor("user", time.Hour))
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("account {http.request.header.X-User}\ntoken_param user {http.request.header.X-User}\nmax_accounts 2"))
	// ask sends a request and checks that it has its user's token.
	ask := func(user string) {
		t.Helper()
		proxy.WantAs(user, http.StatusOK)
		if got := api.LastAuthorization(t); got != "Bearer for-"+user {
			t.Errorf("%s has %q", user, got)
		}
	}

	for range 3 {
		ask("alice")
		ask("bob")
	}
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests for two accounts, want 2", n)
	}
	// Twenty in a circle: each has gone when its turn comes again.
	const users = 20
	before := auth.Count()
	for range 2 {
		for i := range users {
			ask(fmt.Sprint("user-", i))
		}
	}
	if n := auth.Count() - before; n != 2*users {
		t.Errorf("%d token requests for %d accounts in a circle, want %d", n, users, 2*users)
	}
}

// TestWhatAccountsSayAboutTheServer: whatever it answers to one caller's accounts,
// others are asked for. Only a server that answers nobody is left alone, which is
// tested with a clock of its own, in internal/tokencache.
func TestWhatAccountsSayAboutTheServer(t *testing.T) {
	tests := []struct {
		name       string
		status     int
		body       string
		retryAfter string
	}{
		{"503", 503, "", ""},
		{"503 that asks for time", 503, "", "300"},
		{"502 of a gateway", 502, "", ""},
		{"429", 429, "", "300"},
		{"temporarily_unavailable", 400, `{"error":"temporarily_unavailable"}`, ""},
		{"500", 500, "", "300"},
		{"server_error", 400, `{"error":"server_error"}`, ""},
		{"a refusal", 400, `{"error":"invalid_grant"}`, ""},
		{"nonsense", 200, "<html>", ""},
	}
	for _, test := range tests {
		for failures := 1; failures <= 2; failures++ {
			t.Run(fmt.Sprint(test.name, ", ", failures), func(t *testing.T) {
				auth := caddytest.NewAuthServer(t)
				caddytest.NewAPIServer(t)
				auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
					if strings.HasPrefix(r.PostForm.Get("user"), "eve") {
						if test.retryAfter != "" {
							w.Header().Set("Retry-After", test.retryAfter)
						}
						caddytest.Say(w, test.status, test.body)
						return
					}
					caddytest.Issuing(time.Hour)(w, r)
				})
				proxy := caddytest.Run(t, tellingSite("account {http.request.header.X-User}\ntoken_param user {http.request.header.X-User}"))

				for i := range failures {
					if eve := proxy.GetAs(fmt.Sprint("eve-", i)); eve.Body == "fine" {
						t.Fatal("eve gets a token")
					}
				}
				before := auth.Count()
				bob := proxy.GetAs("bob")

				if bob.Body != "fine" {
					t.Errorf("the next account reads %q", bob.Body)
				}
				if n := auth.Count() - before; n != 1 {
					t.Errorf("it made for %d token requests, want 1", n)
				}
			})
		}
	}
}

// TestReloadKeepsTheTokensOfAccounts: it costs no token request, and a change of
// the settings gives all of them new ones.
func TestReloadKeepsTheTokensOfAccounts(t *testing.T) {
	const users = 20
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	auth.Answers(issuingFor("user", time.Hour))
	site := caddytest.PartnerSiteWith("account {http.request.header.X-User}\ntoken_param user {http.request.header.X-User}")
	proxy := caddytest.Run(t, site)
	askAll := func() {
		t.Helper()
		for i := range users {
			user := fmt.Sprint("user-", i)
			proxy.WantAs(user, http.StatusOK)
			if got := api.LastAuthorization(t); got != "Bearer for-"+user {
				t.Errorf("%s has %q", user, got)
			}
		}
	}

	askAll()
	for range 3 {
		proxy.Reload(strings.Replace(site, "reverse_proxy", "header X-Reloaded yes\n\treverse_proxy", 1))
		askAll()
	}
	if n := auth.Count(); n != users {
		t.Errorf("%d token requests after three reloads, want %d", n, users)
	}

	proxy.Reload(strings.Replace(site, "client_secret", "scope more\n\t\tclient_secret", 1))
	askAll()
	if n := auth.Count(); n != 2*users {
		t.Errorf("%d token requests after the settings changed, want %d", n, 2*users)
	}
}

// TestAccountsFetchNothingAtStart: nobody has asked yet.
func TestAccountsFetchNothingAtStart(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, `
http://{$SITE} {
	upstream_oauth2 shared {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      shared
		client_secret  secret
	}
	reverse_proxy {$API}
}
http://{$OTHER_SITE} {
	upstream_oauth2 each {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      each
		client_secret  secret
		account        {http.request.header.X-User}
	}
	reverse_proxy {$API}
}`)

	proxy.Want(http.StatusOK) // the client without accounts is warm

	for _, r := range auth.Seen() {
		if id, _, _ := r.BasicAuth(); id != "shared" {
			t.Errorf("the client %q has fetched a token", id)
		}
	}
}

// TestAccountsAreNotNamedInTheLog: what tells them apart there says nothing
// about them.
func TestAccountsAreNotNamedInTheLog(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Says(http.StatusBadRequest, `{"error":"invalid_request"}`)
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("account {http.request.uri.query.user}"))

	proxy.Get("/?user=alice@example.com", nil)

	line := proxy.AwaitLog(caddytest.LogFailed)
	if name, _ := line["account"].(string); name == "" || strings.Contains(name, "alice") {
		t.Errorf("the log says %v", line)
	}
}
