package config

import (
	"slices"
	"testing"
)

// TestLiteralCredentials: what a config shows to whoever reads it.
func TestLiteralCredentials(t *testing.T) {
	const key = "-----BEGIN PRIVATE KEY-----\nMAo=\n-----END PRIVATE KEY-----\n"
	jwtBearer := func(g Grant) Client { g.Type = "jwt_bearer"; return Client{Grant: &g} }
	for _, test := range []struct {
		name   string
		client Client
		want   []string
	}{
		{"placeholders", partner(), nil},
		{"no secret", Client{}, nil},
		{"an empty secret", Client{ClientSecret: new(Credential(""))}, nil},
		{"a secret", Client{ClientSecret: new(Credential("secret"))}, []string{"client_secret"}},
		{"a secret around a placeholder", Client{ClientSecret: new(Credential("a{env.B}"))}, []string{"client_secret"}},
		{"a key file", Client{ClientAuth: &ClientAuth{Key: "/key.pem", Certificate: "/cert.pem"}}, nil},
		{"a key", Client{ClientAuth: &ClientAuth{Key: key}}, []string{"client_auth"}},
		{"a JWK", Client{DPoP: &DPoP{Key: `{"kty":"EC"}`}}, []string{"dpop"}},
		{"a certificate is for everybody", Client{ClientAuth: &ClientAuth{Certificate: "-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n"}}, nil},
		{"a refresh token", Client{Grant: &Grant{Type: "refresh_token", RefreshToken: "token"}}, []string{"refresh_token"}},
		{"an assertion", jwtBearer(Grant{Assertion: "a.b.c"}), []string{"assertion"}},
		{"the caller's assertion", jwtBearer(Grant{Assertion: "{http.request.header.Authorization}"}), nil},
		{"a header field", Client{TokenHeader: map[string]Credential{"X-Key": "key"}}, []string{"token_header X-Key"}},
		{"form fields are seldom secret", Client{TokenParam: map[string]Credential{"tenant": "one"}}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.client.LiteralCredentials(); !slices.Equal(got, test.want) {
				t.Errorf("the credentials are those of %q, want %q", got, test.want)
			}
		})
	}
}

// TestPlaceholdersWhereTheyHaveNoValue are refused, with where they may stand.
func TestPlaceholdersWhereTheyHaveNoValue(t *testing.T) {
	const (
		user   = "{http.auth.user.id}"
		global = "it holds a placeholder that differs from request to request, which is allowed in account, actor_token, assertion, audience, claim, resource, scope, subject, subject_token, token_param only: use {env.*} or {file.*}"
		short  = "a {file.*} placeholder without a slash is short for a part of the request path: write an absolute path, such as {file./run/secrets/partner}"
	)
	for _, test := range []struct {
		name   string
		change func(*Client)
		want   string
	}{
		{"an endpoint", func(c *Client) { c.TokenEndpoint = "https://{http.request.host}/token" }, "token_endpoint: " + global},
		{"an issuer", func(c *Client) { c.Issuer = user }, "issuer: " + global},
		{"an id", func(c *Client) { c.ClientID = user }, "client_id: " + global},
		{"a secret", func(c *Client) { c.ClientSecret = new(Credential(user)) }, "client_secret: " + global},
		{"a header field", func(c *Client) { c.TokenHeader = map[string]Credential{"X-A": user} }, "token_header: " + global},
		{"the audience of an assertion", func(c *Client) {
			c.ClientAuth = &ClientAuth{Method: "client_secret_jwt", Audience: user}
		}, "client_auth: " + global},
		{"what a map directive sets", func(c *Client) { c.TokenEndpoint = "https://auth.example/{vars.tenant}" }, "token_endpoint: " + global},
		{"braces in a secret", func(c *Client) { c.ClientSecret = new(Credential("a{vars.b}c")) }, ""},
		{"scope", func(c *Client) { c.Scope = []string{user} }, ""},
		{"audience", func(c *Client) { c.Audience = []string{user} }, ""},
		{"resource", func(c *Client) { c.Resource = []string{user} }, ""},
		{"token_param", func(c *Client) { c.TokenParam = map[string]Credential{"user": user} }, ""},
		{"a part of the path in a secret", func(c *Client) {
			c.ClientSecret = new(Credential("{http.request.uri.path.file.secret}"))
		}, "client_secret: " + short},
		{"a part of the path in a form field", func(c *Client) {
			c.TokenParam = map[string]Credential{"a": "{http.request.uri.path.file.otp}"}
		}, "token_param: " + short},
		{"a part of the path in a grant", func(c *Client) {
			c.Grant = &Grant{Type: "token_exchange", SubjectToken: "{http.request.uri.path.file.token}"}
		}, "grant: subject_token: " + short},
		{"the base of the path", func(c *Client) { c.Account = "{http.request.uri.path.file.base}" }, ""},
	} {
		checkRefused(t, test.name, test.change, test.want)
	}
}
