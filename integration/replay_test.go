package integration

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// These tests are about what is replayed and how it looks; passthrough_test.go is about
// what passes unchanged, rejection_test.go about what counts as a rejection, and
// storm_test.go about many callers. In all of them the first token, access-token-1, is
// revoked behind Caddy's back: the API answers 401 to it. The second one,
// access-token-2, is good.

// revokedFirst is an API that refuses the first token and accepts any other.
func revokedFirst(refuse, accept http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer access-token-1" {
			refuse(w, r)
			return
		}
		accept(w, r)
	}
}

// refuse is a rejection with all that must not show in the final answer. It
// answers when it has read the body, as most APIs do.
func refuse(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	w.Header().Set("Set-Cookie", "rejected=1")
	w.Header().Set("X-Rejected", "1")
	w.Header().Set("Content-Type", "text/rejection")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, refusal)
}

const refusal = "this token was revoked"

// refuseEarly is a rejection that does not wait for the body. Over HTTP/1.1 it
// is read afterwards: a server that closes the connection instead may do so
// while the next request is being sent on it.
func refuseEarly(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex() // HTTP/2 has it anyway
	w.Header().Set("Content-Length", strconv.Itoa(len(refusal)))
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, refusal)
	_ = control.Flush()
	if r.ProtoMajor == 1 {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// repeat answers with what the request was.
func repeat(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
	fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
}

// wantReplaced waits until the rejected token has been replaced, and fails the
// test unless the next request has the new one.
func wantReplaced(t testing.TB, proxy *caddytest.Caddy, auth *caddytest.AuthServer, api *caddytest.APIServer) {
	t.Helper()
	caddytest.Eventually(t, "the token was replaced", func() bool {
		proxy.Get("/next", nil)
		return api.LastAuthorization(t) == "Bearer access-token-2"
	})
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// newAPIServerFor is NewAPIServer with another protocol: "h1", "h2" or "h2c".
func newAPIServerFor(t testing.TB, protocol string) *caddytest.APIServer {
	t.Helper()
	return caddytest.NewAPIServer(t, func(s *httptest.Server) {
		switch protocol {
		case "h2":
			s.EnableHTTP2, s.TLS = true, new(tls.Config)
		case "h2c":
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
		}
	})
}

// tlsFiles names, in {$CERTIFICATE} and {$KEY}, a certificate for 127.0.0.1.
func tlsFiles(t testing.TB) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("CERTIFICATE", pemFile(t, "CERTIFICATE", s.Certificate().Raw))
	t.Setenv("KEY", pemFile(t, "PRIVATE KEY", key))
}

// newCaller returns a client that speaks one protocol: "h1", "h2" or "h2c".
func newCaller(t testing.TB, protocol string) *http.Client {
	t.Helper()
	transport := &http.Transport{
		Protocols:             new(http.Protocols),
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: true}, // the server is a minute old and our own
		ExpectContinueTimeout: caddytest.Patience,
		MaxIdleConnsPerHost:   100,
	}
	switch protocol {
	case "h1":
		transport.Protocols.SetHTTP1(true)
	case "h2":
		transport.Protocols.SetHTTP2(true)
	case "h2c":
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: caddytest.Patience}
}

// everyProtocol is a site that takes HTTP/1.1 and h2c at {$SITE}, HTTP/2 at
// {$OTHER_SITE}, and speaks {$UPSTREAM_LINES} to the API.
const everyProtocol = `{
	servers {
		protocols h1 h2 h2c
	}
	upstream_oauth2 {
		client partner {
			token_endpoint {$TOKEN_ENDPOINT}
			client_id      partner-id
			client_secret  partner-secret
			replay {
				body_limit 1KB
			}
		}
	}
}
(site) {
	upstream_oauth2 partner
	reverse_proxy {$API} {
		transport http {
			{$UPSTREAM_LINES}
		}
	}
}
http://{$SITE} {
	import site
}
https://{$OTHER_SITE} {
	tls {$CERTIFICATE} {$KEY}
	import site
}`

