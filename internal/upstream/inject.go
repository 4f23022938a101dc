package upstream

import (
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// injector puts a token where the upstream looks for it, and nothing else: what
// the caller sent there is taken out first, under any spelling that an upstream
// may read as the same name.
type injector struct {
	Placement
	aliased bool    // the name has a "-", "_" or ".", which may be spelled otherwise
	proofs  *Proofs // nil for tokens that are not bound to a key
}

func newInjector(p Placement, proofs *Proofs) injector {
	return injector{Placement: p, aliased: !p.Query && strings.ContainsAny(p.Name, "-_."), proofs: proofs}
}

// saved is what a request was before a token was put on it.
type saved struct {
	header     []string
	connection []string    // nil if it was left alone
	others     http.Header // further fields that were taken out; nil if none
	rawQuery   string
	requestURI string
	body       io.ReadCloser // nil unless the caller announced trailers

	nonce string // of the proof that was put on the request
}

// put sets the token on the request, in place: placeholders are bound to the
// request, and a copy of its header would cost more than all the rest. The
// caller puts back what was there when the next handler has returned, so that
// neither error routes nor later handlers see the token.
//
// value holds the header field's value. It must be this request's own:
// request_header edits values in place.
func (in *injector) put(r *http.Request, token *authserver.Token, value *[1]string) saved {
	before := in.removeCallers(r)
	if in.Query {
		addQuery(r.URL, in.Name, token.AccessToken.Reveal())
	} else {
		value[0] = in.text(token)
		r.Header[in.Name] = value[:]
	}
	if in.proofs != nil {
		before.nonce = in.proofs.attach(r, token)
	}
	return before
}

// take removes the caller's copies of the field.
func (in *injector) take(r *http.Request) saved {
	before := in.removeCallers(r)
	if before.header != nil {
		delete(r.Header, in.Name)
	}
	return before
}

// removeCallers removes what must not go upstream beside the field. The header field
// itself stays: put overwrites it.
func (in *injector) removeCallers(r *http.Request) saved {
	if in.Query {
		before := saved{rawQuery: r.URL.RawQuery, requestURI: r.RequestURI}
		removeQuery(r.URL, in.Name)
		return before
	}
	before := saved{header: r.Header[in.Name]}
	if connection := r.Header["Connection"]; in.nominated(connection) {
		before.connection = connection
		in.keepFromConnection(r.Header, connection)
	}
	if in.aliased {
		before.others = in.takeAliases(r.Header)
	}
	if in.proofs != nil {
		before.takeOut(r.Header, proofField)
	}
	if r.Trailer != nil {
		before.body = r.Body
		r.Body = &trailerGuard{ReadCloser: r.Body, in: in, trailer: r.Trailer}
		in.takeFromTrailers(r.Trailer)
	}
	return before
}

// takeOut removes a field from the header and remembers it.
func (before *saved) takeOut(h http.Header, name string) {
	values, ok := h[name]
	if !ok {
		return
	}
	if before.others == nil {
		before.others = make(http.Header)
	}
	before.others[name] = values
	delete(h, name)
}

// putBack makes the request what it was before take or put.
func (in *injector) putBack(r *http.Request, before *saved) {
	if in.Query {
		r.URL.RawQuery = before.rawQuery
		r.RequestURI = before.requestURI // rewrite makes it anew from the URL
	} else {
		setOrDelete(r.Header, in.Name, before.header)
	}
	if in.proofs != nil {
		delete(r.Header, proofField)
	}
	if before.connection != nil {
		r.Header["Connection"] = before.connection
	}
	for name, values := range before.others {
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
		g.in.takeFromTrailers(g.trailer)
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

// text returns the header field value for the token.
func (in *injector) text(token *authserver.Token) string {
	switch {
	case in.ByType:
		return token.Field(token.Scheme)
	case in.Scheme != "":
		return token.Field(in.Scheme)
	}
	return token.AccessToken.Reveal()
}

// owns reports whether a header field is set here.
func (in *injector) owns(name string) bool {
	return strings.EqualFold(name, in.Name) || in.proofs != nil && strings.EqualFold(name, proofField)
}

// nominated reports whether the caller's Connection field names ours.
func (in *injector) nominated(connection []string) bool {
	for _, line := range connection {
		for option := range strings.SplitSeq(line, ",") {
			if in.owns(textproto.TrimString(option)) {
				return true
			}
		}
	}
	return false
}

// keepFromConnection takes our field's name out of the caller's Connection
// field. A proxy drops every field named there (RFC 9110 section 7.6.1), so a
// caller could strip the token and have the upstream answer 401.
func (in *injector) keepFromConnection(h http.Header, connection []string) {
	var kept []string
	for _, line := range connection {
		var rest []string
		for option := range strings.SplitSeq(line, ",") {
			if option = textproto.TrimString(option); !in.owns(option) {
				rest = append(rest, option)
			}
		}
		if len(rest) > 0 {
			kept = append(kept, strings.Join(rest, ", "))
		}
	}
	setOrDelete(h, "Connection", kept)
}

// takeAliases removes the fields that differ from ours only in which of "-", "_"
// and "." they have: CGI-like upstreams read them as the same.
func (in *injector) takeAliases(h http.Header) http.Header {
	var taken http.Header
	for name, values := range h {
		if len(name) != len(in.Name) || name == in.Name || !strings.EqualFold(unifySeparators(name), unifySeparators(in.Name)) {
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

// takeFromTrailers removes our fields from the request's trailers.
func (in *injector) takeFromTrailers(trailer http.Header) {
	in.takeAliases(trailer)
	delete(trailer, in.Name)
	if in.proofs != nil {
		delete(trailer, proofField)
	}
}

var separators = strings.NewReplacer("_", "-", ".", "-")

func unifySeparators(name string) string { return separators.Replace(name) }

// removeQuery takes every parameter of that name out of the URL's query, also
// under the spellings that upstreams may read as the same, and leaves the rest
// as it was written. Some upstreams take ";" for "&".
func removeQuery(u *url.URL, name string) {
	if u.RawQuery == "" {
		return
	}
	var kept strings.Builder
	dangling := false // a separator has nothing behind it any more
	for rest := u.RawQuery; rest != ""; {
		end := strings.IndexAny(rest, "&;") + 1
		if end == 0 {
			end = len(rest)
		}
		pair := rest[:end]
		rest = rest[end:]
		key, _, _ := strings.Cut(strings.TrimRight(pair, "&;"), "=")
		if decoded, err := url.QueryUnescape(key); err == nil {
			key = decoded
		}
		if unifySeparators(key) != unifySeparators(name) {
			kept.WriteString(pair)
		} else if rest == "" {
			dangling = !strings.HasSuffix(pair, "&") && !strings.HasSuffix(pair, ";")
		}
	}
	u.RawQuery = kept.String()
	if dangling && u.RawQuery != "" {
		u.RawQuery = u.RawQuery[:len(u.RawQuery)-1]
	}
}

func addQuery(u *url.URL, name, value string) {
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += url.QueryEscape(name) + "=" + url.QueryEscape(value)
}
