// Package config is what a user writes: the settings of an OAuth 2.0 client,
// the mistakes in them, and what their placeholders and files say when a token
// request needs them.
//
// A Client is checked once, when the config is loaded (Check). Its Resolver
// turns it into Settings for each token request: plain values, in which nothing
// is left to look up. Nothing here makes a request.
package config

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap/zapcore"
)

// Client is an OAuth 2.0 client: an authorization server, the credentials to
// use there, the token to ask for, and where on a request the token goes.
//
// Values may hold global placeholders, such as {env.NAME} and
// {file./absolute/path}. They stay unexpanded in the config and are resolved
// for each token request, so that a rotated secret file is picked up without a
// reload; upstream_base and the key of dpop when the config is loaded.
type Client struct {
	// The authorization server's issuer identifier, a URL. Its metadata (RFC 8414,
	// or OpenID Connect Discovery) tells the token endpoint, unless
	// token_endpoint is set: it is fetched in the background, renewed every hour
	// and kept through outages. Assertions are meant for the issuer by default.
	Issuer string `json:"issuer,omitempty"`

	// The token endpoint's URL (RFC 6749 section 3.2). Required, unless issuer or
	// a service account tells it. It must use https, unless its host is a
	// loopback one or allow_http is set. A query is kept; a fragment is refused.
	// Redirects from it are never followed.
	TokenEndpoint string `json:"token_endpoint,omitempty"`

	// The authorization endpoint's URL (RFC 6749 section 3.1), where somebody signs
	// in for the authorization_code grant. Default: what the issuer's metadata says.
	AuthorizationEndpoint string `json:"authorization_endpoint,omitempty"`

	// The device authorization endpoint's URL (RFC 8628 section 3.1), for signing in
	// from a machine without a browser. Default: what the issuer's metadata says.
	DeviceAuthorizationEndpoint string `json:"device_authorization_endpoint,omitempty"`

	// The revocation endpoint's URL (RFC 7009 section 2), where a grant is revoked
	// before it is forgotten. Default: what the issuer's metadata says.
	RevocationEndpoint string `json:"revocation_endpoint,omitempty"`

	// The client identifier (RFC 6749 section 2.2). Required, unless a client that
	// does not prove itself has a grant that says who we are: jwt_bearer or
	// token_exchange.
	ClientID string `json:"client_id,omitempty"`

	// The client's secret. Best a placeholder, {env.NAME} or
	// {file./absolute/path}: a literal one shows wherever the config does. An empty
	// one has to be written out.
	ClientSecret *Credential `json:"client_secret,omitempty"`

	// How the client proves itself at the token endpoint.
	// Default: client_secret_basic.
	ClientAuth *ClientAuth `json:"client_auth,omitempty"`

	// The grant to ask for a token with. Default: client_credentials.
	Grant *Grant `json:"grant,omitempty"`

	// The scopes to ask for (RFC 6749 section 3.3). Default: none, which leaves
	// it to the server.
	Scope []string `json:"scope,omitempty"`

	// The services the token is for, by the server's names for them; sent as
	// one audience field each (RFC 8693 section 2.1; Auth0 and others take it
	// with every grant).
	Audience []string `json:"audience,omitempty"`

	// The services the token is for, as absolute URIs without fragment; sent as
	// one resource field each (RFC 8707 section 2).
	Resource []string `json:"resource,omitempty"`

	// Further form fields of the token request, by name.
	TokenParam map[string]Credential `json:"token_param,omitempty"`

	// Further header fields of the token request, by name. They win over the
	// Accept and User-Agent fields that are sent otherwise.
	TokenHeader map[string]Credential `json:"token_header,omitempty"`

	// Where on a request the token goes. Default: the Authorization header.
	Inject *Inject `json:"inject,omitempty"`

	// Leave a request alone that brings the field itself. Default: false, which
	// replaces whatever the caller sent there.
	KeepExisting bool `json:"keep_existing,omitempty"`

	// Which account a token is for: a request placeholder such as
	// {http.auth.user.id}. Each of its values has a token of its own, kept apart
	// from the others. Whatever else of a token request comes from the request,
	// such as the subject token of a token exchange, tells tokens apart without
	// this. A request without a value is answered with 401. Default: one token
	// for all.
	Account string `json:"account,omitempty"`

	// How many accounts' tokens are held in memory; the least recently used ones
	// make room. Default: 10000.
	MaxAccounts int `json:"max_accounts,omitempty"`

	// Keep the client's access tokens in the storage, sealed, so that replicas and
	// restarts use the same ones. Needs the encryption_key of the app. Grants with a
	// refresh token are kept, and so shared, in any case. Default: false.
	Share bool `json:"share,omitempty"`

	// A kept grant is refreshed at least this often, as servers end those that nobody
	// uses (RFC 9700 section 4.14): a duration of at least 1m, or "off". It is for
	// grants without account, and for those of accounts that are in memory.
	// Default: 7d.
	KeepAlive string `json:"keep_alive,omitempty"`

	// Members of the token answer for other handlers, as
	// {http.upstream_oauth2.answer.<member>}: Salesforce's instance_url, for one.
	// Tokens cannot be exposed. Default: none.
	Expose []string `json:"expose,omitempty"`

	// Bind tokens to a key pair (DPoP, RFC 9449), so that they are of no use to
	// whoever steals one. Needs upstream_base. Default: plain bearer tokens.
	DPoP *DPoP `json:"dpop,omitempty"`

	// For dpop: the URL that the API is known by, to which each request's path is
	// added to make the htu claim of its proof (RFC 9449 section 4.2).
	UpstreamBase string `json:"upstream_base,omitempty"`

	// How long before its expiry a token is renewed: a percentage of its life,
	// from 1% to 90%, or a duration, of which at most half the life counts.
	// Default: 20%.
	RefreshAhead string `json:"refresh_ahead,omitempty"`

	// The life of a token whose expires_in is missing, zero, negative or not
	// readable. Default: 1h.
	DefaultLifetime caddy.Duration `json:"default_lifetime,omitempty"`

	// How long one token request may take, from the connection to the last byte
	// of the answer. Default: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// What becomes of a request for which there is no token: "reject" answers it,
	// with 502 or 503, or with 400, 401 or 403 if that is its caller's fault;
	// "pass" lets it go on without one. Default: reject.
	OnError string `json:"on_error,omitempty"`

	// What happens when the API rejects the token. Default: the token is
	// replaced, and the request sent once more, after a 401.
	Replay *Replay `json:"replay,omitempty"`

	// The connection to the authorization server, as in the transport of
	// reverse_proxy; only the http transport makes sense.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	// Allow an endpoint with plain http that is not on a loopback address.
	// Credentials then cross the network in the clear. Default: false.
	AllowHTTP bool `json:"allow_http,omitempty"`
}