// TestRejectedTokenIsReplacedAndTheRequestReplayed over all protocols and kinds
// of bodies: no caller sees the 401, and the API gets the same request twice.
func TestRejectedTokenIsReplacedAndTheRequestReplayed(t *testing.T) {
	const limit = 1000 // "1KB"
	unsized := func(s string) io.Reader { return io.MultiReader(strings.NewReader(s)) }
	sized := func(s string) io.Reader { return strings.NewReader(s) }
	long := func(n int) string { return strings.Repeat("b", n) }

	protocols := []string{"h1", "h2", "h2c"}
	requests := []struct {
		name     string
		method   string
		body     func(string) io.Reader
		text     string
		header   http.Header
		early    bool // the API does not wait for the body
		rejected bool // it cannot be replayed: the caller gets the 401
	}{
		{name: "no body", method: "GET"},
		{name: "empty body", method: "POST", body: sized},
		{name: "empty body of unknown size", method: "POST", body: unsized},
		{name: "sized body", method: "POST", body: sized, text: "the body"},
		{name: "chunked body", method: "PUT", body: unsized, text: "the body"},
		{name: "sized body as long as body_limit", method: "POST", body: sized, text: long(limit)},
		{name: "chunked body as long as body_limit", method: "POST", body: unsized, text: long(limit)},
		{name: "sized body longer by a byte", method: "POST", body: sized, text: long(limit + 1), rejected: true},
		{name: "chunked body longer by a byte", method: "POST", body: unsized, text: long(limit + 1), rejected: true},
		{name: "sized body that waits for 100", method: "POST", body: sized, text: "the body", header: http.Header{"Expect": {"100-continue"}}},
		{name: "chunked body that waits for 100", method: "POST", body: unsized, text: "the body", header: http.Header{"Expect": {"100-continue"}}},
		{name: "sized body, rejected before it was read", method: "POST", body: sized, text: "the body", early: true},
		{name: "chunked body, rejected before it was read", method: "POST", body: unsized, text: "the body", early: true},
		{name: "DELETE with a body", method: "DELETE", body: sized, text: "the body"},
	}
	for _, from := range protocols {
		for _, to := range protocols {
			for _, request := range requests {
				t.Run(from+" to "+to+"/"+request.name, func(t *testing.T) {
					if request.early {
						skipRaceOfReverseProxy(t, to)
					}
					auth, api := caddytest.NewAuthServer(t), newAPIServerFor(t, to)
					refusal := refuse
					if request.early {
						refusal = refuseEarly
					}
					api.Answers(revokedFirst(refusal, repeat))
					tlsFiles(t)
					t.Setenv("UPSTREAM_LINES", map[string]string{"h1": "", "h2": "versions 2\ntls_insecure_skip_verify", "h2c": "versions h2c"}[to])
					proxy := caddytest.Run(t, everyProtocol)

					url := "http://" + os.Getenv("SITE")
					if from == "h2" {
						url = "https://" + os.Getenv("OTHER_SITE")
					}
					var body io.Reader
					if request.body != nil {
						body = request.body(request.text)
					}
					r, err := http.NewRequest(request.method, url+"/orders?a=b", body)
					if err != nil {
						t.Fatal(err)
					}
					maps.Copy(r.Header, request.header)
					answer, err := caddytest.Do(newCaller(t, from), r)
					if err != nil {
						t.Fatal(err)
					}

					if request.rejected {
						if answer.Status != http.StatusUnauthorized {
							t.Errorf("status %d, want the API's 401", answer.Status)
						}
						api.WantAttempts(t, "access-token-1")
						wantReplaced(t, proxy, auth, api)
						return
					}
					if want := request.method + " /orders?a=b " + request.text; answer.Status != http.StatusOK || answer.Body != want {
						t.Errorf("%d %q, want %q", answer.Status, answer.Body, want)
					}
					api.WantAttempts(t, "access-token-1", "access-token-2")
					if n := auth.Count(); n != 2 {
						t.Errorf("%d token requests, want 2", n)
					}
				})
			}
		}
	}
}

