package signin_test

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"

	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

const redirectURI = "http://127.0.0.1:8400/callback"

// authServer stands in for the authorization server: whoever comes to its
// authorization endpoint agrees.
type authServer struct {
	*httptest.Server

	mu       sync.Mutex
	metadata map[string]any
	codes    map[string]url.Values // authorization requests, by the code they led to
	answers  map[string]string     // to token requests, by grant_type
	seen     []url.Values          // the forms that were posted, with their path
}

func newAuthServer(t *testing.T) *authServer {
	t.Helper()
	a := &authServer{
		codes:   make(map[string]url.Values),
		answers: map[string]string{"": `{"access_token":"access-1","token_type":"Bearer","expires_in":3600,"refresh_token":"refresh-1","scope":"read"}`},
	}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	a.metadata = map[string]any{
		"issuer": a.URL, "token_endpoint": a.URL + "/token", "authorization_endpoint": a.URL + "/authorize",
		"device_authorization_endpoint": a.URL + "/device", "revocation_endpoint": a.URL + "/revoke",
		"response_types_supported": []string{"code"}, "code_challenge_methods_supported": []string{"S256"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"},
		"authorization_response_iss_parameter_supported": true,
	}
	return a
}

// ServeHTTP implements http.Handler.
func (a *authServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodGet {
		_ = json.NewEncoder(w).Encode(a.metadata)
		return
	}
	_ = r.ParseForm()
	form := maps.Clone(r.PostForm)
	form.Set("path", r.URL.Path)
	a.seen = append(a.seen, form)
	answer, ok := a.answers[cmp.Or(form.Get("grant_type"), r.URL.Path)]
	if !ok {
		answer = a.answers[""]
	}
	if code := form.Get("code"); code != "" {
		challenge := sha256.Sum256([]byte(form.Get("code_verifier")))
		asked := a.codes[code]
		if asked == nil || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(challenge[:]) || asked.Get("redirect_uri") != form.Get("redirect_uri") {
			answer = `{"error":"invalid_grant"}`
		}
		delete(a.codes, code)
	}
	var refused struct{ Error string }
	if _ = json.Unmarshal([]byte(answer), &refused); refused.Error != "" {
		w.WriteHeader(http.StatusBadRequest)
	}
	_, _ = fmt.Fprint(w, answer)
}

// says has the server answer requests of a grant_type, or to a path, from now on.
func (a *authServer) says(to, answer string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[to] = answer
}

// agree is what somebody does in the browser: it returns the query of the address that
// the browser is sent to.
func (a *authServer) agree(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	code := fmt.Sprintf("code-%d", len(a.seen)+len(a.codes)+1)
	a.codes[code] = u.Query()
	return url.Values{"code": {code}, "state": u.Query()["state"], "iss": {a.URL}}.Encode()
}

// posted returns the forms that came to a path.
func (a *authServer) posted(path string) []url.Values {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(a.seen), func(form url.Values) bool { return form.Get("path") != path })
}

// client returns a client of the server, after changes of its definition.
func (a *authServer) client(t *testing.T, changes ...func(*signin.Options)) *signin.Client {
	t.Helper()
	keeping := vault.InMemory()
	o := signin.Options{
		Name: "partner",
		Definition: config.Client{
			Issuer: a.URL, ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret")),
			Grant: &config.Grant{Type: "authorization_code"}, Scope: []string{"read", "write"},
		},
		Vault: vault.New(func() vault.Config { return keeping }),
	}
	for _, change := range changes {
		change(&o)
	}
	resolver := config.NewResolver(o.Definition, zap.NewNop())
	t.Cleanup(resolver.Close)
	o.Source = tokensource.New(tokensource.Options{
		Name: o.Name, Client: o.Definition, Resolver: resolver, Transport: tokensource.NewTransport(http.DefaultTransport),
		Server: new(tokensource.Server), Grants: tokensource.Grants{Vault: o.Vault}, Logger: zap.NewNop(),
	})
	return signin.New(o)
}

func withAccounts(o *signin.Options) { o.Definition.Account = "{http.auth.user.id}" }

// signIn signs in with a browser.
func signIn(t *testing.T, a *authServer, c *signin.Client, account string) *signin.Result {
	t.Helper()
	pending, address, err := c.Begin(t.Context(), account, redirectURI)
	if err != nil {
		t.Fatal(err)
	}
	result, err := c.Finish(t.Context(), pending, a.agree(t, address), false)
	if err != nil {
		t.Fatal(err)
	}
	return result
}
