package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// ClientAuth is how the client proves itself at the token endpoint. One way is
// used, the configured one: trying several spends single-use credentials.
type ClientAuth struct {
	// The method, by its IANA name (RFC 7591 section 2, RFC 8705 section 2):
	//
	//  - client_secret_basic: id and secret in an Authorization field,
	//    form-encoded as RFC 6749 section 2.3.1 says
	//  - client_secret_basic_raw: the same without the form-encoding, for
	//    servers that do not decode it
	//  - client_secret_post: id and secret as form fields
	//  - client_secret_jwt: an assertion signed with the secret (RFC 7523
	//    section 2.2)
	//  - private_key_jwt: an assertion signed with a key (RFC 7523 section 2.2)
	//  - tls_client_auth: a TLS client certificate, issued by an authority or
	//    self-signed (RFC 8705 section 2)
	//  - assertion_file: an assertion from a file, which someone else renews:
	//    Kubernetes, a SPIFFE agent, Azure workload identity
	//  - none: the id alone, for public clients
	//
	// Default: client_secret_basic.
	Method string `json:"method,omitempty"`

	// For private_key_jwt and tls_client_auth: the private key, as PEM or, for
	// private_key_jwt, as JWK. A file, which is read at each token request, or a
	// placeholder that holds the key itself.
	Key Credential `json:"key,omitempty"`

	// For private_key_jwt: the key's id at the server, sent as kid. Default: the
	// JWK's own, if any.
	KeyID string `json:"key_id,omitempty"`

	// For private_key_jwt: a file with the key's certificate, whose SHA-256
	// thumbprint is sent as x5t#S256 (Microsoft Entra asks for it). For
	// tls_client_auth: the file with the certificate chain.
	Certificate string `json:"certificate,omitempty"`

	// For private_key_jwt: RS256, RS384, RS512, PS256, PS384, PS512, ES256,
	// ES384, ES512 or EdDSA; default: what the key is made for, RS256 for RSA.
	// For client_secret_jwt: HS256 (the default), HS384 or HS512.
	Algorithm string `json:"algorithm,omitempty"`

	// For private_key_jwt and client_secret_jwt: who the assertion is for, or the
	// word issuer or token_endpoint for that URL. The typ of the assertion goes
	// with it: client-authentication+jwt for the issuer, JWT for any other
	// audience. Default: the issuer, as RFC 10070 wants; without one, the token
	// endpoint. A server that answers the default with invalid_client is asked once
	// more with its token endpoint and typ JWT, as Okta, Microsoft and others want
	// it, and what it took is remembered; never with a refresh token, which can be
	// spent once.
	Audience string `json:"audience,omitempty"`

	// For private_key_jwt: send the certificate itself with its chain, as x5c (RFC
	// 7515 section 4.1.6), for servers that trust its issuer. Default: false.
	X5C bool `json:"x5c,omitempty"`

	// For private_key_jwt and client_secret_jwt: further claims, by name, as in a
	// grant.
	Claim map[string]string `json:"claim,omitempty"`

	// For private_key_jwt and client_secret_jwt: how long an assertion is good
	// for. Each token request has its own. Default: 60s.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// For assertion_file: the file. It is read at each token request.
	File string `json:"file,omitempty"`
}

// authMethod is the name of a client authentication method.
type authMethod string

const (
	clientSecretBasic    authMethod = "client_secret_basic"
	clientSecretBasicRaw authMethod = "client_secret_basic_raw"
	clientSecretPost     authMethod = "client_secret_post"
	clientSecretJWT      authMethod = "client_secret_jwt"
	privateKeyJWT        authMethod = "private_key_jwt"
	tlsClientAuth        authMethod = "tls_client_auth"
	assertionFile        authMethod = "assertion_file"
	noClientAuth         authMethod = "none"
)

// authOptions are what each method takes: a client_secret or a block of options,
// and which one of them it cannot do without.
var authOptions = map[authMethod]struct {
	secret bool
	block  []string
	needs  string
}{
	clientSecretBasic:    {secret: true},
	clientSecretBasicRaw: {secret: true},
	clientSecretPost:     {secret: true},
	clientSecretJWT:      {secret: true, block: []string{"algorithm", "audience", "claim", "lifetime"}},
	privateKeyJWT:        {block: []string{"key", "key_id", "certificate", "x5c", "algorithm", "audience", "claim", "lifetime"}, needs: "key"},
	tlsClientAuth:        {block: []string{"certificate", "key"}, needs: "certificate"},
	assertionFile:        {needs: "file"},
	noClientAuth:         {},
}

