package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// tokens hands out what a test gives it, and notes what it is asked for.
type tokens struct {
	current *authserver.Token // nil if there is none to be had
	newer   *authserver.Token // after a replacement; nil if there is none
	calls   []string
}

func (t *tokens) note(call string, token *authserver.Token) {
	t.calls = append(t.calls, call+" "+token.AccessToken.Reveal())
}

func (t *tokens) Token(context.Context) (*authserver.Token, error) {
	if t.current == nil {
		return nil, errors.New("no token")
	}
	return t.current, nil
}

func (t *tokens) Reject(token *authserver.Token) { t.note("reject", token) }

func (t *tokens) Replace(_ context.Context, token *authserver.Token) *authserver.Token {
	t.note("replace", token)
	return t.newer
}

// attempt answers one attempt as the API does, and as the handlers between may.
type attempt func(w http.ResponseWriter, r *http.Request) error

// answer returns an attempt that reads the body and answers.
func answer(status int, body string, fields ...string) attempt {
	return func(w http.ResponseWriter, r *http.Request) error {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < len(fields); i += 2 {
			w.Header()[fields[i]] = []string{fields[i+1]}
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return nil
	}
}

// upstreamTest is one request through Send.
type upstreamTest struct {
	settings Settings
	tokens   tokens
	request  *http.Request
	attempts []attempt
	ahead    func(*http.Request) // what handlers ahead do; may be nil

	seen     []string // the Authorization field and the body of each attempt
	outcomes []Rejection
	w        *httptest.ResponseRecorder
	err      error
}

// newTest is a request whose token is replaced when the API rejects it.
func newTest(body string, attempts ...attempt) *upstreamTest {
	older, newer := testToken("older", "Bearer"), testToken("newer", "Bearer")
	u := &upstreamTest{
		settings: Settings{Placement: authorization, Replay: Replay{Status: []int{401}, BodyLimit: 100}},
		tokens:   tokens{current: older, newer: newer},
		attempts: attempts,
	}
	method, reader := http.MethodGet, io.Reader(nil)
	if body != "" {
		method, reader = http.MethodPost, strings.NewReader(body)
	}
	u.request = httptest.NewRequest(method, "https://api.internal.example.com/orders?page=2", reader)
	return u
}

// send sends the request. w is what the handlers ahead write to.
func (u *upstreamTest) send() *upstreamTest {
	u.w = httptest.NewRecorder()
	u.settings.Rejected = func(r Rejection) { u.outcomes = append(u.outcomes, r) }
	r := caddyhttp.PrepareRequest(u.request, caddy.NewReplacer(), u.w, &caddyhttp.Server{})
	u.request = r
	if u.ahead != nil {
		u.ahead(r)
	}
	u.err = New(u.settings).Send(u.w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		n := len(u.seen)
		u.seen = append(u.seen, r.Header.Get("Authorization"))
		if n >= len(u.attempts) {
			return errors.New("one attempt too many")
		}
		return u.attempts[n](w, r)
	}), &u.tokens, u.tokens.current)
	return u
}

func (u *upstreamTest) want(t *testing.T, status int, body string, calls []string, outcomes ...Outcome) {
	t.Helper()
	if u.err != nil {
		t.Errorf("Send returns %v", u.err)
	}
	if u.w.Code != status || u.w.Body.String() != body {
		t.Errorf("the caller gets %d %q, want %d %q", u.w.Code, u.w.Body, status, body)
	}
	u.wantCalls(t, calls, outcomes...)
}

func (u *upstreamTest) wantCalls(t *testing.T, calls []string, outcomes ...Outcome) {
	t.Helper()
	if !slices.Equal(u.tokens.calls, calls) {
		t.Errorf("the tokens are told %q, want %q", u.tokens.calls, calls)
	}
	var got []Outcome
	for _, o := range u.outcomes {
		got = append(got, o.Outcome)
	}
	if !slices.Equal(got, outcomes) {
		t.Errorf("the outcomes are %q, want %q", got, outcomes)
	}
	if field := u.request.Header.Get("Authorization"); field != "" {
		t.Errorf("the field is left on the request: %q", field)
	}
	if len(u.seen) != len(u.attempts) {
		t.Errorf("%d attempts, want %d", len(u.seen), len(u.attempts))
	}
}

