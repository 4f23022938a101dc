package integration

import (
	"cmp"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestReplacedWithoutAReplay: these requests cannot be sent again, so their
// callers get the API's 401 whole, and the token is replaced for the next one.
func TestReplacedWithoutAReplay(t *testing.T) {
	large := strings.Repeat("the token is revoked ", 50_000)
	refuseAtLength := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, large)
	}
	tests := []struct {
		name   string
		lines  string
		behind string // upstream_oauth2, if not reverse_proxy alone
		refuse http.HandlerFunc
		method string
		header http.Header
		body   string
		want   string // in the 401
	}{
		{name: "replay off", lines: "replay off", refuse: refuse, want: refusal},
		{name: "replay off, with a body", lines: "replay off", refuse: refuse, method: "POST", body: "a", want: refusal},
		{name: "body_limit 0, with a body", lines: "replay {\nbody_limit 0\n}", refuse: refuse, method: "POST", body: "a", want: refusal},
		{name: "gRPC", refuse: refuse, method: "POST", header: http.Header{"Content-Type": {"application/grpc"}}, body: "a", want: refusal},
		{name: "gRPC with a codec", refuse: refuse, method: "POST", header: http.Header{"Content-Type": {"application/grpc+proto"}}, body: "a", want: refusal},
		{name: "gRPC-Web", refuse: refuse, method: "POST", header: http.Header{"Content-Type": {"application/grpc-web+proto"}}, body: "a", want: refusal},
		{
			name:   "gRPC that goes on as something else",
			behind: "route {\nrequest_header Content-Type text/plain\nreverse_proxy {$API}\n}",
			refuse: refuse, method: "POST", header: http.Header{"Content-Type": {"application/grpc"}}, body: "a", want: refusal,
		},
		{
			name:   "a rejection that was made an error",
			behind: "reverse_proxy {$API} {\n@rejected status 401\nhandle_response @rejected {\nerror 401\n}\n}",
			refuse: refuse,
		},
		{name: "a large rejection", refuse: refuseAtLength, want: large},
		{name: "a large rejection, sized", refuse: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(large)))
			refuseAtLength(w, r)
		}, want: large},
		{name: "a large rejection in small pieces", refuse: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			for piece := range slices.Chunk([]byte(large), 10_000) {
				_, _ = flushing{w}.Write(piece)
			}
		}, want: large},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			api.Answers(revokedFirst(test.refuse, repeat))
			proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSiteWith(test.lines), "reverse_proxy {$API}", cmp.Or(test.behind, "reverse_proxy {$API}"), 1))

			r, err := http.NewRequest(test.method, "http://"+os.Getenv("SITE"), strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			maps.Copy(r.Header, test.header)
			answer, err := caddytest.Do(proxy.Client, r)

			if err != nil || answer.Status != http.StatusUnauthorized || answer.Body != test.want {
				t.Errorf("the caller gets %d and %d bytes, %v, want 401 and %d", answer.Status, len(answer.Body), err, len(test.want))
			}
			api.WantAttempts(t, "access-token-1")
			wantReplaced(t, proxy, auth, api)
		})
	}
}

// TestWhatIsARejection: which answers have the token replaced and the request
// replayed. All others reach the caller as they are, and cost nothing.
func TestWhatIsARejection(t *testing.T) {
	tests := []struct {
		name       string
		lines      string
		status     int
		challenges []string
		rejection  bool
	}{
		{name: "401 without a challenge", status: 401, rejection: true},
		{name: "401 with Bearer", status: 401, challenges: []string{"Bearer"}, rejection: true},
		{name: "401 with Bearer, odd case", status: 401, challenges: []string{`bEARER ERROR="invalid_token"`}, rejection: true},
		{name: "401 with Bearer behind another", status: 401, challenges: []string{`Basic realm="a, b", Bearer realm="c"`}, rejection: true},
		{name: "401 with Bearer on a second line", status: 401, challenges: []string{"Negotiate", "Bearer"}, rejection: true},
		{name: "401 with an error of its own", status: 401, challenges: []string{`Bearer error="expired"`}, rejection: true},
		{name: "401 that wants another scope", status: 401, challenges: []string{`Bearer error="insufficient_scope", scope="write"`}},
		{name: "401 that wants another scope, unquoted", status: 401, challenges: []string{`Bearer scope=write,error=insufficient_scope`}},
		{name: "401 with Basic only", status: 401, challenges: []string{`Basic realm="a"`}},
		{name: "401 with Basic that speaks of Bearer", status: 401, challenges: []string{`Basic realm="Bearer, error=invalid_token"`}},
		{name: "401 with Digest and Negotiate", status: 401, challenges: []string{`Digest nonce="x"`, "Negotiate"}},
		{name: "401 with the configured scheme", lines: "inject header Authorization Token", status: 401, challenges: []string{"TOKEN"}, rejection: true},
		{name: "401 with Bearer for a token with another scheme", lines: "inject header Authorization Token", status: 401, challenges: []string{"Bearer"}, rejection: true},
		{name: "403", status: 403},
		{name: "403 with Bearer", status: 403, challenges: []string{"Bearer"}},
		{name: "407", status: 407},
		{name: "500", status: 500},
		{name: "403 where it is configured", lines: "replay {\nstatus 401 403\n}", status: 403, rejection: true},
		{name: "403 where it is configured, with another challenge", lines: "replay {\nstatus 401 403\n}", status: 403, challenges: []string{"Basic"}, rejection: true},
		{name: "403 where it is configured, that wants another scope", lines: "replay {\nstatus 401 403\n}", status: 403, challenges: []string{`Bearer error="insufficient_scope"`}},
		{name: "498 where it is configured", lines: "replay {\nstatus 498\n}", status: 498, rejection: true},
		{name: "401 where another is configured", lines: "replay {\nstatus 403\n}", status: 401},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			api.Answers(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.Header.Get("Authorization"), " access-token-1") {
					if test.challenges != nil {
						w.Header()["Www-Authenticate"] = test.challenges
					}
					w.WriteHeader(test.status)
					_, _ = io.WriteString(w, refusal)
					return
				}
				_, _ = io.WriteString(w, "fine")
			})
			proxy := caddytest.Run(t, caddytest.PartnerSiteWith(test.lines))

			answer := proxy.Get("/", nil)

			status, body, requests := test.status, refusal, 1
			if test.rejection {
				status, body, requests = http.StatusOK, "fine", 2
			}
			if answer.Status != status || answer.Body != body {
				t.Errorf("the caller gets %d %q, want %d %q", answer.Status, answer.Body, status, body)
			}
			if n := auth.Count(); n != requests {
				t.Errorf("%d token requests, want %d", n, requests)
			}
			if n := len(api.Seen()); n != requests {
				t.Errorf("%d requests reached the API, want %d", n, requests)
			}
		})
	}
}

