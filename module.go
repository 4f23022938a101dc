// Package upstreamoauth2 is a Caddy plugin that puts an OAuth 2.0 access token
// on each request before it goes upstream.
//
//	api.internal.example.com {
//		upstream_oauth2 partner {
//			token_endpoint https://auth.partner.example/oauth/token
//			client_id      {env.PARTNER_CLIENT_ID}
//			client_secret  {file./run/secrets/partner}
//		}
//		reverse_proxy https://api.partner.example
//	}
package upstreamoauth2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/connect"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/upstream"
)

func init() {
	caddy.RegisterModule(App{})
	caddy.RegisterModule(Handler{})
}

// App holds the OAuth 2.0 clients that handlers refer to by name, and starts
// their background work: each fetches its first token once Caddy has started,
// so that a wrong secret shows in the log right away and the first request
// finds its token ready. Loading or validating a config makes no request.
type App struct {
	// The clients, by the names that handlers use.
	Clients map[string]*config.Client `json:"clients,omitempty"`

	// What is kept is sealed with this key (AES-256-GCM): 32 random bytes, as base64
	// or hex, best as a placeholder. "openssl rand -base64 32" makes one. Without it
	// nothing is kept: clients of grant authorization_code and with share are
	// refused, and a rotated refresh token is lost at a restart.
	EncryptionKey config.Credential `json:"encryption_key,omitempty"`

	// The key before this one, while it is being changed: what it sealed can still be
	// read, and is sealed anew when it is next written.
	PreviousEncryptionKey config.Credential `json:"previous_encryption_key,omitempty"`

	// Where grants and shared tokens are kept. Default: Caddy's own storage.
	StorageRaw json.RawMessage `json:"storage,omitempty" caddy:"namespace=caddy.storage inline_key=module"`

	ctx     caddy.Context
	logs    logs
	storage certmagic.Storage
	keys    *keys
	named   map[string]*client
	live    []*client
	running bool // see apps.starts

	expected []string // the clients that matchers name

	events *caddyevents.App
	queue  chan event

	pages []connect.Page
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "upstream_oauth2",
		New: func() caddy.Module { return new(App) },
	}
}

// UnmarshalJSON implements json.Unmarshaler, for errors without Go's words.
func (a *App) UnmarshalJSON(data []byte) error {
	type plain App
	return config.UnmarshalJSON(data, (*plain)(a))
}

// Provision sets up the named clients.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logs = ctx, newLogs(ctx.Logger())
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	if err := a.provisionKeeping(ctx); err != nil {
		return err
	}
	a.named = make(map[string]*client)
	for _, name := range slices.Sorted(maps.Keys(a.Clients)) {
		switch {
		case name == "":
			return errors.New("a client has no name: give it one that handlers can refer to")
		case a.Clients[name] == nil:
			return fmt.Errorf("client %q: is null: write its settings, or remove it", name)
		}
		if _, err := a.open(ctx, name, *a.Clients[name]); err != nil {
			return err
		}
	}
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	a.events, a.queue = events.(*caddyevents.App), make(chan event, maxEvents)
	return a.events.On("started", a)
}

// open returns the client of that name, made from definition. A name stands for
// one definition; writing the same one twice is fine.
func (a *App) open(ctx caddy.Context, name string, definition config.Client) (*client, error) {
	if known, ok := a.named[name]; ok {
		if !known.definition.Equal(definition) {
			return nil, fmt.Errorf("client %q is defined twice, and not alike: define it once, under the global option upstream_oauth2, and refer to it by 'upstream_oauth2 %s'", name, name)
		}
		return known, nil
	}
	client, err := newClient(ctx, a, name, definition)
	if err != nil {
		if name == "" {
			name = definition.Name()
		}
		return nil, fmt.Errorf("client %q: %w", name, err)
	}
	a.live = append(a.live, client)
	if name != "" {
		a.named[name] = client
	}
	return client, nil
}

// refer returns the client that is defined by that name in the app. Those that
// handlers carry are not looked at: which of them are there already depends on
// the order in which handlers are set up.
func (a *App) refer(name string) (*client, error) {
	if name == "" {
		return nil, errors.New("the handler neither refers to a client nor has the settings of one: write the name of one as its 'client', or the settings")
	}
	if _, ok := a.Clients[name]; ok {
		return a.named[name], nil
	}
	return nil, a.noClient(name)
}

