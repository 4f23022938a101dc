package signin

import (
	"context"
	"errors"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

var errInMemory = errors.New("the refresh token that followed is in memory alone")

// Import keeps a refresh token that was given elsewhere, and refreshes it once, by the
// vault's rules: so it is durable before it is spent. Whoever had it must not use it
// any more. Where the server rejects it, the grant that it was to replace is put back.
func (c *Client) Import(ctx context.Context, account string, refreshToken authserver.Secret, replace bool) (*Result, error) {
	values, err := c.values(account)
	if err != nil {
		return nil, err
	}
	grant, settings, err := c.Source.ResolveGrant(ctx, values)
	if err != nil {
		return nil, err
	}
	before, err := c.load(ctx, grant)
	if err != nil {
		return nil, err
	}
	given := vault.Record{
		RefreshToken: refreshToken, SignedInAt: time.Now(), Scope: settings.Form.Get("scope"),
		Issuer: settings.Issuer, ClientID: settings.ClientID, Account: account,
	}
	if err := c.put(ctx, grant, given, replace); err != nil {
		return nil, err
	}
	_, failed := c.Source.Fetch(ctx, values, nil)
	if _, dead := errors.AsType[*tokensource.GrantError](failed); dead && isAlive(before) {
		_, err := c.Vault.Put(ctx, grant, before.Record, true)
		return nil, errors.Join(failed, err)
	}
	if failed != nil {
		return nil, failed
	}
	held, err := c.Vault.Load(ctx, grant.Name)
	if err == nil && held.Unstored {
		err = c.storeAgain(context.WithoutCancel(ctx), &vault.StorageError{Operation: "store", Err: errInMemory})
	}
	if err != nil {
		return nil, err
	}
	c.changed(values)
	return &Result{
		Client: c.Name, Account: account,
		Asked: settings.Form.Get("scope"), Granted: held.Scope,
		ExpiresAt: held.ExpiresAt, Renewable: true,
	}, nil
}
