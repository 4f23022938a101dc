package upstreamoauth2

import (
	"net/url"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/tokenendpoint"
)

// Grant is what the client asks for a token with.
type Grant struct {
	// The grant type:
	//
	//  - client_credentials (RFC 6749 section 4.4)
	//  - refresh_token (RFC 6749 section 6)
	//  - any other value, which is sent as it is; its parameters are written
	//    with token_param (Zoom's account_credentials, for one)
	//
	// Default: client_credentials.
	Type string `json:"type,omitempty"`

	// For refresh_token: the refresh token to begin with, best as a placeholder.
	// Where the server rotates refresh tokens, the newest one is used from then
	// on, until this value changes.
	RefreshToken Credential `json:"refresh_token,omitempty"`
}

const (
	clientCredentials = "client_credentials"
	refreshToken      = "refresh_token"
)

// grant returns the configured grant with the default applied.
func (c *Client) grant() Grant {
	if c.Grant == nil || c.Grant.Type == "" {
		return Grant{Type: clientCredentials}
	}
	return *c.Grant
}

func (c *Client) checkGrant() error {
	g := c.grant()
	switch {
	case g.Type == refreshToken && g.RefreshToken == "":
		return optionErrorf("grant", "the first refresh token is missing: write 'grant refresh_token { refresh_token {file./absolute/path} }'")
	case g.Type != refreshToken && g.RefreshToken != "":
		return optionErrorf("grant", "refresh_token goes with 'grant refresh_token' only, not with %q", g.Type)
	}
	return nil
}

// refreshMemory is what the refresh_token grant remembers between two token
// requests: the newest refresh token, and the configured one it descends from.
type refreshMemory struct {
	first, newest tokenendpoint.Secret
}

// addGrant adds the grant's parameters to the form. memory is what the last
// successful request returned, and remember turns this one's answer into it.
func (c *Client) addGrant(form url.Values, s settings, memory any) (remember func(*tokenendpoint.Token) any) {
	if c.grant().Type != refreshToken {
		// A refresh token in the answer to client_credentials is of no use
		// (RFC 6749 section 4.4.3).
		return func(*tokenendpoint.Token) any { return nil }
	}
	known, ok := memory.(refreshMemory)
	if !ok || !known.first.Equal(s.refresh) { // at first, or configured anew
		known = refreshMemory{first: s.refresh, newest: s.refresh}
	}
	form.Set("refresh_token", known.newest.Reveal())
	return func(token *tokenendpoint.Token) any {
		if !token.RefreshToken.IsZero() {
			known.newest = token.RefreshToken
		}
		return known
	}
}
