package upstreamoauth2

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/textproto"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
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
	err := handler.UnmarshalCaddyfile(h.Dispenser)
	return handler, err
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
//			lifetime    <duration>
//		}]
//		client_auth      private_key_jwt {
//			key         <file|placeholder>
//			key_id      <kid>
//			certificate <file>
//			algorithm   <alg>
//			audience    <aud>
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
	d.Next() // the directive
	if d.NextArg() {
		h.Name = d.Val()
	}
	if d.NextArg() {
		return d.Errf("unexpected %q: write '%s [<matcher>] [<name>] { ... }'", d.Val(), directive)
	}
	lines, err := parseClient(d, &h.Client)
	if err != nil {
		return err
	}
	if len(lines.options) > 0 || atBlockEnd(d) { // with an empty block, too
		return lines.check(&h.Client)
	}
	if h.Name == "" {
		return d.Errf("%s needs a block that defines the client, or the name of one that is defined under the global option %[1]s", directive)
	}
	return nil
}

// parseGlobalOption reads the global option. Syntax:
//
//	upstream_oauth2 {
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
	app := App{Clients: make(map[string]*Client)}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "client" {
			return nil, d.Errf("unknown option %q: clients are written as 'client <name> { ... }'", d.Val())
		}
		args := d.RemainingArgs()
		if len(args) != 1 {
			return nil, d.Err("write 'client <name> { ... }'")
		}
		name := args[0]
		if _, ok := app.Clients[name]; ok {
			return nil, d.Errf("client %q is defined twice: remove one, or give it another name", name)
		}
		client := new(Client)
		lines, err := parseClient(d, client)
		if err != nil {
			return nil, err
		}
		if err := lines.check(client); err != nil {
			return nil, err
		}
		app.Clients[name] = client
	}
	return httpcaddyfile.App{Name: directive, Value: caddyconfig.JSON(app, nil)}, nil
}

// clientLines remembers where a client and each of its options stand.
type clientLines struct {
	start   line
	options map[string]line
}

type line struct {
	file   string
	number int
}

func lineOf(d *caddyfile.Dispenser) line { return line{d.File(), d.Line()} }

// errorf is as the Dispenser's, for a line that has been read already.
func (l line) errorf(format string, args ...any) error {
	return fmt.Errorf("%w, at %s:%d", fmt.Errorf(format, args...), l.file, l.number)
}

// check looks at the client as a whole. Its error points at the option it is
// about, or at the client's first line if that option is missing.
func (l clientLines) check(client *Client) error {
	err := client.check()
	if err == nil {
		return nil
	}
	at := l.start
	if e, ok := errors.AsType[*optionError](err); ok {
		if where, ok := l.options[e.option]; ok {
			at = where
		}
	}
	return at.errorf("%s: %w", directive, err)
}

// option is one line of a client's block.
type option struct {
	usage string
	parse func(d *caddyfile.Dispenser, c *Client, args []string) error

	min, max int  // number of arguments; max -1 is any
	repeats  bool // may be written on several lines
	block    bool // may have a block, which parse reads
}

