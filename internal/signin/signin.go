// Package signin gets grants: somebody signs in with a browser, confirms a code on
// another device, or brings a refresh token. It ends them as well, and says how they
// are. What comes of it goes to the vault, for requests to live on.
//
//	Ready ──► Begin ───────► (browser) ──► Finish ──► vault
//	    └───► BeginDevice ─► (phone) ────► PollDevice ──┘
//
// It shows nothing, opens nothing and asks nobody: that is up to its faces, a command
// and a page.
package signin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// Client signs in for one client of the config.
type Client struct {
	Options
}

// Options are what a Client works with.
type Options struct {
	Name       string // of the client
	Definition config.Client
	Source     *tokensource.Source
	Vault      *vault.Vault

	// Changed is told whose grant has changed, by the values of the client's
	// Inputs, so that requests take it up at once; nil if this process serves none.
	Changed func(values []string)
}

// New returns a client.
func New(o Options) *Client { return &Client{o} }

// UseError is something that is asked for and cannot be had with this client.
type UseError struct {
	Err error
}

func (e *UseError) Error() string { return e.Err.Error() }

// Unwrap returns why.
func (e *UseError) Unwrap() error { return e.Err }

func useErrorf(format string, args ...any) error {
	return &UseError{fmt.Errorf(format, args...)}
}

// HasAccounts reports whether each account has a grant of its own.
func (c *Client) HasAccounts() bool { return len(c.Definition.Inputs()) > 0 }

// values are those of the client's Inputs, of which there is the account alone.
func (c *Client) values(account string) ([]string, error) {
	inputs := c.Definition.Inputs()
	switch {
	case !c.Definition.KeepsGrant():
		return nil, useErrorf("client %q has the grant %s, for which nobody signs in", c.Name, c.Definition.GrantType())
	case len(inputs) == 0 && account != "":
		return nil, useErrorf("client %q has one grant for all: leave out the account", c.Name)
	case len(inputs) == 0:
		return nil, nil
	case len(inputs) > 1 || inputs[0].Option != "account":
		return nil, useErrorf("client %q has a grant that begins with what a request brings", c.Name)
	case account == "":
		return nil, useErrorf("client %q has a grant for each account (%s): say for which", c.Name, inputs[0].Text)
	}
	return []string{account}, nil
}

// Ready proves, before anybody is asked for anything, that what comes of it can be
// kept: the storage takes what the key seals, and there is no grant in the way that is
// alive, unless it is to be replaced.
func (c *Client) Ready(ctx context.Context, account string, replace bool) error {
	values, err := c.values(account)
	if err != nil {
		return err
	}
	grant, _, err := c.Source.ResolveGrant(ctx, values)
	if err != nil {
		return err
	}
	if err := c.Vault.Probe(ctx); err != nil {
		return err
	}
	held, err := c.load(ctx, grant)
	switch {
	case err != nil:
		return err
	case isAlive(held) && !replace:
		return vault.ErrAlive
	}
	return nil
}

// load is Load of the vault, with the zero value where there is no grant.
func (c *Client) load(ctx context.Context, grant vault.Grant) (vault.Held, error) {
	held, err := c.Vault.Load(ctx, grant.Name)
	if errors.Is(err, vault.ErrAbsent) {
		return vault.Held{}, nil
	}
	return held, err
}

// isAlive reports whether requests can live on what is held.
func isAlive(held vault.Held) bool {
	return held.SignIn == nil && held.Generation > 0 &&
		(!held.RefreshToken.IsZero() || time.Now().Before(held.ExpiresAt))
}

// put keeps a grant that was just given.
func (c *Client) put(ctx context.Context, grant vault.Grant, record vault.Record, replace bool) error {
	held, err := c.load(ctx, grant)
	if err != nil {
		return err
	}
	kept, err := c.Vault.Put(ctx, grant, record, replace || !isAlive(held))
	if err != nil && kept.Unstored {
		return c.storeAgain(ctx, err)
	}
	return err
}

// storeAgain tries once more to store what is in memory alone; failed is why it is.
func (c *Client) storeAgain(ctx context.Context, failed error) error {
	ctx, cancel := context.WithTimeout(ctx, storingTime)
	defer cancel()
	if c.Vault.Flush(ctx) != nil {
		return failed
	}
	return nil
}

// storingTime is how long it is tried to store what somebody has consented to.
const storingTime = 10 * time.Second

// changed tells that requests have another grant from now on.
func (c *Client) changed(values []string) {
	if c.Changed != nil {
		c.Changed(values)
	}
}
