package authserver

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// Kind sorts failed requests by what can be done about them.
type Kind int

const (
	// Unprepared: the request could not be made, because a credential could
	// not be read, say. Nothing was sent.
	Unprepared Kind = iota

	// Unavailable: the server cannot be reached, is throttling or answers 5xx.
	// The same request may succeed later.
	Unavailable

	// Refused: the server said no, with an OAuth error code.
	Refused

	// Unreadable: the server answered something that is not an OAuth answer, or
	// a token that must not be used.
	Unreadable
)

// Error is a failed request. Its text is for the operator: it holds no
// value that was sent, and of the server's own words only a cleaned, capped
// quotation.
type Error struct {
	Kind Kind

	// Code is the OAuth error code (RFC 6749 section 5.2); empty if none came.
	Code string

	// URL is where the request went: scheme, host and path. Status is the HTTP status
	// of the answer, 0 if there was none.
	URL    string
	Status int

	// Unsent says that the request never reached the server: no connection was made.
	Unsent bool

	// RetryAfter is how long the server asks to be left alone; 0 if it does not.
	RetryAfter time.Duration

	// RefreshToken is what an answer of success brought beside an access token that
	// cannot be used. It replaces the refresh token that was sent, which may have
	// been revoked with it (RFC 6749 section 6).
	RefreshToken Secret

	// Hint is the next step, where what was sent tells a better one than the
	// Code. Callers of Do who know more may write another.
	Hint string

	what   string // what happened
	said   string // the server's words, redacted
	remedy string // the next step where how it failed tells one

	hungUp bool // the server ended the connection before any answer
}

// Error says what happened, quotes the server, and ends with the next step where
// one is known.
func (e *Error) Error() string {
	var s strings.Builder
	s.WriteString(e.what)
	if e.said != "" {
		fmt.Fprintf(&s, ": the server says %q", e.said)
	}
	if hint := cmp.Or(e.Hint, e.remedy, hints[e.Code]); hint != "" {
		s.WriteString("; " + hint)
	}
	return s.String()
}

// OfOneRequest reports whether an unavailable server may have stumbled over this
// one request, and answer others.
func (e *Error) OfOneRequest() bool {
	return e.Status == http.StatusInternalServerError || e.Code == "server_error"
}

// hints are the next steps for the codes of RFC 6749 section 5.2, RFC 7009, RFC 8707
// and RFC 9449, as far as what was sent tells no better one: see Request.advice.
var hints = map[string]string{
	"invalid_client":         "",
	"unauthorized_client":    "allow this client the grant type at the authorization server, or change 'grant'",
	"unsupported_grant_type": "the server does not know this grant type: change 'grant'",
	"invalid_scope":          "check 'scope' against what the server grants this client",
	"invalid_target":         "check 'resource' and 'audience' against what the server knows",
	"invalid_grant":          "the refresh token or assertion is no longer valid: supply a new one",
	"invalid_dpop_proof":     "check this machine's clock and the key of 'dpop'",
	"use_dpop_nonce":         "the server wants a DPoP nonce and sent none that can be used",
	"unsupported_token_type": "the server does not revoke tokens of this kind, which stay valid until they expire",
	"invalid_request":        "a field is missing or malformed: check 'token_param' and the server's documentation",
}

// transient are the codes that say nothing about the request: the same one may
// succeed later (RFC 6749 section 4.1.2.1, RFC 8628 section 3.5).
var transient = map[string]bool{
	"temporarily_unavailable": true,
	"server_error":            true,
	"slow_down":               true,
}

// unprepared is the error of a request that was never sent.
func unprepared(err error) *Error {
	return &Error{Kind: Unprepared, what: err.Error()}
}

// codePattern is what an error code may look like to be repeated. Sentences
// and anything that was redacted do not match.
var codePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:-]{0,63}$`)

// otherCodes are further codes that something is done about (RFC 6749 section
// 4.1.2.1, RFC 6750 section 3.1, RFC 8628 section 3.5, OpenID Connect Core
// section 3.1.2.6).
var otherCodes = map[string]bool{
	"access_denied": true, "invalid_token": true, "unsupported_response_type": true,
	"authorization_pending": true, "expired_token": true,
	"interaction_required": true, "consent_required": true, "login_required": true,
}

// errorCode returns code if it is safe to show, and else "". The standards'
// own codes are, even if a secret is part of one by chance.
func errorCode(code string, secrets []string) string {
	if _, hinted := hints[code]; hinted || transient[code] || otherCodes[code] || codePattern.MatchString(code) && redact(code, secrets) == code {
		return code
	}
	return ""
}
