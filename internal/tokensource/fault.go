package tokensource

import (
	"errors"
	"slices"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// Fault is what a refusal says of the caller whom the token is for.
type Fault int

const (
	NotTheCallers Fault = iota // it is about this client
	BadToken                   // the caller's own token is not accepted
	Denied                     // the caller may not have the token
	BadRequest                 // the caller asks for what there is not
)

// FaultOf tells whether a failed token request is about what the caller
// brought, rather than about this client. An invalid subject token is
// invalid_request in RFC 8693 section 2.2.2 and invalid_grant at many servers; an
// unknown audience is invalid_target (RFC 8707 section 2) or invalid_request.
func (s *Source) FaultOf(err error) Fault {
	if _, ok := errors.AsType[*config.CallerError](err); ok {
		return BadToken // that has expired
	}
	failed, ok := errors.AsType[*authserver.Error](err)
	if !ok || failed.Kind != authserver.Refused {
		return NotTheCallers
	}
	proven := slices.ContainsFunc(s.inputs, config.Input.IsCredential)
	asks := func(options ...string) bool {
		return slices.ContainsFunc(s.inputs, func(in config.Input) bool { return slices.Contains(options, in.Option) })
	}
	switch code := failed.Code; {
	case proven && slices.Contains([]string{"invalid_grant", "invalid_token", "interaction_required", "consent_required", "login_required"}, code),
		proven && code == "invalid_request" && s.client.IsTokenExchange():
		return BadToken
	case code == "access_denied" && (proven || asks("scope", "audience", "resource", "token_param", "subject", "claim")):
		return Denied
	case code == "invalid_scope" && asks("scope"),
		code == "invalid_target" && asks("audience", "resource"),
		code == "invalid_request" && asks("scope", "audience", "resource", "token_param"):
		return BadRequest
	}
	return NotTheCallers
}

// callersHints are the next steps for the log where a refusal is the caller's
// fault: those for the OAuth error code alone would blame the config.
var callersHints = map[Fault]string{
	BadToken:   "the caller's token may have expired, or be meant for somebody else; if no caller's token is accepted, check its type and what else the grant sends",
	Denied:     "the server does not let this caller have a token",
	BadRequest: "a value that comes from the request is not accepted; if none ever is, check the option that holds its placeholder",
}
