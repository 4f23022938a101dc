package upstreamoauth2

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/textproto"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap/zapcore"
	"golang.org/x/net/http/httpguts"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
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

	// The client identifier (RFC 6749 section 2.2). Required, but for the
	// jwt_bearer grant without client_auth, whose assertion says who we are.
	ClientID string `json:"client_id,omitempty"`

	// The client's secret. Best a placeholder, {env.NAME} or
	// {file./absolute/path}: a literal one shows wherever the config does.
	ClientSecret Credential `json:"client_secret,omitempty"`

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

// Inject says where on a request the token goes.
type Inject struct {
	// "header" (the default), or "query" as a last resort (RFC 6750 section
	// 2.3): URLs end up in logs.
	In string `json:"in,omitempty"`

	// The name of the header field or query parameter. Default for a header:
	// Authorization. Required for a query parameter.
	Name string `json:"name,omitempty"`

	// What stands before the token in the header field. Default: in
	// Authorization what the token_type asks for, that is Bearer; nothing in any
	// other field. With a scheme the token is used whatever its token_type.
	Scheme string `json:"scheme,omitempty"`
}

// placement is where on a request the token goes, with the defaults applied.
type placement struct {
	name   string // header field in canonical form, or query parameter
	query  bool
	scheme string // before the token in a header field; "" for none
	byType bool   // the scheme comes from the token's type instead
}

func (c *Client) placement() placement {
	switch {
	case c.Inject == nil:
		return placement{name: "Authorization", byType: true}
	case c.Inject.In == injectQuery:
		return placement{name: c.Inject.Name, query: true}
	}
	p := placement{name: textproto.CanonicalMIMEHeaderKey(c.Inject.Name), scheme: c.Inject.Scheme}
	if p.name == "" {
		p.name = "Authorization"
	}
	p.byType = p.name == "Authorization" && p.scheme == ""
	return p
}

// Ways to send the token, and what to do without one.
const (
	injectHeader  = "header"
	injectQuery   = "query"
	onErrorReject = "reject"
	onErrorPass   = "pass"
)