// skipRaceOfReverseProxy skips a test whose upstream answers before it has read
// the body, under the race detector: over HTTP/2 that finds a data race within
// reverse_proxy's own wrapper of the body, with or without a replay.
func skipRaceOfReverseProxy(t *testing.T, to string) {
	if raceDetector && to != "h1" {
		t.Skip("reverse_proxy has a data race of its own there")
	}
}

// TestRejectionWhileTheCallerIsStillSending: the API says 401 to the first half
// of the body, and gets both halves again.
func TestRejectionWhileTheCallerIsStillSending(t *testing.T) {
	for _, from := range []string{"h1", "h2c"} {
		for _, to := range []string{"h1", "h2c"} {
			for name, size := range map[string]int64{"sized": 10, "chunked": -1} {
				t.Run(from+" to "+to+", "+name, func(t *testing.T) {
					skipRaceOfReverseProxy(t, to)
					auth, api := caddytest.NewAuthServer(t), newAPIServerFor(t, to)
					replayed := make(chan bool)
					api.Answers(revokedFirst(refuseEarly, func(w http.ResponseWriter, r *http.Request) {
						close(replayed)
						repeat(w, r)
					}))
					tlsFiles(t)
					t.Setenv("UPSTREAM_LINES", map[string]string{"h1": "", "h2c": "versions h2c"}[to])
					caddytest.Run(t, everyProtocol)

					body, send := io.Pipe()
					r, err := http.NewRequest("POST", "http://"+os.Getenv("SITE")+"/", body)
					if err != nil {
						t.Fatal(err)
					}
					r.ContentLength = size
					go func() {
						_, _ = io.WriteString(send, "first")
						<-replayed
						_, _ = io.WriteString(send, "later")
						_ = send.Close()
					}()
					answer, err := caddytest.Do(newCaller(t, from), r)

					if err != nil || answer.Body != "POST / firstlater" {
						t.Errorf("the caller gets %d %q, %v", answer.Status, answer.Body, err)
					}
					api.WantAttempts(t, "access-token-1", "access-token-2")
					if n := auth.Count(); n != 2 {
						t.Errorf("%d token requests, want 2", n)
					}
				})
			}
		}
	}
}

// TestNothingOfTheRejectionShows in the answer that the caller gets.
func TestNothingOfTheRejectionShows(t *testing.T) {
	for name, refuse := range map[string]http.HandlerFunc{
		"sized":   refuse,
		"chunked": func(w http.ResponseWriter, r *http.Request) { refuse(flushing{w}, r) },
		"longer than the answer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "4000")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, strings.Repeat("x", 4000))
		},
		"compressed": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusUnauthorized)
		},
		"with trailers": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Announced")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, refusal)
			w.Header().Set("X-Announced", "rejected")
			w.Header().Set(http.TrailerPrefix+"X-Sudden", "rejected")
		},
	} {
		t.Run(name, func(t *testing.T) {
			caddytest.NewAuthServer(t)
			api := caddytest.NewAPIServer(t)
			api.Answers(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "fine") })
			proxy := caddytest.Run(t, caddytest.PartnerSite)
			proxy.Want(http.StatusOK)
			resp, err := proxy.Client.Get("http://" + os.Getenv("SITE"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			plain := resp.Header

			api.Answers(revokedFirst(refuse, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "fine") }))
			resp, err = proxy.Client.Get("http://" + os.Getenv("SITE"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)

			if err != nil || resp.StatusCode != http.StatusOK || string(body) != "fine" {
				t.Errorf("the caller gets %d %q, %v", resp.StatusCode, body, err)
			}
			plain.Del("Date")
			resp.Header.Del("Date")
			if !maps.EqualFunc(resp.Header, plain, slices.Equal) {
				t.Errorf("the header is\n%q, and without a rejection\n%q", resp.Header, plain)
			}
			if len(resp.Trailer) > 0 {
				t.Errorf("there are trailers: %q", resp.Trailer)
			}
		})
	}
}

