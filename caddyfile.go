package upstreamoauth2

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/block"
)

const directive = "upstream_oauth2"

func init() {
	httpcaddyfile.RegisterHandlerDirective(directive, parseDirective)
	httpcaddyfile.RegisterGlobalOption(directive, parseGlobalOption)
	// Behind forward_auth, whose server must not see the token, and ahead of
	// handle and route, which may hold the reverse_proxy. The connect page goes after
	// request_header: directives of plugins cannot be ordered by each other.
	httpcaddyfile.RegisterDirectiveOrder(directive, httpcaddyfile.Before, "encode")
}

func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	b, err := handler.read(h.Dispenser)
	if err != nil {
		return nil, err
	}
	app, inPlace := globalApp(h), clientsInPlace(h)
	global, defined := app.Clients[handler.Name]
	before, known := inPlace[handler.Name]

	mistake := handler.Check()
	line := b.lines.Of(mistake, b.start)
	switch {
	case !b.defines && defined:
	case !b.defines && known:
		return nil, line.Errf("client %q is defined in the block at %s:%d alone: move its lines to 'client %[1]s { ... }' under the global option %[4]s", handler.Name, before.start.File(), before.start.Line(), directive)
	case !b.defines:
		return nil, line.WrapErr(app.noClient(handler.Name))
	case mistake != nil && (line != b.start || !defined):
		return nil, line.WrapErr(mistake)
	case defined && !handler.Client.Equal(*global):
		return nil, line.Errf("client %q is defined under the global option, and not like here: refer to it without a block, or give this one another name", handler.Name)
	case known && !handler.Client.Equal(before.client):
		return nil, line.Errf("client %q is defined at %s:%d already, and not like here: define it once, under the global option %s, and refer to it by '%[4]s %[1]s'", handler.Name, before.start.File(), before.start.Line(), directive)
	case handler.Name != "":
		inPlace[handler.Name] = clientInPlace{b.start, handler.Client}
	}
	return handler, nil
}

// clientInPlace is a client that a directive defines.
type clientInPlace struct {
	start  *caddyfile.Dispenser
	client config.Client
}

// clientsInPlace are those of the directives so far, by name.
func clientsInPlace(h httpcaddyfile.Helper) map[string]clientInPlace {
	clients, ok := h.State[directive].(map[string]clientInPlace)
	if !ok {
		clients = make(map[string]clientInPlace)
		h.State[directive] = clients
	}
	return clients
}

