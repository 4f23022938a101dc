package upstreamoauth2

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/upstream"
)

// client is a config.Client at work in one config: it has the token requests made
// for a token cache that other configs may share.
type client struct {
	*tokensource.Source
	definition config.Client
	name       string
	inputs     config.Inputs
	resolver   *config.Resolver
	logger     *zap.Logger

	// accountLogger is for what happens to single accounts: a sample of it.
	accountLogger *zap.Logger

	looking   atomic.Bool                      // whether files have changed
	warned    atomic.Pointer[authserver.Token] // the token that apiRejected last told of
	overwrote sync.Once

	key      sharingKey
	shared   *shared
	grants   tokensource.Grants
	counters *counters

	proofKey     *authserver.ProofKey // nil without dpop
	upstreamBase string               // likewise
}

// newClient checks the definition and joins the cache for its settings. It makes no
// request. The caller closes what it returns.
func newClient(ctx caddy.Context, app *App, name string, definition config.Client) (*client, error) {
	if err := definition.Check(); err != nil {
		return nil, err
	}
	c := &client{definition: definition, name: name, inputs: definition.Inputs()}
	if c.name == "" {
		c.name = definition.Name()
	}
	c.logger = app.logs.logger.With(zap.String("client", c.name))
	if len(c.inputs) > 0 {
		c.accountLogger = app.logs.sample().With(zap.String("client", c.name))
	}
	c.resolver = config.NewResolver(definition, c.logger)
	if err := c.open(ctx, app); err != nil {
		c.resolver.Close()
		return nil, err
	}
	c.warnOfExposure()
	return c, nil
}

// open resolves the definition with what is known now, which finds mistakes early
// and tells clients apart whose definitions read the same, and joins the cache for
// the settings.
func (c *client) open(ctx caddy.Context, app *App) error {
	reading, cancel := context.WithTimeout(ctx, c.definition.RequestTimeout())
	defer cancel()
	settings, unread := c.resolver.Resolve(reading, nil)
	if unread == nil {
		unread = settings.TryOut()
	}
	transport, err := tokensource.LoadTransport(ctx, c.definition)
	if err != nil {
		return err
	}
	if unread != nil {
		if !config.Temporary(unread) {
			return unread
		}
		c.logger.Warn("a credential cannot be read yet; it is tried again at each token request", zap.Error(unread))
	}
	if options := c.definition.LiteralCredentials(); len(options) > 0 && !isLoopbackURL(settings.TokenEndpoint) {
		c.logger.Warn("a credential stands in the config, where the admin API and its autosave show it: write {env.NAME} or {file./absolute/path} instead", zap.Strings("options", options))
	}
	if c.definition.HasEmptySecret() {
		c.logger.Warn("client_secret is empty, as it is written out: if that is not meant, write {env.NAME} or {file./absolute/path} (an unset {$NAME} in quotes is empty, too)")
	}
	if transport.IsUnverified() {
		c.logger.Warn("the authorization server's certificate is not verified, so whoever is in between can take the credentials: remove 'tls_insecure_skip_verify', and write 'tls_trust_pool file <ca.pem>' in 'transport http' for a CA of your own")
	}
	c.upstreamBase, c.proofKey, err = c.resolver.Upstream(reading)
	if err != nil {
		return err
	}

	if c.grants, err = app.grantsOf(c); err != nil {
		return err
	}

	c.key = c.sharingKey(settings, unread)
	if c.shared, err = openShared(c.key, c.cacheSettings()); err != nil {
		return err
	}
	if c.definition.DPoP != nil && c.proofKey == nil {
		if c.proofKey, err = c.shared.server.ProofKey(); err != nil {
			return errors.Join(err, closeShared(c.key, c.shared))
		}
	}
	c.counters = counted.open(c.name)
	c.Source = tokensource.New(tokensource.Options{
		Name: c.name, Client: c.definition, Resolver: c.resolver, Transport: transport,
		Server: &c.shared.server, ProofKey: c.proofKey, Grants: c.grants, Logger: c.logger,
		Requested: c.counters.requested,
	})
	c.shared.cache.Lend(c)
	return nil
}

// changeTime is how often the files of a client whose requests fail are looked at.
const changeTime = time.Second

// retryIfChanged ends the backoff where a credential's file has changed since the
// attempt that failed. It is called for requests that get no token, and does not keep
// them waiting.
func (c *client) retryIfChanged() {
	if !c.looking.CompareAndSwap(false, true) {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), changeTime)
		defer cancel()
		if c.resolver.Changed(ctx) {
			c.shared.cache.RetryNow()
		}
		<-ctx.Done()
		c.looking.Store(false)
	}()
}

// close leaves the cache, which ends with its last client.
func (c *client) close() error {
	c.shared.cache.TakeBack(c)
	counted.close(c.name)
	c.resolver.Close()
	return closeShared(c.key, c.shared)
}

// cacheSettings are the client's settings as far as they shape its tokens' lives.
func (c *client) cacheSettings() tokencache.Settings {
	life, _ := c.definition.Life() // checked before
	return tokencache.Settings{
		RefreshAheadPercent: life.AheadPercent,
		RefreshAhead:        life.Ahead,
		DefaultLifetime:     life.Default,
		MaxAccounts:         c.definition.AccountLimit(),
		MaxWait:             c.definition.RequestTimeout(),
	}
}

// newUpstream returns what sends requests to the client's API.
func (c *client) newUpstream() *upstream.Upstream {
	place, re := c.definition.Placement(), c.definition.Rejection()
	s := upstream.Settings{
		Placement:    upstream.Placement(place),
		Replay:       upstream.Replay(re),
		Rejected:     c.apiRejected,
		Overwrote:    c.tokenOverwritten,
		CallerFields: c.inputs.CallerFields(),
	}
	if c.proofKey != nil {
		s.Proofs = upstream.NewProofs(c.proofKey, c.shared.server.Nonces(), c.upstreamBase)
	}
	return upstream.New(s)
}

// warm does ahead what the first request would wait for. A client with accounts
// has its issuer's metadata fetched, so that a mistake there shows at once.
func (c *client) warm(ctx context.Context) {
	if len(c.inputs) == 0 {
		c.shared.cache.Entry(nil).Warm()
		return
	}
	if err := c.Prepare(ctx); err != nil && ctx.Err() == nil {
		c.logger.Error("the authorization server's metadata cannot be used; requests are answered without going upstream", failureFields(err)...)
	}
}

// isLoopbackURL reports whether the server is on this machine, as stand-ins for
// trying things out are; their credentials need no protection.
func isLoopbackURL(rawURL string) bool {
	u, err := url.Parse(rawURL)
	return err == nil && authserver.IsLoopback(u.Hostname())
}