// Defaults of the client's settings.
const (
	defaultLifetime = time.Hour
	defaultTimeout  = 10 * time.Second
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

// optionError is a mistake in the config, with the option it is about, so that
// a Caddyfile error can point at the option's line.
type optionError struct {
	option string
	err    error
}

func (e *optionError) Error() string { return e.option + ": " + e.err.Error() }
func (e *optionError) Unwrap() error { return e.err }

func optionErrorf(option, format string, args ...any) error {
	return &optionError{option, fmt.Errorf(format, args...)}
}

// valueError is about one value of an option that may have several lines.
type valueError struct {
	error
	value string
}

// is reports whether it is about this value: header fields have no case.
func (e *valueError) is(value string) bool { return strings.EqualFold(e.value, value) }

func valueErrorf(option, value, format string, args ...any) error {
	return &optionError{option, &valueError{fmt.Errorf(format, args...), value}}
}

// check finds the mistakes that show without resolving a placeholder.
func (c *Client) check() error {
	serviceAccount := c.grant().ServiceAccount != ""
	if c.TokenEndpoint == "" && c.Issuer == "" && !serviceAccount {
		return optionErrorf("token_endpoint", "is missing: write the URL that tokens are requested from, or the 'issuer' whose metadata tells it")
	}
	if c.ClientID == "" && (c.grant().Type != jwtBearer || c.authMethod() != noClientAuth) {
		return optionErrorf("client_id", "is missing: write the client's identifier at the authorization server")
	}
	for _, check := range []func() error{c.checkPlaceholders, c.checkEndpoints, c.checkClientAuth, c.checkGrant, c.checkTokenRequest, c.checkAccount, c.checkInject, c.checkDPoP, c.checkReplay} {
		if err := check(); err != nil {
			return err
		}
	}
	if _, err := parseAhead(c.RefreshAhead); err != nil {
		return &optionError{"refresh_ahead", err}
	}
	if c.DefaultLifetime < 0 {
		return optionErrorf("default_lifetime", "must be longer than zero")
	}
	if c.Timeout < 0 {
		return optionErrorf("timeout", "must be longer than zero")
	}
	switch c.OnError {
	case "", onErrorReject, onErrorPass:
	default:
		return optionErrorf("on_error", "must be 'reject' or 'pass', not %q", c.OnError)
	}
	return nil
}

// checkPlaceholders finds those that never have a value where they stand.
func (c *Client) checkPlaceholders() error {
	a, g, d := c.clientAuth(), c.grant(), DPoP{}
	if c.DPoP != nil {
		d = *c.DPoP
	}
	ours := map[string][]string{ // never a request's
		"issuer":         {c.Issuer},
		"token_endpoint": {c.TokenEndpoint},
		"client_id":      {c.ClientID},
		"client_secret":  {string(c.ClientSecret)},
		"client_auth":    {string(a.Key), a.KeyID, a.Certificate, a.Audience, a.File},
		"grant":          {string(g.RefreshToken), string(g.ServiceAccount), string(g.Key), g.KeyID, g.Issuer, g.Audience},
		"dpop":           {string(d.Key)},
		"upstream_base":  {c.UpstreamBase},
	}
	for _, name := range sortedKeys(c.TokenHeader) {
		ours["token_header"] = append(ours["token_header"], string(c.TokenHeader[name]))
	}
	secrets := []string{string(c.ClientSecret), string(g.RefreshToken)} // braces may be part of them
	for _, header := range c.TokenHeader {
		secrets = append(secrets, string(header))
	}
	for _, option := range sortedKeys(ours) {
		for _, text := range ours[option] {
			err := checkGlobal(text)
			if err == nil && fromRequest(text) && !slices.Contains(secrets, text) {
				err = errNotGlobal
			}
			if err != nil {
				return &optionError{option, &valueError{err, text}}
			}
		}
	}
	for _, in := range c.requestInputs() {
		err := checkFiles(in.text)
		if err == nil {
			continue
		}
		switch in.option {
		case "subject_token", "actor_token", "assertion", "subject", "claim": // in the grant's block
			return optionErrorf("grant", "%s: %w", in.option, err)
		}
		return &optionError{in.option, &valueError{err, in.text}}
	}
	return nil
}

// checkEndpoints checks the URLs that are written out; those with placeholders
// are checked once they are resolved.
func (c *Client) checkEndpoints() error {
	for _, o := range []struct {
		option, url string
		check       func(rawURL string, allowHTTP bool) error
	}{
		{"token_endpoint", c.TokenEndpoint, authserver.CheckEndpoint},
		{"issuer", c.Issuer, checkIssuer},
	} {
		if o.url == "" || strings.Contains(o.url, "{") {
			continue
		}
		if err := o.check(o.url, c.AllowHTTP); err != nil {
			return &optionError{o.option, err}
		}
	}
	return nil
}

// checkIssuer is CheckEndpoint for issuers (RFC 8414 section 2).
func checkIssuer(issuer string, allowHTTP bool) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Hostname() == "":
		return errors.New("must be an absolute URL, such as https://auth.example.com")
	case strings.ContainsAny(issuer, "?#"):
		return errors.New("must have neither a query nor a fragment (RFC 8414 section 2)")
	case strings.Contains(u.Path, "/.well-known/"):
		return errors.New("must be the issuer itself, such as https://auth.example.com, and not the address of its metadata")
	}
	return authserver.CheckEndpoint(issuer, allowHTTP)
}