// globalApp returns what the global option defines.
func globalApp(h httpcaddyfile.Helper) *App {
	app := new(App)
	if global, ok := h.Option(directive).(httpcaddyfile.App); ok {
		_ = json.Unmarshal(global.Value, app) // we wrote it ourselves
	}
	return app
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	upstream_oauth2 [<matcher>] [<name>] {
//		issuer           <url>
//		token_endpoint   <url>
//
//		client_id        <id>
//		client_secret    <secret>
//		client_auth      client_secret_basic|client_secret_basic_raw|client_secret_post|none
//		client_auth      client_secret_jwt [{
//			algorithm   <alg>
//			audience    <aud>
//			claim       <name> <value>
//			lifetime    <duration>
//		}]
//		client_auth      private_key_jwt {
//			key         <file|placeholder>
//			key_id      <kid>
//			certificate <file>
//			x5c
//			algorithm   <alg>
//			audience    <aud>
//			claim       <name> <value>
//			lifetime    <duration>
//		}
//		client_auth      tls_client_auth {
//			certificate <file>
//			key         <file>
//		}
//		client_auth      assertion_file <file>
//
//		grant            client_credentials|<type>
//		grant            refresh_token {
//			refresh_token <placeholder>
//		}
//		grant            jwt_bearer {
//			assertion       <placeholder>
//			service_account <file>
//			key             <file|placeholder>
//			key_id          <kid>
//			algorithm       <alg>
//			issuer          <iss>
//			subject         <sub>
//			audience        <aud>
//			claim           <name> <value>
//			lifetime        <duration>
//		}
//		grant            token_exchange [{
//			subject_token        <placeholder>
//			subject_token_type   <type>
//			actor_token          <placeholder>
//			actor_token_type     <type>
//			requested_token_type <type>
//		}]
//		scope            <scope>...
//		audience         <audience>...
//		resource         <uri>...
//		token_param      <name> <value>
//		token_header     <name> <value>
//
//		inject           header [<name> [<scheme>]]
//		inject           query <name>
//		keep_existing
//
//		account          <placeholder>
//		max_accounts     <n>
//		dpop             [<key file>]
//		upstream_base    <url>
//
//		refresh_ahead    <percent|duration>
//		default_lifetime <duration>
//		timeout          <duration>
//		on_error         reject|pass
//		replay           off
//		replay           {
//			status     <code>...
//			body_limit <size>
//		}
//
//		transport        http {
//			...
//		}
//		allow_http
//	}
//
// A name without a block refers to a client defined under the global option of
// the same name.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	b, err := h.read(d)
	if err != nil || !b.defines {
		return err
	}
	return checkClient(&h.Client, b.start, b.lines)
}

// clientBlock is the block of a directive.
type clientBlock struct {
	start   *caddyfile.Dispenser // the directive
	lines   block.Lines
	defines bool // a client, rather than referring to one
}

// read reads the directive, and leaves it to others to check the client as a whole.
func (h *Handler) read(d *caddyfile.Dispenser) (clientBlock, error) {
	d.Next() // the directive
	b := clientBlock{start: block.Position(d)}
	if d.NextArg() {
		if h.Name = d.Val(); strings.TrimSpace(h.Name) == "" {
			return b, d.Errf("the client's name is empty: write '%s [<matcher>] [<name>] { ... }'", directive)
		}
	}
	if d.NextArg() {
		return b, d.Errf("unexpected %q: write '%s [<matcher>] [<name>] { ... }'", d.Val(), directive)
	}
	var err error
	if b.lines, err = block.Read(d, directive, clientOptions(d, &h.Client)); err != nil {
		return b, err
	}
	b.defines = len(b.lines) > 0 || block.AtEnd(d) // with an empty block, too
	if !b.defines && h.Name == "" {
		return b, d.Errf("%s needs a block that defines the client, or the name of one that is defined under the global option %[1]s", directive)
	}
	return b, nil
}

// parseGlobalOption reads the global option. Syntax:
//
//	upstream_oauth2 {
//		encryption_key          <placeholder>
//		previous_encryption_key <placeholder>
//		storage                 <module> { ... }
//		client <name> {
//			... the lines of the directive
//		}
//	}
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next() // the option
	if existing != nil {
		return nil, d.Errf("the global option %s is given twice: put all clients into one", directive)
	}
	if d.NextArg() {
		return nil, d.Errf("unexpected %q: write '%s { client <name> { ... } }'", d.Val(), directive)
	}
	app := App{Clients: make(map[string]*config.Client)}
	options := map[string]block.Option{
		"encryption_key":          block.Value("<placeholder>", &app.EncryptionKey),
		"previous_encryption_key": block.Value("<placeholder>", &app.PreviousEncryptionKey),
		"storage":                 storageOption(d, &app),
		"client":                  clientOption(d, app.Clients),
	}
	if _, err := block.Read(d, "the global option "+directive, options); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: directive, Value: caddyconfig.JSON(app, nil)}, nil
}

