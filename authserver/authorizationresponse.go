package authserver

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/url"
)

// ExpectedResponse is what an authorization response has to match: what is known
// of it when its request is made.
type ExpectedResponse struct {
	// State is the request's.
	State Secret

	// Issuer is the issuer of the server that was asked; empty if it is not
	// known, as endpoints written by hand have none.
	Issuer string

	// NamesIssuer says that each response of the server has an iss:
	// Metadata.AuthorizationResponseIssParameterSupported.
	NamesIssuer bool
}

// Code reads the query with which a browser comes to the redirect URI and returns
// the authorization code (RFC 6749 section 4.1.2), or an *Error. That is of the
// Kind Unreadable if the query is no response to the request: anybody can make a
// browser come, so the right response may still arrive. The Kinds Refused and
// Unavailable are the server's own word and end the sign-in (section 4.1.2.1).
func (e ExpectedResponse) Code(rawQuery string) (Secret, error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return Secret{}, foreign("its query is malformed")
	}
	for _, name := range []string{"state", "iss", "code", "error", "error_description"} {
		if len(query[name]) > 1 {
			return Secret{}, foreign(fmt.Sprintf("it has more than one %s", name))
		}
	}
	// The state comes first: whoever does not know it has no say in what follows,
	// texts included.
	state := query.Get("state")
	if state == "" {
		return Secret{}, foreign("it has no state")
	}
	if subtle.ConstantTimeCompare([]byte(state), []byte(e.State.Reveal())) != 1 {
		return Secret{}, foreign("its state is of another sign-in")
	}
	if err := e.checkIssuer(query); err != nil {
		return Secret{}, err
	}
	if query.Get("error") != "" {
		return Secret{}, refusedSignIn(query)
	}
	code := query.Get("code")
	if code == "" {
		return Secret{}, foreign("it has no code")
	}
	return NewSecret(code), nil
}

// checkIssuer refuses a response of another server, by which an attacker has codes
// sent to the wrong token endpoint (RFC 9207, RFC 9700 section 4.4).
func (e ExpectedResponse) checkIssuer(query url.Values) error {
	issuer := query.Get("iss")
	if issuer == "" && e.NamesIssuer {
		return foreign("it has no iss, which the server's metadata announces (RFC 9207)")
	}
	if issuer != "" && e.Issuer != "" && issuer != e.Issuer {
		return foreign(fmt.Sprintf("its iss is %q and not %q: it is of another authorization server than was asked (RFC 9207)",
			redact(issuer, responseSecrets(query)), redact(e.Issuer, nil)))
	}
	return nil
}

// refusedSignIn is the error for a response with an OAuth error code.
func refusedSignIn(query url.Values) *Error {
	said := make(members)
	for _, name := range []string{"error", "error_description"} {
		said[name], _ = json.Marshal(query.Get(name))
	}
	response := answer{from: authorizationEndpoint, members: said, secrets: responseSecrets(query)}
	failed := response.refused()
	failed.Hint = authorizationHints[failed.Code]
	return failed
}

func responseSecrets(query url.Values) []string {
	return []string{query.Get("state"), query.Get("code")}
}

// foreign is the error for a query that is no response to the request.
func foreign(why string) *Error {
	return &Error{
		Kind: Unreadable,
		what: "this is not the response to this sign-in: " + why,
		Hint: "go on in the window in which it began, or sign in anew",
	}
}

// authorizationHints are the next steps where an authorization request is refused.
var authorizationHints = map[string]string{
	"access_denied":             "sign in anew and agree to what is asked for, as somebody who may",
	"unauthorized_client":       "allow this client the authorization code grant at the authorization server",
	"unsupported_response_type": "allow this client the authorization code grant at the authorization server",
	"invalid_request":           "check 'authorization_param', and that the server has this redirect URI for this client",
	"login_required":            signInVisibly,
	"interaction_required":      signInVisibly,
	"consent_required":          signInVisibly,
	"server_error":              "sign in anew, perhaps later",
	"temporarily_unavailable":   "sign in anew, perhaps later",
}

const signInVisibly = "remove 'prompt none' from 'authorization_param'"