var (
	replaced = []string{"replace older"}
	rejects  = []string{"reject older"}
)

func TestAcceptedAnswerPasses(t *testing.T) {
	u := newTest("body", answer(200, "fine", "X-Api", "1")).send()
	u.want(t, 200, "fine", nil)
	if u.w.Header().Get("X-Api") != "1" || !slices.Equal(u.seen, []string{"Bearer older"}) {
		t.Errorf("the caller gets %v; the API saw %q", u.w.Header(), u.seen)
	}
}

func TestRejectedRequestGoesOutAgain(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) error {
		body, err := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.Method+" "+r.URL.String()+" "+string(body))
		return err
	}
	spoil := func(w http.ResponseWriter, r *http.Request) error { // as handlers between may
		r.URL.Path, r.Method = "/elsewhere", "PUT"
		return answer(401, strings.Repeat("x", maxRejection), "X-Rejected", "1")(w, r)
	}
	for _, body := range []string{"", "body", strings.Repeat("b", 100)} {
		method := "POST"
		if body == "" {
			method = "GET"
		}
		u := newTest(body, spoil, echo).send()
		u.want(t, 200, method+" https://api.internal.example.com/orders?page=2 "+body, replaced, Accepted)
		if !slices.Equal(u.seen, []string{"Bearer older", "Bearer newer"}) {
			t.Errorf("the API saw %q", u.seen)
		}
		if len(u.w.Header()) > 0 && u.w.Header().Get("X-Rejected") != "" {
			t.Errorf("the rejection shows: %v", u.w.Header())
		}
		if got := u.outcomes[0]; got.Status != 200 || got.Token != u.tokens.newer {
			t.Errorf("the outcome is %+v", got)
		}
	}
}

// TestWhatCaddyNotesInTheContext is as it was, or a copy: a goroutine of the first
// attempt may still look at it.
func TestWhatCaddyNotesInTheContext(t *testing.T) {
	groups := func(r *http.Request) map[string]struct{} {
		return r.Context().Value(routeGroups).(map[string]struct{})
	}
	var first context.Context
	u := newTest("", func(w http.ResponseWriter, r *http.Request) error {
		first = r.Context()
		groups(r)["second"] = struct{}{}
		caddyhttp.SetVar(first, "name", "first")
		return answer(401, "")(w, r)
	}, func(_ http.ResponseWriter, r *http.Request) error {
		if want := map[string]struct{}{"first": {}}; !reflect.DeepEqual(groups(r), want) {
			t.Errorf("the groups served are %v, want %v", groups(r), want)
		}
		caddyhttp.SetVar(r.Context(), "name", "second")
		return nil
	})
	u.ahead = func(r *http.Request) { groups(r)["first"] = struct{}{} }
	u.send().want(t, 200, "", replaced, Accepted)
	if got := first.Value(caddyhttp.VarsCtxKey).(map[string]any)["name"]; got != "first" {
		t.Errorf("the first attempt's variable is %v", got)
	}
}

func TestSecondRejectionIsPassedOn(t *testing.T) {
	u := newTest("", answer(401, "first"), answer(401, "second", "Www-Authenticate", `Bearer error="invalid_token"`)).send()
	u.want(t, 401, "second", replaced, RejectedAgain)
	want := Rejection{Outcome: RejectedAgain, Token: u.tokens.newer, Status: 401, Error: "invalid_token"}
	if u.outcomes[0] != want {
		t.Errorf("the outcome is %+v, want %+v", u.outcomes[0], want)
	}
}

func TestSecondAttemptThatFails(t *testing.T) {
	down := errors.New("the API is down")
	u := newTest("", answer(401, ""), func(http.ResponseWriter, *http.Request) error { return down }).send()
	if u.err != down {
		t.Errorf("Send returns %v", u.err)
	}
	u.wantCalls(t, replaced, Failed)
}

func TestSecondAttemptWithoutAnAnswer(t *testing.T) {
	newTest("", answer(401, ""), func(http.ResponseWriter, *http.Request) error { return nil }).send().want(t, 200, "", replaced, Accepted)
}