// options are all lines of a client's block.
var options = map[string]option{
	"issuer":         {usage: "<url>", min: 1, max: 1, parse: text(func(c *Client) *string { return &c.Issuer })},
	"token_endpoint": {usage: "<url>", min: 1, max: 1, parse: text(func(c *Client) *string { return &c.TokenEndpoint })},
	"client_id":      {usage: "<id>", min: 1, max: 1, parse: text(func(c *Client) *string { return &c.ClientID })},
	"client_secret":  {usage: "<secret>", min: 1, max: 1, parse: parseClientSecret},
	"client_auth":    {usage: "<method> [{ ... }]", min: 1, max: 2, block: true, parse: parseClientAuth},

	"grant":        {usage: "<type> [{ ... }]", min: 1, max: 1, block: true, parse: parseGrant},
	"scope":        {usage: "<scope>...", min: 1, max: -1, repeats: true, parse: parseScope},
	"audience":     {usage: "<audience>...", min: 1, max: -1, repeats: true, parse: many(func(c *Client) *[]string { return &c.Audience })},
	"resource":     {usage: "<uri>...", min: 1, max: -1, repeats: true, parse: many(func(c *Client) *[]string { return &c.Resource })},
	"token_param":  {usage: "<name> <value>", min: 2, max: 2, repeats: true, parse: pair(func(c *Client) *map[string]Credential { return &c.TokenParam }, asWritten)},
	"token_header": {usage: "<name> <value>", min: 2, max: 2, repeats: true, parse: pair(func(c *Client) *map[string]Credential { return &c.TokenHeader }, textproto.CanonicalMIMEHeaderKey)},

	"inject":        {usage: injectUsage, min: 1, max: 3, parse: parseInject},
	"keep_existing": {parse: flag(func(c *Client) *bool { return &c.KeepExisting })},

	"account":       {usage: "<placeholder>", min: 1, max: 1, parse: text(func(c *Client) *string { return &c.Account })},
	"max_accounts":  {usage: "<n>", min: 1, max: 1, parse: parseMaxAccounts},
	"dpop":          {usage: "[<key file>]", max: 1, parse: parseDPoP},
	"upstream_base": {usage: "<url>", min: 1, max: 1, parse: text(func(c *Client) *string { return &c.UpstreamBase })},

	"refresh_ahead":    {usage: "<percent|duration>", min: 1, max: 1, parse: text(func(c *Client) *string { return &c.RefreshAhead })},
	"default_lifetime": {usage: "<duration>", min: 1, max: 1, parse: duration(func(c *Client) *caddy.Duration { return &c.DefaultLifetime })},
	"timeout":          {usage: "<duration>", min: 1, max: 1, parse: duration(func(c *Client) *caddy.Duration { return &c.Timeout })},
	"on_error":         {usage: "reject|pass", min: 1, max: 1, parse: text(func(c *Client) *string { return &c.OnError })},
	"replay":           {usage: replayUsage, max: 1, block: true, parse: parseReplay},

	"transport":  {usage: "http { ... }", min: 1, max: 1},
	"allow_http": {parse: flag(func(c *Client) *bool { return &c.AllowHTTP })},
}

const injectUsage = "header [<name> [<scheme>]] | query <name>"

const replayUsage = "off | { status <code>... body_limit <size> }"

// otherNames are what the same options are called elsewhere.
var otherNames = map[string]string{
	"token_url":       "token_endpoint",
	"endpoint":        "token_endpoint",
	"secret":          "client_secret",
	"auth_style":      "client_auth",
	"auth_method":     "client_auth",
	"grant_type":      "grant",
	"scopes":          "scope",
	"audiences":       "audience",
	"endpoint_params": "token_param",
	"params":          "token_param",
	"header":          "inject",
	"ttl":             "default_lifetime",
}

// parseClient reads a client's block, if there is one.
func parseClient(d *caddyfile.Dispenser, c *Client) (clientLines, error) {
	lines := clientLines{start: lineOf(d), options: make(map[string]line)}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		o, ok := options[name]
		if !ok {
			return lines, unknownOption(d, name)
		}
		if first, again := lines.options[name]; again && !o.repeats {
			return lines, d.Errf("%s is given twice, first in line %d: remove one", name, first.number)
		}
		lines.options[name] = lineOf(d)

		if name == "transport" { // the module reads its own arguments and block
			if err := parseTransport(d, c); err != nil {
				return lines, err
			}
			continue
		}
		args := d.RemainingArgs()
		if len(args) < o.min || o.max >= 0 && len(args) > o.max {
			return lines, d.Errf("%s does not go with %d arguments: write '%s'", name, len(args), strings.TrimSpace(name+" "+o.usage))
		}
		if slices.Contains(args, "") {
			return lines, d.Errf("%s has an empty value: write '%s', or remove the line", name, strings.TrimSpace(name+" "+o.usage))
		}
		if err := o.parse(d, c, args); err != nil {
			return lines, err
		}
		if nesting := d.Nesting(); d.NextBlock(nesting) || atBlockEnd(d) && !o.block {
			return lines, lines.options[name].errorf("%s takes no block here: write '%s'", name, strings.TrimSpace(name+" "+o.usage))
		}
	}
	return lines, nil
}

// atBlockEnd reports whether the last token read closes a block.
func atBlockEnd(d *caddyfile.Dispenser) bool {
	token := d.Token()
	return token.Text == "}" && !token.Quoted()
}

func unknownOption(d *caddyfile.Dispenser, name string) error {
	if known, ok := otherNames[name]; ok {
		return d.Errf("unknown option %q: write '%s %s'", name, known, options[known].usage)
	}
	return d.Errf("unknown option %q: there are %s", name, strings.Join(sortedKeys(options), ", "))
}

// text reads an option with one value.
func text(field func(*Client) *string) func(*caddyfile.Dispenser, *Client, []string) error {
	return func(_ *caddyfile.Dispenser, c *Client, args []string) error {
		*field(c) = args[0]
		return nil
	}
}

