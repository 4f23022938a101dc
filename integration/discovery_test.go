package integration

import (
	"crypto/elliptic"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// issuerSite is a complete configuration: an issuer, an id and a secret.
const issuerSite = `
http://{$SITE} {
	upstream_oauth2 partner {
		issuer        {$ISSUER}
		client_id     partner-id
		client_secret partner-secret
	}
	reverse_proxy {$API}
	handle_errors {
		respond "{err.status_code} {err.message}"
	}
}`

// issuerSiteWith is issuerSite with further lines in the directive's block.
func issuerSiteWith(lines string) string {
	return strings.Replace(issuerSite, "partner-secret\n", "partner-secret\n"+lines+"\n", 1)
}

// Where metadata is found (RFC 8414 section 3, OpenID Connect Discovery
// section 4) for an issuer without a path.
const (
	rfc8414Place = "/.well-known/oauth-authorization-server"
	openIDPlace  = "/.well-known/openid-configuration"
)

// publishing is an answer for AuthServer.Answers: metadata at the given paths,
// and what then says at the others. {URL} in a document is the server's own.
func publishing(documents map[string]string, then func(http.ResponseWriter, caddytest.TokenRequest)) func(http.ResponseWriter, caddytest.TokenRequest) {
	return func(w http.ResponseWriter, r caddytest.TokenRequest) {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		document, ok := documents[r.URL.Path]
		switch {
		case ok && document == "":
			panic(http.ErrAbortHandler)
		case ok:
			caddytest.Say(w, http.StatusOK, strings.ReplaceAll(document, "{URL}", scheme+"://"+r.Host))
		case strings.Contains(r.URL.Path, "/.well-known/"):
			w.WriteHeader(http.StatusNotFound)
		default:
			then(w, r)
		}
	}
}

// metadata is a document for publishing, of an issuer with that path.
func metadata(path string, more map[string]any) string {
	document := map[string]any{"issuer": "{URL}" + path, "token_endpoint": "{URL}/found/token"}
	maps.Copy(document, more)
	text, _ := json.Marshal(document)
	return string(text)
}

// TestIssuerAloneIsEnough: the token endpoint is found, at the place of RFC 8414
// before that of OpenID Connect.
func TestIssuerAloneIsEnough(t *testing.T) {
	tests := []struct {
		name      string
		issuer    string // its path
		documents map[string]string
		want      []string
	}{
		{
			"RFC 8414",
			"", map[string]string{rfc8414Place: metadata("", nil)},
			[]string{"GET " + rfc8414Place, "POST /found/token"},
		},
		{
			"RFC 8414, the issuer's path behind the well-known one",
			"/tenant/7", map[string]string{rfc8414Place + "/tenant/7": metadata("/tenant/7", nil)},
			[]string{"GET " + rfc8414Place + "/tenant/7", "POST /found/token"},
		},
		{
			"OpenID Connect",
			"", map[string]string{openIDPlace: metadata("", nil)},
			[]string{"GET " + rfc8414Place, "GET " + openIDPlace, "POST /found/token"},
		},
		{
			"OpenID Connect, the issuer's path ahead of the well-known one",
			"/tenant/7", map[string]string{"/tenant/7" + openIDPlace: metadata("/tenant/7", nil)},
			[]string{"GET " + rfc8414Place + "/tenant/7", "GET /tenant/7" + openIDPlace, "POST /found/token"},
		},
		{
			"both: RFC 8414 wins",
			"", map[string]string{rfc8414Place: metadata("", nil), openIDPlace: metadata("", map[string]any{"token_endpoint": "{URL}/other"})},
			[]string{"GET " + rfc8414Place, "POST /found/token"},
		},
		{
			"an issuer that ends with a slash",
			"/tenant/", map[string]string{rfc8414Place + "/tenant": metadata("/tenant/", nil)},
			[]string{"GET " + rfc8414Place + "/tenant", "POST /found/token"},
		},
		{
			"no answer at one place, metadata at the other",
			"", map[string]string{rfc8414Place: "", openIDPlace: metadata("", nil)},
			[]string{"GET " + rfc8414Place, "GET " + openIDPlace, "POST /found/token"},
		},
		{
			"of another issuer at one place, of ours at the other",
			"", map[string]string{rfc8414Place: metadata("/other", nil), openIDPlace: metadata("", nil)},
			[]string{"GET " + rfc8414Place, "GET " + openIDPlace, "POST /found/token"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Answers(publishing(test.documents, func(w http.ResponseWriter, _ caddytest.TokenRequest) { caddytest.Issue(w, "found", time.Hour) }))
			t.Setenv("ISSUER", auth.URL+test.issuer)
			proxy := caddytest.Run(t, issuerSite)

			proxy.Want(http.StatusOK)

			if got := auth.Asked(); !slices.Equal(got, test.want) {
				t.Errorf("the server is asked for %q, want %q", got, test.want)
			}
			if got := api.LastAuthorization(t); got != "Bearer found" {
				t.Errorf("Authorization is %q", got)
			}
		})
	}
}

// TestEndpointByHandWins: then the metadata is of no use, and nobody asks for it.
func TestEndpointByHandWins(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Answers(publishing(map[string]string{rfc8414Place: metadata("", nil)}, caddytest.Issuing(time.Hour)))
	t.Setenv("ISSUER", auth.URL)
	proxy := caddytest.Run(t, issuerSiteWith("token_endpoint {$TOKEN_ENDPOINT}"))

	proxy.Want(http.StatusOK)

	if got := auth.Asked(); !slices.Equal(got, []string{"POST /token"}) {
		t.Errorf("the server is asked for %q", got)
	}
}

// TestUnusableMetadata: no credential is sent, the log says what is wrong and
// what to do, and the caller gets to know that it is not his fault.
func TestUnusableMetadata(t *testing.T) {
	const (
		unusable = "502 no access token for the upstream: the authorization server's answer cannot be used"
		wayOut   = "; check 'issuer', or write 'token_endpoint' by hand"
	)
	tests := []struct {
		name      string
		documents map[string]string
		body      string
		says      string
	}{
		{"of another issuer", map[string]string{rfc8414Place: metadata("/evil", nil)}, unusable, `it is of the issuer "ISSUER/evil" and not of "ISSUER": write 'issuer' as the server does, if it is the one you mean`},
		{"of no issuer", map[string]string{rfc8414Place: metadata("", map[string]any{"issuer": nil})}, unusable, `it is of the issuer "" and not of "ISSUER"`},
		{"without a token endpoint", map[string]string{rfc8414Place: metadata("", map[string]any{"token_endpoint": nil})}, unusable, "it names no token_endpoint"},
		{"with plain http elsewhere", map[string]string{rfc8414Place: metadata("", map[string]any{"token_endpoint": "http://auth.example/token"})}, unusable, "its token_endpoint must use https, as credentials go there"},
		{"a web page", map[string]string{rfc8414Place: "<html>"}, unusable, "the answer of ISSUER" + rfc8414Place + " cannot be used: it is not a JSON object"},
		{"none at all", nil, unusable, "no metadata of issuer ISSUER: ISSUER" + rfc8414Place + " and ISSUER" + openIDPlace + " answered with status 404"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Answers(publishing(test.documents, caddytest.Issuing(time.Hour)))
			t.Setenv("ISSUER", auth.URL)
			proxy := caddytest.Run(t, issuerSite)

			if answer := proxy.Get("/", nil); answer.Body != test.body {
				t.Errorf("the caller reads\n%s, want\n%s", answer.Body, test.body)
			}
			for _, part := range []string{test.says, wayOut} {
				if want := strings.ReplaceAll(part, "ISSUER", auth.URL); !strings.Contains(proxy.Failure(), want) {
					t.Errorf("the log says\n%s, which does not hold\n%s", proxy.Failure(), want)
				}
			}
			if n := auth.TokenRequests(); n != 0 {
				t.Errorf("%d token requests", n)
			}
		})
	}
}