// What becomes of a request for which there is no token.
const (
	onErrorReject = "reject"
	onErrorPass   = "pass"
)

// Defaults of the client's settings.
const (
	defaultTimeout     = 10 * time.Second
	defaultMaxAccounts = 10_000
)

// MarshalLogObject implements zapcore.ObjectMarshaler, which keeps credentials
// out of the log that "servers { trace }" writes of each handler.
func (c Client) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	endpoint, _, _ := strings.Cut(c.TokenEndpoint, "?") // a query may hold a key
	enc.AddString("token_endpoint", endpoint)
	enc.AddString("issuer", c.Issuer)
	enc.AddString("client_id", c.ClientID)
	return nil
}

// Name calls a client that has no name by its server's host and its id, as far as
// they are written in the config.
func (c *Client) Name() string {
	server := cmp.Or(c.TokenEndpoint, c.Issuer, c.grant().Type)
	if u, err := url.Parse(server); err == nil && u.Host != "" {
		server = u.Host
	}
	return strings.TrimSpace(server + " " + c.ClientID)
}

// Equal reports whether both are written alike.
func (c Client) Equal(other Client) bool {
	x, _ := json.Marshal(c)
	y, _ := json.Marshal(other)
	return string(x) == string(y)
}

// HasEmptySecret reports whether the client's secret is written out and empty, which
// is seldom meant.
func (c *Client) HasEmptySecret() bool { return c.ClientSecret != nil && *c.ClientSecret == "" }

// clientSecret returns the configured secret, or an empty one.
func (c *Client) clientSecret() Credential {
	if c.ClientSecret == nil {
		return ""
	}
	return *c.ClientSecret
}

// PassesWithoutToken reports whether a request for which there is no token goes
// on without one.
func (c *Client) PassesWithoutToken() bool { return c.OnError == onErrorPass }

// RequestTimeout returns how long one token request may take.
func (c *Client) RequestTimeout() time.Duration {
	if c.Timeout == 0 {
		return defaultTimeout
	}
	return time.Duration(c.Timeout)
}

// AccountLimit returns how many accounts are held in memory; 0 where one token is
// for all.
func (c *Client) AccountLimit() int {
	switch {
	case len(c.Inputs()) == 0:
		return 0
	case c.MaxAccounts == 0:
		return defaultMaxAccounts
	}
	return c.MaxAccounts
}

// givenFields returns the JSON names of a block's fields that are set.
func givenFields(block any) []string {
	var names []string
	for field, value := range reflect.ValueOf(block).Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); !value.IsZero() {
			names = append(names, name)
		}
	}
	return names
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}

// Interface guards
var _ zapcore.ObjectMarshaler = Client{}