func (a *App) noClient(name string) error {
	known := "none"
	if len(a.Clients) > 0 {
		known = strings.Join(slices.Sorted(maps.Keys(a.Clients)), ", ")
	}
	return fmt.Errorf("there is no client %q under the global option upstream_oauth2, which defines %s: write 'client %s { ... }' there, or give the directive a block", name, known, name)
}

// Start implements caddy.App. The work begins when every app has started.
func (a *App) Start() error { return a.checkExpected() }

// Handle implements caddyevents.Handler: every app has started, so all routes can be
// seen, and a token endpoint that is a site of this Caddy can be reached.
func (a *App) Handle(context.Context, caddy.Event) error {
	loaded.starts(a)
	go a.emitEvents()
	a.warnOfRoutes()
	go a.warm()
	go a.maintain()
	return nil
}

// maxWarming is how many first tokens are fetched at a time, so that a config
// with thousands of clients neither runs out of file descriptors nor looks like
// an attack. Fetches that requests wait for are not held up by it.
const maxWarming = 64

// warm fetches the first token of each client, or where tokens are fetched for
// accounts, what the authorization server says of itself.
func (a *App) warm() {
	places := make(chan struct{}, maxWarming)
	for _, client := range a.live {
		select {
		case places <- struct{}{}:
		case <-a.ctx.Done():
			return
		}
		go func() {
			defer func() { <-places }()
			client.warm(a.ctx)
		}()
	}
}

// Stop implements caddy.App. It waits for refreshes in flight until what they bring
// is stored.
func (a *App) Stop() error {
	if a.EncryptionKey == "" {
		return nil
	}
	return a.settleGrants()
}

// Cleanup leaves the caches of all clients, those of handlers included.
func (a *App) Cleanup() error {
	loaded.remove(a)
	var errs []error
	for _, client := range a.live {
		errs = append(errs, client.close())
	}
	return errors.Join(errs...)
}

// MarshalLogObject implements zapcore.ObjectMarshaler: the events app logs whom
// it tells of what.
func (a App) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	zap.Strings("clients", slices.Sorted(maps.Keys(a.Clients))).AddTo(enc)
	return nil
}

// Handler puts an OAuth 2.0 access token on each request before the next
// handler, most often reverse_proxy, sends it upstream. The token comes from
// the authorization server, is shared by all requests and renewed behind them.
//
// The handler refers to a client of the upstream_oauth2 app by name, or
// carries one in place: then the client's fields stand beside its name. Two
// clients with equal settings share one token.
type Handler struct {
	// The name of the client. Alone it refers to a client of the app; with
	// fields beside it, it names the client they define. Default: the host of
	// the token endpoint, or of the issuer, and the client id.
	Name string `json:"client,omitempty"`

	config.Client

	app      *App
	live     *client
	upstream *upstream.Upstream
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.upstream_oauth2",
		New: func() caddy.Module { return new(Handler) },
	}
}

// UnmarshalJSON implements json.Unmarshaler, for errors without Go's words.
func (h *Handler) UnmarshalJSON(data []byte) error {
	type plain Handler
	return config.UnmarshalJSON(data, (*plain)(h))
}

// Provision finds or sets up the client. It makes no request.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := ctx.App("upstream_oauth2")
	if err != nil {
		return err
	}
	h.app = app.(*App)
	if h.Client.Equal(config.Client{}) {
		h.live, err = h.app.refer(h.Name)
	} else {
		h.live, err = h.app.open(ctx, h.Name, h.Client)
	}
	if err != nil {
		return err
	}
	h.upstream = h.live.newUpstream()
	return nil
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (h Handler) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("client", h.Name)
	return h.Client.MarshalLogObject(enc)
}

// Interface guards
var (
	_ caddy.App                   = (*App)(nil)
	_ caddy.Provisioner           = (*App)(nil)
	_ caddy.CleanerUpper          = (*App)(nil)
	_ caddyevents.Handler         = (*App)(nil)
	_ zapcore.ObjectMarshaler     = App{}
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ zapcore.ObjectMarshaler     = Handler{}
)