// TestServerThatDoesNotSupportUsSaysWhatItDoes: the answer to a method or grant
// that is not listed would be a puzzling error, or another client's lockout.
func TestServerThatDoesNotSupportUsSaysWhatItDoes(t *testing.T) {
	const wayOut = ": use one of these, or write 'token_endpoint' by hand if the list is wrong"
	tests := []struct {
		name   string
		listed map[string]any
		lines  string
		want   string // "" if it is fine
	}{
		{"a method that is not listed", map[string]any{"token_endpoint_auth_methods_supported": []string{"private_key_jwt", "none"}}, "", `the authorization server does not list "client_secret_basic" for 'client_auth'; it supports private_key_jwt, none` + wayOut},
		{"a grant that is not listed", map[string]any{"grant_types_supported": []string{"authorization_code", "refresh_token"}}, "", `the authorization server does not list "client_credentials" for 'grant'; it supports authorization_code, refresh_token` + wayOut},
		{"a grant with a long name", map[string]any{"grant_types_supported": []string{"client_credentials"}}, "grant jwt_bearer {\nassertion {env.ASSERTION}\n}", `the authorization server does not list "urn:ietf:params:oauth:grant-type:jwt-bearer" for 'grant'; it supports client_credentials` + wayOut},
		{"an algorithm for proofs that is not listed", map[string]any{"dpop_signing_alg_values_supported": []string{"EdDSA"}}, "dpop\nupstream_base https://api.example", `the authorization server does not list "ES256" for 'dpop'; it supports EdDSA` + wayOut},

		{"nothing is listed", nil, "", ""},
		{"both are listed", map[string]any{"token_endpoint_auth_methods_supported": []string{"none", "client_secret_basic"}, "grant_types_supported": []string{"client_credentials"}}, "", ""},
		{"our own name for a listed one", map[string]any{"token_endpoint_auth_methods_supported": []string{"client_secret_basic"}}, "client_auth client_secret_basic_raw", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Answers(publishing(map[string]string{rfc8414Place: metadata("", test.listed)}, caddytest.Issuing(time.Hour)))
			t.Setenv("ISSUER", auth.URL)
			t.Setenv("ASSERTION", "a.b.c")
			proxy := caddytest.Run(t, issuerSiteWith(test.lines))

			wantSupport(t, proxy, auth, test.want)
		})
	}
}