// storageOption takes the module, its arguments and its block as Caddy's own global
// option does.
func storageOption(d *caddyfile.Dispenser, app *App) block.Option {
	var args []string
	return block.Option{
		Usage: "<module> [{ ... }]", Min: 1, Max: -1,
		Set: func(given []string) error {
			args = given
			return nil
		},
		Block: func() error {
			// The arguments have been read: what follows the last one is left.
			segment := d.NextSegment()
			var tokens []caddyfile.Token
			for _, arg := range args {
				token := segment[0]
				token.Text = arg
				tokens = append(tokens, token)
			}
			storage := caddyfile.NewDispenser(append(tokens, segment[1:]...))
			storage.Next()
			module, err := caddyfile.UnmarshalModule(storage, "caddy.storage."+args[0])
			if err != nil {
				return d.WrapErr(err)
			}
			app.StorageRaw = caddyconfig.JSONModuleObject(module, "module", args[0], nil)
			return nil
		},
	}
}

// clientOption is a client under the global option.
func clientOption(d *caddyfile.Dispenser, clients map[string]*config.Client) block.Option {
	var client *config.Client
	return block.Option{
		Usage: "<name> { ... }", Min: 1, Max: 1, Repeats: true,
		Set: func(args []string) error {
			name := args[0]
			if name == "*" || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "@") {
				return fmt.Errorf("%q is a matcher where the client is used: write a name that begins with a letter", name)
			}
			if _, ok := clients[name]; ok {
				return fmt.Errorf("%q is defined twice: remove one, or give it another name", name)
			}
			client = new(config.Client)
			clients[name] = client
			return nil
		},
		Block: func() error {
			start := block.Position(d)
			lines, err := block.Read(d, "client", clientOptions(d, client))
			if err != nil {
				return err
			}
			return checkClient(client, start, lines)
		},
	}
}

// checkClient looks at a client as a whole. Its error points at the line it is
// about, or at the client's first line if that one is missing.
func checkClient(client *config.Client, start *caddyfile.Dispenser, lines block.Lines) error {
	if err := client.Check(); err != nil {
		return lines.Of(err, start).WrapErr(err)
	}
	return nil
}

// clientOptions are all lines of a client's block.
func clientOptions(d *caddyfile.Dispenser, c *config.Client) map[string]block.Option {
	return map[string]block.Option{
		"issuer":         block.Value("<url>", &c.Issuer),
		"token_endpoint": block.Value("<url>", &c.TokenEndpoint),

		"authorization_endpoint":        block.Value("<url>", &c.AuthorizationEndpoint),
		"device_authorization_endpoint": block.Value("<url>", &c.DeviceAuthorizationEndpoint),
		"revocation_endpoint":           block.Value("<url>", &c.RevocationEndpoint),

		"client_id":     block.Value("<id>", &c.ClientID),
		"client_secret": secretOption(c),
		"client_auth":   clientAuthOption(d, c),

		"grant":        grantOption(d, c),
		"scope":        scopeOption(c),
		"audience":     block.Values("<audience>...", &c.Audience),
		"resource":     block.Values("<uri>...", &c.Resource),
		"token_param":  block.Pair(&c.TokenParam, block.AsWritten),
		"token_header": block.Pair(&c.TokenHeader, textproto.CanonicalMIMEHeaderKey),

		"inject":        injectOption(c),
		"keep_existing": block.Flag(&c.KeepExisting),

		"account":      block.Value("<placeholder>", &c.Account),
		"max_accounts": maxAccountsOption(c),

		"share":      block.Flag(&c.Share),
		"keep_alive": block.Value("<duration>|off", &c.KeepAlive),
		"expose":     block.Values("<member>...", &c.Expose),

		"dpop":          dpopOption(c),
		"upstream_base": block.Value("<url>", &c.UpstreamBase),

		"refresh_ahead":    block.Value("<percent|duration>", &c.RefreshAhead),
		"default_lifetime": block.Duration(&c.DefaultLifetime),
		"timeout":          block.Duration(&c.Timeout),
		"on_error":         block.Value("reject|pass", &c.OnError),
		"replay":           replayOption(d, c),

		"transport":  transportOption(d, c),
		"allow_http": block.Flag(&c.AllowHTTP),
	}
}

