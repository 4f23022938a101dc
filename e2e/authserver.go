package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// kind is an authorization server that others wrote.
type kind struct {
	name       string
	program    func(t *testing.T, config string) *exec.Cmd // takes a serverConfig as its one argument
	issuerPath string
	// introspection is the path of its introspection endpoint, where its metadata don't tell.
	introspection string
	// jwt makes the client's access tokens JWTs; what it returns is added to the directive.
	jwt func(*client) (lines string)
	// algorithms are those that may sign a client's assertion.
	algorithms []string
	// forTokenEndpoint means that assertions must be for the token endpoint; otherwise they are for the issuer.
	forTokenEndpoint bool
	// hidesGrants means that its metadata list fewer grants than there are.
	hidesGrants bool
}

var oidcProvider = &kind{
	name: "oidc-provider",
	program: func(_ *testing.T, config string) *exec.Cmd {
		return exec.Command("node", "oidc-provider/server.mjs", config)
	},
	jwt:        func(*client) string { return "resource https://api.example/" },
	algorithms: []string{"RS256", "PS256", "ES256", "EdDSA"},
}

var zitadel = &kind{
	name:       "zitadel",
	program:    func(_ *testing.T, config string) *exec.Cmd { return exec.Command(built("zitadel"), config) },
	issuerPath: "/",
	jwt: func(c *client) string {
		c.JWT = true
		return ""
	},
	algorithms: []string{"RS256"},
}

var hydra = &kind{
	name: "Ory Hydra",
	program: func(t *testing.T, config string) *exec.Cmd {
		cmd := exec.Command(built("hydra"), config)
		cmd.Dir = t.TempDir()
		return cmd
	},
	issuerPath:    "/",
	introspection: "/introspect",
	jwt: func(c *client) string {
		c.JWT = true
		return ""
	},
	algorithms:       []string{"RS256", "PS256", "ES256"},
	forTokenEndpoint: true,
	hidesGrants:      true,
}

var kinds = []*kind{oidcProvider, zitadel, hydra}

// serverConfig is what an authorization server's program is told.
type serverConfig struct {
	Port    int                `json:"port"`
	Issuer  string             `json:"issuer"`
	Clients []client           `json:"clients"`
	JWKS    jose.JSONWebKeySet `json:"jwks"`

	// DPoPNonces makes the server want a nonce of its own in each DPoP proof.
	DPoPNonces bool `json:"dpop_nonces"`

	// Trusted are those whose assertions the server takes for a grant (RFC 7523 section 2.1).
	Trusted []assertionIssuer `json:"trusted,omitempty"`

	MTLS *mtlsConfig `json:"mtls,omitempty"`
}

// assertionIssuer is someone with a public key.
type assertionIssuer struct {
	Issuer string          `json:"issuer"`
	Key    jose.JSONWebKey `json:"key"`
}

// mtlsConfig is for clients that prove themselves with a certificate.
type mtlsConfig struct {
	TokenEndpoint string `json:"token_endpoint"`
	CA            string `json:"ca"` // the authority that issues the certificates, as PEM
}

// client is one client of an authorization server. It may sign users in, use their refresh tokens and
// ask for tokens of its own.
type client struct {
	ID           string   `json:"id"`
	Secret       string   `json:"secret"`
	Grants       []string `json:"grants"`
	RedirectURIs []string `json:"redirect_uris"`
	TokenSeconds int      `json:"token_seconds"` // life of its access tokens
	JWT          bool     `json:"jwt"`

	// How it proves itself: an IANA name, or "" for its secret in either place; and its public keys.
	AuthMethod string              `json:"auth_method,omitempty"`
	JWKS       *jose.JSONWebKeySet `json:"jwks,omitempty"`

	// For tls_client_auth: the DNS name in its certificate.
	CertificateName string `json:"certificate_name,omitempty"`

	// CertificateBound makes its access tokens good only with the certificate it asked for them with.
	CertificateBound bool `json:"certificate_bound,omitempty"`

	// GraceSeconds is how long a refresh token of it is still good after it was used. Only oidc-provider
	// knows it.
	GraceSeconds int `json:"grace_seconds,omitempty"`

	keys    []jose.JSONWebKey
	private []string // what tells its private keys; it stands nowhere but in their files
}

const redirectURI = "http://127.0.0.1/signed-in" // never fetched

func newClient(id string, tokenLife time.Duration) client {
	return client{
		ID:           id,
		Secret:       "the secret of " + id + ": " + rand.Text(),
		Grants:       []string{"authorization_code", "refresh_token", "client_credentials"},
		RedirectURIs: []string{redirectURI},
		TokenSeconds: int(tokenLife.Seconds()),
	}
}

// directive holds the lines of upstream_oauth2 that every use of this client at this server needs. The
// secret comes from the environment that startProxy gives to Caddy.
func (s *authServer) directive(c client) string {
	return fmt.Sprintf("token_endpoint %s\nclient_id %q\nclient_secret {env.CLIENT_SECRET}", s.metadata.TokenEndpoint, c.ID)
}

// authServer is a running authorization server behind its front.
type authServer struct {
	*front
	t        *testing.T
	kind     *kind
	config   serverConfig
	api      client // as which the API asks about tokens
	process  *process
	metadata struct {
		Issuer                string `json:"issuer"`
		AuthorizationEndpoint string `json:"authorization_endpoint"`
		TokenEndpoint         string `json:"token_endpoint"`
		IntrospectionEndpoint string `json:"introspection_endpoint"`
		JWKSURI               string `json:"jwks_uri"`
	}
}

