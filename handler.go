package upstreamoauth2

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/tokenendpoint"
)

// ServeHTTP takes the token, puts it on the request, calls the next handler
// and puts back what was there before. If the API rejects the token, the
// request goes out once more with a new one.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method == http.MethodTrace {
		return errTrace
	}
	if h.live.KeepExisting && h.injector.present(r) {
		return next.ServeHTTP(w, r)
	}
	token, err := h.live.cache.slot.token(r.Context())
	if err != nil {
		return h.withoutToken(w, r, next, err)
	}

	before := h.injector.put(r, token)
	defer h.injector.putBack(r, before)

	x := newExchange(h, w, r, token)
	err = next.ServeHTTP(x, r)
	if x.held {
		err = x.replay(next, err)
	}
	x.end()
	return err
}

// errTrace refuses TRACE, whose answer would show the caller our token
// (RFC 9110 section 9.3.8).
var errTrace = caddyhttp.Error(http.StatusMethodNotAllowed, errors.New("TRACE is refused: its answer would show the access token"))

// withoutToken does what on_error says. The caller's own copies of the field
// never go upstream in place of the token.
func (h *Handler) withoutToken(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, err error) error {
	if r.Context().Err() != nil {
		return caddyhttp.Error(statusClientClosedRequest, errors.New("the caller went away while waiting for an access token"))
	}
	if h.live.OnError != onErrorPass {
		return refusal(w, err)
	}
	before := h.injector.take(r)
	defer h.injector.putBack(r, before)
	return next.ServeHTTP(w, r)
}

// statusClientClosedRequest is what Caddy records for a caller that hung up.
const statusClientClosedRequest = 499

// refusal turns a failure into the error for Caddy's error routes. Its text is
// ours but for the OAuth error code: what the server said is in the log, not
// for the caller.
func refusal(w http.ResponseWriter, err error) error {
	var (
		status = http.StatusBadGateway
		text   = "no access token for the upstream: the request for one failed"
		code   string
	)
	failed, ok := errors.AsType[*tokenendpoint.Error](err)
	switch {
	case !ok && (errors.Is(err, errNoLife) || errors.Is(err, context.Canceled)), ok && failed.Kind == tokenendpoint.Unavailable:
		status = http.StatusServiceUnavailable
		text = "no access token for the upstream: the authorization server is unavailable"
		w.Header().Set("Retry-After", strconv.Itoa(retryAfterSeconds(err)))
	case ok && failed.Kind == tokenendpoint.Refused:
		text = "no access token for the upstream: the authorization server refused to issue one"
	case ok && failed.Kind == tokenendpoint.Unreadable:
		text = "no access token for the upstream: the authorization server's answer cannot be used"
	}
	if ok {
		code = failed.Code
	}
	if code != "" {
		text += " (" + code + ")"
	}
	return caddyhttp.Error(status, errors.New(text))
}

// retryAfterSeconds is when the next token request will have been made.
func retryAfterSeconds(err error) int {
	waiting, ok := errors.AsType[*backoffError](err)
	if !ok {
		return 1
	}
	return max(1, int(math.Ceil(float64(waiting.retryIn)/float64(time.Second))))
}