func TestRequestsThatAreNotSentAgain(t *testing.T) {
	tests := []struct {
		name   string
		body   string
		change func(*upstreamTest)
	}{
		{"replay off", "", func(u *upstreamTest) { u.settings.Replay.Off = true }},
		{"CONNECT", "", func(u *upstreamTest) { u.request.Method = http.MethodConnect }},
		{"an upgrade", "", func(u *upstreamTest) { u.request.Header.Set("Upgrade", "websocket") }},
		{"gRPC", "", func(u *upstreamTest) { u.request.Header.Set("Content-Type", "application/grpc+proto") }},
		{"a long body", strings.Repeat("b", 101), func(*upstreamTest) {}},
		{"a long body, chunked", strings.Repeat("b", 101), func(u *upstreamTest) { u.request.ContentLength = -1 }},
		{"no limit at all", "b", func(u *upstreamTest) { u.settings.Replay.BodyLimit = 0 }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			u := newTest(test.body, answer(401, "refused", "Www-Authenticate", `Bearer error="invalid_request"`))
			test.change(u)
			u.send().want(t, 401, "refused", rejects, NotReplayed)
			want := Rejection{Outcome: NotReplayed, Token: u.tokens.current, Status: 401, Error: "invalid_request"}
			if u.outcomes[0] != want {
				t.Errorf("the outcome is %+v, want %+v", u.outcomes[0], want)
			}
		})
	}
}

func TestErrorWithTheStatusOfARejection(t *testing.T) {
	for status, calls := range map[int][]string{401: rejects, 502: nil} {
		u := newTest("", func(http.ResponseWriter, *http.Request) error {
			return caddyhttp.Error(status, errors.New("says a route"))
		}).send()
		if u.err == nil {
			t.Error("Send returns no error")
		}
		if calls == nil {
			u.wantCalls(t, nil)
		} else {
			u.wantCalls(t, calls, NotReplayed)
		}
	}
	u := newTest("", func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(200)
		return caddyhttp.Error(401, errors.New("too late"))
	}).send()
	u.wantCalls(t, nil)
}

func TestRejectionThatBreaksOff(t *testing.T) {
	broken := errors.New("the API hung up")
	u := newTest("", func(w http.ResponseWriter, r *http.Request) error {
		_ = answer(401, "half", "X-Rejected", "1")(w, r)
		return broken
	}).send()
	if u.err != broken || u.w.Header().Get("X-Rejected") != "" || u.w.Body.Len() > 0 {
		t.Errorf("Send returns %v; the caller gets %v %q", u.err, u.w.Header(), u.w.Body)
	}
	u.wantCalls(t, rejects, NotReplayed)
}

func TestRejectionIsReleased(t *testing.T) {
	long := strings.Repeat("x", maxRejection)
	tests := []struct {
		name    string
		reject  attempt
		noToken bool
		body    string
		calls   []string
	}{
		{"no newer token", answer(401, "refused"), true, "refused", replaced},
		{"just short enough", answer(401, long), true, long, replaced},
		{"too long", answer(401, long+"x"), false, long + "x", rejects},
		{"too long, read from", func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(401)
			_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader(long + "x"))
			return err
		}, false, long + "x", rejects},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			u := newTest("", test.reject)
			if test.noToken {
				u.tokens.newer = nil
			}
			u.send().want(t, 401, test.body, test.calls, NotReplayed)
		})
	}
}

func TestReleasedRejectionKeepsHeaderTrailersAndFlush(t *testing.T) {
	u := newTest("", func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("X-Held", "1")
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(401)
		w.WriteHeader(500) // superfluous
		w.Header().Set("X-Sum", "trailer")
		w.Header().Set("X-Late", "not announced")
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
		_, err := io.WriteString(w, "refused")
		return err
	})
	u.tokens.newer = nil
	u.send().want(t, 401, "refused", replaced, NotReplayed)
	answer := u.w.Result()
	if answer.Header.Get("X-Held") != "1" || answer.Header.Get("X-Late") != "" || answer.Trailer.Get("X-Sum") != "trailer" || !u.w.Flushed {
		t.Errorf("the caller gets %v, trailers %v, flushed: %v", answer.Header, answer.Trailer, u.w.Flushed)
	}
}

