package upstreamoauth2

import (
	"context"
	"errors"
	"maps"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
)

// ServeHTTP takes the token, puts it on the request, calls the next handler
// and puts back what was there before. If the API rejects the token, the
// request goes out once more with a new one.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	values, flaw := h.values(r)
	sources := h.injector.takeSources(r)
	err := h.serve(w, r, next, values, flaw)
	if err == nil { // error routes may have an upstream of their own
		maps.Copy(r.Header, sources)
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

// serve is ServeHTTP for a request that contributes these values to its token
// request, or has this flaw.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, values []string, flaw error) error {
	switch {
	case r.Method == http.MethodTrace:
		return caddyhttp.Error(http.StatusMethodNotAllowed, errTrace)
	case h.live.definition.KeepExisting && h.injector.present(r):
		return next.ServeHTTP(w, r)
	case flaw != nil:
		return h.withoutToken(w, r, next, flaw)
	}
	slot := h.live.slot(values)
	token, err := slot.token(r.Context())
	if err != nil {
		return h.withoutToken(w, r, next, err)
	}

	x := &exchange{handler: h, slot: slot, token: token}
	before := h.injector.put(r, token, &x.value)
	defer h.injector.putBack(r, &before)
	var start beginning
	start.note(w, r)
	x.begin(w, r)
	defer x.end()

	err = next.ServeHTTP(x, r)
	switch {
	case x.rejection != nil:
		return x.replay(next, &start, err)
	case err != nil && !x.answered:
		x.judgeError(err)
	}
	return err
}

// errTrace refuses TRACE, whose answer would show the caller our token
// (RFC 9110 section 9.3.8).
var errTrace = errors.New("TRACE is refused: its answer would show the access token")

// withoutToken does what on_error says. The caller's own copies of the field
// never go upstream in place of the token.
func (h *Handler) withoutToken(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, err error) error {
	if r.Context().Err() != nil {
		return caddyhttp.Error(statusClientClosedRequest, errors.New("the caller went away while waiting for an access token"))
	}
	if !h.live.definition.PassesWithoutToken() {
		return h.refusal(w, err)
	}
	before := h.injector.take(r)
	defer h.injector.putBack(r, &before)
	return next.ServeHTTP(w, r)
}

// statusClientClosedRequest is what Caddy records for a caller that hung up.
const statusClientClosedRequest = 499

// refusal turns a failure into the error for Caddy's error routes. Its text is
// ours but for the OAuth error code: what the server said is in the log, not
// for the caller.
func (h *Handler) refusal(w http.ResponseWriter, err error) error {
	if caller, ok := errors.AsType[*config.CallerError](err); ok {
		h.live.accountLogger.Info("request refused without a token request", zap.Error(caller))
		return refusedInput(w, caller)
	}
	failed, answered := errors.AsType[*authserver.Error](err)
	if fault := h.live.FaultOf(err); fault != tokensource.NotTheCallers {
		return refusedCaller(w, fault, failed.Code)
	}

	status, text := http.StatusBadGateway, "no access token for the upstream: the request for one failed"
	switch {
	case answered && failed.Kind == authserver.Unavailable, errors.Is(err, errNoLife), errors.Is(err, context.Canceled):
		status, text = http.StatusServiceUnavailable, "no access token for the upstream: the authorization server is unavailable"
		w.Header().Set("Retry-After", strconv.Itoa(retryAfterSeconds(err)))
	case errors.Is(err, errFull):
		status, text = http.StatusServiceUnavailable, "no access token for the upstream: too many callers wait for one"
		w.Header().Set("Retry-After", strconv.Itoa(retryAfterSeconds(err)))
	case answered && failed.Kind == authserver.Refused:
		text = "no access token for the upstream: the authorization server refused to issue one"
	case answered && failed.Kind == authserver.Unreadable:
		text = "no access token for the upstream: the authorization server's answer cannot be used"
	}
	if answered && failed.Code != "" {
		text += " (" + failed.Code + ")"
	}
	return caddyhttp.Error(status, errors.New(text))
}

// refusedInput is the answer to a caller whose request no token can be requested
// for.
func refusedInput(w http.ResponseWriter, e *config.CallerError) error {
	const noToken = "no access token for the upstream: "
	switch {
	case e.Flaw == "" && (e.IsCredential() || e.Option == "account"):
		w.Header().Set("WWW-Authenticate", "Bearer")
		return caddyhttp.Error(http.StatusUnauthorized, errors.New(noToken+"the request does not say whom one would be for"))
	case e.Flaw == "":
		return caddyhttp.Error(http.StatusBadRequest, errors.New(noToken+"the request has nothing for "+e.Option))
	case e.IsCredential():
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		return caddyhttp.Error(http.StatusUnauthorized, errors.New(noToken+"the caller's token "+e.Flaw))
	}
	return caddyhttp.Error(http.StatusBadRequest, errors.New(noToken+"what the request has for "+e.Option+" "+e.Flaw))
}

// refusedCaller is the answer to a caller whose own token, right to act or
// wishes the authorization server does not accept.
func refusedCaller(w http.ResponseWriter, fault tokensource.Fault, code string) error {
	switch fault {
	case tokensource.Denied:
		return caddyhttp.Error(http.StatusForbidden, errors.New("the authorization server denies the caller a token for the upstream ("+code+")"))
	case tokensource.BadRequest:
		return caddyhttp.Error(http.StatusBadRequest, errors.New("the authorization server does not accept what the request asks for ("+code+")"))
	}
	w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	return caddyhttp.Error(http.StatusUnauthorized, errors.New("the authorization server does not accept the caller's token ("+code+")"))
}

// retryAfterSeconds is when the next token request will have been made.
func retryAfterSeconds(err error) int {
	waiting, ok := errors.AsType[*backoffError](err)
	if !ok {
		return 1
	}
	return max(1, int(math.Ceil(float64(waiting.retryIn)/float64(time.Second))))
}
