package upstreamoauth2

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/tokenendpoint"
)

// liveClient is a Client at work in one config: it makes the token requests
// for a tokenCache that other configs may share.
type liveClient struct {
	Client
	name      string
	transport http.RoundTripper
	logger    *zap.Logger

	key   string
	cache *tokenCache
}

// newLiveClient checks the config and joins the cache for its settings. It
// makes no request. The caller closes what it returns.
func newLiveClient(ctx caddy.Context, name string, config Client) (*liveClient, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	resolved, err := config.resolve(caddy.NewReplacer())
	if err != nil && (!isCredentialError(err) || errors.Is(err, errNotSet)) {
		return nil, err
	}
	c := &liveClient{Client: config, name: name}
	if c.name == "" {
		c.name = defaultName(config)
	}
	c.logger = ctx.Logger().With(zap.String("client", c.name))
	if err != nil {
		c.logger.Warn("a credential cannot be read yet; it is tried again at each token request", zap.Error(err))
	}
	if options := config.literalCredentials(); len(options) > 0 && !isLoopbackURL(resolved.endpoint) {
		c.logger.Warn("a credential stands in the config, where the admin API and its autosave show it: write {env.NAME} or {file./absolute/path} instead", zap.Strings("options", options))
	}
	if c.transport, err = loadTransport(ctx, config); err != nil {
		return nil, err
	}
	c.key = c.settingsKey(resolved)
	c.cache, err = openCache(c.key, config.life(), c)
	return c, err
}

// isLoopbackURL reports whether the server is on this machine, as stand-ins for
// trying things out are; their credentials need no protection.
func isLoopbackURL(rawURL string) bool {
	u, err := url.Parse(rawURL)
	return err == nil && tokenendpoint.IsLoopback(u.Hostname())
}

// isCredentialError reports whether err is about a file that may still appear,
// or appear again: such a client is let in and heals by itself.
func isCredentialError(err error) bool {
	e, ok := errors.AsType[*optionError](err)
	return ok && (e.option == "client_secret" || e.option == "refresh_token")
}

func (c *liveClient) close() error {
	return closeCache(c.key, c.cache, c)
}

// defaultName calls a client without a name by its token endpoint's host and
// its id, as far as they are written in the config.
func defaultName(config Client) string {
	host := config.TokenEndpoint
	if u, err := url.Parse(config.TokenEndpoint); err == nil && u.Host != "" {
		host = u.Host
	}
	return host + " " + config.ClientID
}

// loadTransport provisions the configured transport, or a default one. It takes
// a copy, as LoadModule empties the field it loads.
func loadTransport(ctx caddy.Context, config Client) (http.RoundTripper, error) {
	if config.TransportRaw == nil {
		// Smaller than reverse_proxy's 10 MiB: a token answer needs no more.
		transport := &reverseproxy.HTTPTransport{MaxResponseHeaderSize: 64 << 10}
		return transport, transport.Provision(ctx)
	}
	module, err := ctx.LoadModule(&config, "TransportRaw")
	if err != nil {
		return nil, &optionError{"transport", err}
	}
	transport, ok := module.(http.RoundTripper)
	if !ok {
		return nil, optionErrorf("transport", "%T cannot send a token request: write 'transport http'", module)
	}
	return transport, nil
}

// processKey keeps the hashes of settings from being compared across processes.
var processKey = func() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return key
}()

// settingsKey identifies all that a token depends on. Two clients with the
// same key share it; a changed secret gives another.
func (c *liveClient) settingsKey(s settings) string {
	mac := hmac.New(sha256.New, processKey)
	_ = json.NewEncoder(mac).Encode([]any{ // plain values: it cannot fail
		s.endpoint, s.clientID, s.secret.Reveal(), s.form, s.header, s.refresh.Reveal(),
		c.authMethod(), c.grant(), c.anyTokenType(),
		c.RefreshAhead, c.DefaultLifetime, c.Timeout, c.TransportRaw,
	})
	return hex.EncodeToString(mac.Sum(nil))
}

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
func (c *liveClient) fetch(ctx context.Context, memory any) (*tokenendpoint.Token, any, error) {
	repl := caddy.NewReplacer()
	s, err := c.resolve(repl)
	if err != nil {
		return nil, nil, err
	}
	remember := c.addGrant(s.form, s, memory)

	request := tokenendpoint.Request{
		Endpoint:  s.endpoint,
		Form:      s.form,
		Auth:      c.clientAuth(s),
		Header:    s.header,
		UserAgent: userAgent,
		Timeout:   c.timeout(),
	}
	// reverse_proxy's transport wants a replacer where a server_name has a
	// placeholder.
	token, err := request.Do(context.WithValue(ctx, caddy.ReplacerCtxKey, repl), c.transport)
	if err != nil {
		return nil, nil, err
	}
	if !c.anyTokenType() && scheme(token.Type) == "" {
		return nil, nil, fmt.Errorf("the token_type %.40q is not understood: write 'inject header Authorization <scheme>' to use the token whatever its type (RFC 6749 section 7.1)", token.Type)
	}
	return token, remember(token), nil
}

// scheme returns the authentication scheme for a token_type; "" if it is not
// understood. Types compare without case (RFC 6749 section 5.1), an absent one
// means Bearer, and Apigee says BearerToken.
func scheme(tokenType string) string {
	switch strings.ToLower(tokenType) {
	case "", "bearer", "bearertoken":
		return "Bearer"
	}
	return ""
}

// report implements fetcher: it logs how a token request went, so that a
// person can act on it.
func (c *liveClient) report(o outcome) {
	if o.err == nil {
		level, message := zap.DebugLevel, "token renewed"
		switch {
		case o.first:
			level, message = zap.InfoLevel, "first token obtained"
		case o.failures > 0:
			level, message = zap.InfoLevel, "token obtained again"
		}
		c.logger.Log(level, message,
			zap.Duration("expires_in", o.lifeLeft.Round(time.Millisecond)),
			zap.Duration("renew_in", o.renewIn.Round(time.Millisecond)))
		return
	}

	fields := []zap.Field{
		zap.Error(o.err),
		zap.String("oauth_error", oauthError(o.err)),
		zap.Int("failures", o.failures),
		zap.Duration("next_attempt_in", o.retryIn.Round(time.Millisecond)),
	}
	if o.lifeLeft > 0 {
		c.logger.Error("token request failed; the token in hand is still served", append(fields,
			zap.Duration("expires_in", o.lifeLeft.Round(time.Millisecond)))...)
		return
	}
	c.logger.Error("token request failed; requests are answered without going upstream", fields...)
}

// oauthError returns the OAuth error code of a failed token request, if any.
func oauthError(err error) string {
	if e, ok := errors.AsType[*tokenendpoint.Error](err); ok {
		return e.Code
	}
	return ""
}

// Interface guards
var _ fetcher = (*liveClient)(nil)
