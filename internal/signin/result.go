package signin

import (
	"context"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
)

// Result is what came of a sign-in.
type Result struct {
	Client, Account string

	// Asked and Granted are the scopes. They are empty where the config, or the
	// server, says nothing.
	Asked, Granted string

	// ExpiresAt is when the access token expires.
	ExpiresAt time.Time

	// Renewable says that a refresh token came: without one, somebody has to sign in
	// again when the access token has expired.
	Renewable bool

	// Unusable is why the access token cannot be sent to the API; nil if it can.
	Unusable error
}

// keep keeps what a token request brought.
func (c *Client) keep(ctx context.Context, p *tokensource.SignIn, values []string, token *authserver.Token, replace bool) (*Result, error) {
	record := c.Source.FirstRecord(p, token)
	unusable := c.Source.CheckType(token)
	if unusable != nil {
		record.AccessToken = authserver.Secret{}
	}
	if err := c.put(ctx, p.Grant, record, replace); err != nil {
		return nil, err
	}
	c.changed(values)
	return &Result{
		Client: c.Name, Account: p.Grant.Label.Account,
		Asked: p.Settings.Form.Get("scope"), Granted: record.Scope,
		ExpiresAt: record.ExpiresAt, Renewable: !record.RefreshToken.IsZero(),
		Unusable: unusable,
	}, nil
}
