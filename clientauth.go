package upstreamoauth2

import (
	"strings"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/tokenendpoint"
)

// ClientAuth is how the client proves itself at the token endpoint. One way is
// used, the configured one: trying several spends single-use credentials.
type ClientAuth struct {
	// The method, by its IANA name (RFC 7591 section 2):
	//
	//  - client_secret_basic: id and secret in an Authorization field,
	//    form-encoded as RFC 6749 section 2.3.1 says
	//  - client_secret_basic_raw: the same without the form-encoding, for
	//    servers that do not decode it
	//  - client_secret_post: id and secret as form fields
	//  - none: the id alone, for public clients
	//
	// Default: client_secret_basic.
	Method string `json:"method,omitempty"`
}

// authMethod is the name of a client authentication method.
type authMethod string

const (
	clientSecretBasic    authMethod = "client_secret_basic"
	clientSecretBasicRaw authMethod = "client_secret_basic_raw"
	clientSecretPost     authMethod = "client_secret_post"
	noClientAuth         authMethod = "none"
)

// authMethods lists them for error texts.
var authMethods = []authMethod{clientSecretBasic, clientSecretBasicRaw, clientSecretPost, noClientAuth}

// usesAuthorization reports whether the method needs the Authorization field.
func (m authMethod) usesAuthorization() bool {
	return m == clientSecretBasic || m == clientSecretBasicRaw
}

// authMethod returns the configured method or the default.
func (c *Client) authMethod() authMethod {
	if c.ClientAuth == nil || c.ClientAuth.Method == "" {
		return clientSecretBasic
	}
	return authMethod(c.ClientAuth.Method)
}

func (c *Client) checkClientAuth() error {
	method := c.authMethod()
	switch method {
	case clientSecretBasic, clientSecretBasicRaw, clientSecretPost:
		if c.ClientSecret == "" {
			return optionErrorf("client_secret", "is missing: write client_secret {env.NAME} or {file./absolute/path}, or 'client_auth none' for a public client")
		}
	case noClientAuth:
		if c.ClientSecret != "" {
			return optionErrorf("client_secret", "is never sent with 'client_auth none': remove one of the two")
		}
	default:
		return optionErrorf("client_auth", "unknown method %q: use one of %s", method, listMethods())
	}
	return nil
}

func listMethods() string {
	names := make([]string, len(authMethods))
	for i, m := range authMethods {
		names[i] = string(m)
	}
	return strings.Join(names, ", ")
}

// clientAuth returns the way for one token request.
func (c *Client) clientAuth(s settings) tokenendpoint.ClientAuth {
	switch method := c.authMethod(); method {
	case clientSecretPost:
		return tokenendpoint.ClientSecretPost{ID: s.clientID, Secret: s.secret}
	case noClientAuth:
		return tokenendpoint.PublicClient{ID: s.clientID}
	default:
		return tokenendpoint.ClientSecretBasic{ID: s.clientID, Secret: s.secret, Raw: method == clientSecretBasicRaw}
	}
}