// wantSupport sends a request, which is answered unless the log is to say what the
// server does not support; no token request is made then.
func wantSupport(t testing.TB, proxy *caddytest.Caddy, auth *caddytest.AuthServer, says string) {
	t.Helper()
	if says == "" {
		proxy.Want(http.StatusOK)
		return
	}
	proxy.Want(http.StatusBadGateway)
	if got := proxy.Failure(); got != says {
		t.Errorf("the log says\n%s, want\n%s", got, says)
	}
	if n := auth.TokenRequests(); n != 0 {
		t.Errorf("%d token requests", n)
	}
}

// TestServerThatDoesNotTakeOurSignatureSaysWhichItTakes: the key says by which
// algorithm it signs, if the config does not.
func TestServerThatDoesNotTakeOurSignatureSaysWhichItTakes(t *testing.T) {
	const wayOut = ": use one of these, or write 'token_endpoint' by hand if the list is wrong"
	ec, rsa := pkcs8Text(t, newECKey(t, elliptic.P256())), pkcs8Text(t, rsaKey())
	tests := []struct {
		name   string
		listed []string
		key    string
		lines  string
		want   string // "" if it is fine
	}{
		{"the key's algorithm is not listed", []string{"RS256", "PS256"}, ec, "", `the authorization server does not list "ES256" for the 'algorithm' or key of 'client_auth'; it supports RS256, PS256` + wayOut},
		{"the configured one is not listed", []string{"RS256", "ES256"}, rsa, "algorithm PS256", `the authorization server does not list "PS256" for the 'algorithm' or key of 'client_auth'; it supports RS256, ES256` + wayOut},
		{"the key's algorithm is listed", []string{"RS256", "ES256"}, ec, "", ""},
		{"the configured one is listed", []string{"PS256"}, rsa, "algorithm PS256", ""},
		{"nothing is listed", nil, ec, "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			document := metadata("", map[string]any{"token_endpoint_auth_signing_alg_values_supported": test.listed})
			auth.Answers(publishing(map[string]string{rfc8414Place: document}, caddytest.Issuing(time.Hour)))
			t.Setenv("ISSUER", auth.URL)
			t.Setenv("KEY_FILE", caddytest.SecretFile(t, test.key))
			proxy := caddytest.Run(t, strings.Replace(issuerSite, "client_secret partner-secret", "client_auth private_key_jwt {\nkey {$KEY_FILE}\n"+test.lines+"\n}", 1))

			wantSupport(t, proxy, auth, test.want)
		})
	}
}