// Words for the audience of an assertion.
const (
	audienceIssuer        = "issuer"
	audienceTokenEndpoint = "token_endpoint"
)

// authMethods lists the methods for error texts, in the order of the README.
var authMethods = []authMethod{clientSecretBasic, clientSecretBasicRaw, clientSecretPost, clientSecretJWT, privateKeyJWT, tlsClientAuth, assertionFile, noClientAuth}

// AuthOptions returns the options that go into the block of a client_auth method;
// nil if it takes no block. A method that does not exist is an error.
func AuthOptions(method string) ([]string, error) {
	rules, known := authOptions[authMethod(method)]
	if !known {
		return nil, unknownMethod(method)
	}
	return rules.block, nil
}

// TakesFile reports whether the file stands behind a client_auth method, rather
// than in its block.
func TakesFile(method string) bool { return authMethod(method) == assertionFile }

// usesAuthorization reports whether the method needs the Authorization field.
func (m authMethod) usesAuthorization() bool {
	return m == clientSecretBasic || m == clientSecretBasicRaw
}

// authMethod returns the configured method or the default.
func (c *Client) authMethod() authMethod {
	if c.ClientAuth != nil && c.ClientAuth.Method != "" {
		return authMethod(c.ClientAuth.Method)
	}
	if c.ClientSecret == nil && c.grant().Type == jwtBearer {
		return noClientAuth // the assertion says who we are (RFC 7523 section 2.1)
	}
	return clientSecretBasic
}

// AuthMethod returns how the client proves itself, by the name that client_auth has
// for it.
func (c *Client) AuthMethod() string { return string(c.authMethod()) }

// PresentsCertificate reports whether the client proves itself by a certificate of
// its own.
func (c *Client) PresentsCertificate() bool { return c.authMethod() == tlsClientAuth }

// clientAuth returns the configured ClientAuth, or an empty one.
func (c *Client) clientAuth() ClientAuth {
	if c.ClientAuth == nil {
		return ClientAuth{}
	}
	return *c.ClientAuth
}

func (c *Client) checkClientAuth() error {
	method := c.authMethod()
	rules, known := authOptions[method]
	if !known {
		return &OptionError{Option: "client_auth", Err: unknownMethod(string(method))}
	}
	a := c.clientAuth()
	given := givenFields(a)
	switch {
	case rules.secret && c.ClientSecret == nil:
		return OptionErrorf("client_secret", "is missing: write client_secret {env.NAME} or {file./absolute/path}, or another 'client_auth', such as 'none' for a public client")
	case !rules.secret && c.ClientSecret != nil:
		return OptionErrorf("client_secret", "is never sent with 'client_auth %s': remove one of the two", method)
	case method == assertionFile && a.File == "":
		return OptionErrorf("client_auth", "assertion_file needs a file: write 'client_auth assertion_file <file>'")
	case rules.needs != "" && !slices.Contains(given, rules.needs):
		return OptionErrorf("client_auth", "%s needs %q: write '%[2]s <file>' in its block", method, rules.needs)
	case a.Audience == audienceIssuer && c.Issuer == "":
		return OptionErrorf("client_auth", "'audience issuer' needs the 'issuer' of the client: write it, or 'audience token_endpoint'")
	}
	if err := checkDuration(a.Lifetime); err != nil {
		return OptionErrorf("client_auth", "lifetime %w", err)
	}
	for _, name := range given {
		if name != "method" && name != rules.needs && !slices.Contains(rules.block, name) {
			return OptionErrorf("client_auth", "%s does not take %q: remove it, or name another method", method, name)
		}
	}
	if a.X5C && a.Certificate == "" {
		return OptionErrorf("client_auth", "x5c sends the certificate with its chain: write 'certificate <file>' beside it")
	}
	return checkClaims("client_auth", a.Claim, clientClaims)
}

func unknownMethod(name string) error {
	names := make([]string, len(authMethods))
	for i, m := range authMethods {
		names[i] = string(m)
	}
	return fmt.Errorf("unknown method %q: use one of %s", name, strings.Join(names, ", "))
}
