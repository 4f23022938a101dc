package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// maxRejection is how much of a rejection's body is kept while a new token is
// fetched, to answer with should there be none. A longer one is passed on at once.
const maxRejection = 16 << 10

// verdict is what an answer says about the token.
type verdict int

const (
	accepted   verdict = iota
	rejected           // another token may help
	wantsNonce         // the same token, with another proof (RFC 9449 section 9)
)

// judge tells what an answer says about the token, and the error that its
// challenge names.
func (re *Replay) judge(status int, header http.Header) (verdict, string) {
	if !slices.Contains(re.Status, status) {
		return accepted, ""
	}
	ours := len(header["Www-Authenticate"]) == 0 || status != http.StatusUnauthorized
	code := ""
	for _, c := range parseChallenges(header["Www-Authenticate"]) {
		if !strings.EqualFold(c.scheme, "Bearer") && (re.Scheme == "" || !strings.EqualFold(c.scheme, re.Scheme)) {
			continue
		}
		switch c.err {
		case "insufficient_scope":
			return accepted, ""
		case "use_dpop_nonce":
			return wantsNonce, c.err
		case "invalid_request", "invalid_token", "invalid_dpop_proof", "insufficient_user_authentication":
			code = c.err
		}
		ours = true
	}
	if ours {
		return rejected, code
	}
	return accepted, ""
}

// replays reports whether a request can be sent again at all. Upgrades,
// tunnels and gRPC streams cannot, and neither can a body known to be too long.
func (re *Replay) replays(r *http.Request) bool {
	return !re.Off &&
		r.Method != http.MethodConnect &&
		len(r.Header["Upgrade"]) == 0 &&
		!isGRPC(r.Header["Content-Type"]) &&
		r.ContentLength <= re.BodyLimit
}

func isGRPC(contentType []string) bool {
	return len(contentType) > 0 && strings.HasPrefix(contentType[0], "application/grpc")
}

// interceptor is one request on its way upstream. It is the ResponseWriter for the
// next handler and holds back a rejection, so that the request can be sent
// again; all else passes through as it comes.
//
// It is the one thing allocated for each request, and never used for another:
// whoever writes to it too late must not reach another caller.
type interceptor struct {
	caddyhttp.ResponseWriterWrapper

	upstream *Upstream
	request  *http.Request
	tokens   Tokens
	token    *authserver.Token
	value    [1]string  // of the header field, see injector.put
	nonce    string     // of the first proof
	body     *recording // nil without a body, or with one that is not to be kept

	bodyNotKept bool // the request has a body that is not kept
	replayed    bool // this is the second attempt, which is the last
	answered    bool // a final status has come
	rejection   *rejection
}

// rejection is an answer that is held back.
type rejection struct {
	verdict verdict
	code    string // of its challenge
	status  int
	header  http.Header // without trailers, which are set later
	body    bytes.Buffer
	flushed bool
}

// snapshot is what the next handler saw at the first attempt, for the second. It
// stays out of interceptor so that it lives on the stack.
type snapshot struct {
	request http.Request
	url     url.URL
	groups  []string // of routes that have been served before
	header  headerSnapshot
}

// take remembers the request and the answer as they are now.
func (start *snapshot) take(w http.ResponseWriter, r *http.Request) {
	start.request, start.url = *r, *r.URL
	if groups, _ := r.Context().Value(routeGroups).(map[string]struct{}); len(groups) > 0 {
		start.groups = slices.Collect(maps.Keys(groups))
	}
	start.header.take(w.Header())
}

// begin makes x stand between the next handler and w.
func (x *interceptor) begin(w http.ResponseWriter, r *http.Request) {
	x.ResponseWriter, x.request = w, r
	switch re := &x.upstream.replay; {
	case !hasBody(r):
	case re.replays(r):
		x.body = newRecording(r, re.BodyLimit)
		r.Body = &x.body.first
	default:
		x.bodyNotKept = true
	}
}

func hasBody(r *http.Request) bool {
	return r.ContentLength != 0 && r.Body != nil && r.Body != http.NoBody
}

// end gives the request its own body back. A rejection that is still held back,
// because it broke off, counts for the next request at least.
func (x *interceptor) end() {
	if x.rejection != nil {
		x.replaceLater(x.rejection.verdict, x.rejection.status, x.rejection.code)
	}
	if x.body != nil {
		x.body.end()
		x.request.Body = x.body.source
	}
}