func TestAnswersPassAsTheyCome(t *testing.T) {
	u := newTest("", func(w http.ResponseWriter, _ *http.Request) error {
		if _, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("one ")); err != nil {
			return err
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
		_, err := io.WriteString(w, "two")
		return err
	}).send()
	u.want(t, 200, "one two", nil)
	if !u.w.Flushed {
		t.Error("the flush did not pass")
	}
}

// statuses notes each WriteHeader.
type statuses struct {
	http.ResponseWriter
	seen []int
}

func (w *statuses) WriteHeader(status int) { w.seen = append(w.seen, status) }

func TestEarlyHintsPassAtOnce(t *testing.T) {
	w := &statuses{ResponseWriter: httptest.NewRecorder()}
	err := New(Settings{Placement: authorization, Replay: Replay{Status: []int{401}, BodyLimit: 1}}).Send(w, requestWith(http.Header{}), caddyhttp.HandlerFunc(func(x http.ResponseWriter, _ *http.Request) error {
		x.WriteHeader(http.StatusEarlyHints)
		if !slices.Equal(w.seen, []int{103}) {
			t.Errorf("%d passed", w.seen)
		}
		x.WriteHeader(http.StatusOK)
		x.WriteHeader(http.StatusTeapot) // superfluous
		return nil
	}), &tokens{}, testToken("opaque", ""))
	if err != nil || !slices.Equal(w.seen, []int{103, 200}) {
		t.Errorf("%d passed, %v", w.seen, err)
	}
}

func TestFlushAloneAnswers(t *testing.T) {
	u := newTest("", func(w http.ResponseWriter, _ *http.Request) error {
		return http.NewResponseController(w).Flush()
	}).send()
	u.want(t, 200, "", nil)
	if !u.w.Flushed {
		t.Error("the flush did not pass")
	}
}

// TestFieldsSetAheadComeBack: the second attempt finds the answer's header as the
// first one did, however many fields there are.
func TestFieldsSetAheadComeBack(t *testing.T) {
	tests := map[string]http.Header{
		"none":           {},
		"Caddy's own":    {"Server": {"Caddy"}, "Alt-Svc": {"h3"}},
		"others":         {"Server": {"Caddy"}, "X-Frame-Options": {"DENY"}},
		"several values": {"Link": {"a", "b"}, "Server": {"Caddy"}},
		"no value":       {"X-Empty": {}},
		"many":           {"A": {"1"}, "B": {"2"}, "C": {"3"}, "D": {"4"}, "E": {"5"}, "F": {"6"}, "G": {"7"}, "H": {"8"}},
		"too many":       {"A": {"1"}, "B": {"2"}, "C": {"3"}, "D": {"4"}, "E": {"5"}, "F": {"6"}, "G": {"7"}, "H": {"8"}, "I": {"9"}},
	}
	for name, ahead := range tests {
		t.Run(name, func(t *testing.T) {
			var snapshot headerSnapshot
			h := ahead.Clone()
			snapshot.take(h)
			h.Set("Server", "the API's")
			h.Del("A")
			h["X-Rejected"] = []string{"1"}
			snapshot.restore(h)
			if !reflect.DeepEqual(h, ahead) {
				t.Errorf("the header is %v, want %v", h, ahead)
			}
		})
	}
}

