package upstreamoauth2

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// reply is the answer to a request for which there is no token. Its text is
// ours but for the OAuth error code: what the server said is in the log, not for
// the caller.
type reply struct {
	status int
	text   string
	header http.Header // nil if it needs none
}

// callerLeft is for a caller that hung up: Caddy records its status (nginx's 499).
var callerLeft = reply{status: 499, text: "the caller went away while waiting for an access token"}

const noToken = "no access token for the upstream: "

// refusalOf returns the answer for a failure to get a token.
func (c *client) refusalOf(err error) reply {
	if caller, ok := errors.AsType[*config.CallerError](err); ok {
		return refusalOfInput(caller)
	}
	if re, ok := c.refusalOfGrant(err); ok {
		return re
	}
	failed, answered := errors.AsType[*authserver.Error](err)
	if fault := c.FaultOf(err); fault != tokensource.NotTheCallers {
		return refusalOfCaller(fault, failed.Code)
	}

	re := reply{status: http.StatusBadGateway, text: noToken + "the request for one failed"}
	switch {
	case answered && failed.Kind == authserver.Unavailable, errors.Is(err, tokencache.ErrExpiredOnArrival), errors.Is(err, context.Canceled):
		re = retryLater(err, "the authorization server is unavailable")
	case errors.Is(err, tokencache.ErrTooManyWaiting):
		re = retryLater(err, "too many callers wait for one")
	case answered && failed.Kind == authserver.Refused:
		re.text = noToken + "the authorization server refused to issue one"
	case answered && failed.Kind == authserver.Unreadable:
		re.text = noToken + "the authorization server's answer cannot be used"
	}
	if answered && failed.Code != "" {
		re.text += " (" + failed.Code + ")"
	}
	return re
}

// refusalOfGrant returns the answer where what is kept is the matter: a grant that is
// not there or dead, or a storage or key that keeps it from us. Where each caller has
// an account, it is the caller who is to sign in.
func (c *client) refusalOfGrant(err error) (reply, bool) {
	if _, ok := errors.AsType[*tokensource.GrantError](err); ok {
		re := retryLater(err, fmt.Sprintf("client %q has no grant: sign in first", c.name))
		if c.definition.NeedsSignIn() && len(c.inputs) > 0 {
			re = reply{status: http.StatusForbidden, text: noToken + fmt.Sprintf("you have not connected %q: sign in first", c.name)}
		}
		return re, true
	}
	_, storage := errors.AsType[*vault.StorageError](err)
	_, key := errors.AsType[*vault.KeyError](err)
	_, version := errors.AsType[*vault.VersionError](err)
	if storage || key || version || errors.Is(err, vault.ErrStopped) || errors.Is(err, tokencache.ErrProvisional) {
		return retryLater(err, fmt.Sprintf("the grant of client %q cannot be read", c.name)), true
	}
	return reply{}, false
}

// refusalOfInput is the answer to a caller whose request no token can be requested
// for.
func refusalOfInput(e *config.CallerError) reply {
	switch {
	case e.Flaw == "" && (e.IsCredential() || e.Option == "account"):
		return unauthorized("Bearer", noToken+"the request does not say whom one would be for")
	case e.Flaw == "":
		return reply{status: http.StatusBadRequest, text: noToken + "the request has nothing for " + e.Option}
	case e.IsCredential():
		return unauthorized(invalidToken, noToken+"the caller's token "+e.Flaw)
	}
	return reply{status: http.StatusBadRequest, text: noToken + "what the request has for " + e.Option + " " + e.Flaw}
}

// refusalOfCaller is the answer to a caller whose own token, right to act or
// wishes the authorization server does not accept.
func refusalOfCaller(fault tokensource.Fault, code string) reply {
	switch fault {
	case tokensource.Denied:
		return reply{status: http.StatusForbidden, text: "the authorization server denies the caller a token for the upstream (" + code + ")"}
	case tokensource.BadRequest:
		return reply{status: http.StatusBadRequest, text: "the authorization server does not accept what the request asks for (" + code + ")"}
	}
	return unauthorized(invalidToken, "the authorization server does not accept the caller's token ("+code+")")
}

// invalidToken is the challenge for a token of the caller's that cannot be used
// (RFC 6750 section 3.1).
const invalidToken = `Bearer error="invalid_token"`

func unauthorized(challenge, text string) reply {
	return reply{http.StatusUnauthorized, text, http.Header{"Www-Authenticate": {challenge}}}
}

// retryLater tells when the next token request will have been made.
func retryLater(err error, why string) reply {
	seconds := 1
	if waiting, ok := errors.AsType[*tokencache.Failure](err); ok {
		seconds = max(1, int(math.Ceil(float64(waiting.RetryIn)/float64(time.Second))))
	}
	return reply{http.StatusServiceUnavailable, noToken + why, http.Header{"Retry-After": {strconv.Itoa(seconds)}}}
}

// write sets the answer's header and returns the error for Caddy's error routes. Its
// trace, which Caddy logs beside the text, names the client: the text is for the
// caller.
func (re reply) write(w http.ResponseWriter, client string) error {
	for name, values := range re.header {
		w.Header()[name] = values
	}
	return caddyhttp.Error(re.status, caddyhttp.HandlerError{Err: errors.New(re.text), Trace: "upstream_oauth2 " + client})
}
