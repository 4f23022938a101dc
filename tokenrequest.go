package upstreamoauth2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// userAgent names the module and its version to the authorization server.
var userAgent = func() string {
	const path = "github.com/upstream-oauth2/caddy-upstream-oauth2"
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range append(info.Deps, &info.Main) {
			if module.Path == path && module.Version != "" {
				version = strings.Trim(module.Version, "()")
			}
		}
	}
	return "caddy-upstream-oauth2/" + version
}()

// fetch implements fetcher.
func (c *liveClient) fetch(ctx context.Context, inputs []string, held *authserver.Token) (*authserver.Token, error) {
	// reverse_proxy's transport wants a replacer where a server_name has a
	// placeholder.
	repl := caddy.NewReplacer()
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, repl)
	ctx, cancel := context.WithTimeout(ctx, c.timeout()) // of metadata and token together
	defer cancel()

	e := &expander{repl: repl, inputs: byInput(c.inputs, inputs), last: c.last}
	s, err := c.resolve(e)
	if err != nil {
		return nil, err
	}
	if err := c.presentCertificate(e); err != nil {
		return nil, err
	}
	metadata, err := c.discover(ctx, s)
	if err != nil {
		return nil, err
	}
	audience := cmp.Or(s.issuer, s.endpoint)
	auth := c.prove(e, s, audience)
	c.checkAssertion(e, metadata, auth)
	signed, done := c.addGrant(ctx, e, s, audience)
	var token *authserver.Token
	defer func() { done(token) }() // whatever happens, a panic in the transport included
	if e.err != nil {
		return nil, e.err
	}

	request := authserver.Request{
		Endpoint:  s.endpoint,
		Form:      s.form,
		Auth:      auth,
		Assertion: signed,
		Header:    s.header,
		UserAgent: userAgent,
		Timeout:   c.timeout(),
		Held:      secretsOf(held),
		Proof:     c.proofKey,
		Nonces:    &c.shared.session.nonces,
	}
	token, err = request.Do(ctx, c.transport)
	if err != nil {
		if metadata != nil && mayHaveMoved(err) {
			c.shared.session.doubt(metadata)
		}
		return nil, c.explained(err)
	}
	if err := c.checkTokenType(token); err != nil {
		return nil, err
	}
	return token, nil
}

// explained gives a refusal another hint where the one it has would lead astray:
// when it is the caller's fault, and when we sent no proof.
func (c *liveClient) explained(err error) error {
	failed, ok := errors.AsType[*authserver.Error](err)
	if !ok {
		return err
	}
	fault := c.callersFault(err)
	switch {
	case fault != notCallers:
		failed.Hint = callersHints[fault]
	case c.DPoP == nil && (failed.Code == "invalid_dpop_proof" || failed.Code == "use_dpop_nonce"):
		failed.Hint = "the server wants to bind tokens to a key: write 'dpop' and 'upstream_base'"
	}
	return err
}

// mayHaveMoved reports whether a token request failed as it does where no token
// endpoint is any more.
func mayHaveMoved(err error) bool {
	failed, ok := errors.AsType[*authserver.Error](err)
	return ok && (failed.Kind == authserver.Unavailable || failed.Kind == authserver.Unreadable)
}

// secretsOf returns what no error text may show of the token in hand.
func secretsOf(held *authserver.Token) []authserver.Secret {
	if held == nil {
		return nil
	}
	return []authserver.Secret{held.AccessToken, held.RefreshToken}
}

// discover fills in the token endpoint from the issuer's metadata, which it
// returns; nil if the endpoint is known without.
func (c *liveClient) discover(ctx context.Context, s *settings) (*authserver.Metadata, error) {
	if s.endpoint != "" {
		return nil, nil
	}
	metadata, err := c.shared.session.discover(ctx, func(ctx context.Context) (*authserver.Metadata, error) {
		return authserver.MetadataRequest{
			Issuer:    s.issuer,
			UserAgent: userAgent,
			AllowHTTP: c.AllowHTTP,
			Timeout:   c.timeout(),
		}.Do(ctx, c.transport)
	})
	if err != nil {
		return nil, err
	}
	if err := c.checkSupport(metadata); err != nil {
		c.shared.session.doubt(metadata)
		return nil, err
	}
	s.endpoint = metadata.TokenEndpointFor(presentsCertificate(c.transport))
	return metadata, nil
}