// startAuthServer starts an authorization server with these clients.
func startAuthServer(t *testing.T, k *kind, clients ...client) *authServer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	port, backendPort := freePort(t), freePort(t)
	s := &authServer{t: t, kind: k, api: newClient("the-api", time.Hour)}
	s.config = serverConfig{
		Port:    backendPort,
		Issuer:  "http://" + loopback(port) + k.issuerPath,
		Clients: append(clients, s.api),
		JWKS: jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
			{Key: key, KeyID: rand.Text(), Algorithm: "RS256", Use: "sig"},
		}},
	}
	s.front = startFront(t, port, backendPort)
	s.start()
	if err := getJSON(strings.TrimSuffix(s.config.Issuer, "/")+"/.well-known/openid-configuration", &s.metadata); err != nil {
		t.Fatalf("metadata of %s: %v", k.name, err)
	}
	if s.metadata.Issuer != s.config.Issuer {
		t.Fatalf("%s calls itself %s, want %s", k.name, s.metadata.Issuer, s.config.Issuer)
	}
	if s.metadata.IntrospectionEndpoint == "" {
		s.metadata.IntrospectionEndpoint = "http://" + loopback(port) + k.introspection
	}
	endpoint, err := url.Parse(s.metadata.TokenEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	s.front.tokenPath = endpoint.Path
	return s
}

// start starts the server, also again after stop. It comes back without a memory of what it issued.
func (s *authServer) start() {
	s.t.Helper()
	config, err := json.Marshal(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.process = startProcess(s.t, s.kind.name, s.kind.program(s.t, string(config)))
	eventually(s.t, s.kind.name+" answers", func() bool {
		if s.process.exited() {
			s.t.Fatalf("%s has exited", s.kind.name)
		}
		return listening(s.config.Port)
	})
	s.mend(s.t)
}

// stop ends the server's process. To its clients that looks as how says.
func (s *authServer) stop(how outage) {
	s.fail(how)
	s.process.kill()
}

// secrets returns what nobody but the server and its clients may know.
func (s *authServer) secrets() []string {
	var secrets []string
	for _, c := range s.config.Clients {
		secrets = append(secrets, c.Secret)
		secrets = append(secrets, c.private...)
	}
	for _, r := range s.tokenRequests() {
		for _, secret := range []string{r.refreshToken, r.subjectToken, r.assertion, r.clientAssertion} {
			if secret != "" {
				secrets = append(secrets, secret)
			}
		}
	}
	return secrets
}

// tokenFacts is what the server says of an access token.
type tokenFacts struct {
	format       string // opaque or JWT
	client       string
	expires      time.Time
	jkt          string // the thumbprint of the key that the token is bound to; "" for a bearer token
	x5t          string // the thumbprint of the certificate that the token is bound to; "" for none
	exchangedFor string // the hash of the token that this one was exchanged for
}

// confirmation says what a token is bound to (RFC 7800).
type confirmation struct {
	JKT string `json:"jkt"`
	X5T string `json:"x5t#S256"` // RFC 8705
}

// check asks the server about an access token as an API does: by introspection about an opaque one,
// with its published keys about a JWT.
func (s *authServer) check(token string) (tokenFacts, error) {
	if strings.Count(token, ".") == 2 {
		return s.checkJWT(token)
	}
	var answer struct {
		Active   bool         `json:"active"`
		ClientID string       `json:"client_id"`
		Exp      int64        `json:"exp"`
		Cnf      confirmation `json:"cnf"`
		// What oidc-provider's token_exchange adds.
		ExchangedFor string `json:"exchanged_for"`
	}
	request, err := http.NewRequest(http.MethodPost, s.metadata.IntrospectionEndpoint,
		strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return tokenFacts{}, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(url.QueryEscape(s.api.ID), url.QueryEscape(s.api.Secret))
	if err := doJSON(request, &answer); err != nil {
		return tokenFacts{}, err
	}
	if !answer.Active {
		return tokenFacts{}, fmt.Errorf("%s says the token is not active", s.kind.name)
	}
	return tokenFacts{"opaque", answer.ClientID, time.Unix(answer.Exp, 0), answer.Cnf.JKT, answer.Cnf.X5T, answer.ExchangedFor}, nil
}

func (s *authServer) checkJWT(token string) (tokenFacts, error) {
	var keys jose.JSONWebKeySet
	if err := getJSON(s.metadata.JWKSURI, &keys); err != nil {
		return tokenFacts{}, err
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return tokenFacts{}, err
	}
	var registered jwt.Claims
	var more struct {
		ClientID string       `json:"client_id"`
		Cnf      confirmation `json:"cnf"`
	}
	if err := parsed.Claims(keys, &registered, &more); err != nil {
		return tokenFacts{}, err
	}
	if err := registered.ValidateWithLeeway(jwt.Expected{Issuer: s.config.Issuer, Time: time.Now()}, time.Second); err != nil {
		return tokenFacts{}, err
	}
	return tokenFacts{
		format: "JWT", client: more.ClientID, expires: registered.Expiry.Time(), jkt: more.Cnf.JKT, x5t: more.Cnf.X5T,
	}, nil
}

func getJSON(url string, v any) error {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	return doJSON(request, v)
}

func doJSON(r *http.Request, v any) error {
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", r.Method, r.URL, answer.Status, bytes.TrimSpace(body))
	}
	return json.Unmarshal(body, v)
}
