package authserver_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// Each endpoint at which a client authenticates sees the same client, however it
// does so.
func TestClientAuthAtEachEndpoint(t *testing.T) {
	const id = clientID
	secret := authserver.NewSecret("a-secret-of-32-bytes-for-HS256-ok")
	chain, _ := certificate(t, keys()["P-256"])
	pair, err := tls.X509KeyPair([]byte(chain), []byte(pkcs8(t, keys()["P-256"])))
	if err != nil {
		t.Fatal(err)
	}
	methods := []struct {
		name  string
		auth  authserver.ClientAuth
		shows func(r *http.Request) bool
	}{
		{"client_secret_basic", authserver.ClientSecretBasic{ID: id, Secret: secret}, func(r *http.Request) bool {
			user, password, ok := r.BasicAuth()
			return ok && user == id && password == secret.Reveal() && !r.PostForm.Has("client_secret")
		}},
		{"client_secret_post", authserver.ClientSecretPost{ID: id, Secret: secret}, func(r *http.Request) bool {
			return r.PostFormValue("client_id") == id && r.PostFormValue("client_secret") == secret.Reveal()
		}},
		{"client_secret_jwt", authserver.ClientSecretJWT{ID: id, Secret: secret, Audience: issuer}, func(r *http.Request) bool {
			_, claims := verified(t, r.PostFormValue("client_assertion"), "HS256", []byte(secret.Reveal()))
			return claims["iss"] == id
		}},
		{"private_key_jwt", authserver.PrivateKeyJWT{ID: id, Key: mustParseKey(t, edJWK, authserver.KeyOptions{}), Audience: issuer}, func(r *http.Request) bool {
			_, claims := verified(t, r.PostFormValue("client_assertion"), "EdDSA", publicOf(t, edJWK))
			return claims["iss"] == id
		}},
		{"assertion_file", authserver.ClientAssertion{ID: id, Assertion: authserver.NewSecret("a.b.c")}, func(r *http.Request) bool {
			return r.PostFormValue("client_assertion") == "a.b.c"
		}},
		{"tls_client_auth", authserver.TLSClientAuth{ID: id, Certificate: []byte(chain)}, func(r *http.Request) bool {
			return r.PostFormValue("client_id") == id && len(r.TLS.PeerCertificates) == 1
		}},
		{"none", authserver.PublicClient{ID: id}, func(r *http.Request) bool { return r.PostFormValue("client_id") == id }},
	}
	endpoints := []struct {
		name   string
		answer string
		ask    func(r authserver.Request, transport http.RoundTripper) error
		sends  string // a field and its value
	}{
		{"token", goodBody, func(r authserver.Request, transport http.RoundTripper) error {
			r.Form = authserver.CodeExchange(authserver.NewSecret("code-1"), redirectURI, authserver.NewVerifier())
			_, err := do(t, r, transport)
			return err
		}, "code=code-1"},
		{"device authorization", deviceAnswer, func(r authserver.Request, transport http.RoundTripper) error {
			r.Form = url.Values{"scope": {"read"}}
			_, err := r.AuthorizeDevice(t.Context(), transport)
			return err
		}, "scope=read"},
		{"revocation", "", func(r authserver.Request, transport http.RoundTripper) error {
			return r.Revoke(t.Context(), transport, authserver.NewSecret("ref-25"), "refresh_token")
		}, "token=ref-25"},
	}
	for _, endpoint := range endpoints {
		t.Run(endpoint.name, func(t *testing.T) {
			for _, method := range methods {
				t.Run(method.name, func(t *testing.T) {
					server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						name, value, _ := strings.Cut(endpoint.sends, "=")
						if r.PostFormValue(name) != value {
							t.Errorf("the request has no %s", endpoint.sends)
						}
						if !method.shows(r) {
							t.Errorf("the client is not to be seen in %v", r.PostForm)
						}
						fmt.Fprint(w, endpoint.answer)
					}))
					server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
					server.StartTLS()
					defer server.Close()
					transport := server.Client().Transport.(*http.Transport)
					if method.name == "tls_client_auth" {
						transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
					}
					r := request(server.URL)
					r.Auth = method.auth
					if err := endpoint.ask(r, transport); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}