// secretOption also takes a secret that is empty, if that is written out.
func secretOption(c *config.Client) block.Option {
	return block.Option{Usage: "<secret>", Min: 1, Max: 1, MayBeEmpty: true, Set: func(args []string) error {
		c.ClientSecret = new(config.Credential(args[0]))
		return nil
	}}
}

func clientAuthOption(d *caddyfile.Dispenser, c *config.Client) block.Option {
	a := new(config.ClientAuth)
	return block.Option{
		Usage: "<method> [{ ... }]", Min: 1, Max: -1,
		Set: func(args []string) error {
			c.ClientAuth = a
			a.Method = args[0]
			options, err := config.AuthOptions(a.Method)
			switch {
			case err != nil:
				return err
			case config.TakesFile(a.Method):
				if len(args) != 2 {
					return errors.New("assertion_file needs one file: write 'client_auth assertion_file <file>'")
				}
				a.File = args[1]
			case len(args) > 1 && options == nil:
				return fmt.Errorf("%s takes no value: write 'client_auth %[1]s'", a.Method)
			case len(args) > 1:
				return fmt.Errorf("%s takes no value: write its options in a block", a.Method)
			}
			return nil
		},
		Block: func() error {
			names, _ := config.AuthOptions(a.Method)
			if names == nil {
				return block.Refuse(d, "client_auth %s takes no block: remove the block", a.Method)
			}
			_, err := block.Read(d, "client_auth "+a.Method, only(names, map[string]block.Option{
				"key":         block.Value("<file|placeholder>", &a.Key),
				"key_id":      block.Value("<kid>", &a.KeyID),
				"certificate": block.Value("<file>", &a.Certificate),
				"algorithm":   block.Value("<alg>", &a.Algorithm),
				"x5c":         block.Flag(&a.X5C),
				"audience":    block.Value("<aud>", &a.Audience),
				"claim":       block.Pair(&a.Claim, block.AsWritten),
				"lifetime":    block.Duration(&a.Lifetime),
			}))
			return err
		},
	}
}

func grantOption(d *caddyfile.Dispenser, c *config.Client) block.Option {
	g := new(config.Grant)
	return block.Option{
		Usage: "<type> [{ ... }]", Min: 1, Max: 1,
		Set: func(args []string) error {
			c.Grant = g
			g.Type = args[0]
			return config.CheckGrantType(g.Type)
		},
		Block: func() error {
			names := config.GrantOptions(g.Type)
			if names == nil {
				return block.Refuse(d, "grant %s takes no block: write further form fields as 'token_param <name> <value>'", g.Type)
			}
			_, err := block.Read(d, "grant "+g.Type, only(names, map[string]block.Option{
				"authorization_param": block.Pair(&g.AuthorizationParam, block.AsWritten),
				"refresh_token":       block.Value("<placeholder>", &g.RefreshToken),

				"assertion":       block.Value("<placeholder>", &g.Assertion),
				"service_account": block.Value("<file>", &g.ServiceAccount),
				"key":             block.Value("<file|placeholder>", &g.Key),
				"key_id":          block.Value("<kid>", &g.KeyID),
				"algorithm":       block.Value("<alg>", &g.Algorithm),
				"issuer":          block.Value("<iss>", &g.Issuer),
				"subject":         block.Value("<sub>", &g.Subject),
				"audience":        block.Value("<aud>", &g.Audience),
				"claim":           block.Pair(&g.Claim, block.AsWritten),
				"lifetime":        block.Duration(&g.Lifetime),

				"subject_token":        block.Value("<placeholder>", &g.SubjectToken),
				"subject_token_type":   block.Value("<type>", &g.SubjectTokenType),
				"actor_token":          block.Value("<placeholder>", &g.ActorToken),
				"actor_token_type":     block.Value("<type>", &g.ActorTokenType),
				"requested_token_type": block.Value("<type>", &g.RequestedTokenType),
			}))
			return err
		},
	}
}

// only keeps the options that go with a method or grant.
func only(names []string, options map[string]block.Option) map[string]block.Option {
	maps.DeleteFunc(options, func(name string, _ block.Option) bool { return !slices.Contains(names, name) })
	return options
}

