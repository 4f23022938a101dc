package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Grant is what the client asks for a token with.
type Grant struct {
	// The grant type:
	//
	//  - client_credentials (RFC 6749 section 4.4)
	//  - authorization_code: somebody signs in once, by "caddy upstream-oauth2
	//    login" or on the connect page (RFC 6749 section 4.1); the grant is kept
	//  - refresh_token (RFC 6749 section 6)
	//  - jwt_bearer: an assertion about someone (RFC 7523 section 2.1)
	//  - token_exchange: another token for the caller's (RFC 8693)
	//  - any other value, which is sent as it is; its parameters are written
	//    with token_param (Zoom's account_credentials, for one)
	//
	// Default: client_credentials.
	Type string `json:"type,omitempty"`

	// For refresh_token: the refresh token to begin with, best as a placeholder.
	// Where the server rotates refresh tokens, the newest one is used from then
	// on, until this value changes.
	RefreshToken Credential `json:"refresh_token,omitempty"`

	// For authorization_code: further parameters of the authorization request, by
	// name, such as access_type and prompt.
	AuthorizationParam map[string]string `json:"authorization_param,omitempty"`

	// For jwt_bearer: a ready-made assertion. "Bearer " before it is dropped, so
	// that {http.request.header.Authorization} will do. Without it, one is signed
	// here with the fields below.
	Assertion Credential `json:"assertion,omitempty"`

	// For jwt_bearer: Google's JSON key file of a service account. It gives the
	// token endpoint, the issuer, the audience, the key and its id; the scope
	// goes into the assertion.
	ServiceAccount Credential `json:"service_account,omitempty"`

	// For jwt_bearer: the key to sign with, as for private_key_jwt.
	Key Credential `json:"key,omitempty"`

	// For jwt_bearer: the key's id. Default: the JWK's own, if any.
	KeyID string `json:"key_id,omitempty"`

	// For jwt_bearer: the algorithm. Default: what the key is made for.
	Algorithm string `json:"algorithm,omitempty"`

	// For jwt_bearer: who issues the assertion. Default: the client id.
	Issuer string `json:"issuer,omitempty"`

	// For jwt_bearer: whom the token is for. Default: the assertion's issuer; a
	// service account names none.
	Subject string `json:"subject,omitempty"`

	// For jwt_bearer: who the assertion is for. Default: the client's issuer;
	// without one, the token endpoint.
	Audience string `json:"audience,omitempty"`

	// For jwt_bearer: further claims, by name. A value that is a number, a boolean,
	// a list or an object in JSON is sent as that; any other as text. A number that
	// is to be text is written as JSON text, in quotes. What placeholders stand for
	// is always text.
	Claim map[string]string `json:"claim,omitempty"`

	// For jwt_bearer: how long an assertion is good for. Default: 60s; 1h for a
	// service account.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// For token_exchange: the token of the one the new token is for. Default:
	// the caller's bearer token. "Bearer " before it is dropped.
	SubjectToken Credential `json:"subject_token,omitempty"`

	// For token_exchange: its type, as a URN or short: access_token, id_token,
	// refresh_token, jwt, saml1 or saml2 (RFC 8693 section 3). Default:
	// access_token.
	SubjectTokenType string `json:"subject_token_type,omitempty"`

	// For token_exchange: the token of the one who acts for the subject.
	// Default: none.
	ActorToken Credential `json:"actor_token,omitempty"`

	// For token_exchange: its type. Default with an actor_token: access_token.
	ActorTokenType string `json:"actor_token_type,omitempty"`

	// For token_exchange: the type of token to ask for. Default: the server's
	// choice.
	RequestedTokenType string `json:"requested_token_type,omitempty"`
}

const (
	clientCredentials = "client_credentials"
	authorizationCode = "authorization_code"
	refreshToken      = "refresh_token"
	jwtBearer         = "jwt_bearer"
	tokenExchange     = "token_exchange"

	// callersToken is where callers bring theirs.
	callersToken Credential = "{http.request.header.Authorization}"

	// googleLifetime is how long Google lets a service account's assertion be.
	googleLifetime = time.Hour
)

// grantTypes are the grants that are not sent by the name they are written with.
var grantTypes = map[string]string{
	jwtBearer:     "urn:ietf:params:oauth:grant-type:jwt-bearer",
	tokenExchange: "urn:ietf:params:oauth:grant-type:token-exchange",
}

// grantOptions are the options of each grant that has any.
var grantOptions = map[string][]string{
	authorizationCode: {"authorization_param"},
	refreshToken:      {"refresh_token"},
	jwtBearer:         {"assertion", "service_account", "key", "key_id", "algorithm", "issuer", "subject", "audience", "claim", "lifetime"},
	tokenExchange:     {"subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type"},
}

// tokenTypes are the short names of RFC 8693 section 3.
var tokenTypes = []string{"access_token", "id_token", "refresh_token", "jwt", "saml1", "saml2"}

const tokenTypePrefix = "urn:ietf:params:oauth:token-type:"

// GrantOptions returns the options that go into the block of a grant; nil if it
// takes no block.
func GrantOptions(grant string) []string { return grantOptions[grant] }