// checkSupport refuses a server that does not support what the config asks of it.
func (c *liveClient) checkSupport(metadata *authserver.Metadata) error {
	method := string(c.authMethod())
	switch {
	case c.ClientID == "":
		method = "" // the assertion of the grant says who we are
	case c.authMethod() == noClientAuth && presentsCertificate(c.transport):
		method = string(tlsClientAuth) // with the transport's own certificate
	}
	if err := metadata.Check(method, c.grant().grantType()); err != nil || c.proofKey == nil {
		return err
	}
	return metadata.CheckProof(c.proofKey.Algorithm())
}

// checkAssertion refuses a server that does not take the algorithm by which auth
// signs. A key decides on that itself, so it must have been read.
func (c *liveClient) checkAssertion(e *expander, metadata *authserver.Metadata, auth authserver.ClientAuth) {
	if metadata == nil || e.err != nil {
		return
	}
	if err := metadata.CheckAssertion(auth); err != nil {
		c.shared.session.doubt(metadata)
		e.err = err
	}
}

// presentCertificate hands the client certificate to the transport.
func (c *liveClient) presentCertificate(e *expander) error {
	if transport, ok := c.transport.(*clientCertificate); ok {
		if pair := e.keyPair(c.clientAuth()); e.err == nil {
			transport.pair.Store(pair.parsed)
		}
	}
	return e.err
}

// checkTokenType refuses tokens that we would not know how to send.
func (c *liveClient) checkTokenType(token *authserver.Token) error {
	switch {
	case c.anyTokenType():
		return nil
	case c.DPoP != nil && token.Scheme != "DPoP":
		return fmt.Errorf("the authorization server issued a token that is not bound to our key (token_type %.40q): it may not support DPoP, remove 'dpop'", token.Type)
	case c.DPoP == nil && token.Scheme == "DPoP":
		return errors.New("the authorization server issued a token that wants DPoP proofs: write 'dpop' and 'upstream_base'")
	case c.takesUntyped() && strings.EqualFold(token.Type, "N_A"):
		return nil
	case token.Scheme == "":
		return fmt.Errorf("the token_type %.40q is not understood: write 'inject header Authorization <scheme>' to use the token whatever its type (RFC 6749 section 7.1)", token.Type)
	}
	return nil
}

// takesUntyped reports whether an exchanged token may be one without a token type
// ("N_A", RFC 8693 section 2.2.1): it can where it goes upstream without a scheme.
func (c *Client) takesUntyped() bool {
	in := c.placement()
	return c.grant().grantType() == grantTypes[tokenExchange] && !in.byType && in.scheme == ""
}

// report implements fetcher: it logs how a token request went, so that a
// person can act on it.
func (c *liveClient) report(o outcome) {
	logger := c.logger
	if o.account != "" {
		logger = c.accountLogger.With(zap.String("account", o.account))
	}
	if o.err == nil {
		level, message := zap.DebugLevel, "token renewed"
		switch {
		case o.first && o.account != "":
			message = "first token obtained"
		case o.first:
			level, message = zap.InfoLevel, "first token obtained"
		case o.failures > 0:
			level, message = zap.InfoLevel, "token obtained again"
		}
		logger.Log(level, message,
			zap.Duration("expires_in", o.lifeLeft.Round(time.Millisecond)),
			zap.Duration("renew_in", o.renewIn.Round(time.Millisecond)))
		return
	}

	message := "token request failed; requests are answered without going upstream"
	fields := []zap.Field{
		zap.Error(o.err),
		zap.String("oauth_error", oauthError(o.err)),
		zap.Int("failures", o.failures),
		zap.Duration("next_attempt_in", o.retryIn.Round(time.Millisecond)),
	}
	if o.lifeLeft > 0 {
		message = "token request failed; the token in hand is still served"
		fields = append(fields, zap.Duration("expires_in", o.lifeLeft.Round(time.Millisecond)))
	}
	level := zap.ErrorLevel
	if c.callersFault(o.err) != notCallers {
		level = zap.InfoLevel // callers must not be able to raise an alarm
	}
	logger.Log(level, message, fields...)
}

// oauthError returns the OAuth error code of a failed token request, if any.
func oauthError(err error) string {
	if e, ok := errors.AsType[*authserver.Error](err); ok {
		return e.Code
	}
	return ""
}

// Interface guards
var _ fetcher = (*liveClient)(nil)
