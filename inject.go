package upstreamoauth2

import (
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/tokenendpoint"
)

// injector puts a token where the upstream looks for it, and nothing else: what
// the caller sent there is taken out first, under any spelling that an upstream
// may read as the same name.
type injector struct {
	name   string // header field in canonical form, or query parameter
	query  bool
	scheme string // before the token in a header field; "" for none
	byType bool   // the scheme comes from the token's type instead

	aliased bool // the name has a "-", which may be spelled otherwise

	latest atomic.Pointer[fieldValue]
}

// fieldValue is the header field value for a token, made once for each token.
type fieldValue struct {
	token *tokenendpoint.Token
	text  string
}

func newInjector(c Client) *injector {
	if c.Inject == nil {
		return &injector{name: "Authorization", byType: true}
	}
	if c.Inject.In == injectQuery {
		return &injector{name: c.Inject.Name, query: true}
	}
	in := &injector{name: textproto.CanonicalMIMEHeaderKey(c.Inject.Name), scheme: c.Inject.Scheme}
	if in.name == "" {
		in.name = "Authorization"
	}
	in.byType = in.name == "Authorization" && in.scheme == ""
	in.aliased = strings.Contains(in.name, "-")
	return in
}

// original is what a request was before a token was put on it.
type original struct {
	header     []string
	connection []string
	aliases    http.Header // nil if there were none
	rawQuery   string
	body       io.ReadCloser // nil unless the caller announced trailers
}

// put sets the token on the request, in place: placeholders are bound to the
// request, and a copy of its header would cost more than all the rest. The
// caller puts the original back when the next handler has returned, so that
// neither error routes nor later handlers see the token.
func (in *injector) put(r *http.Request, token *heldToken) original {
	before := in.take(r)
	if in.query {
		addQuery(r.URL, in.name, token.AccessToken.Reveal())
	} else {
		// A slice of its own: handlers such as request_header edit values in place.
		r.Header[in.name] = []string{in.text(token)}
	}
	return before
}

// take removes the caller's copies of the field.
func (in *injector) take(r *http.Request) original {
	if in.query {
		before := original{rawQuery: r.URL.RawQuery}
		removeQuery(r.URL, in.name)
		return before
	}
	before := original{header: r.Header[in.name], connection: r.Header["Connection"]}
	if before.header != nil {
		delete(r.Header, in.name)
	}
	if before.connection != nil {
		in.keepFromConnection(r.Header, before.connection)
	}
	if in.aliased {
		before.aliases = in.takeAliases(r.Header)
	}
	if r.Trailer != nil {
		before.body = r.Body
		r.Body = &trailerGuard{ReadCloser: r.Body, in: in, trailer: r.Trailer}
		in.takeAliases(r.Trailer)
	}
	return before
}

// putBack makes the request what it was before take or put.
func (in *injector) putBack(r *http.Request, before original) {
	if in.query {
		r.URL.RawQuery = before.rawQuery
		return
	}
	setOrDelete(r.Header, in.name, before.header)
	if before.connection != nil {
		r.Header["Connection"] = before.connection
	}
	for name, values := range before.aliases {
		r.Header[name] = values
	}
	if before.body != nil {
		r.Body = before.body
	}
}

// trailerGuard keeps the field out of the request's trailers, which an upstream
// may merge into the header. net/http fills them in at the end of the body.
type trailerGuard struct {
	io.ReadCloser
	in      *injector
	trailer http.Header
}

// Read implements io.Reader.
func (g *trailerGuard) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if err != nil {
		g.in.takeAliases(g.trailer)
	}
	return n, err
}

func setOrDelete(h http.Header, name string, values []string) {
	if values == nil {
		delete(h, name)
	} else {
		h[name] = values
	}
}

// present reports whether the request brings the field itself.
func (in *injector) present(r *http.Request) bool {
	if in.query {
		return r.URL.Query().Has(in.name)
	}
	return r.Header.Get(in.name) != ""
}

// text returns the header field value for the token.
func (in *injector) text(token *heldToken) string {
	if v := in.latest.Load(); v != nil && v.token == token.Token {
		return v.text
	}
	v := &fieldValue{token: token.Token, text: token.AccessToken.Reveal()}
	prefix := in.scheme
	if in.byType {
		prefix = scheme(token.Type)
	}
	if prefix != "" {
		v.text = prefix + " " + v.text
	}
	in.latest.Store(v)
	return v.text
}

// keepFromConnection takes the field's name out of the caller's Connection
// field. A proxy drops every field named there (RFC 9110 section 7.6.1), so a
// caller could strip the token and have the upstream answer 401.
func (in *injector) keepFromConnection(h http.Header, connection []string) {
	kept := make([]string, 0, len(connection))
	for _, line := range connection {
		options := strings.Split(line, ",")
		rest := options[:0]
		for _, option := range options {
			if option = textproto.TrimString(option); !strings.EqualFold(option, in.name) {
				rest = append(rest, option)
			}
		}
		if len(rest) > 0 {
			kept = append(kept, strings.Join(rest, ", "))
		}
	}
	if len(kept) == 0 {
		kept = nil
	}
	setOrDelete(h, "Connection", kept)
}

// takeAliases removes our field and those that differ from it only in having
// "_" or "." where it has "-": CGI-like upstreams read them as the same.
func (in *injector) takeAliases(h http.Header) http.Header {
	var taken http.Header
	for name, values := range h {
		if len(name) != len(in.name) || !strings.EqualFold(unifySeparators(name), in.name) {
			continue
		}
		if taken == nil {
			taken = make(http.Header)
		}
		taken[name] = values
		delete(h, name)
	}
	return taken
}

var separators = strings.NewReplacer("_", "-", ".", "-")

func unifySeparators(name string) string { return separators.Replace(name) }

// removeQuery takes every parameter of that name out of the URL's query and
// leaves the rest as it was written.
func removeQuery(u *url.URL, name string) {
	if u.RawQuery == "" {
		return
	}
	pairs := strings.Split(u.RawQuery, "&")
	kept := pairs[:0]
	for _, pair := range pairs {
		key, _, _ := strings.Cut(pair, "=")
		if decoded, err := url.QueryUnescape(key); err == nil {
			key = decoded
		}
		if key != name {
			kept = append(kept, pair)
		}
	}
	u.RawQuery = strings.Join(kept, "&")
}

func addQuery(u *url.URL, name, value string) {
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += url.QueryEscape(name) + "=" + url.QueryEscape(value)
}