// TestReplayRunsThroughOtherHandlers: what stands between the directive and the
// API does the same on both attempts.
func TestReplayRunsThroughOtherHandlers(t *testing.T) {
	const namedRoute = "&(api) {\nreverse_proxy {$API}\n}\n"
	tests := []struct {
		name   string
		site   string // behind upstream_oauth2
		path   string
		empty  bool // the caller sends no body
		header http.Header
		want   string
		wants  http.Header // in the answer; nil values: absent
	}{
		{
			name: "handle",
			site: "handle {\nreverse_proxy {$API}\n}",
			path: "/orders", want: "POST /orders body",
		},
		{
			name: "handle, one of several",
			site: "handle /orders {\nreverse_proxy {$API}\n}\nhandle {\nrespond \"the wrong one\"\n}",
			path: "/orders", want: "POST /orders body",
		},
		{
			name: "handle, the last of several",
			site: "handle /customers {\nrespond \"the wrong one\"\n}\nhandle {\nreverse_proxy {$API}\n}",
			path: "/orders", want: "POST /orders body",
		},
		{
			name: "handle_path, one of several",
			site: "handle_path /other/* {\nrespond \"the wrong one\"\n}\nhandle_path /api/* {\nreverse_proxy {$API}\n}",
			path: "/api/orders", want: "POST /orders body",
		},
		{
			name: "handle in handle",
			site: "handle /api/* {\nhandle /api/a {\nreverse_proxy {$API}\n}\nhandle {\nrespond \"the wrong one\"\n}\n}\nhandle {\nrespond \"the wrong one\"\n}",
			path: "/api/a", want: "POST /api/a body",
		},
		{
			name: "rewrite and uri in a route",
			site: "route {\nuri strip_prefix /api\nrewrite * /v2{uri}\nuri replace o 0\nreverse_proxy {$API}\n}",
			path: "/api/orders?a=b", want: "POST /v2/0rders?a=b body",
		},
		{
			name: "handle_path",
			site: "handle_path /api/* {\nreverse_proxy {$API}\n}",
			path: "/api/or%2Fders?a=%7e", want: "POST /or%2Fders?a=%7e body",
		},
		{
			name: "uri in a route",
			site: "route {\nuri strip_prefix /api\nuri replace o 0\nreverse_proxy {$API}\n}",
			path: "/api/orders?a=b", want: "POST /0rders?a=b body",
		},
		{
			name: "the method changed",
			site: "route {\nmethod PUT\nreverse_proxy {$API}\n}",
			path: "/", want: "PUT / body",
		},
		{
			name: "the method changed, as placeholders see it",
			site: "route {\nheader X-Was {http.request.method}\nmethod PUT\nrewrite * /{http.request.method}\nreverse_proxy {$API}\n}",
			path: "/", want: "PUT /PUT body",
			wants: http.Header{"X-Was": {"POST"}},
		},
		{
			name: "the body in a placeholder",
			site: "route {\nrewrite * /{http.request.body}\nreverse_proxy {$API}\n}",
			path: "/", want: "POST /body body",
		},
		{
			name: "reverse_proxy's own rewrite",
			site: "reverse_proxy {$API} {\nrewrite /v3{uri}\n}",
			path: "/orders", want: "POST /v3/orders body",
		},
		{
			name:   "encode",
			site:   "encode gzip {\nminimum_length 1\nmatch status 200 401\n}\nreverse_proxy {$API}",
			path:   "/orders",
			header: http.Header{"Accept-Encoding": {"identity"}},
			want:   "POST /orders body",
		},
		{
			name: "encode that compresses", // net/http's client undoes it
			site: "encode gzip {\nminimum_length 1\nmatch header Content-Type text/*\n}\nreverse_proxy {$API}",
			path: "/orders", want: "POST /orders body",
			wants: http.Header{"Vary": {"Accept-Encoding"}},
		},
		{
			name: "intercept of other statuses",
			site: "intercept {\n@gone status 410\nhandle_response @gone {\nrespond \"the wrong one\"\n}\n}\nreverse_proxy {$API}",
			path: "/orders", want: "POST /orders body",
		},
		{
			name: "intercept that passes a 401 on",
			site: "intercept {\n@rejected status 401\nhandle_response @rejected {\nheader X-Intercepted 1\nrespond \"for the trash\" 401\n}\n}\nreverse_proxy {$API}",
			path: "/orders", want: "POST /orders body",
			wants: http.Header{"X-Intercepted": nil},
		},
		{
			name: "handle_response that copies a 401",
			site: "reverse_proxy {$API} {\n@rejected status 401\nhandle_response @rejected {\nheader X-Handled 1\ncopy_response\n}\n}",
			path: "/orders", want: "POST /orders body",
			wants: http.Header{"X-Handled": nil},
		},
		{
			name: "handle_response of the good answer",
			site: "reverse_proxy {$API} {\n@fine status 200\nhandle_response @fine {\nrespond \"handled {http.reverse_proxy.status_code}\"\n}\n}",
			path: "/orders", want: "handled 200",
		},
		{
			name: "header ahead and behind",
			site: "header X-Ahead 1\nheader >X-Deferred 1\nheader -X-Rejected\nreverse_proxy {$API} {\nheader_down +X-Down 1\n}",
			path: "/orders", want: "POST /orders body",
			wants: http.Header{"X-Ahead": {"1"}, "X-Deferred": {"1"}, "X-Down": {"1"}},
		},
		{
			name: "header in a route behind",
			site: "route {\nheader +X-Added 1\nreverse_proxy {$API}\n}",
			path: "/orders", want: "POST /orders body",
			wants: http.Header{"X-Added": {"1"}},
		},
		{
			name: "request buffers",
			site: "reverse_proxy {$API} {\nrequest_buffers 1MB\nresponse_buffers 1MB\n}",
			path: "/orders", want: "POST /orders body",
		},
		{
			name: "request_body",
			site: "request_body {\nmax_size 1MB\n}\nreverse_proxy {$API}",
			path: "/orders", want: "POST /orders body",
		},
		{
			name: "request_body that sets another",
			site: "route {\nrequest_body {\nset \"the body of this site\"\n}\nreverse_proxy {$API}\n}",
			path: "/orders", want: "POST /orders the body of this site",
		},
		{
			name: "request_body that sets one where there is none",
			site: "route {\nrequest_body {\nset \"the body of this site\"\n}\nreverse_proxy {$API}\n}",
			path: "/orders", empty: true, want: "POST /orders the body of this site",
		},
		{
			name: "a dead upstream among the living, which reverse_proxy tries first",
			site: "reverse_proxy {$DEAD} {$API} {\nlb_policy first\nlb_try_duration 20s\nlb_try_interval 1ms\nfail_duration 1m\n}",
			path: "/orders", want: "POST /orders body",
		},
		{
			name: "templates",
			site: "templates {\nmime text/plain\n}\nreverse_proxy {$API}",
			path: "/orders", want: "POST /orders body",
		},
		{
			name: "invoke",
			site: "invoke api",
			path: "/orders", want: "POST /orders body",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			api.Answers(revokedFirst(refuse, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				repeat(w, r)
			}))
			t.Setenv("DEAD", caddytest.FreeAddress(t))
			proxy := caddytest.Run(t, namedRoute+strings.Replace(caddytest.PartnerSite, "reverse_proxy {$API}", test.site, 1))

			body := "body"
			if test.empty {
				body = ""
			}
			r, err := http.NewRequest("POST", "http://"+os.Getenv("SITE")+test.path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			maps.Copy(r.Header, test.header)
			answer, err := caddytest.Do(proxy.Client, r)

			if err != nil || answer.Status != http.StatusOK || answer.Body != test.want {
				t.Errorf("the caller gets %d %q, %v, want %q", answer.Status, answer.Body, err, test.want)
			}
			for name, values := range test.wants {
				if got := answer.Header[name]; !slices.Equal(got, values) {
					t.Errorf("%s is %q, want %q", name, got, values)
				}
			}
			for _, name := range []string{"Set-Cookie", "Www-Authenticate", "X-Rejected"} {
				if answer.Header[name] != nil {
					t.Errorf("the rejection's %s shows: %q", name, answer.Header[name])
				}
			}
			api.WantAttempts(t, "access-token-1", "access-token-2")
			if n := auth.Count(); n != 2 {
				t.Errorf("%d token requests, want 2", n)
			}
		})
	}
}