// TestSecondRejectionIsTheAnswer: a request is never sent a third time, and the
// caller gets the second answer as it is.
func TestSecondRejectionIsTheAnswer(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "POST"} {
		t.Run(method, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			api.Answers(func(w http.ResponseWriter, r *http.Request) {
				token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				w.Header().Set("WWW-Authenticate", "Bearer realm="+token)
				w.Header().Set("X-"+token, "1")
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, "no "+token)
			})
			proxy := caddytest.Run(t, caddytest.PartnerSite)

			answer := proxy.Send(method, os.Getenv("SITE"), "/", nil)

			body := "no access-token-2"
			if method == "HEAD" {
				body = ""
			}
			if answer.Status != http.StatusUnauthorized || answer.Body != body {
				t.Errorf("the caller gets %d %q, want 401 %q", answer.Status, answer.Body, body)
			}
			if got := answer.Header.Values("WWW-Authenticate"); !slices.Equal(got, []string{"Bearer realm=access-token-2"}) {
				t.Errorf("WWW-Authenticate is %q", got)
			}
			if answer.Header.Get("X-Access-Token-1") != "" || answer.Header.Get("X-Access-Token-2") == "" {
				t.Errorf("the header is a mixture: %q", answer.Header)
			}
			api.WantAttempts(t, "access-token-1", "access-token-2")
			if n := auth.Count(); n != 2 {
				t.Errorf("%d token requests, want 2", n)
			}
		})
	}
}

// TestBrokenRejection: the API breaks off in the middle of its 401. The caller
// may see that, but the token is replaced all the same.
func TestBrokenRejection(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	api.Answers(revokedFirst(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(flushing{w}, refusal)
		panic(http.ErrAbortHandler)
	}, repeat))
	proxy := caddytest.Run(t, caddytest.PartnerSite)

	_, _ = proxy.Try("GET", os.Getenv("SITE"), "/", nil)

	caddytest.Eventually(t, "the token was replaced", func() bool {
		answer, err := proxy.Try("GET", os.Getenv("SITE"), "/", nil)
		return err == nil && answer.Status == http.StatusOK
	})
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// TestErrorsOfTheSecondAttempt are the answer, with nothing of the rejection.
func TestErrorsOfTheSecondAttempt(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	var refused atomic.Bool
	api.Answers(revokedFirst(func(w http.ResponseWriter, r *http.Request) {
		refused.Store(true)
		refuse(w, r)
	}, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	proxy := caddytest.Run(t, tellingSite(""))

	for _, method := range []string{"GET", "HEAD"} {
		answer := proxy.Send(method, os.Getenv("SITE"), "/", nil)
		if answer.Status != http.StatusBadGateway || strings.Contains(answer.Body, refusal) {
			t.Errorf("%s: the caller gets %d %q, want 502", method, answer.Status, answer.Body)
		}
		for _, name := range []string{"Set-Cookie", "Www-Authenticate", "X-Rejected"} {
			if answer.Header[name] != nil {
				t.Errorf("%s: the rejection's %s shows: %q", method, name, answer.Header[name])
			}
		}
	}
	if n := auth.Count(); n != 2 || !refused.Load() {
		t.Errorf("%d token requests, want 2", n)
	}
}

// TestAuthenticationBehindIsNotTheAPIs: a caller without the password for a handler
// behind this one has nothing to say about the token.
func TestAuthenticationBehindIsNotTheAPIs(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "reverse_proxy", `handle /private {
		basic_auth {
			alice $2a$04$4Iq0mUoBy0bT6yKsHkm2J.2Cx9V1yF7tqVbVEk8RZ8v9zNJt5m8yC
		}
	}
	reverse_proxy`, 1))
	proxy.AwaitLog(caddytest.LogObtained)

	if answer := proxy.Get("/private", nil); answer.Status != http.StatusUnauthorized {
		t.Fatalf("status %d: %s", answer.Status, answer.Body)
	}

	// A request would wait for the token that takes the place of a rejected one.
	proxy.Want(http.StatusOK)
	api.WantAttempts(t, "access-token-1")
}
