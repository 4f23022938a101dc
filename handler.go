package upstreamoauth2

import (
	"context"
	"errors"
	"maps"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
)

// ServeHTTP takes the token, puts it on the request, calls the next handler
// and puts back what was there before. If the API rejects the token, the
// request goes out once more with a new one.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	values, flaw := h.values(r)
	callerFields := h.upstream.TakeCallerFields(r)
	err := h.serve(w, r, next, values, flaw)
	if err == nil { // error routes may have an upstream of their own
		maps.Copy(r.Header, callerFields)
	}
	return err
}

// values returns what the request contributes to its token request.
func (h *Handler) values(r *http.Request) ([]string, error) {
	if len(h.live.inputs) == 0 {
		return nil, nil
	}
	return h.live.inputs.Values(r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer))
}

// serve handles a request after its inputs were read; flaw is what was wrong with
// them.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, values []string, flaw error) error {
	switch {
	case r.Method == http.MethodTrace:
		return caddyhttp.Error(http.StatusMethodNotAllowed, errTrace)
	case h.live.definition.KeepExisting && h.upstream.Present(r):
		return next.ServeHTTP(w, r)
	case flaw != nil:
		return h.withoutToken(w, r, next, flaw)
	}
	entry := h.live.shared.cache.Entry(values)
	token, how, err := entry.Token(r.Context())
	if err == nil {
		err = h.live.CheckType(token)
	}
	if err != nil {
		return h.withoutToken(w, r, next, err)
	}
	h.live.counters.injections[string(how)].Add(1)
	if names := h.live.definition.Expose; len(names) > 0 {
		e := exposing{tokens{entry}, names, r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)}
		e.expose(token)
		return h.upstream.Send(w, r, next, e, token)
	}
	return h.upstream.Send(w, r, next, tokens{entry}, token)
}

// tokens are those of an entry, as a request on its way asks for them.
type tokens struct{ *tokencache.Entry }

// Token implements upstream.Tokens.
func (t tokens) Token(ctx context.Context) (*authserver.Token, error) {
	token, _, err := t.Entry.Token(ctx)
	return token, err
}

// exposing are tokens of whose answers other handlers see something. A request that is
// sent again has what its second token came with.
type exposing struct {
	tokens
	names    []string
	replacer *caddy.Replacer
}

// expose sets the placeholders. Where the answer said nothing, they are empty.
func (e exposing) expose(token *authserver.Token) {
	for _, name := range e.names {
		value, _ := token.Member(name)
		e.replacer.Set("http.upstream_oauth2.answer."+name, value)
	}
}

// Token implements upstream.Tokens.
func (e exposing) Token(ctx context.Context) (*authserver.Token, error) {
	token, err := e.tokens.Token(ctx)
	if err == nil {
		e.expose(token)
	}
	return token, err
}

// Replace implements upstream.Tokens.
func (e exposing) Replace(ctx context.Context, rejected *authserver.Token) *authserver.Token {
	token := e.tokens.Replace(ctx, rejected)
	if token != nil {
		e.expose(token)
	}
	return token
}

// errTrace refuses TRACE, whose answer would show the caller our token
// (RFC 9110 section 9.3.8).
var errTrace = errors.New("TRACE is refused: its answer would show the access token")

// withoutToken does what on_error says. Error routes and log_append learn which
// client it was from {http.upstream_oauth2.client}, and where somebody signs in for it
// from {http.upstream_oauth2.sign_in_url}.
func (h *Handler) withoutToken(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, err error) error {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set("http.upstream_oauth2.client", h.live.name)
	repl.Set("http.upstream_oauth2.sign_in_url", h.app.signInURL(h.live))
	h.live.retryIfChanged()
	if h.live.definition.PassesWithoutToken() && r.Context().Err() == nil {
		h.live.counters.injections[howPassed].Add(1)
		return h.upstream.SendWithout(w, r, next)
	}
	h.live.counters.injections[howFailed].Add(1)
	if r.Context().Err() != nil {
		return callerLeft.write(w, h.live.name)
	}
	if caller, ok := errors.AsType[*config.CallerError](err); ok {
		h.live.accountLogger.Info("request refused without a token request", zap.Error(caller))
	}
	return h.live.refusalOf(err).write(w, h.live.name)
}
