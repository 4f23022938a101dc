package signin

import (
	"context"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// Disconnected says how a grant ended.
type Disconnected struct {
	// Revoked says that the server has ended it as well.
	Revoked bool

	// NotRevoked is why the server could not be told; nil if it was, or if it has
	// nothing to tell it by.
	NotRevoked error
}

// Disconnect has the server revoke the grant (RFC 7009), and forgets it. It is
// forgotten also where it cannot be revoked. The refresh token of the config that it
// began with stays dead. The error is vault.ErrAbsent where there is nothing to end.
func (c *Client) Disconnect(ctx context.Context, account string) (Disconnected, error) {
	values, err := c.values(account)
	if err != nil {
		return Disconnected{}, err
	}
	grant, settings, err := c.Source.ResolveGrant(ctx, values)
	if err != nil {
		return Disconnected{}, err
	}
	held, err := c.load(ctx, grant)
	if err != nil {
		return Disconnected{}, err
	}
	refresh := held.RefreshToken
	if held.Generation == 0 {
		refresh = settings.FirstRefreshToken
	}
	if refresh.IsZero() && held.AccessToken.IsZero() || held.SignIn != nil && held.SignIn.Disconnected {
		return Disconnected{}, vault.ErrAbsent
	}
	var d Disconnected
	d.Revoked, d.NotRevoked = c.revoke(ctx, values, refresh, held.AccessToken)
	// Whoever waits may go away; half a disconnect helps nobody.
	if err := c.Vault.Disconnect(context.WithoutCancel(ctx), grant); err != nil {
		return d, err
	}
	c.changed(values)
	return d, nil
}

// revoke has the server revoke the refresh token, or the access token where there is
// no other.
func (c *Client) revoke(ctx context.Context, values []string, refresh, access authserver.Secret) (bool, error) {
	p, err := c.Source.SignIn(ctx, values)
	if err != nil || p.Settings.RevocationEndpoint == "" {
		return false, err
	}
	token, hint := refresh, "refresh_token"
	if refresh.IsZero() {
		token, hint = access, "access_token"
	}
	request := p.Request
	request.Endpoint = p.Settings.RevocationEndpoint
	request.Form = nil // it is about the token alone
	request.Held = append(request.Held, refresh, access)
	err = request.Revoke(ctx, p.Transport, token, hint)
	return err == nil, err
}