// replays reports whether the request can be sent again, as things stand.
func (x *interceptor) replays() bool {
	if x.bodyNotKept || x.body != nil && !x.body.whole() {
		return false
	}
	if x.request.Trailer != nil && !x.body.finished() {
		return false // net/http still fills in the trailers
	}
	return x.upstream.replay.replays(x.request)
}

// sendAgain sends the request again, with a newer token if there is one. Whatever
// comes of it is the answer, be it another rejection. err is what the next
// handler returned after the first one.
func (x *interceptor) sendAgain(next caddyhttp.Handler, start *snapshot, err error) error {
	if err != nil { // the rejection broke off: leave it to the error routes
		start.header.restore(x.Header())
		return err
	}
	held := x.rejection
	token := x.anotherToken()
	if token == nil || !x.rewind(start) {
		err := x.release()
		x.report(NotReplayed, held.status, held.code)
		return err
	}
	nonce := x.upstream.proofs.nonceFor(held.header, x.nonce)
	x.token, x.replayed, x.answered, x.rejection = token, true, false, nil
	x.upstream.put(x.request, token, &x.value)
	if nonce != "" {
		x.upstream.proofs.attachWith(x.request, token, nonce)
	}
	err = next.ServeHTTP(x, x.request)
	switch {
	case x.answered: // and reported
	case err != nil:
		x.report(Failed, held.status, held.code)
	default: // with nothing, which is a 200
		x.report(Accepted, http.StatusOK, "")
	}
	return err
}

// anotherToken returns the token for the second attempt, nil if there is none.
// The one that wants for a nonce may have expired meanwhile.
func (x *interceptor) anotherToken() *authserver.Token {
	ctx := x.request.Context()
	if x.rejection.verdict == rejected {
		return x.tokens.Replace(ctx, x.token)
	}
	token, err := x.tokens.Token(ctx)
	if err != nil {
		return nil
	}
	return token
}

// rewind makes the request and the answer what they were at the start. It
// reports whether it could: too much of the body may have gone by since the
// rejection.
func (x *interceptor) rewind(start *snapshot) bool {
	body := start.request.Body
	if x.body != nil {
		again := x.body.playAgain()
		if again == nil {
			return false
		}
		body = again
	}
	// In place, as placeholders are bound to the request.
	*x.request = *start.request.WithContext(start.context())
	*x.request.URL = start.url
	x.request.Body = body
	start.header.restore(x.Header())
	return true
}

// context returns the request's context with what Caddy's routes and handlers
// note in it set back. Routes of a group, such as handle blocks, are chosen anew:
// the group counts as served otherwise, and all of them would be skipped. And
// reverse_proxy writes the variables anew, while a connection that the first
// attempt began to dial may still look at them on a goroutine of net/http.
func (start *snapshot) context() context.Context {
	ctx := start.request.Context()
	vars, _ := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, maps.Clone(vars))
	groups := make(map[string]struct{})
	for _, name := range start.groups {
		groups[name] = struct{}{}
	}
	return context.WithValue(ctx, routeGroups, groups)
}

// routeGroups is the key under which Caddy's routes note which groups have been
// served (caddyhttp/routes.go); it is not exported.
const routeGroups = caddy.CtxKey("route_group")

// release passes the rejection on that was held back, as it came: what has been
// set in the header since its WriteHeader are trailers.
func (x *interceptor) release() error {
	held, header := x.rejection, x.Header()
	x.rejection = nil
	x.body.stop()
	trailers := maps.Clone(header)
	maps.DeleteFunc(trailers, func(name string, values []string) bool { return slices.Equal(values, held.header[name]) })

	clear(header)
	maps.Copy(header, held.header)
	x.ResponseWriter.WriteHeader(held.status)
	_, err := held.body.WriteTo(x.ResponseWriter)
	if held.flushed {
		_ = x.FlushError()
	}
	maps.Copy(header, trailers)
	return err
}