// many reads an option with any number of values.
func many(field func(*Client) *[]string) func(*caddyfile.Dispenser, *Client, []string) error {
	return func(_ *caddyfile.Dispenser, c *Client, args []string) error {
		*field(c) = append(*field(c), args...)
		return nil
	}
}

// flag reads an option without a value.
func flag(field func(*Client) *bool) func(*caddyfile.Dispenser, *Client, []string) error {
	return func(_ *caddyfile.Dispenser, c *Client, _ []string) error {
		*field(c) = true
		return nil
	}
}

// pair reads an option that sets one of several names.
func pair(field func(*Client) *map[string]Credential, spell func(string) string) func(*caddyfile.Dispenser, *Client, []string) error {
	return func(d *caddyfile.Dispenser, c *Client, args []string) error {
		m := field(c)
		if *m == nil {
			*m = make(map[string]Credential)
		}
		name := spell(args[0])
		if _, ok := (*m)[name]; ok {
			return d.Errf("%s is given twice: a token request repeats no field (RFC 6749 section 3.2)", args[0])
		}
		(*m)[name] = Credential(args[1])
		return nil
	}
}

func asWritten(name string) string { return name }

func duration(field func(*Client) *caddy.Duration) func(*caddyfile.Dispenser, *Client, []string) error {
	return func(d *caddyfile.Dispenser, c *Client, args []string) error {
		value, err := parseDuration(d, args[0])
		*field(c) = value
		return err
	}
}

func parseDuration(d *caddyfile.Dispenser, arg string) (caddy.Duration, error) {
	value, err := caddy.ParseDuration(arg)
	if err != nil || value <= 0 {
		return 0, d.Errf("%q is not a duration longer than zero: write one such as 30s, 5m or 1h", arg)
	}
	return caddy.Duration(value), nil
}

func parseClientSecret(_ *caddyfile.Dispenser, c *Client, args []string) error {
	c.ClientSecret = Credential(args[0])
	return nil
}

func parseClientAuth(d *caddyfile.Dispenser, c *Client, args []string) error {
	a := &ClientAuth{Method: args[0]}
	c.ClientAuth = a
	switch {
	case authMethod(a.Method) == assertionFile:
		if len(args) != 2 {
			return d.Err("write 'client_auth assertion_file <file>'")
		}
		a.File = args[1]
		return nil
	case len(args) > 1:
		return d.Errf("client_auth %s takes no arguments: write its options in a block", a.Method)
	case authOptions[authMethod(a.Method)].block == nil:
		return nil // its block, if any, is refused
	}
	return parseBlock(d, "client_auth "+a.Method, authOptions[authMethod(a.Method)].block, map[string]func(args []string) error{
		"key":         credential(&a.Key),
		"key_id":      word(&a.KeyID),
		"certificate": word(&a.Certificate),
		"algorithm":   word(&a.Algorithm),
		"audience":    word(&a.Audience),
		"lifetime":    lifetime(d, &a.Lifetime),
	})
}

func parseGrant(d *caddyfile.Dispenser, c *Client, args []string) error {
	g := &Grant{Type: args[0]}
	c.Grant = g
	return parseBlock(d, "grant "+g.Type, grantOptions[g.Type], map[string]func(args []string) error{
		"refresh_token": credential(&g.RefreshToken),

		"assertion":       credential(&g.Assertion),
		"service_account": credential(&g.ServiceAccount),
		"key":             credential(&g.Key),
		"key_id":          word(&g.KeyID),
		"algorithm":       word(&g.Algorithm),
		"issuer":          word(&g.Issuer),
		"subject":         word(&g.Subject),
		"audience":        word(&g.Audience),
		"lifetime":        lifetime(d, &g.Lifetime),
		"claim": func(args []string) error {
			if len(args) != 2 {
				return d.Err("write 'claim <name> <value>'")
			}
			if g.Claim == nil {
				g.Claim = make(map[string]string)
			}
			if _, ok := g.Claim[args[0]]; ok {
				return d.Errf("the claim %s is given twice: remove one", args[0])
			}
			g.Claim[args[0]] = args[1]
			return nil
		},

		"subject_token":        credential(&g.SubjectToken),
		"subject_token_type":   word(&g.SubjectTokenType),
		"actor_token":          credential(&g.ActorToken),
		"actor_token_type":     word(&g.ActorTokenType),
		"requested_token_type": word(&g.RequestedTokenType),
	})
}