// scopeOption also takes several scopes in one quoted value.
func scopeOption(c *config.Client) block.Option {
	o := block.Values("<scope>...", &c.Scope)
	o.Set = func(args []string) error {
		for _, arg := range args {
			c.Scope = append(c.Scope, strings.Fields(arg)...)
		}
		return nil
	}
	return o
}

// injectOption leaves it to the client's check what goes together.
func injectOption(c *config.Client) block.Option {
	return block.Option{Usage: config.InjectUsage, Min: 1, Max: 3, Set: func(args []string) error {
		c.Inject = &config.Inject{In: args[0]}
		if len(args) > 1 {
			c.Inject.Name = args[1]
		}
		if len(args) > 2 {
			c.Inject.Scheme = args[2]
		}
		return nil
	}}
}

func maxAccountsOption(c *config.Client) block.Option {
	return block.Option{Usage: "<n>", Min: 1, Max: 1, Set: func(args []string) error {
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a number of accounts: write one such as 10000", args[0])
		}
		c.MaxAccounts = n
		return nil
	}}
}

func dpopOption(c *config.Client) block.Option {
	return block.Option{Usage: "[<key file>]", Max: 1, Set: func(args []string) error {
		c.DPoP = new(config.DPoP)
		if len(args) == 1 {
			c.DPoP.Key = config.Credential(args[0])
		}
		return nil
	}}
}

func replayOption(d *caddyfile.Dispenser, c *config.Client) block.Option {
	const usage = "off | { status <code>... body_limit <size> }"
	r := new(config.Replay)
	return block.Option{
		Usage: usage, Max: 1,
		Set: func(args []string) error {
			c.Replay = r
			if r.Off = len(args) == 1; r.Off && args[0] != "off" {
				return fmt.Errorf("unexpected %q: write 'replay %s'", args[0], usage)
			}
			return nil
		},
		Block: func() error {
			if r.Off {
				return block.Refuse(d, "replay off takes no block: remove 'off' or the block")
			}
			lines, err := block.Read(d, "replay", map[string]block.Option{"status": statusOption(r), "body_limit": bodyLimitOption(r)})
			if err == nil && len(lines) == 0 {
				err = d.Errf("replay has neither 'off' nor a block: write 'replay %s'", usage)
			}
			return err
		},
	}
}

func statusOption(r *config.Replay) block.Option {
	return block.Option{Usage: "<code>...", Min: 1, Max: -1, Repeats: true, Set: func(args []string) error {
		for _, arg := range args {
			code, err := strconv.Atoi(arg)
			if err != nil {
				return fmt.Errorf("%q is not a status code: write numbers with spaces between, such as 401 403", arg)
			}
			r.Status = append(r.Status, code)
		}
		return nil
	}}
}

func bodyLimitOption(r *config.Replay) block.Option {
	return block.Option{Usage: "<size>", Min: 1, Max: 1, Set: func(args []string) error {
		size, err := humanize.ParseBytes(args[0])
		if err != nil || size > math.MaxInt64 {
			return fmt.Errorf("%q is not a size: write one such as 64KiB, or 0", args[0])
		}
		limit := int64(size)
		r.BodyLimit = &limit
		return nil
	}}
}

// transportOption takes the block as reverse_proxy takes its own.
func transportOption(d *caddyfile.Dispenser, c *config.Client) block.Option {
	return block.Option{
		Usage: "http { ... }", Min: 1, Max: 1,
		Set: func(args []string) error {
			if args[0] != "http" {
				return fmt.Errorf("unexpected %q: write 'transport http { ... }' with the options of reverse_proxy's http transport", args[0])
			}
			return nil
		},
		Block: func() error {
			module, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.transport.http")
			if err != nil {
				return err
			}
			c.TransportRaw = caddyconfig.JSONModuleObject(module, "protocol", "http", nil)
			return nil
		},
	}
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