func (c *Client) checkAccount() error {
	switch {
	case c.Account != "" && !fromRequest(c.Account):
		return optionErrorf("account", "%q is the same for every request: write a request placeholder, such as {http.auth.user.id}", c.Account)
	case c.MaxAccounts < 0:
		return optionErrorf("max_accounts", "must be a number greater than zero")
	case c.KeepExisting && slices.Contains(sourceHeaders(c.requestInputs()), c.placement().name):
		return optionErrorf("keep_existing", "every caller brings an %s field here, so none would get a token: remove 'keep_existing', or take the caller's token from another field", c.placement().name)
	case c.MaxAccounts > 0 && len(c.requestInputs()) == 0:
		return optionErrorf("max_accounts", "goes with 'account', or with a grant for each caller")
	}
	return nil
}

// checkTokenRequest checks what goes into the form and header of the request.
func (c *Client) checkTokenRequest() error {
	for _, scope := range c.Scope {
		if scope == "" || strings.ContainsFunc(scope, notInScope) {
			return valueErrorf("scope", scope, "%q is not a scope: write them one by one, in ASCII, without quotes and backslashes (RFC 6749 section 3.3)", scope)
		}
	}
	if slices.Contains(c.Audience, "") {
		return optionErrorf("audience", "has an empty value: remove it")
	}
	for _, resource := range c.Resource {
		if strings.Contains(resource, "{") {
			continue // checked once it is resolved
		}
		if err := checkResource(resource); err != nil {
			return &optionError{"resource", &valueError{err, resource}}
		}
	}
	for _, name := range sortedKeys(c.TokenParam) {
		if name == "" || c.TokenParam[name] == "" {
			return valueErrorf("token_param", name, "%q has an empty name or value: remove it", name)
		}
		if option, taken := ownParams[name]; taken && c.sets(name) {
			return valueErrorf("token_param", name, "the form field %s is set by '%s': use that instead", name, option)
		}
	}
	given := make(map[string]bool)
	for _, name := range sortedKeys(c.TokenHeader) {
		field := textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			return valueErrorf("token_header", name, "%q is not a header field name: write one such as X-Tenant", name)
		case c.TokenHeader[name] == "":
			return valueErrorf("token_header", name, "the %s field has an empty value: remove it", field)
		case given[field]:
			return valueErrorf("token_header", name, "the %s field is given twice: remove one", field)
		case field == "Authorization" && c.authMethod().usesAuthorization():
			return valueErrorf("token_header", name, "the Authorization field carries the client's credentials: write 'client_auth client_secret_post' or 'client_auth none' to use it otherwise")
		case field == dpopField && c.DPoP != nil:
			return valueErrorf("token_header", name, "the DPoP field is set by 'dpop': remove one of the two")
		case slices.Contains(ownHeaders, field):
			return valueErrorf("token_header", name, "the %s field is set by the request itself: remove it", field)
		}
		given[field] = true
	}
	return nil
}

// notInScope reports whether a character has no place in a scope (RFC 6749
// section 3.3).
func notInScope(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }

// sets reports whether a form field is ours in this configuration. A grant that
// is sent as it is written may name its parameters as others do theirs.
func (c *Client) sets(param string) bool {
	switch c.grant().Type {
	case clientCredentials, refreshToken, jwtBearer, tokenExchange:
		return true
	}
	return !slices.Contains([]string{"refresh_token", "assertion", "subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type"}, param)
}

func checkResource(resource string) error {
	u, err := url.Parse(resource)
	if err != nil || !u.IsAbs() || (u.Scheme == "https" || u.Scheme == "http") && u.Host == "" || strings.Contains(resource, "#") {
		return fmt.Errorf("%q must be an absolute URI without a fragment, such as https://api.example.com (RFC 8707 section 2)", resource)
	}
	return nil
}

// ownParams are the form fields that options of their own set.
var ownParams = map[string]string{
	"grant_type":    "grant",
	"client_id":     "client_id",
	"client_secret": "client_secret",
	"scope":         "scope",
	"audience":      "audience",
	"resource":      "resource",
	"refresh_token": "grant refresh_token",

	"assertion":             "grant jwt_bearer",
	"subject_token":         "grant token_exchange",
	"subject_token_type":    "grant token_exchange",
	"actor_token":           "grant token_exchange",
	"actor_token_type":      "grant token_exchange",
	"requested_token_type":  "grant token_exchange",
	"client_assertion":      "client_auth",
	"client_assertion_type": "client_auth",
}

