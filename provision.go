package upstreamoauth2

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// liveClient is a Client at work in one config: it makes the token requests
// for a tokenCache that other configs may share.
type liveClient struct {
	Client
	name         string
	inputs       []requestInput
	transport    http.RoundTripper
	proofKey     *authserver.ProofKey // nil without dpop
	upstreamBase string               // likewise
	last         *lastGood
	logger       *zap.Logger

	// accountLogger is for what happens to single accounts: a sample of it.
	accountLogger *zap.Logger

	key    string
	shared *shared

	chainMu   sync.Mutex // guards the grant that is refreshed, if any
	chain     *refreshChain
	chainKey  string
	chainLeft bool // the config is gone
}

// newLiveClient checks the config and joins the cache for its settings. It
// makes no request. The caller closes what it returns.
func newLiveClient(ctx caddy.Context, name string, config Client) (*liveClient, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	c := &liveClient{Client: config, name: name, inputs: config.requestInputs()}
	if c.name == "" {
		c.name = defaultName(config)
	}
	c.logger = ctx.Logger().With(zap.String("client", c.name))
	c.last = newLastGood(c.logger)
	maxAccounts := 0
	if len(c.inputs) > 0 {
		maxAccounts = config.maxAccounts()
		c.accountLogger = c.logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
			return zapcore.NewSamplerWithOptions(core, time.Second, 3, 0) // half a megabyte
		}))
	}

	// Resolved with what is known now: this finds mistakes early, and tells
	// clients apart whose settings read the same.
	e := &expander{repl: caddy.NewReplacer(), last: c.last}
	s, _ := c.resolve(e)
	firstRefreshToken := c.rehearse(e, s)

	var err error
	if c.transport, err = loadTransport(ctx, config); err != nil {
		return nil, err
	}
	if err := c.presentCertificate(e); err != nil {
		if !mayHeal(err) {
			return nil, err
		}
		c.logger.Warn("a credential cannot be read yet; it is tried again at each token request", zap.Error(err))
	}
	if options := config.literalCredentials(); len(options) > 0 && !isLoopbackURL(s.endpoint) {
		c.logger.Warn("a credential stands in the config, where the admin API and its autosave show it: write {env.NAME} or {file./absolute/path} instead", zap.Strings("options", options))
	}

	proofKey, err := c.loadProofKey()
	if err != nil {
		return nil, err
	}
	c.key = c.settingsKey(s, firstRefreshToken, proofKey, e.err != nil)
	if c.shared, err = openShared(c.key, config.life(), maxAccounts, c); err != nil {
		return nil, err
	}
	if !firstRefreshToken.IsZero() {
		c.joinChain(s, firstRefreshToken)
	}
	if c.proofKey = proofKey; config.DPoP != nil && proofKey == nil {
		if c.proofKey, err = c.shared.session.proofKey(); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

// rehearse goes through what a token request needs beside the settings, so that
// a mistake shows when the config is loaded. It returns the first refresh token,
// if the grant has one.
func (c *liveClient) rehearse(e *expander, s *settings) (firstRefreshToken authserver.Secret) {
	audience := cmp.Or(s.issuer, s.endpoint)
	auth := c.prove(e, s, audience)
	if e.err == nil {
		e.fail("client_auth", auth.Authenticate(make(url.Values), make(http.Header)))
	}
	if c.upstreamBase = e.value("upstream_base", c.UpstreamBase); c.upstreamBase != "" && e.err == nil {
		e.fail("upstream_base", checkUpstreamBase(c.upstreamBase))
	}
	switch g := c.grant(); g.Type {
	case jwtBearer:
		e.value("assertion", string(g.Assertion))
		if signed := c.assertion(e, s, audience); signed != nil {
			_, err := authserver.SignAssertion(signed.Key, signed.Claims)
			e.fail("grant", err)
		}
	case tokenExchange:
		e.value("actor_token", string(g.ActorToken))
		e.value("subject_token", string(g.SubjectToken))
	case refreshToken:
		firstRefreshToken = e.secret("refresh_token", g.RefreshToken)
	}
	return firstRefreshToken
}

// mayHeal reports whether err is about a file that may still appear, or appear
// again: such a client is let in and heals by itself. An environment variable
// does not change while the process runs.
func mayHeal(err error) bool {
	return errors.Is(err, errUnreadable)
}

func (c *liveClient) close() error {
	c.leaveChain()
	return closeShared(c.key, c.shared, c)
}

// slot returns the client's only slot, or that of the account for which a request
// has those values.
func (c *liveClient) slot(values []string) *slot {
	if len(c.inputs) == 0 {
		return &c.shared.cache.slot
	}
	return c.shared.cache.accounts.slot(values)
}

// warm does ahead what the first request would wait for. A client with accounts
// has its issuer's metadata fetched, so that a mistake there shows at once.
func (c *liveClient) warm(ctx context.Context) {
	if len(c.inputs) == 0 {
		if flight := c.shared.cache.slot.warm(); flight != nil {
			<-flight.done
		}
		return
	}
	defer func() { _ = recover() }() // of a transport that another plugin brings
	s, err := c.resolve(&expander{repl: caddy.NewReplacer()})
	if err != nil {
		return // the first request finds out, and the log has a warning
	}
	if _, err := c.discover(ctx, s); err != nil && ctx.Err() == nil {
		c.logger.Error("the authorization server's metadata cannot be used; requests are answered without going upstream", zap.Error(err))
	}
}

// defaultName calls a client without a name by its server's host and its id, as
// far as they are written in the config.
func defaultName(config Client) string {
	server := cmp.Or(config.TokenEndpoint, config.Issuer, config.grant().Type)
	if u, err := url.Parse(server); err == nil && u.Host != "" {
		server = u.Host
	}
	return strings.TrimSpace(server + " " + config.ClientID)
}

// loadTransport provisions the configured transport, or a default one. It takes
// a copy, as LoadModule empties the field it loads.
func loadTransport(ctx caddy.Context, config Client) (http.RoundTripper, error) {
	var transport http.RoundTripper
	if config.TransportRaw == nil {
		// Smaller than reverse_proxy's 10 MiB: a token answer needs no more.
		h := &reverseproxy.HTTPTransport{MaxResponseHeaderSize: 64 << 10}
		if err := h.Provision(ctx); err != nil {
			return nil, err
		}
		transport = h
	} else {
		module, err := ctx.LoadModule(&config, "TransportRaw")
		if err != nil {
			return nil, &optionError{"transport", err}
		}
		h, ok := module.(*reverseproxy.HTTPTransport)
		switch {
		case !ok:
			return nil, optionErrorf("transport", "%T cannot send a token request: write 'transport http'", module)
		case h.ProxyProtocol != "":
			return nil, optionErrorf("transport", "a token request has no client address to tell: remove 'proxy_protocol'")
		}
		transport = h
	}
	if config.authMethod() != tlsClientAuth {
		return transport, nil
	}
	withCertificate, err := withClientCertificate(transport)
	if err != nil {
		return nil, &optionError{"client_auth", err}
	}
	return withCertificate, nil
}

// loadProofKey reads the configured DPoP key; nil if there is none.
func (c *liveClient) loadProofKey() (*authserver.ProofKey, error) {
	if c.DPoP == nil || c.DPoP.Key == "" {
		return nil, nil
	}
	e := &expander{repl: caddy.NewReplacer()}
	content := e.content("dpop", c.DPoP.Key)
	if e.err != nil {
		return nil, e.err
	}
	key, err := authserver.ParseProofKey(content)
	if err != nil {
		return nil, &optionError{"dpop", err}
	}
	return key, nil
}

// settingsKey identifies what a token request is made of, and how its token is kept.
// Two clients with the same key share it; a changed secret gives another. Key and
// assertion files are not part of it: they prove the same client, whatever is in
// them. But two files are two things, even while they hold the same, and so are
// two clients with something that cannot be read yet.
func (c *liveClient) settingsKey(s *settings, refresh authserver.Secret, proofKey *authserver.ProofKey, unread bool) string {
	thumbprint := ""
	if proofKey != nil {
		thumbprint = proofKey.Thumbprint()
	}
	config, _ := json.Marshal(c.Client)
	rest, _ := json.Marshal([]any{ // plain values: it cannot fail
		c.clientAuth(), c.grant(), c.Account, c.maxAccounts(), c.DPoP, thumbprint, c.anyTokenType(), c.takesUntyped(),
		c.RefreshAhead, c.DefaultLifetime, c.Timeout, c.TransportRaw, c.AllowHTTP,
	})
	parts := []string{
		s.issuer, s.endpoint, s.clientID, s.secret.Reveal(), refresh.Reveal(),
		s.form.Encode(), url.Values(s.header).Encode(), string(rest),
	}
	for _, in := range c.inputs { // a value may read like a placeholder
		parts = append(parts, "from the request", in.option, in.text)
	}
	parts = append(parts, filePlaceholder.FindAllString(string(config), -1)...)
	if unread {
		parts = append(parts, c.name, string(config))
	}
	key := keyOf(parts)
	return hex.EncodeToString(key[:])
}

// isLoopbackURL reports whether the server is on this machine, as stand-ins for
// trying things out are; their credentials need no protection.
func isLoopbackURL(rawURL string) bool {
	u, err := url.Parse(rawURL)
	return err == nil && authserver.IsLoopback(u.Hostname())
}