// TestFieldsSetAhead are in the answer as handlers ahead have set them, however
// many there are, and as handlers behind edit them, once.
func TestFieldsSetAhead(t *testing.T) {
	for n := range 12 {
		for _, values := range [][]string{{"a"}, {"a", "b"}} {
			t.Run(fmt.Sprint(n, " fields with the values ", values), func(t *testing.T) {
				caddytest.NewAuthServer(t)
				api := caddytest.NewAPIServer(t)
				api.Answers(revokedFirst(refuse, repeat))
				var ahead, behind strings.Builder
				want := make(http.Header)
				for i := range n {
					name := fmt.Sprint("X-", i)
					for _, value := range values {
						fmt.Fprintf(&ahead, "header +%s %s\n", name, value)
						want.Add(name, "!"+value)
					}
					fmt.Fprintf(&behind, "header %s ^ !\n", name)
				}
				proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "reverse_proxy {$API}", ahead.String()+"route {\n"+behind.String()+"reverse_proxy {$API}\n}", 1))

				answer := proxy.Get("/", nil)

				maps.DeleteFunc(answer.Header, func(name string, _ []string) bool { return !strings.HasPrefix(name, "X-") })
				if !maps.EqualFunc(answer.Header, want, slices.Equal) {
					t.Errorf("the header is %q, want %q", answer.Header, want)
				}
				api.WantAttempts(t, "access-token-1", "access-token-2")
			})
		}
	}
}

