package config

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
)

const (
	defaultKeepAlive = 7 * 24 * time.Hour
	minKeepAlive     = time.Minute
)

// KeepsGrant reports whether the client lives on a refresh token, which is kept.
func (c *Client) KeepsGrant() bool {
	switch c.grant().Type {
	case authorizationCode, refreshToken:
		return true
	}
	return false
}

// NeedsSignIn reports whether somebody has to sign in before there is a grant.
func (c *Client) NeedsSignIn() bool { return c.grant().Type == authorizationCode }

// GrantType returns the grant by the name that the config has for it.
func (c *Client) GrantType() string { return c.grant().Type }

// RefreshesAtLeast returns how often a kept grant is refreshed at least; 0 if that is
// off.
func (c *Client) RefreshesAtLeast() time.Duration {
	every, _ := parseKeepAlive(c.KeepAlive) // checked before
	return every
}

func parseKeepAlive(text string) (time.Duration, error) {
	switch text {
	case "":
		return defaultKeepAlive, nil
	case "off":
		return 0, nil
	}
	every, err := caddy.ParseDuration(text)
	if err != nil || every < minKeepAlive {
		return 0, fmt.Errorf("%q must be a duration of at least 1m, such as 7d, or off", text)
	}
	return every, nil
}

// memberName is what a member of an answer is called, which becomes part of a
// placeholder.
var memberName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// tokenMembers hold what no other handler is to see.
var tokenMembers = []string{"access_token", "refresh_token", "id_token"}

// checkKeeping checks the options about what is kept.
func (c *Client) checkKeeping() error {
	if _, err := parseKeepAlive(c.KeepAlive); err != nil {
		return &OptionError{Option: "keep_alive", Err: err}
	}
	if c.KeepAlive != "" && !c.KeepsGrant() {
		return OptionErrorf("keep_alive", "goes with 'grant authorization_code' and 'grant refresh_token', whose grants are kept: remove it")
	}
	for _, member := range c.Expose {
		switch {
		case !memberName.MatchString(member):
			return valueErrorf("expose", member, "%q is not the name of a member: write one such as instance_url", member)
		case slices.Contains(tokenMembers, member):
			return valueErrorf("expose", member, "%s is a secret, which no placeholder may hold: remove it", member)
		}
	}
	for _, o := range []struct{ option, url string }{
		{"authorization_endpoint", c.AuthorizationEndpoint},
		{"device_authorization_endpoint", c.DeviceAuthorizationEndpoint},
	} {
		if o.url != "" && !c.NeedsSignIn() {
			return OptionErrorf(o.option, "goes with 'grant authorization_code', for which somebody signs in: remove it")
		}
	}
	if c.RevocationEndpoint != "" && !c.KeepsGrant() {
		return OptionErrorf("revocation_endpoint", "goes with 'grant authorization_code' and 'grant refresh_token', whose grants can be revoked: remove it")
	}
	return nil
}

// ownAuthorizationParams are set by other options, or by sign-in itself.
var ownAuthorizationParams = []string{
	"response_type", "response_mode", "client_id", "client_secret", "redirect_uri", "scope", "state",
	"code_challenge", "code_challenge_method", "resource", "audience", "dpop_jkt",
}

func (c *Client) checkAuthorizationCode() error {
	if c.Issuer == "" && c.AuthorizationEndpoint == "" && c.DeviceAuthorizationEndpoint == "" {
		return OptionErrorf("authorization_endpoint", "is missing: write the URL where somebody signs in, or the 'issuer' whose metadata tells it")
	}
	params := c.grant().AuthorizationParam
	for _, name := range sortedKeys(params) {
		switch {
		case name == "" || params[name] == "":
			return OptionErrorf("grant", "authorization_param %q has an empty name or value: remove it", name)
		case slices.Contains(ownAuthorizationParams, name):
			return OptionErrorf("grant", "authorization_param must not set %s: that is up to the client's other options and to sign-in itself", name)
		}
	}
	for _, in := range c.Inputs() {
		if in.Option != "account" {
			return OptionErrorf("grant", "what is signed in for cannot come from a request: write %s without a request placeholder, and tell callers apart by 'account'", in.Option)
		}
	}
	return nil
}