// WriteHeader implements http.ResponseWriter.
func (x *interceptor) WriteHeader(status int) {
	if x.answered {
		return
	}
	if status >= 200 { // 1xx answers are not final and pass
		x.answered = true
		x.upstream.proofs.note(x.Header())
		if x.judge(status); x.rejection != nil {
			return
		}
		x.body.stop()
	}
	x.ResponseWriter.WriteHeader(status)
}

// judge decides whether a final answer is held back.
func (x *interceptor) judge(status int) {
	verdict, code := x.upstream.replay.judge(status, x.Header())
	switch {
	case x.replayed && verdict == accepted:
		x.report(Accepted, status, code)
	case x.replayed:
		x.report(RejectedAgain, status, code)
	case verdict == accepted:
	case verdict == wantsNonce && x.upstream.proofs.nonceFor(x.Header(), x.nonce) == "":
		// The same again would come of it.
	case x.replays():
		x.rejection = &rejection{verdict: verdict, code: code, status: status, header: maps.Clone(x.Header())}
	default:
		x.replaceLater(verdict, status, code)
	}
}

// judgeError has the token replaced if the next handler failed with the status of
// a rejection, as "error 401" in handle_response does.
func (x *interceptor) judgeError(err error) {
	if failed, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		verdict, code := x.upstream.replay.judge(failed.StatusCode, x.Header())
		x.replaceLater(verdict, failed.StatusCode, code)
	}
}

// replaceLater has a rejected token replaced for the next request, as this one is
// not sent again.
func (x *interceptor) replaceLater(v verdict, status int, code string) {
	if v == rejected {
		x.tokens.Reject(x.token)
	}
	if v != accepted {
		x.report(NotReplayed, status, code)
	}
}

// report tells what came of a rejection.
func (x *interceptor) report(o Outcome, status int, code string) {
	if x.upstream.rejected != nil {
		x.upstream.rejected(Rejection{Outcome: o, Token: x.token, Status: status, Error: code})
	}
}

// Write implements http.ResponseWriter.
func (x *interceptor) Write(p []byte) (int, error) {
	x.WriteHeader(http.StatusOK)
	if x.rejection == nil {
		return x.ResponseWriter.Write(p)
	}
	if x.rejection.body.Len()+len(p) <= maxRejection {
		return x.rejection.body.Write(p)
	}
	x.replaceLater(x.rejection.verdict, x.rejection.status, x.rejection.code)
	if err := x.release(); err != nil {
		return 0, err
	}
	return x.ResponseWriter.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (x *interceptor) ReadFrom(r io.Reader) (int64, error) {
	x.WriteHeader(http.StatusOK)
	if x.rejection != nil {
		return io.Copy(writerOnly{x}, r)
	}
	return x.ResponseWriterWrapper.ReadFrom(r)
}

// writerOnly hides ReadFrom from io.Copy.
type writerOnly struct{ io.Writer }

// FlushError implements what http.ResponseController looks for. What is held
// back is flushed when it is released.
func (x *interceptor) FlushError() error {
	x.WriteHeader(http.StatusOK)
	if x.rejection != nil {
		x.rejection.flushed = true
		return nil
	}
	return http.NewResponseController(x.ResponseWriter).Flush() //nolint:bodyclose
}

// headerSnapshot remembers a response header. At this point it is short, most
// often, and needs no map.
type headerSnapshot struct {
	few [8]headerField
	n   int
	all http.Header // instead of few, if that does not do; else nil
}

type headerField struct{ name, value string }

func (s *headerSnapshot) take(h http.Header) {
	s.add("Server", h["Server"])
	s.add("Alt-Svc", h["Alt-Svc"])
	if s.n < len(h) { // the handlers ahead have set others
		s.n = 0
		for name, values := range h {
			s.add(name, values)
		}
	}
	if s.n < len(h) {
		s.all = h.Clone()
	}
}

// add remembers a field, if it has one value and there is room for it.
func (s *headerSnapshot) add(name string, values []string) {
	if len(values) == 1 && s.n < len(s.few) {
		s.few[s.n] = headerField{name, values[0]}
		s.n++
	}
}

func (s *headerSnapshot) restore(h http.Header) {
	clear(h)
	if s.all != nil {
		maps.Copy(h, s.all)
		return
	}
	for _, f := range s.few[:s.n] {
		h[f.name] = []string{f.value}
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*interceptor)(nil)
	_ io.ReaderFrom       = (*interceptor)(nil)
)
