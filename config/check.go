package config

import (
	"errors"
	"fmt"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// OptionError is a mistake in the config, with the option it is about, so that
// a Caddyfile error can point at the option's line.
type OptionError struct {
	Option string
	Value  string // which one, of an option with several lines; else ""
	Err    error
}

// Error names the option.
func (e *OptionError) Error() string { return e.Option + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *OptionError) Unwrap() error { return e.Err }

// IsAbout reports whether the mistake is in this value: header fields have no
// case.
func (e *OptionError) IsAbout(value string) bool {
	return e.Value != "" && strings.EqualFold(e.Value, value)
}

// OptionErrorf returns an OptionError.
func OptionErrorf(option, format string, args ...any) error {
	return &OptionError{Option: option, Err: fmt.Errorf(format, args...)}
}

func valueErrorf(option, value, format string, args ...any) error {
	return &OptionError{Option: option, Value: value, Err: fmt.Errorf(format, args...)}
}

// Check finds the mistakes that show without resolving a placeholder. They are
// OptionErrors.
func (c *Client) Check() error {
	serviceAccount := c.grant().ServiceAccount != ""
	if c.TokenEndpoint == "" && c.Issuer == "" && !serviceAccount {
		return OptionErrorf("token_endpoint", "is missing: write the URL that tokens are requested from, or the 'issuer' whose metadata tells it")
	}
	if c.ClientID == "" && c.needsID() {
		return OptionErrorf("client_id", "is missing: write the client's identifier at the authorization server")
	}
	for _, check := range []func() error{c.checkPlaceholders, c.checkEndpoints, c.checkClientAuth, c.checkGrant, c.checkTokenRequest, c.checkAccount, c.checkInject, c.checkDPoP, c.checkReplay, c.checkKeeping} {
		if err := check(); err != nil {
			return err
		}
	}
	if _, err := c.Life(); err != nil {
		return &OptionError{Option: "refresh_ahead", Err: err}
	}
	if err := checkDuration(c.DefaultLifetime); err != nil {
		return &OptionError{Option: "default_lifetime", Err: err}
	}
	if err := checkDuration(c.Timeout); err != nil {
		return &OptionError{Option: "timeout", Err: err}
	}
	switch c.OnError {
	case "", onErrorReject, onErrorPass:
	default:
		return OptionErrorf("on_error", "must be 'reject' or 'pass', not %q", c.OnError)
	}
	return nil
}

// needsID reports whether only a client_id tells the server who the client is.
func (c *Client) needsID() bool {
	grant := c.grant().Type
	return c.authMethod() != noClientAuth || grant != jwtBearer && grant != tokenExchange
}

// checkDuration refuses a duration that is never meant; zero stands for the default.
func checkDuration(d caddy.Duration) error {
	switch {
	case d < 0:
		return errors.New("must be longer than zero")
	case d > 0 && d < caddy.Duration(time.Millisecond):
		return fmt.Errorf(`%s is far too short, as a number in JSON counts nanoseconds: write a text such as "10s"`, time.Duration(d))
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
		{"authorization_endpoint", c.AuthorizationEndpoint, authserver.CheckEndpoint},
		{"device_authorization_endpoint", c.DeviceAuthorizationEndpoint, authserver.CheckEndpoint},
		{"revocation_endpoint", c.RevocationEndpoint, authserver.CheckEndpoint},
		{"issuer", c.Issuer, checkIssuer},
	} {
		if o.url == "" || strings.Contains(o.url, "{") {
			continue
		}
		if err := o.check(o.url, c.AllowHTTP); err != nil {
			return &OptionError{Option: o.option, Err: err}
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
		return OptionErrorf("account", "%q is the same for every request: write a request placeholder, such as {http.auth.user.id}", c.Account)
	case c.MaxAccounts < 0:
		return OptionErrorf("max_accounts", "must be a number greater than zero")
	case c.KeepExisting && slices.Contains(c.Inputs().CallerFields(), c.Placement().Name):
		return OptionErrorf("keep_existing", "every caller brings an %s field here, so none would get a token: remove 'keep_existing', or take the caller's token from another field", c.Placement().Name)
	case c.MaxAccounts > 0 && len(c.Inputs()) == 0:
		return OptionErrorf("max_accounts", "goes with 'account', or with a grant for each caller")
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
		return OptionErrorf("audience", "has an empty value: remove it")
	}
	for _, resource := range c.Resource {
		if strings.Contains(resource, "{") {
			continue // checked once it is resolved
		}
		if err := checkResource(resource); err != nil {
			return &OptionError{Option: "resource", Value: resource, Err: err}
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
		case field == "Dpop" && c.DPoP != nil:
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
	case clientCredentials, authorizationCode, refreshToken, jwtBearer, tokenExchange:
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
