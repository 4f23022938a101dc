package config

import (
	"fmt"
	"strings"
)

// text is one value of an option, and what may stand in it. Whatever has to know
// which options hold what goes through Client.texts: a new option is a row there.
type text struct {
	line   string // the option as the Caddyfile has it: "grant" for what stands in its block
	option string // its own name, and for one of several the name it is written with
	value  string

	perRequest bool // may hold placeholders that differ from request to request
	secret     bool // a credential: braces may be part of it
	file       bool // names a file, or holds what would be in one
	public     bool // such a file that anybody may see
}

// isSecret reports whether the value, or what is in the file that it names, is a
// credential.
func (t text) isSecret() bool { return t.secret || t.file && !t.public }

// texts lists the client's values that may hold placeholders, with the defaults
// applied. What may come from the request tells tokens apart; endpoints and the
// client's own credentials may not.
func (c *Client) texts() []text {
	a, g := c.clientAuth(), c.grant()
	list := []text{
		{line: "account", option: "account", value: c.Account, perRequest: true},
		{line: "grant", option: "subject_token", value: string(g.SubjectToken), perRequest: true, secret: true},
		{line: "grant", option: "actor_token", value: string(g.ActorToken), perRequest: true, secret: true},
		{line: "grant", option: "assertion", value: string(g.Assertion), perRequest: true, secret: true},
		{line: "grant", option: "subject", value: g.Subject, perRequest: true},
		{line: "issuer", option: "issuer", value: c.Issuer},
		{line: "token_endpoint", option: "token_endpoint", value: c.TokenEndpoint},
		{line: "authorization_endpoint", option: "authorization_endpoint", value: c.AuthorizationEndpoint},
		{line: "device_authorization_endpoint", option: "device_authorization_endpoint", value: c.DeviceAuthorizationEndpoint},
		{line: "revocation_endpoint", option: "revocation_endpoint", value: c.RevocationEndpoint},
		{line: "client_id", option: "client_id", value: c.ClientID},
		{line: "client_secret", option: "client_secret", value: string(c.clientSecret()), secret: true},
		{line: "client_auth", option: "client_auth", value: string(a.Key), file: true},
		{line: "client_auth", option: "key_id", value: a.KeyID},
		{line: "client_auth", option: "certificate", value: a.Certificate, file: true, public: true},
		{line: "client_auth", option: "audience", value: a.Audience},
		{line: "client_auth", option: "file", value: a.File, file: true},
		{line: "grant", option: "refresh_token", value: string(g.RefreshToken), secret: true},
		{line: "grant", option: "service_account", value: string(g.ServiceAccount), file: true},
		{line: "grant", option: "grant", value: string(g.Key), file: true},
		{line: "grant", option: "key_id", value: g.KeyID},
		{line: "grant", option: "issuer", value: g.Issuer},
		{line: "grant", option: "audience", value: g.Audience},
		{line: "upstream_base", option: "upstream_base", value: c.UpstreamBase},
	}
	for _, scope := range c.Scope {
		list = append(list, text{line: "scope", option: "scope", value: scope, perRequest: true})
	}
	for _, audience := range c.Audience {
		list = append(list, text{line: "audience", option: "audience", value: audience, perRequest: true})
	}
	for _, resource := range c.Resource {
		list = append(list, text{line: "resource", option: "resource", value: resource, perRequest: true})
	}
	for _, name := range sortedKeys(c.TokenParam) {
		list = append(list, text{line: "token_param", option: "token_param", value: string(c.TokenParam[name]), perRequest: true})
	}
	for _, name := range sortedKeys(g.Claim) {
		for _, value := range claimTexts(g.Claim[name]) {
			list = append(list, text{line: "grant", option: "claim", value: value, perRequest: true})
		}
	}
	for _, name := range sortedKeys(a.Claim) {
		for _, value := range claimTexts(a.Claim[name]) {
			list = append(list, text{line: "client_auth", option: "client_auth claim", value: value})
		}
	}
	for _, name := range sortedKeys(g.AuthorizationParam) {
		list = append(list, text{line: "grant", option: "authorization_param", value: g.AuthorizationParam[name]})
	}
	for _, name := range sortedKeys(c.TokenHeader) {
		list = append(list, text{line: "token_header", option: "token_header " + name, value: string(c.TokenHeader[name]), secret: true})
	}
	if c.DPoP != nil {
		list = append(list, text{line: "dpop", option: "dpop", value: string(c.DPoP.Key), file: true})
	}
	return list
}

// LiteralCredentials names the options whose credential stands in the config
// itself. A key may be named by its file.
func (c *Client) LiteralCredentials() []string {
	var options []string
	for _, t := range c.texts() {
		literal := Credential(t.value).IsLiteral() && !(t.perRequest && fromRequest(t.value))
		if literal && t.isSecret() && (t.secret || isContent(t.value)) {
			options = append(options, t.option)
		}
	}
	return options
}

// checkPlaceholders finds those that never have a value where they stand.
func (c *Client) checkPlaceholders() error {
	for _, t := range c.texts() {
		if err := t.check(); err != nil {
			return &OptionError{Option: t.line, Value: t.value, Err: err}
		}
	}
	return nil
}

func (t text) check() error {
	if !t.perRequest {
		if err := checkGlobal(t.value); err != nil {
			return err
		}
		if err := t.checkLiteral(); err != nil {
			return err
		}
		if fromRequest(t.value) && !t.secret {
			return errNotGlobal
		}
		if t.file && t.value != "" && !strings.Contains(t.value, "{") && !isContent(t.value) {
			return checkPath(t.value, Credential(t.value))
		}
		return nil
	}
	err := checkFiles(t.value)
	if err != nil && t.line != t.option { // in the grant's block
		return fmt.Errorf("%s: %w", t.option, err)
	}
	return err
}