// grant returns the configured grant with defaults applied.
func (c *Client) grant() Grant {
	g := Grant{}
	if c.Grant != nil {
		g = *c.Grant
	}
	if g.Type == "" {
		g.Type = clientCredentials
	}
	if g.Type == tokenExchange {
		if g.SubjectToken == "" {
			g.SubjectToken = callersToken
		}
		if g.SubjectTokenType == "" {
			g.SubjectTokenType = "access_token"
		}
		if g.ActorToken != "" && g.ActorTokenType == "" {
			g.ActorTokenType = "access_token"
		}
	}
	return g
}

// IsTokenExchange reports whether tokens are exchanged for others (RFC 8693).
func (c *Client) IsTokenExchange() bool {
	return c.grant().grantType() == grantTypes[tokenExchange]
}

// grantType returns the grant_type to send.
func (g Grant) grantType() string {
	if urn, ok := grantTypes[g.Type]; ok {
		return urn
	}
	return g.Type
}

// CheckGrantType refuses what no server takes, such as a grant that is known here
// and mistyped. Any other name is sent as it is.
func CheckGrantType(name string) error {
	spelled := strings.ReplaceAll(strings.ToLower(name), "-", "_")
	if meant := Nearest(spelled, []string{clientCredentials, authorizationCode, refreshToken, jwtBearer, tokenExchange}); meant != "" && meant != name {
		return fmt.Errorf("unknown grant %q: write 'grant %s'", name, meant)
	}
	if strings.ContainsFunc(name, notInURI) {
		return fmt.Errorf("%q is not a grant type: write its name, or its URI (RFC 6749 appendix A.10)", name)
	}
	return nil
}

// notInURI reports whether a character has no place in a URI (RFC 3986 appendix A).
func notInURI(r rune) bool {
	return r <= ' ' || r > '~' || strings.ContainsRune("\"<>\\^`{|}", r)
}

// goesUpstream finds placeholders for parts of a request that reach the upstream
// whatever becomes of its header.
var goesUpstream = regexp.MustCompile(`\{http\.request\.(cookie|uri|orig_uri|body)`)

func (c *Client) checkGrant() error {
	g := c.grant()
	if err := CheckGrantType(g.Type); err != nil {
		return &OptionError{Option: "grant", Err: err}
	}
	for _, name := range givenFields(g) {
		if name != "type" && !slices.Contains(grantOptions[g.Type], name) {
			return OptionErrorf("grant", "%s does not take %q: remove it, or name another grant", g.Type, name)
		}
	}
	for _, o := range []struct {
		name  string
		value Credential
	}{{"assertion", g.Assertion}, {"subject_token", g.SubjectToken}, {"actor_token", g.ActorToken}} {
		if goesUpstream.MatchString(string(o.value)) {
			return OptionErrorf("grant", "%s must not come from a cookie, the body or the URL, which go upstream: take it from a header field, which does not", o.name)
		}
	}
	switch g.Type {
	case authorizationCode:
		return c.checkAuthorizationCode()
	case refreshToken:
		if g.RefreshToken == "" {
			return OptionErrorf("grant", "the first refresh token is missing: write 'grant refresh_token { refresh_token {file./absolute/path} }'")
		}
	case jwtBearer:
		return g.checkJWTBearer()
	case tokenExchange:
		return g.checkTokenExchange()
	}
	return nil
}

func (g Grant) checkJWTBearer() error {
	signed := g.ServiceAccount != "" || g.Key != ""
	switch {
	case !signed && g.Assertion == "":
		return OptionErrorf("grant", "jwt_bearer needs 'assertion', or 'key' or 'service_account' to sign one with")
	case g.Assertion != "" && len(givenFields(g)) > 2: // more than the type and it
		return OptionErrorf("grant", "an assertion is either ready-made or signed here: remove 'assertion', or what it would be signed with")
	case g.ServiceAccount != "" && (g.Key != "" || g.KeyID != "" || g.Algorithm != ""):
		return OptionErrorf("grant", "a service_account brings its own key: remove 'key', 'key_id' and 'algorithm'")
	}
	if err := checkDuration(g.Lifetime); err != nil {
		return OptionErrorf("grant", "lifetime %w", err)
	}
	return checkClaims("grant", g.Claim, grantClaims)
}

func (g Grant) checkTokenExchange() error {
	for _, t := range []string{g.SubjectTokenType, g.ActorTokenType, g.RequestedTokenType} {
		if t != "" && !strings.Contains(t, ":") && !slices.Contains(tokenTypes, t) {
			return OptionErrorf("grant", "%q is not a token type: write a URN, or one of %s", t, strings.Join(tokenTypes, ", "))
		}
	}
	if g.ActorTokenType != "" && g.ActorToken == "" {
		return OptionErrorf("grant", "actor_token_type is for an actor_token, which is missing (RFC 8693 section 2.1)")
	}
	return nil
}

// tokenTypeURN completes the short name of a token type.
func tokenTypeURN(name string) string {
	if name == "" || strings.Contains(name, ":") {
		return name
	}
	return tokenTypePrefix + name
}