// ownHeaders are the header fields of the token request that net/http sets.
var ownHeaders = []string{"Connection", "Content-Length", "Content-Type", "Host", "Trailer", "Transfer-Encoding", "Upgrade"}

// checkInject refuses fields that could never carry a token.
func (c *Client) checkInject() error {
	if c.Inject == nil {
		return nil
	}
	in := *c.Inject
	switch in.In {
	case injectQuery:
		if in.Name == "" {
			return optionErrorf("inject", "the query parameter has no name: write 'inject query access_token'")
		}
		if in.Scheme != "" {
			return optionErrorf("inject", "a query parameter takes no scheme: write 'inject query %s'", in.Name)
		}
	case "", injectHeader:
		name := textproto.CanonicalMIMEHeaderKey(in.Name)
		switch {
		case name != "" && !httpguts.ValidHeaderFieldName(name):
			return optionErrorf("inject", "%q is not a header field name: write one such as X-Api-Key", in.Name)
		case slices.Contains(hopByHopHeaders, name):
			return optionErrorf("inject", "the %s field never reaches the upstream, as it is for one connection only: use another", name)
		case in.Scheme != "" && !httpguts.ValidHeaderFieldName(in.Scheme): // both are RFC 9110 tokens
			return optionErrorf("inject", "%q is not an authentication scheme: write one word, such as Bearer", in.Scheme)
		}
	default:
		return optionErrorf("inject", "must be 'header' or 'query', not %q: write 'inject %s'", in.In, injectUsage)
	}
	return nil
}

// hopByHopHeaders are the fields that reverse_proxy drops or rewrites.
var hopByHopHeaders = []string{
	"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// life returns the settings that shape a token's life, with defaults applied.
func (c *Client) life() lifeSettings {
	refreshAhead, _ := parseAhead(c.RefreshAhead) // checked before
	l := lifeSettings{refreshAhead: refreshAhead, defaultLifetime: time.Duration(c.DefaultLifetime)}
	if l.defaultLifetime == 0 {
		l.defaultLifetime = defaultLifetime
	}
	return l
}

// timeout returns how long one token request may take.
func (c *Client) timeout() time.Duration {
	if c.Timeout == 0 {
		return defaultTimeout
	}
	return time.Duration(c.Timeout)
}

// maxAccounts returns how many accounts are held in memory.
func (c *Client) maxAccounts() int {
	if c.MaxAccounts == 0 {
		return defaultMaxAccounts
	}
	return c.MaxAccounts
}

// anyTokenType reports whether the config says how to send the token, whatever
// its type.
func (c *Client) anyTokenType() bool {
	return c.Inject != nil && c.Inject.Scheme != ""
}

// literalCredentials names the options whose credential stands in the config.
// A key may be named by its file.
func (c *Client) literalCredentials() []string {
	var options []string
	g := c.grant()
	for _, o := range []struct {
		name  string
		value Credential
	}{
		{"client_secret", c.ClientSecret},
		{"refresh_token", g.RefreshToken},
		{"assertion", g.Assertion},
		{"subject_token", g.SubjectToken},
		{"actor_token", g.ActorToken},
	} {
		if o.value.isLiteral() && !(mayComeFromRequest[o.name] && fromRequest(string(o.value))) {
			options = append(options, o.name)
		}
	}
	for _, o := range []struct {
		name string
		file Credential
	}{
		{"client_auth", c.clientAuth().Key},
		{"grant", g.Key},
		{"service_account", g.ServiceAccount},
	} {
		if o.file.isLiteral() && isContent(string(o.file)) {
			options = append(options, o.name)
		}
	}
	for _, name := range sortedKeys(c.TokenHeader) {
		if c.TokenHeader[name].isLiteral() {
			options = append(options, "token_header "+name)
		}
	}
	return options
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