// TestClientsWithACertificateUseTheirOwnEndpoint (RFC 8705 section 5): the
// other one does not ask for certificates.
func TestClientsWithACertificateUseTheirOwnEndpoint(t *testing.T) {
	own := strings.Replace(trustingTransport, "{\n", "{\ntls_client_auth {$CERT_FILE} {$CERT_FILE}\n", 1)
	tests := []struct{ name, auth, transport, want string }{
		{"tls_client_auth", "client_auth tls_client_auth {\ncertificate {$CERT_FILE}\n}", trustingTransport, "/mtls/token"},
		{"a secret", "client_secret partner-secret", trustingTransport, "/found/token"},
		{"a secret, and a certificate of the transport", "client_secret partner-secret", own, "/mtls/token"},
		{"a certificate of the transport alone", "client_auth none", own, "/mtls/token"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t, withTLS, func(s *httptest.Server) { s.TLS.ClientAuth = tls.RequestClientCert })
			caddytest.NewAPIServer(t)
			document := metadata("", map[string]any{
				"mtls_endpoint_aliases":                 map[string]string{"token_endpoint": "{URL}/mtls/token"},
				"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "tls_client_auth"},
			})
			auth.Answers(publishing(map[string]string{rfc8414Place: document}, func(w http.ResponseWriter, r caddytest.TokenRequest) {
				if shown := len(r.TLS.PeerCertificates) > 0; shown != (r.URL.Path == "/mtls/token") {
					caddytest.Say(w, http.StatusUnauthorized, `{"error":"invalid_client"}`)
					return
				}
				caddytest.Issuing(time.Hour)(w, r)
			}))
			key := newECKey(t, elliptic.P256())
			t.Setenv("ISSUER", auth.URL)
			t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
			t.Setenv("CERT_FILE", caddytest.SecretFile(t, pkcs8Text(t, key)+certificateText(certificateFor(t, key, nil))))
			proxy := caddytest.Run(t, strings.Replace(issuerSiteWith(test.transport), "client_secret partner-secret", test.auth, 1))

			proxy.Want(http.StatusOK)

			if got, want := auth.Asked(), []string{"GET " + rfc8414Place, "POST " + test.want}; !slices.Equal(got, want) {
				t.Errorf("the server is asked for %q, want %q", got, want)
			}
		})
	}
}

// TestAccountsHaveTheirIssuerAskedAtStart: a mistake there shows before the first
// caller meets it, whose tokens are fetched later.
func TestAccountsHaveTheirIssuerAskedAtStart(t *testing.T) {
	for name, issuer := range map[string]string{"the issuer": "", "another one": "https://another.example"} {
		t.Run(name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			document := metadata("", nil)
			if issuer != "" {
				document = metadata("", map[string]any{"issuer": issuer})
			}
			auth.Answers(publishing(map[string]string{rfc8414Place: document}, caddytest.Issuing(time.Hour)))
			t.Setenv("ISSUER", auth.URL)
			proxy := caddytest.Run(t, issuerSiteWith("account {http.request.header.X-A}"))

			caddytest.Eventually(t, "the metadata is asked for", func() bool { return auth.Count() > 0 })
			if issuer != "" {
				line := proxy.AwaitLog("the authorization server's metadata cannot be used; requests are answered without going upstream")
				if text := fmt.Sprint(line["error"]); !strings.Contains(text, issuer) {
					t.Errorf("the log says %s", text)
				}
			}
			if n := auth.TokenRequests(); n != 0 {
				t.Errorf("%d token requests for nobody", n)
			}
		})
	}
}

