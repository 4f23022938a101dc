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
)

const directive = "upstream_oauth2"

func init() {
	httpcaddyfile.RegisterHandlerDirective(directive, parseDirective)
	httpcaddyfile.RegisterGlobalOption(directive, parseGlobalOption)
	// Behind forward_auth, whose server must not see the token, and ahead of
	// handle and route, which may hold the reverse_proxy.
	httpcaddyfile.RegisterDirectiveOrder(directive, httpcaddyfile.After, "request_header")
}

func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	block, err := handler.read(h.Dispenser)
	if err != nil {
		return nil, err
	}
	app, inPlace := globalApp(h), clientsInPlace(h)
	global, defined := app.Clients[handler.Name]
	before, known := inPlace[handler.Name]

	mistake := handler.Check()
	line := block.lines.of(mistake, block.start)
	switch {
	case !block.defines && defined:
	case !block.defines && known:
		return nil, line.Errf("client %q is defined in the block at %s:%d alone: move its lines to 'client %[1]s { ... }' under the global option %[4]s", handler.Name, before.start.File(), before.start.Line(), directive)
	case !block.defines:
		return nil, line.WrapErr(app.noClient(handler.Name))
	case mistake != nil && (line != block.start || !defined):
		return nil, line.WrapErr(mistake)
	case defined && !handler.Client.Equal(*global):
		return nil, line.Errf("client %q is defined under the global option, and not like here: refer to it without a block, or give this one another name", handler.Name)
	case known && !handler.Client.Equal(before.client):
		return nil, line.Errf("client %q is defined at %s:%d already, and not like here: define it once, under the global option %s, and refer to it by '%[4]s %[1]s'", handler.Name, before.start.File(), before.start.Line(), directive)
	case handler.Name != "":
		inPlace[handler.Name] = clientInPlace{block.start, handler.Client}
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
	block, err := h.read(d)
	if err != nil || !block.defines {
		return err
	}
	return checkClient(&h.Client, block.start, block.lines)
}

// clientBlock is the block of a directive.
type clientBlock struct {
	start   *caddyfile.Dispenser // the directive
	lines   optionLines
	defines bool // a client, rather than referring to one
}

// read reads the directive, and leaves it to others to check the client as a whole.
func (h *Handler) read(d *caddyfile.Dispenser) (clientBlock, error) {
	d.Next() // the directive
	block := clientBlock{start: here(d)}
	if d.NextArg() {
		if h.Name = d.Val(); isBlank(h.Name) {
			return block, d.Errf("the client's name is empty: write '%s [<matcher>] [<name>] { ... }'", directive)
		}
	}
	if d.NextArg() {
		return block, d.Errf("unexpected %q: write '%s [<matcher>] [<name>] { ... }'", d.Val(), directive)
	}
	var err error
	if block.lines, err = readOptions(d, directive, clientOptions(d, &h.Client)); err != nil {
		return block, err
	}
	block.defines = len(block.lines) > 0 || atBlockEnd(d) // with an empty block, too
	if !block.defines && h.Name == "" {
		return block, d.Errf("%s needs a block that defines the client, or the name of one that is defined under the global option %[1]s", directive)
	}
	return block, nil
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
	options := map[string]option{
		"encryption_key":          value("<placeholder>", &app.EncryptionKey),
		"previous_encryption_key": value("<placeholder>", &app.PreviousEncryptionKey),
		"storage":                 storageOption(d, &app),
		"client":                  clientOption(d, app.Clients),
	}
	if _, err := readOptions(d, "the global option "+directive, options); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: directive, Value: caddyconfig.JSON(app, nil)}, nil
}

