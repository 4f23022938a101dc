// Package upstream is one request on its way to the API: it puts a token on the
// request, judges the answer, sends the request once more if the API rejects the
// token, and puts back what was there before. Where tokens come from it does not
// know.
//
//	upstream.go   what a handler calls
//	inject.go     the token on a request, and off it again
//	exchange.go   the answer: passed through, or held back for a second attempt
//	recording.go  the request's body, for a second attempt
//	challenge.go  what an answer says about the token
//	proof.go      DPoP proofs beside the token
package upstream

import (
	"context"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// Settings say how the API wants its token.
type Settings struct {
	Placement Placement
	Replay    Replay
	Proofs    *Proofs // nil for tokens that are not bound to a key

	// Rejected is told of each request whose token the API rejects, when it is
	// known what came of it; nil if nobody wants to know.
	Rejected func(Rejection)

	// Overwrote is told when a token took the place of one that another Upstream
	// had put on the same request; nil if nobody wants to know.
	Overwrote func()

	// CallerFields are header fields, in canonical form, that callers send to us
	// alone, such as the token that ours was exchanged for. They do not go upstream.
	CallerFields []string
}

// Placement is where on a request the token goes.
type Placement struct {
	Name   string // header field in canonical form, or query parameter
	Query  bool
	Scheme string // before the token in a header field; "" for none
	ByType bool   // the scheme comes from the token's type instead
}

// Replay says which answers reject the token, and whether their request is sent
// once more with another.
type Replay struct {
	// Status lists the statuses of a rejection. A 401 counts only if its
	// WWW-Authenticate field allows for it.
	Status []int

	// Scheme is the token's own, which challenges may name instead of Bearer; ""
	// if it has none.
	Scheme string

	Off       bool  // the token is replaced, but the request is not sent again
	BodyLimit int64 // how many bytes of a body are kept to be sent again
}

// Rejection is what came of a request whose token the API rejected.
type Rejection struct {
	Outcome Outcome
	Token   *authserver.Token // that was sent last
	Status  int               // of the last answer
	Error   string            // of its challenge: a registered code (RFC 6750 section 3.1), or ""
}

// Outcome says what became of a rejected request.
type Outcome string

// What may become of a rejected request.
const (
	Accepted      Outcome = "accepted"     // it was sent again, and the API took the new token
	RejectedAgain Outcome = "rejected"     // it was sent again, and the API rejected the new token as well
	Failed        Outcome = "failed"       // it was sent again, and no answer came
	NotReplayed   Outcome = "not_replayed" // it could not be sent again, or there was no other token
)

// Tokens is where the token of a request came from and its successor comes from.
type Tokens interface {
	// Token returns one that is not expired, and waits for it if need be.
	Token(context.Context) (*authserver.Token, error)

	// Reject tells that the API rejects the token. It does not wait.
	Reject(*authserver.Token)

	// Replace is Reject, and waits for the token that takes its place; nil if there
	// is none.
	Replace(context.Context, *authserver.Token) *authserver.Token
}

// Upstream sends requests to an API with a token. It is safe for concurrent use.
type Upstream struct {
	injector
	replay       Replay
	callerFields []string
	rejected     func(Rejection)
	overwrote    func()
}

// New returns an Upstream.
func New(s Settings) *Upstream {
	return &Upstream{
		injector:     newInjector(s.Placement, s.Proofs),
		replay:       s.Replay,
		callerFields: s.CallerFields,
		rejected:     s.Rejected,
		overwrote:    s.Overwrote,
	}
}

// Send puts the token on the request, calls the next handler and puts back what
// was there before. If the API rejects the token, the request goes out once more
// with a new one.
func (u *Upstream) Send(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, tokens Tokens, token *authserver.Token) error {
	x := &interceptor{upstream: u, tokens: tokens, token: token}
	before := u.put(r, token, &x.value)
	defer u.putBack(r, &before)
	if u.overwrote != nil && (before.header != nil || before.rawQuery != "") && u.isBehindAnother(w) {
		u.overwrote()
	}
	x.nonce = before.nonce
	var start snapshot
	start.take(w, r)
	x.begin(w, r)
	defer x.end()

	err := next.ServeHTTP(x, r)
	switch {
	case x.rejection != nil:
		return x.sendAgain(next, &start, err)
	case err != nil && !x.answered:
		x.judgeError(err)
	}
	return err
}

// isBehindAnother reports whether w belongs to an Upstream ahead that put its token
// in the same place.
func (u *Upstream) isBehindAnother(w http.ResponseWriter) bool {
	for {
		if x, ok := w.(*interceptor); ok && x.upstream.Name == u.Name {
			return true
		}
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = wrapper.Unwrap()
	}
}

// SendWithout calls the next handler for a request that has no token. The caller's
// own copies of the field never go upstream in its place.
func (u *Upstream) SendWithout(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	before := u.take(r)
	defer u.putBack(r, &before)
	return next.ServeHTTP(w, r)
}

// Present reports whether the request brings the field or the parameter itself.
func (u *Upstream) Present(r *http.Request) bool {
	if u.Query {
		return r.URL.Query().Has(u.Name)
	}
	return r.Header.Get(u.Name) != ""
}

// TakeCallerFields removes what the caller meant for us alone, and returns it.
func (u *Upstream) TakeCallerFields(r *http.Request) http.Header {
	var taken saved
	for _, name := range u.callerFields {
		taken.takeOut(r.Header, name)
	}
	return taken.others
}