// TestPlainHTTPIsForWhoAllowsIt: what one client was told of the server is not used
// by another that is stricter, such as the same one after a reload.
func TestPlainHTTPIsForWhoAllowsIt(t *testing.T) {
	auth, plain := caddytest.NewAuthServer(t, withTLS), caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	document := metadata("", map[string]any{"token_endpoint": plain.URL + "/token"})
	auth.Answers(publishing(map[string]string{rfc8414Place: document}, nil))
	t.Setenv("ISSUER", auth.URL)
	t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
	plain.Answers(caddytest.Issuing(time.Second))
	proxy := caddytest.Run(t, issuerSiteWith(trustingTransport+"\nallow_http"))
	proxy.Want(http.StatusOK)

	proxy.Reload(issuerSiteWith(trustingTransport))
	before := plain.Count()
	proxy.Want(http.StatusBadGateway)

	if n := plain.Count() - before; n != 0 {
		t.Errorf("%d token requests over plain http", n)
	}
	if got, want := proxy.Failure(), "its token_endpoint must use https, as the issuer does"; !strings.Contains(got, want) {
		t.Errorf("the log says\n%s, want\n%s", got, want)
	}
}

// TestNothingIsFetchedWhileAConfigLoads: "caddy validate" works without a
// network, and a config loads while the authorization server is down.
func TestNothingIsFetchedWhileAConfigLoads(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	t.Setenv("ISSUER", auth.URL)
	t.Setenv("SITE", "localhost:8080")

	if err := caddytest.Validate(issuerSite); err != nil {
		t.Error(err)
	}

	if got := auth.Asked(); len(got) != 0 {
		t.Errorf("the server is asked for %q", got)
	}
}

// TestMetadataOutlivesItsServersOutage: once known it is enough for all renewals,
// also after a reload.
func TestMetadataOutlivesItsServersOutage(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	brief := caddytest.Issuing(time.Second)
	auth.Answers(publishing(map[string]string{rfc8414Place: metadata("", nil)}, brief))
	t.Setenv("ISSUER", auth.URL)
	proxy := caddytest.Run(t, issuerSite)
	proxy.Want(http.StatusOK)

	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		brief(w, r)
	})
	proxy.Reload(issuerSite)
	caddytest.Eventually(t, "two tokens more were issued", func() bool {
		proxy.Want(http.StatusOK)
		return auth.TokenRequests() >= 3
	})

	if gets := auth.Count() - auth.TokenRequests(); gets != 1 {
		t.Errorf("the metadata is fetched %d times, want once: %q", gets, auth.Asked())
	}
}

// TestServerWhoseMetadataIsOutOfReach is a server that is unavailable.
func TestServerWhoseMetadataIsOutOfReach(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Says(http.StatusServiceUnavailable, "")
	t.Setenv("ISSUER", auth.URL)
	proxy := caddytest.Run(t, issuerSite)

	answer := proxy.Get("/", nil)

	if want := "503 no access token for the upstream: the authorization server is unavailable"; answer.Body != want {
		t.Errorf("the caller reads\n%s, want\n%s", answer.Body, want)
	}
	if answer.Header.Get("Retry-After") == "" {
		t.Error("there is no Retry-After")
	}
}

// TestOneMetadataRequestForAllAccounts, however many want their first token at
// the same time.
func TestOneMetadataRequestForAllAccounts(t *testing.T) {
	const callers = 200
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	published, all := publishing(map[string]string{rfc8414Place: metadata("", nil)}, caddytest.Issuing(time.Hour)), make(chan bool)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		if r.Method == http.MethodGet {
			select {
			case <-all:
			case <-r.Context().Done():
			}
		}
		published(w, r)
	})
	t.Setenv("ISSUER", auth.URL)
	proxy := caddytest.Run(t, caddytest.Tracing+issuerSiteWith("account {http.request.header.X-User}"))

	site := os.Getenv("SITE")
	var calling sync.WaitGroup
	for i := range callers {
		calling.Go(func() {
			answer, err := proxy.Try(http.MethodGet, site, "/", http.Header{"X-User": {fmt.Sprint("user-", i)}})
			if err != nil || answer.Status != http.StatusOK {
				t.Errorf("status %d, %v: %s", answer.Status, err, answer.Body)
			}
		})
	}
	caddytest.Eventually(t, "all requests came in", func() bool { return proxy.Entered() == callers })
	close(all)
	calling.Wait()

	if n := auth.TokenRequests(); n != callers || auth.Count() != callers+1 || len(api.Seen()) != callers {
		t.Errorf("%d token requests and %d for metadata, and %d requests reached the API", n, auth.Count()-n, len(api.Seen()))
	}
}
