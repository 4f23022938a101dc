package upstreamoauth2

import (
	"cmp"
	"context"
	"encoding/hex"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// refreshChains hold the newest refresh token of each grant, by what the grant
// is: its server, client and first refresh token. They outlive a reload that
// changes any other setting, as a server that rotates refresh tokens answers the
// use of an old one by revoking the grant.
var refreshChains = caddy.NewUsagePool()

// refreshChain is a refresh token and those that followed it. One token request
// uses it at a time, whichever config or client makes it.
type refreshChain struct {
	turn   chan struct{} // holds one value while the chain is free
	newest authserver.Secret
}

// Destruct implements caddy.Destructor.
func (*refreshChain) Destruct() error { return nil }

// joinChain makes the grant that begins with first the client's. The server goes
// by its issuer, if that is known: the endpoint may come from metadata, which is
// not there when the config is loaded, and may change.
func (c *liveClient) joinChain(s *settings, first authserver.Secret) *refreshChain {
	sum := keyOf([]string{cmp.Or(s.issuer, s.endpoint), s.clientID, first.Reveal()})
	key := hex.EncodeToString(sum[:])
	c.chainMu.Lock()
	defer c.chainMu.Unlock()
	if c.chainKey == key {
		return c.chain
	}
	value, _, _ := refreshChains.LoadOrNew(key, func() (caddy.Destructor, error) {
		chain := &refreshChain{turn: make(chan struct{}, 1), newest: first}
		chain.turn <- struct{}{}
		return chain, nil
	})
	chain := value.(*refreshChain)
	if c.chainLeft { // a last fetch of a config that is gone: it counts for nobody
		_, _ = refreshChains.Delete(key)
		return chain
	}
	if c.chainKey != "" { // another first refresh token has been configured
		_, _ = refreshChains.Delete(c.chainKey)
	}
	c.chain, c.chainKey = chain, key
	return chain
}

// leaveChain lets the client's grant go, which ends with its last client.
func (c *liveClient) leaveChain() {
	c.chainMu.Lock()
	defer c.chainMu.Unlock()
	if c.chainKey != "" {
		_, _ = refreshChains.Delete(c.chainKey)
		c.chain, c.chainKey = nil, ""
	}
	c.chainLeft = true
}

// take waits for the chain's turn and returns the newest refresh token. The
// caller puts it back.
func (chain *refreshChain) take(ctx context.Context) (authserver.Secret, error) {
	select {
	case <-chain.turn:
		return chain.newest, nil
	case <-ctx.Done():
		return authserver.Secret{}, ctx.Err()
	}
}

// putBack ends the chain's turn. An answer without a new refresh token leaves
// the old one in use (RFC 6749 section 6), and so does no answer: token is nil
// then.
func (chain *refreshChain) putBack(token *authserver.Token) {
	if token != nil && !token.RefreshToken.IsZero() {
		chain.newest = token.RefreshToken
	}
	chain.turn <- struct{}{}
}