func TestWhatCountsAsARejection(t *testing.T) {
	tests := []struct {
		name    string
		scheme  string
		status  int
		fields  []string
		verdict verdict
		code    string
	}{
		{"another status", "", 403, nil, accepted, ""},
		{"no challenge", "", 401, nil, rejected, ""},
		{"a Bearer challenge", "", 401, []string{"bearer"}, rejected, ""},
		{"another challenge", "", 401, []string{"Basic"}, accepted, ""},
		{"another scheme without one of its own", "", 401, []string{`error="x"`}, accepted, ""},
		{"the token's own scheme", "OAuth", 401, []string{`oauth error="invalid_token"`}, rejected, "invalid_token"},
		{"both", "OAuth", 401, []string{"Basic", "Bearer"}, rejected, ""},
		{"too little scope", "", 401, []string{`Bearer error="insufficient_scope"`}, accepted, ""},
		{"a proof that is refused", "DPoP", 401, []string{`DPoP error="invalid_dpop_proof"`}, rejected, "invalid_dpop_proof"},
		{"an error of the API's own", "", 401, []string{`Bearer error="the token older"`}, rejected, ""},
		{"a nonce is wanted", "DPoP", 401, []string{`DPoP error="use_dpop_nonce"`}, wantsNonce, "use_dpop_nonce"},
		{"a configured status", "", 419, []string{"Basic"}, rejected, ""},
		{"a configured status, too little scope", "", 419, []string{`Bearer error="insufficient_scope"`}, accepted, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			replay := Replay{Status: []int{401, 419}, Scheme: test.scheme}
			header := http.Header{}
			if test.fields != nil {
				header["Www-Authenticate"] = test.fields
			}
			if verdict, code := replay.judge(test.status, header); verdict != test.verdict || code != test.code {
				t.Errorf("the verdict is %d %q, want %d %q", verdict, code, test.verdict, test.code)
			}
		})
	}
}

func TestRequestOfTheCallerComesBack(t *testing.T) {
	u := newTest("body", answer(401, ""), answer(200, ""))
	u.request.Header = http.Header{"Authorization": {"Basic own"}}
	before, body := u.request.Header.Clone(), u.request.Body
	u.send()
	if !reflect.DeepEqual(u.request.Header, before) || u.request.Body != body {
		t.Errorf("the request has %v afterwards, its own body: %v", u.request.Header, u.request.Body == body)
	}
}

func TestSendWithout(t *testing.T) {
	r := requestWith(http.Header{"Authorization": {"Basic own"}, "Accept": {"*/*"}})
	before := r.Header.Clone()
	err := New(Settings{Placement: authorization}).SendWithout(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		if want := (http.Header{"Accept": {"*/*"}}); !reflect.DeepEqual(r.Header, want) {
			t.Errorf("the API sees %v, want %v", r.Header, want)
		}
		return nil
	}))
	if err != nil || !reflect.DeepEqual(r.Header, before) {
		t.Errorf("the request has %v afterwards, %v", r.Header, err)
	}
}

func TestTakeCallerFields(t *testing.T) {
	u := New(Settings{Placement: authorization, CallerFields: []string{"X-Subject", "X-Actor"}})
	r := requestWith(http.Header{"X-Subject": {"a", "b"}, "Accept": {"*/*"}})
	if got, want := u.TakeCallerFields(r), (http.Header{"X-Subject": {"a", "b"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%v is taken, want %v", got, want)
	}
	if want := (http.Header{"Accept": {"*/*"}}); !reflect.DeepEqual(r.Header, want) {
		t.Errorf("%v is left, want %v", r.Header, want)
	}
}

// wrapped is a ResponseWriter as other handlers put before ours.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestTokenOverAnothersToken(t *testing.T) {
	tests := []struct {
		name         string
		outer, inner Placement
		wrap         bool
		want         int
	}{
		{"the same field", authorization, oauthScheme, false, 1},
		{"the same field, behind another handler", authorization, authorization, true, 1},
		{"another field", authorization, apiToken, false, 0},
		{"the same parameter", accessToken, accessToken, false, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			overwritten := 0
			outer := New(Settings{Placement: test.outer, Overwrote: func() { t.Error("the outer one overwrites nothing of ours") }})
			inner := New(Settings{Placement: test.inner, Overwrote: func() { overwritten++ }})
			token := testToken("opaque", "Bearer")
			r := requestWith(http.Header{"Authorization": {"the caller's"}, "X-Api-Token": {"the caller's"}})
			end := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
			err := outer.Send(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				if test.wrap {
					w = wrapped{w}
				}
				return inner.Send(w, r, end, &tokens{}, token)
			}), &tokens{}, token)
			if err != nil || overwritten != test.want {
				t.Errorf("told %d times, %v; want %d", overwritten, err, test.want)
			}
		})
	}
}