// TestReplayWithTheTokenInTheQuery has one token in it each time.
func TestReplayWithTheTokenInTheQuery(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("access_token") == "access-token-1" {
			refuse(w, r)
			return
		}
		_, _ = io.WriteString(w, r.RequestURI)
	})
	proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSiteWith("inject query access_token"), "reverse_proxy {$API}", "handle_path /api/* {\nreverse_proxy {$API}\n}", 1))

	answer := proxy.Get("/api/orders?a=1&access_token=own", nil)

	if want := "/orders?a=1&access_token=access-token-2"; answer.Body != want {
		t.Errorf("the API sees %s, want %s", answer.Body, want)
	}
	if first := api.Seen()[0].URI; first != "/orders?a=1&access_token=access-token-1" {
		t.Errorf("at first the API saw %s", first)
	}
}

// TestReplayOfAnOuterDirective finds what the inner one took off the request.
func TestReplayOfAnOuterDirective(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Gateway-Token") == "access-token-1" {
			refuse(w, r)
		} else {
			repeat(w, r)
		}
	})
	proxy := caddytest.Run(t, `http://{$SITE} {
	route {
		upstream_oauth2 gateway {
			token_endpoint {$TOKEN_ENDPOINT}
			client_id gateway
			client_secret partner-secret
			inject header X-Gateway-Token
		}
		upstream_oauth2 users {
			token_endpoint {$TOKEN_ENDPOINT}
			client_id partner-id
			client_secret partner-secret
			grant token_exchange
			replay off
		}
		reverse_proxy {$API}
	}
}`)
	proxy.AwaitLog(caddytest.LogObtained)

	if answer := proxy.Get("/", http.Header{"Authorization": {"Bearer callers"}}); answer.Status != http.StatusOK {
		t.Errorf("status %d: %s", answer.Status, answer.Body)
	}
}
