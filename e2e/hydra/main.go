// Command hydra is Ory Hydra, set up by one JSON argument and listening on loopback:
//
//	hydra '{"port": 4000, "issuer": "http://127.0.0.1:4000/", "clients": [ … ], "trusted": [ … ]}'
//
// Hydra leaves signing in to pages of one's own and has its administration at an address of its own. What is
// added here: pages that take everybody in as alice, the clients and the issuers of assertions it trusts
// (RFC 7523 section 2.1), and introspection at /introspect. It
// works in the directory that it is started in, and keeps nothing there but two sockets.
//
// It has a module of its own because it needs hundreds of them.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/ory/hydra/v2/cmd"
	"github.com/ory/x/configx"
)

type config struct {
	Port    int              `json:"port"`
	Issuer  string           `json:"issuer"`
	Clients []client         `json:"clients"`
	Trusted []assertionMaker `json:"trusted"`
}

type client struct {
	ID           string          `json:"id"`
	Secret       string          `json:"secret"`
	Grants       []string        `json:"grants"`
	RedirectURIs []string        `json:"redirect_uris"`
	TokenSeconds int             `json:"token_seconds"`
	JWT          bool            `json:"jwt"`
	AuthMethod   string          `json:"auth_method"`
	JWKS         json.RawMessage `json:"jwks"`
}

// assertionMaker is who may ask for tokens for others.
type assertionMaker struct {
	Issuer string          `json:"issuer"`
	Key    json.RawMessage `json:"key"`
}

// Hydra's sockets, in the working directory: elsewhere their paths may be too long.
const (
	public = "public.sock"
	admin  = "admin.sock"
)

var scopes = []string{"openid", "offline_access", "read:data", "write:data"}

func main() {
	var cfg config
	if err := json.Unmarshal([]byte(os.Args[1]), &cfg); err != nil {
		log.Fatal(err)
	}
	go serveHydra(cfg.Issuer)

	a := &administration{&http.Client{Transport: transportTo(admin)}}
	a.await()
	for _, c := range cfg.Clients {
		a.register(c)
	}
	for _, t := range cfg.Trusted {
		a.trust(t)
	}

	mux := http.NewServeMux()
	mux.Handle("/", proxyTo(public))
	mux.HandleFunc("/sign-in", a.signIn)
	mux.HandleFunc("/consent", a.consent)
	introspection := proxyTo(admin)
	mux.HandleFunc("/introspect", func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/admin/oauth2/introspect"
		introspection.ServeHTTP(w, r)
	})
	log.Fatal(http.ListenAndServe(net.JoinHostPort("127.0.0.1", fmt.Sprint(cfg.Port)), mux))
}

// serveHydra runs Hydra until the process ends.
func serveHydra(issuer string) {
	root := cmd.NewRootCmd(nil, nil, []configx.OptionModifier{configx.WithValues(map[string]any{
		"dsn":                              "memory",
		"serve.public.host":                "unix:" + public,
		"serve.admin.host":                 "unix:" + admin,
		"urls.self.issuer":                 issuer,
		"urls.login":                       issuer + "sign-in",
		"urls.consent":                     issuer + "consent",
		"secrets.system":                   []string{"end-to-end tests only"},
		"strategies.scope":                 "exact",
		"oauth2.hashers.pbkdf2.iterations": 1,
	})})
	root.SetArgs([]string{"serve", "all", "--dev", "--sqa-opt-out"})
	if err := root.Execute(); err != nil {
		log.Fatal(err)
	}
	os.Exit(0) // it was asked to end
}

func transportTo(socket string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
}

func proxyTo(socket string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: r.In.Host})
			r.Out.Host = r.In.Host
		},
		Transport: transportTo(socket),
	}
}

// administration is Hydra's admin API.
type administration struct{ *http.Client }

// await returns when Hydra answers.
func (a *administration) await() {
	for {
		if answer, err := a.Get("http://admin/health/ready"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// do makes a request and fills in v, unless it is nil, from the answer.
func (a *administration) do(method, path string, body, v any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(method, "http://admin/admin"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := a.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, got)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(got, v)
}

func (a *administration) register(c client) {
	life := fmt.Sprintf("%ds", c.TokenSeconds)
	registration := map[string]any{
		"client_id":                  c.ID,
		"grant_types":                c.Grants,
		"redirect_uris":              c.RedirectURIs,
		"response_types":             []string{"code"},
		"scope":                      strings.Join(scopes, " "),
		"audience":                   []string{"https://api.example/"},
		"token_endpoint_auth_method": "client_secret_basic",
		"access_token_strategy":      "opaque",
		"skip_consent":               true,
		"authorization_code_grant_access_token_lifespan": life,
		"client_credentials_grant_access_token_lifespan": life,
		"refresh_token_grant_access_token_lifespan":      life,
		"jwt_bearer_grant_access_token_lifespan":         life,
	}
	if c.JWT {
		registration["access_token_strategy"] = "jwt"
	}
	if c.AuthMethod != "" {
		registration["token_endpoint_auth_method"] = c.AuthMethod
	}
	if c.AuthMethod == "private_key_jwt" {
		var keys struct {
			Keys []struct{ Alg string } `json:"keys"`
		}
		if err := json.Unmarshal(c.JWKS, &keys); err != nil {
			log.Fatal(err)
		}
		registration["jwks"] = c.JWKS
		registration["token_endpoint_auth_signing_alg"] = keys.Keys[0].Alg // Hydra takes one
	} else {
		registration["client_secret"] = c.Secret
	}
	if err := a.do(http.MethodPost, "/clients", registration, nil); err != nil {
		log.Fatal(err)
	}
}

func (a *administration) trust(t assertionMaker) {
	if err := a.do(http.MethodPost, "/trust/grants/jwt-bearer/issuers", map[string]any{
		"issuer":            t.Issuer,
		"allow_any_subject": true,
		"scope":             scopes,
		"jwk":               t.Key,
		"expires_at":        time.Now().Add(24 * time.Hour),
	}, nil); err != nil {
		log.Fatal(err)
	}
}

// signIn takes whoever comes for alice.
func (a *administration) signIn(w http.ResponseWriter, r *http.Request) {
	a.accept(w, r, "login", map[string]any{"subject": "alice"})
}

// consent grants all that is asked for.
func (a *administration) consent(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Scope    []string `json:"requested_scope"`
		Audience []string `json:"requested_access_token_audience"`
	}
	challenge := url.QueryEscape(r.URL.Query().Get("consent_challenge"))
	if err := a.do(http.MethodGet, "/oauth2/auth/requests/consent?consent_challenge="+challenge, nil, &request); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	a.accept(w, r, "consent", map[string]any{
		"grant_scope":                 request.Scope,
		"grant_access_token_audience": request.Audience,
	})
}

// accept says yes to a login or consent request and sends the browser back.
func (a *administration) accept(w http.ResponseWriter, r *http.Request, step string, body any) {
	var answer struct {
		RedirectTo string `json:"redirect_to"`
	}
	challenge := url.QueryEscape(r.URL.Query().Get(step + "_challenge"))
	if err := a.do(http.MethodPut, "/oauth2/auth/requests/"+step+"/accept?"+step+"_challenge="+challenge, body, &answer); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, answer.RedirectTo, http.StatusFound)
}