// storageOption takes the module, its arguments and its block as Caddy's own global
// option does.
func storageOption(d *caddyfile.Dispenser, app *App) option {
	var args []string
	return option{
		usage: "<module> [{ ... }]", min: 1, max: -1,
		set: func(given []string) error {
			args = given
			return nil
		},
		block: func() error {
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
func clientOption(d *caddyfile.Dispenser, clients map[string]*config.Client) option {
	var client *config.Client
	return option{
		usage: "<name> { ... }", min: 1, max: 1, repeats: true,
		set: func(args []string) error {
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
		block: func() error {
			start := here(d)
			lines, err := readOptions(d, "client", clientOptions(d, client))
			if err != nil {
				return err
			}
			return checkClient(client, start, lines)
		},
	}
}

// checkClient looks at a client as a whole. Its error points at the line it is
// about, or at the client's first line if that one is missing.
func checkClient(client *config.Client, start *caddyfile.Dispenser, lines optionLines) error {
	if err := client.Check(); err != nil {
		return lines.of(err, start).WrapErr(err)
	}
	return nil
}

// clientOptions are all lines of a client's block.
func clientOptions(d *caddyfile.Dispenser, c *config.Client) map[string]option {
	return map[string]option{
		"issuer":         value("<url>", &c.Issuer),
		"token_endpoint": value("<url>", &c.TokenEndpoint),

		"authorization_endpoint":        value("<url>", &c.AuthorizationEndpoint),
		"device_authorization_endpoint": value("<url>", &c.DeviceAuthorizationEndpoint),
		"revocation_endpoint":           value("<url>", &c.RevocationEndpoint),

		"client_id":     value("<id>", &c.ClientID),
		"client_secret": secretOption(c),
		"client_auth":   clientAuthOption(d, c),

		"grant":        grantOption(d, c),
		"scope":        scopeOption(c),
		"audience":     values("<audience>...", &c.Audience),
		"resource":     values("<uri>...", &c.Resource),
		"token_param":  pair(&c.TokenParam, asWritten),
		"token_header": pair(&c.TokenHeader, textproto.CanonicalMIMEHeaderKey),

		"inject":        injectOption(c),
		"keep_existing": flag(&c.KeepExisting),

		"account":      value("<placeholder>", &c.Account),
		"max_accounts": maxAccountsOption(c),

		"share":      flag(&c.Share),
		"keep_alive": value("<duration>|off", &c.KeepAlive),
		"expose":     values("<member>...", &c.Expose),

		"dpop":          dpopOption(c),
		"upstream_base": value("<url>", &c.UpstreamBase),

		"refresh_ahead":    value("<percent|duration>", &c.RefreshAhead),
		"default_lifetime": duration(&c.DefaultLifetime),
		"timeout":          duration(&c.Timeout),
		"on_error":         value("reject|pass", &c.OnError),
		"replay":           replayOption(d, c),

		"transport":  transportOption(d, c),
		"allow_http": flag(&c.AllowHTTP),
	}
}

// secretOption also takes a secret that is empty, if that is written out.
func secretOption(c *config.Client) option {
	return option{usage: "<secret>", min: 1, max: 1, mayBeEmpty: true, set: func(args []string) error {
		c.ClientSecret = new(config.Credential(args[0]))
		return nil
	}}
}

func clientAuthOption(d *caddyfile.Dispenser, c *config.Client) option {
	a := new(config.ClientAuth)
	return option{
		usage: "<method> [{ ... }]", min: 1, max: -1,
		set: func(args []string) error {
			c.ClientAuth = a
			a.Method = args[0]
			block, err := config.AuthOptions(a.Method)
			switch {
			case err != nil:
				return err
			case config.TakesFile(a.Method):
				if len(args) != 2 {
					return errors.New("assertion_file needs one file: write 'client_auth assertion_file <file>'")
				}
				a.File = args[1]
			case len(args) > 1 && block == nil:
				return fmt.Errorf("%s takes no value: write 'client_auth %[1]s'", a.Method)
			case len(args) > 1:
				return fmt.Errorf("%s takes no value: write its options in a block", a.Method)
			}
			return nil
		},
		block: func() error {
			names, _ := config.AuthOptions(a.Method)
			if names == nil {
				return refuseBlock(d, "client_auth %s takes no block: remove the block", a.Method)
			}
			_, err := readOptions(d, "client_auth "+a.Method, only(names, map[string]option{
				"key":         value("<file|placeholder>", &a.Key),
				"key_id":      value("<kid>", &a.KeyID),
				"certificate": value("<file>", &a.Certificate),
				"algorithm":   value("<alg>", &a.Algorithm),
				"x5c":         flag(&a.X5C),
				"audience":    value("<aud>", &a.Audience),
				"claim":       pair(&a.Claim, asWritten),
				"lifetime":    duration(&a.Lifetime),
			}))
			return err
		},
	}
}

func grantOption(d *caddyfile.Dispenser, c *config.Client) option {
	g := new(config.Grant)
	return option{
		usage: "<type> [{ ... }]", min: 1, max: 1,
		set: func(args []string) error {
			c.Grant = g
			g.Type = args[0]
			return config.CheckGrantType(g.Type)
		},
		block: func() error {
			names := config.GrantOptions(g.Type)
			if names == nil {
				return refuseBlock(d, "grant %s takes no block: write further form fields as 'token_param <name> <value>'", g.Type)
			}
			_, err := readOptions(d, "grant "+g.Type, only(names, map[string]option{
				"authorization_param": pair(&g.AuthorizationParam, asWritten),
				"refresh_token":       value("<placeholder>", &g.RefreshToken),

				"assertion":       value("<placeholder>", &g.Assertion),
				"service_account": value("<file>", &g.ServiceAccount),
				"key":             value("<file|placeholder>", &g.Key),
				"key_id":          value("<kid>", &g.KeyID),
				"algorithm":       value("<alg>", &g.Algorithm),
				"issuer":          value("<iss>", &g.Issuer),
				"subject":         value("<sub>", &g.Subject),
				"audience":        value("<aud>", &g.Audience),
				"claim":           pair(&g.Claim, asWritten),
				"lifetime":        duration(&g.Lifetime),

				"subject_token":        value("<placeholder>", &g.SubjectToken),
				"subject_token_type":   value("<type>", &g.SubjectTokenType),
				"actor_token":          value("<placeholder>", &g.ActorToken),
				"actor_token_type":     value("<type>", &g.ActorTokenType),
				"requested_token_type": value("<type>", &g.RequestedTokenType),
			}))
			return err
		},
	}
}

// only keeps the options that go with a method or grant.
func only(names []string, options map[string]option) map[string]option {
	maps.DeleteFunc(options, func(name string, _ option) bool { return !slices.Contains(names, name) })
	return options
}

// scopeOption also takes several scopes in one quoted value.
func scopeOption(c *config.Client) option {
	o := values("<scope>...", &c.Scope)
	o.set = func(args []string) error {
		for _, arg := range args {
			c.Scope = append(c.Scope, strings.Fields(arg)...)
		}
		return nil
	}
	return o
}

// injectOption leaves it to the client's check what goes together.
func injectOption(c *config.Client) option {
	return option{usage: config.InjectUsage, min: 1, max: 3, set: func(args []string) error {
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

func maxAccountsOption(c *config.Client) option {
	return option{usage: "<n>", min: 1, max: 1, set: func(args []string) error {
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a number of accounts: write one such as 10000", args[0])
		}
		c.MaxAccounts = n
		return nil
	}}
}

func dpopOption(c *config.Client) option {
	return option{usage: "[<key file>]", max: 1, set: func(args []string) error {
		c.DPoP = new(config.DPoP)
		if len(args) == 1 {
			c.DPoP.Key = config.Credential(args[0])
		}
		return nil
	}}
}

func replayOption(d *caddyfile.Dispenser, c *config.Client) option {
	const usage = "off | { status <code>... body_limit <size> }"
	r := new(config.Replay)
	return option{
		usage: usage, max: 1,
		set: func(args []string) error {
			c.Replay = r
			if r.Off = len(args) == 1; r.Off && args[0] != "off" {
				return fmt.Errorf("unexpected %q: write 'replay %s'", args[0], usage)
			}
			return nil
		},
		block: func() error {
			if r.Off {
				return refuseBlock(d, "replay off takes no block: remove 'off' or the block")
			}
			lines, err := readOptions(d, "replay", map[string]option{"status": statusOption(r), "body_limit": bodyLimitOption(r)})
			if err == nil && len(lines) == 0 {
				err = d.Errf("replay has neither 'off' nor a block: write 'replay %s'", usage)
			}
			return err
		},
	}
}

func statusOption(r *config.Replay) option {
	return option{usage: "<code>...", min: 1, max: -1, repeats: true, set: func(args []string) error {
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

func bodyLimitOption(r *config.Replay) option {
	return option{usage: "<size>", min: 1, max: 1, set: func(args []string) error {
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
func transportOption(d *caddyfile.Dispenser, c *config.Client) option {
	return option{
		usage: "http { ... }", min: 1, max: 1,
		set: func(args []string) error {
			if args[0] != "http" {
				return fmt.Errorf("unexpected %q: write 'transport http { ... }' with the options of reverse_proxy's http transport", args[0])
			}
			return nil
		},
		block: func() error {
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
