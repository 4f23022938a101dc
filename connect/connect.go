// Package connect is the page on which people connect the clients for which somebody
// has to sign in: the Caddy module http.handlers.upstream_oauth2_connect.
//
//	gateway.example.com {
//		basic_auth {
//			anna $2a$14$...
//		}
//		upstream_oauth2_connect {
//			base_url https://gateway.example.com/connect
//		}
//		upstream_oauth2 partner
//		reverse_proxy https://api.partner.example
//	}
//
// It is a face: how a sign-in works is known to the App, and what is shown, to whom,
// and which forms are believed, is known here. Nothing of a sign-in under way is kept
// on this side. All of it is in a sealed cookie of the browser, so that the way back
// may end at another instance.
package connect

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler serves the page on which people sign in for the clients of the app
// upstream_oauth2, see how their connections are, and end them. Authentication has to
// stand before it. What is not below its address goes to the next handler.
type Handler struct {
	// Where the page is, as browsers see it: https://gateway.example.com/connect, say.
	// Each client's redirect URI, which its authorization server has to know, is
	// <base_url>/<client>/callback. It must use https, unless its host is a loopback
	// one. Required.
	BaseURL string `json:"base_url,omitempty"`

	// Who is looking, as a placeholder. A request for which it is empty is refused;
	// the word "anyone" lets everybody in. Default: {http.auth.user.id}.
	User string `json:"user,omitempty"`

	// The names of the clients to show. Default: all of grant authorization_code.
	Clients []string `json:"clients,omitempty"`

	app    App
	base   address
	page   Page
	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.upstream_oauth2_connect",
		New: func() caddy.Module { return new(Handler) },
	}
}

const (
	defaultUser = "{http.auth.user.id}"
	anyone      = "anyone"
)

// Provision checks the config and tells the app of the page. It makes no request.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if err := h.check(); err != nil {
		return err
	}
	h.base, _ = parseAddress(h.BaseURL) // checked
	if h.User == "" {
		h.User = defaultUser
	}
	app, err := ctx.App("upstream_oauth2")
	if err != nil {
		return err
	}
	h.app = app.(App)
	h.page = Page{Address: h.base.url, Clients: h.Clients}
	return h.app.Mount(h.page)
}

// ServeHTTP ends the requests that are for the page. A cookie of the page is nobody
// else's business, so other requests go on without it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	original := r.URL
	if o, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		original = o.URL // a rewrite does not move the page
	}
	rest, ok := h.base.below(r.Host, original.Path)
	if !ok {
		removeCookies(r)
		return next.ServeHTTP(w, r)
	}
	v := &visit{Handler: h, w: w, r: r, repl: r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)}
	return v.serve(original, rest)
}

// visit is one request for the page.
type visit struct {
	*Handler

	w    http.ResponseWriter
	r    *http.Request
	repl *caddy.Replacer

	user    string
	session session
}

// serve answers the request; rest is its path below the base.
func (v *visit) serve(original *url.URL, rest string) error {
	if v.r.Method != http.MethodPost && v.r.Method != http.MethodGet && v.r.Method != http.MethodHead {
		v.w.Header().Set("Allow", "GET, HEAD, POST")
		return v.refuse(badMethod)
	}
	if v.User != anyone {
		if v.user = strings.TrimSpace(v.repl.ReplaceAll(v.User, "")); v.user == "" {
			return v.refuse(nobody)
		}
	}
	clients := v.app.ClientsOf(v.page)
	if len(clients) > 0 { // or there is no form, and perhaps no key
		if err := v.openSession(); err != nil {
			return v.refuse(v.unsealed(err))
		}
	}
	posts := v.r.Method == http.MethodPost
	switch {
	case rest == "" && !posts:
		return v.goTo(v.base.path + "/")
	case rest == "/" && !posts:
		return v.showClients(clients, original.Query().Get("client"))
	}

	name, action, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	i := slices.IndexFunc(clients, func(c Client) bool { return c.Name == name })
	if i < 0 {
		return v.refuse(notFound)
	}
	conn, err := connectionOf(clients[i], v.repl)
	if err != nil {
		return v.refuse(noAccount(name))
	}
	switch {
	case action == "connect" && posts:
		return v.connect(conn)
	case action == "callback" && !posts:
		return v.callback(conn, original.RawQuery)
	case action == "disconnect" && posts:
		return v.disconnect(conn)
	case action == "disconnect":
		return v.askToDisconnect(conn)
	case action == "connect": // a login in between made a GET of it
		return v.goTo(v.page.SignInURL(name))
	}
	return v.refuse(notFound)
}

// goTo sends the browser to another page: with a GET, whatever it came with (RFC 9700
// section 4.12).
func (v *visit) goTo(address string) error {
	v.setHeaders(nil)
	v.w.Header().Set("Location", address)
	v.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// check finds mistakes in the config.
func (h *Handler) check() error {
	if h.BaseURL == "" {
		return &optionError{"base_url", "is missing: write the page's address as browsers see it, such as https://gateway.example.com/connect"}
	}
	if _, err := parseAddress(h.BaseURL); err != nil {
		return &optionError{"base_url", err.Error()}
	}
	if h.User != "" && h.User != anyone && !strings.Contains(h.User, "{") {
		return &optionError{"user", fmt.Sprintf("%q is the same for everybody: write a placeholder such as %s, or 'anyone'", h.User, defaultUser)}
	}
	seen := make(map[string]bool)
	for _, name := range h.Clients {
		if err := CheckName(name); err != nil {
			return err
		}
		if seen[name] {
			return fmt.Errorf("client %q is named twice: remove one", name)
		}
		seen[name] = true
	}
	return nil
}

// optionError is a mistake in one option.
type optionError struct {
	option, text string
}

func (e *optionError) Error() string { return e.option + ": " + e.text }

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