// parseBlock reads the block behind a line, which takes the named options. Each
// has one value and comes once, but for claim.
func parseBlock(d *caddyfile.Dispenser, owner string, names []string, set map[string]func(args []string) error) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name, args := d.Val(), d.RemainingArgs()
		switch {
		case len(names) == 0:
			return d.Errf("%s has no option %q: write further form fields as 'token_param <name> <value>'", owner, name)
		case !slices.Contains(names, name):
			return d.Errf("%s has no option %q: write %s", owner, name, strings.Join(names, ", "))
		case name == "claim":
		case seen[name]:
			return d.Errf("%s is given twice: remove one", name)
		case len(args) != 1 || args[0] == "":
			return d.Errf("%s takes one value: write '%[1]s <value>'", name)
		}
		seen[name] = true
		if err := set[name](args); err != nil {
			return err
		}
	}
	return nil
}

func word(field *string) func([]string) error {
	return func(args []string) error {
		*field = args[0]
		return nil
	}
}

func credential(field *Credential) func([]string) error {
	return func(args []string) error {
		*field = Credential(args[0])
		return nil
	}
}

func lifetime(d *caddyfile.Dispenser, field *caddy.Duration) func([]string) error {
	return func(args []string) error {
		value, err := parseDuration(d, args[0])
		*field = value
		return err
	}
}

func parseMaxAccounts(d *caddyfile.Dispenser, c *Client, args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 {
		return d.Errf("%q is not a number of accounts: write one such as 10000", args[0])
	}
	c.MaxAccounts = n
	return nil
}

func parseDPoP(_ *caddyfile.Dispenser, c *Client, args []string) error {
	c.DPoP = new(DPoP)
	if len(args) == 1 {
		c.DPoP.Key = Credential(args[0])
	}
	return nil
}

// parseScope also takes several scopes in one quoted argument.
func parseScope(_ *caddyfile.Dispenser, c *Client, args []string) error {
	for _, arg := range args {
		c.Scope = append(c.Scope, strings.Fields(arg)...)
	}
	return nil
}

func parseInject(d *caddyfile.Dispenser, c *Client, args []string) error {
	switch {
	case args[0] != injectHeader && args[0] != injectQuery,
		args[0] == injectQuery && len(args) != 2:
		return d.Errf("write 'inject %s'", injectUsage)
	}
	c.Inject = &Inject{In: args[0]}
	if len(args) > 1 {
		c.Inject.Name = args[1]
	}
	if len(args) > 2 {
		c.Inject.Scheme = args[2]
	}
	return nil
}

func parseReplay(d *caddyfile.Dispenser, c *Client, args []string) error {
	c.Replay = new(Replay)
	if len(args) == 1 {
		if args[0] != "off" {
			return d.Errf("write 'replay %s'", replayUsage)
		}
		c.Replay.Off = true
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name, args := d.Val(), d.RemainingArgs()
		switch {
		case name == "status" && len(args) > 0:
			for _, arg := range args {
				code, err := strconv.Atoi(arg)
				if err != nil {
					return d.Errf("%q is not a status code: write numbers, such as 401", arg)
				}
				c.Replay.Status = append(c.Replay.Status, code)
			}
		case name == "body_limit" && len(args) == 1:
			if c.Replay.BodyLimit != nil {
				return d.Err("body_limit is given twice: remove one")
			}
			size, err := humanize.ParseBytes(args[0])
			if err != nil || size > math.MaxInt64 {
				return d.Errf("%q is not a size: write one such as 64KiB, or 0", args[0])
			}
			limit := int64(size)
			c.Replay.BodyLimit = &limit
		default:
			return d.Errf("unexpected %q: write 'replay %s'", name, replayUsage)
		}
	}
	if reflect.ValueOf(*c.Replay).IsZero() {
		return d.Errf("write 'replay %s'", replayUsage)
	}
	return nil
}

// parseTransport reads the line as reverse_proxy reads its own.
func parseTransport(d *caddyfile.Dispenser, c *Client) error {
	const usage = "write 'transport http { ... }' with the options of reverse_proxy's http transport"
	if !d.NextArg() || d.Val() != "http" {
		return d.Err(usage)
	}
	if d.NextArg() {
		return d.Errf("unexpected %q: "+usage, d.Val())
	}
	module, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.transport.http")
	if err != nil {
		return err
	}
	transport, ok := module.(http.RoundTripper)
	if !ok {
		return d.Errf("%T cannot send a token request", module)
	}
	c.TransportRaw = caddyconfig.JSONModuleObject(transport, "protocol", "http", nil)
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
