package integration

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// In these tests the first token, access-token-1, is revoked behind Caddy's
// back: the API answers 401 to it. The second one, access-token-2, is good.

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
		ExpectContinueTimeout: 20 * time.Second,
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
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
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

// flushing sends each piece of a body by itself, which makes it chunked.
type flushing struct{ http.ResponseWriter }

func (w flushing) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	return n, err
}

// TestEarlyHintsPass from both attempts, and the rejection's own fields
// stay behind.
func TestEarlyHintsPass(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	hint := func(link string, then http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", link)
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			then(w, r)
		}
	}
	api.Answers(revokedFirst(hint("</first.css>", refuse), hint("</second.css>", repeat)))
	proxy := caddytest.Run(t, caddytest.PartnerSite)

	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			hints = append(hints, strconv.Itoa(status)+" "+header.Get("Link"))
			return nil
		},
	})
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+os.Getenv("SITE"), nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := caddytest.Do(proxy.Client, r)

	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("status %d, %v", answer.Status, err)
	}
	if want := []string{"103 </first.css>", "103 </second.css>"}; !slices.Equal(hints, want) {
		t.Errorf("the hints are %q, want %q", hints, want)
	}
	for _, name := range []string{"Link", "X-Rejected", "Www-Authenticate"} {
		if answer.Header[name] != nil {
			t.Errorf("%s is in the answer: %q", name, answer.Header[name])
		}
	}
}

// TestTrailersPass in both directions, on the second attempt as well.
func TestTrailersPass(t *testing.T) {
	for _, protocol := range []string{"h1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			caddytest.NewAuthServer(t)
			api := newAPIServerFor(t, protocol)
			api.Answers(revokedFirst(refuse, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Trailer", "X-Announced")
				repeat(w, r)
				w.Header().Set("X-Announced", r.Trailer.Get("X-Checksum"))
				w.Header().Set(http.TrailerPrefix+"X-Sudden", "at the end")
			}))
			tlsFiles(t)
			t.Setenv("UPSTREAM_LINES", map[string]string{"h1": "", "h2c": "versions h2c"}[protocol])
			caddytest.Run(t, everyProtocol)

			r, err := http.NewRequest("POST", "http://"+os.Getenv("SITE"), io.MultiReader(strings.NewReader("body")))
			if err != nil {
				t.Fatal(err)
			}
			r.Trailer = http.Header{"X-Checksum": {"c0ffee"}}
			resp, err := newCaller(t, protocol).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)

			if err != nil || string(body) != "POST / body" {
				t.Errorf("the body is %q, %v", body, err)
			}
			if got := resp.Trailer.Get("X-Announced"); got != "c0ffee" {
				t.Errorf("the API read the trailer %q, want the caller's", got)
			}
			if got := resp.Trailer.Get("X-Sudden"); got != "at the end" {
				t.Errorf("the trailer that was not announced is %q", got)
			}
			api.WantAttempts(t, "access-token-1", "access-token-2")
		})
	}
}

// TestEventsAreFlushedPromptly after a replay: each one comes while the API
// keeps the stream open.
func TestEventsAreFlushedPromptly(t *testing.T) {
	for _, protocol := range []string{"h1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			caddytest.NewAuthServer(t)
			api := newAPIServerFor(t, protocol)
			received := make(chan bool)
			api.Answers(revokedFirst(refuse, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for i := range 3 {
					fmt.Fprintf(w, "data: %d\n\n", i)
					_ = http.NewResponseController(w).Flush()
					select { // the next one is not sent before this one was received
					case <-received:
					case <-r.Context().Done():
						return
					}
				}
			}))
			tlsFiles(t)
			t.Setenv("UPSTREAM_LINES", map[string]string{"h1": "", "h2c": "versions h2c"}[protocol])
			caddytest.Run(t, everyProtocol)

			resp, err := newCaller(t, protocol).Get("http://" + os.Getenv("SITE"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			events := bufio.NewReader(resp.Body)
			for i := range 3 {
				event, err := events.ReadString('\n')
				if want := fmt.Sprintf("data: %d\n", i); err != nil || event != want {
					t.Fatalf("event %q, %v, want %q", event, err, want)
				}
				_, _ = events.ReadString('\n')
				received <- true
			}
		})
	}
}

// upgrade sends the beginning of a WebSocket connection.
func upgrade(t testing.TB) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	connection, err := net.Dial("tcp", os.Getenv("SITE"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	_ = connection.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(connection, "GET /chat HTTP/1.1\r\nHost: "+os.Getenv("SITE")+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	reader := bufio.NewReader(connection)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	return connection, reader, resp
}

// TestUpgradeIsNeverReplayed, but the next one has a new token, and goes through.
func TestUpgradeIsNeverReplayed(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	api.Answers(revokedFirst(refuse, func(w http.ResponseWriter, r *http.Request) {
		connection, buffer, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return // the request that waits for the token
		}
		defer connection.Close()
		_, _ = buffer.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = buffer.Flush()
		line, _ := buffer.ReadString('\n')
		_, _ = buffer.WriteString("echo " + line)
		_ = buffer.Flush()
	}))
	proxy := caddytest.Run(t, caddytest.PartnerSite)

	_, _, resp := upgrade(t)
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusUnauthorized || string(body) != refusal {
		t.Errorf("the caller gets %d %q, want the API's 401", resp.StatusCode, body)
	}
	api.WantAttempts(t, "access-token-1")
	proxy.AwaitLog(caddytest.LogRenewed)

	connection, reader, resp := upgrade(t)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d, want 101", resp.StatusCode)
	}
	_, _ = io.WriteString(connection, "hello\n")
	if line, err := reader.ReadString('\n'); line != "echo hello\n" {
		t.Errorf("over the upgraded connection came %q, %v", line, err)
	}
	api.WantAttempts(t, "access-token-1", "access-token-2")
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

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

// TestRejectionIsReleasedAsTheAPISentIt when there is no other token: the
// callers get the very answer, as if nothing had been held back.
func TestRejectionIsReleasedAsTheAPISentIt(t *testing.T) {
	tests := []struct {
		name   string
		method string
		refuse http.HandlerFunc
	}{
		{"sized", "GET", refuse},
		{"chunked", "GET", func(w http.ResponseWriter, r *http.Request) { refuse(flushing{w}, r) }},
		{"empty", "GET", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }},
		{"to HEAD", "HEAD", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5000")
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(401)
		}},
		{"larger than what is held back", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(401)
			_, _ = io.WriteString(w, strings.Repeat("0123456789", 100_000))
		}},
		{"with several challenges and cookies", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Www-Authenticate"] = []string{`Basic realm="a, b"`, `Bearer realm="c", error="invalid_token"`}
			w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
			w.WriteHeader(401)
			_, _ = io.WriteString(w, refusal)
		}},
		{"with trailers", "GET", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Announced")
			w.Header().Set("X-Announced", "in the header already")
			refuse(w, r)
			w.Header()["X-Announced"] = []string{"at the end", "more"}
		}},
		{"with trailers that were not announced", "GET", func(w http.ResponseWriter, r *http.Request) {
			refuse(flushing{w}, r)
			w.Header().Set(http.TrailerPrefix+"X-Sudden", "at the end")
		}},
		{"with all kinds of trailers", "GET", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Announced")
			refuse(flushing{w}, r)
			w.Header().Set("X-Announced", "at the end")
			w.Header().Set(http.TrailerPrefix+"X-Sudden", "at the end")
		}},
		{"with trailers behind nothing", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Announced")
			w.WriteHeader(401)
			w.Header().Set("X-Announced", "at the end")
		}},
		{"with trailers behind more than is held back", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Announced")
			w.WriteHeader(401)
			_, _ = io.WriteString(w, strings.Repeat("0123456789", 100_000))
			w.Header().Set("X-Announced", "at the end")
		}},
	}
	const protocols = "{\nservers {\nprotocols h1 h2c\n}\n}\n"
	for _, test := range tests {
		for _, protocol := range []string{"h1", "h2c"} {
			t.Run(test.name+", over "+protocol, func(t *testing.T) {
				auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
				api.Answers(test.refuse)
				caddytest.Run(t, protocols+caddytest.PartnerSite+strings.NewReplacer("{$SITE}", "{$OTHER_SITE}", "upstream_oauth2 partner {", "upstream_oauth2 other {\nreplay off\n").Replace(caddytest.PartnerSite))
				caller := newCaller(t, protocol)

				fetch := func(site string) (*http.Response, string) {
					r, err := http.NewRequest(test.method, "http://"+os.Getenv(site), nil)
					if err != nil {
						t.Fatal(err)
					}
					resp, err := caller.Do(r)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					body, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Fatal(err)
					}
					resp.Header.Del("Date")
					return resp, string(body)
				}
				want, wantBody := fetch("OTHER_SITE") // where nothing is held back
				for range 3 {
					got, body := fetch("SITE")
					if got.StatusCode != want.StatusCode || body != wantBody {
						t.Errorf("the caller gets %d and %d bytes, the API said %d and %d", got.StatusCode, len(body), want.StatusCode, len(wantBody))
					}
					if !maps.EqualFunc(got.Header, want.Header, slices.Equal) {
						t.Errorf("the header is\n%q, and was\n%q", got.Header, want.Header)
					}
					if !maps.EqualFunc(got.Trailer, want.Trailer, slices.Equal) {
						t.Errorf("the trailers are %q, and were %q", got.Trailer, want.Trailer)
					}
				}
				if n := auth.Count(); n > 2+2 {
					t.Errorf("%d token requests for two clients", n)
				}
			})
		}
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

// TestCallersWhoHangUp in the middle of a replay leave nothing behind: the
// request goes no further, and the token is replaced for the others.
func TestCallersWhoHangUp(t *testing.T) {
	// leave sends a request and hangs up once the channel is closed.
	leave := func(t *testing.T, proxy *caddytest.Caddy, body io.Reader, when <-chan bool) {
		t.Helper()
		ctx, hangUp := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "POST", "http://"+os.Getenv("SITE"), body)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-when
			hangUp()
		}()
		if answer, err := caddytest.Do(proxy.Client, r); err == nil {
			t.Errorf("the caller got %d %q before it hung up", answer.Status, answer.Body)
		}
	}

	t.Run("while the token is replaced", func(t *testing.T) {
		auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
		api.Answers(revokedFirst(refuse, repeat))
		replacing, done := make(chan bool), make(chan bool)
		auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
			if r.Number == 2 {
				close(replacing)
				<-done
			}
			caddytest.Issuing(time.Hour)(w, r)
		})
		proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "upstream_oauth2", "log\nupstream_oauth2", 1))

		leave(t, proxy, strings.NewReader("body"), replacing)
		proxy.AwaitLog("handled request")
		close(done)

		wantReplaced(t, proxy, auth, api)
		for _, r := range api.Seen()[1:] {
			if r.Method == "POST" {
				t.Error("the request went out again though nobody waits for it")
			}
		}
	})

	t.Run("while the API works on the replay", func(t *testing.T) {
		auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
		working, gone := make(chan bool), make(chan bool)
		var once sync.Once
		api.Answers(revokedFirst(refuse, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != "POST" {
				repeat(w, r)
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			once.Do(func() { close(working) })
			<-r.Context().Done()
			close(gone)
		}))
		proxy := caddytest.Run(t, caddytest.PartnerSite)

		leave(t, proxy, strings.NewReader("body"), working)

		<-gone // the API learns of it
		wantReplaced(t, proxy, auth, api)
	})

	t.Run("while it sends the body, after the rejection", func(t *testing.T) {
		auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
		replayed := make(chan bool)
		broken := make(chan error, 1)
		api.Answers(revokedFirst(refuseEarly, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != "POST" {
				repeat(w, r)
				return
			}
			close(replayed)
			_, err := io.ReadAll(r.Body)
			broken <- err
		}))
		proxy := caddytest.Run(t, caddytest.PartnerSite)
		body, send := io.Pipe()
		go func() {
			_, _ = io.WriteString(send, "half of it")
			<-replayed
			_ = send.CloseWithError(errors.New("the caller hangs up"))
		}()

		leave(t, proxy, body, replayed)

		if err := <-broken; err == nil {
			t.Error("the API took half a body for a whole one")
		}
		wantReplaced(t, proxy, auth, api)
	})
}

// TestRefreshThatKillsTheOldToken: with servers such as Ory Hydra, requests in
// flight are rejected when the token is renewed. They go out again with the new
// one, which is there already.
func TestRefreshThatKillsTheOldToken(t *testing.T) {
	const callers = 50
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	var current atomic.Value // the only token that is valid
	current.Store("none")
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		token, life := fmt.Sprintf("access-token-%d", r.Number), time.Hour
		if r.Number == 1 {
			life = 20 * time.Second // renewed after a tenth of it
		}
		current.Store(token)
		caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":%q,"refresh_token":"r","expires_in":%v}`, token, life.Seconds()))
	})
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer access-token-1" { // in flight until it is renewed
			for current.Load() == "access-token-1" && r.Context().Err() == nil {
				time.Sleep(time.Millisecond)
			}
		}
		if r.Header.Get("Authorization") != "Bearer "+current.Load().(string) {
			refuse(w, r)
			return
		}
		repeat(w, r)
	})
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("refresh_ahead 90%\ngrant refresh_token {\nrefresh_token first\n}"))

	statuses := together(callers, func(int) int {
		r, _ := http.NewRequest("POST", "http://"+os.Getenv("SITE"), strings.NewReader("body"))
		answer, err := caddytest.Do(proxy.Client, r)
		if err != nil || answer.Body != "POST / body" {
			return 0
		}
		return answer.Status
	})

	if want := map[int]int{http.StatusOK: callers}; !maps.Equal(statuses, want) {
		t.Errorf("callers by status: %v, want %v", statuses, want)
	}
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2: the first and its renewal", n)
	}
}

// together runs n callers at once and counts what they return.
func together[T comparable](n int, call func(int) T) map[T]int {
	results := make(chan T)
	for i := range n {
		go func() { results <- call(i) }()
	}
	counts := make(map[T]int)
	for range n {
		counts[<-results]++
	}
	return counts
}

// TestRevokedTokenUnderLoad: no caller sees a 401, and the token is replaced
// once.
func TestRevokedTokenUnderLoad(t *testing.T) {
	const callers, requests = 40, 20
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	var revoked atomic.Bool
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		if revoked.Load() && r.Header.Get("Authorization") == "Bearer access-token-1" {
			refuse(w, r)
			return
		}
		repeat(w, r)
	})
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	proxy.Want(http.StatusOK)

	var sent atomic.Int64
	failures := together(callers, func(caller int) string {
		for i := range requests {
			if sent.Add(1) == callers*requests/2 {
				revoked.Store(true)
			}
			method, body := "GET", ""
			if (caller+i)%2 == 0 {
				method, body = "POST", fmt.Sprintf("body %d of %d", i, caller)
			}
			r, _ := http.NewRequest(method, "http://"+os.Getenv("SITE"), strings.NewReader(body))
			answer, err := caddytest.Do(proxy.Client, r)
			if want := method + " / " + body; err != nil || answer.Status != http.StatusOK || answer.Body != want {
				return fmt.Sprintf("%d %q %v, want %q", answer.Status, answer.Body, err, want)
			}
		}
		return ""
	})

	delete(failures, "")
	for failure, n := range failures {
		t.Errorf("%d callers got %s", n, failure)
	}
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
	if !slices.Contains(api.Attempts(), "access-token-2") {
		t.Error("no request had the new token: it was never revoked")
	}
}

// TestNoStorm: an API that rejects everything costs a handful of token
// requests, however many callers there are, and each of them gets the API's own
// answer.
func TestNoStorm(t *testing.T) {
	const callers, requests = 1000, 10
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	var reached atomic.Int64
	rejects := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "rejected "+r.URL.Path)
	})
	api.Config.Handler = rejects // 10,000 requests need not be remembered
	caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "reverse_proxy {$API}", "reverse_proxy {$API} {\ntransport http {\nkeepalive_idle_conns_per_host 1000\n}\n}", 1))
	transport := &http.Transport{MaxIdleConnsPerHost: callers}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: 60 * time.Second}

	failures := together(callers, func(caller int) string {
		for i := range requests {
			path := fmt.Sprintf("/%d/%d", caller, i)
			r, _ := http.NewRequest("GET", "http://"+os.Getenv("SITE")+path, nil)
			answer, err := caddytest.Do(client, r)
			if err != nil || answer.Status != http.StatusUnauthorized || answer.Body != "rejected "+path {
				return fmt.Sprintf("%d %q, %v", answer.Status, answer.Body, err)
			}
		}
		return ""
	})

	delete(failures, "")
	for failure, n := range failures {
		t.Errorf("%d callers got %s", n, failure)
	}
	// One at start, one for the rejection, and another for each 30 seconds that
	// a slow machine takes.
	if n := auth.Count(); n > 5 {
		t.Errorf("%d token requests", n)
	}
	// No request is sent more than twice, and only those in flight at the one
	// replacement are sent twice at all.
	if n := reached.Load(); n > callers*requests+5*callers {
		t.Errorf("the API got %d requests from %d callers with %d each", n, callers, requests)
	}
}

// TestHostileCallerCostsOthersNothing: somebody provokes rejections, for which
// there is no other token while the authorization server is out of order. The
// others keep theirs.
func TestHostileCallerCostsOthersNothing(t *testing.T) {
	servers := map[string]func(http.ResponseWriter, caddytest.TokenRequest){
		"that issues new ones":           caddytest.Issuing(time.Hour),
		"that issues the same one again": func(w http.ResponseWriter, _ caddytest.TokenRequest) { caddytest.Issue(w, "access-token-1", time.Hour) },
		"that is down":                   func(w http.ResponseWriter, _ caddytest.TokenRequest) { caddytest.Say(w, 503, "") },
		"that refuses": func(w http.ResponseWriter, _ caddytest.TokenRequest) {
			caddytest.Say(w, 400, `{"error":"invalid_client"}`)
		},
		"that breaks the connection off": func(http.ResponseWriter, caddytest.TokenRequest) { panic(http.ErrAbortHandler) },
		"whose tokens are no longer good": func(w http.ResponseWriter, _ caddytest.TokenRequest) {
			caddytest.Say(w, 200, `{"access_token":"T","token_type":"mac"}`)
		},
	}
	for name, later := range servers {
		t.Run("with a server "+name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
				if r.Number == 1 {
					caddytest.Issuing(time.Hour)(w, r)
					return
				}
				later(w, r)
			})
			api.Answers(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/forbidden" {
					refuse(w, r)
					return
				}
				repeat(w, r)
			})
			proxy := caddytest.Run(t, caddytest.PartnerSite)
			proxy.Want(http.StatusOK)

			statuses := together(20, func(caller int) string {
				path, want := "/", http.StatusOK
				if caller%2 == 0 {
					path, want = "/forbidden", http.StatusUnauthorized
				}
				for range 10 {
					answer, err := proxy.Try("GET", os.Getenv("SITE"), path, nil)
					if err != nil || answer.Status != want {
						return fmt.Sprintf("%s: %d, %v", path, answer.Status, err)
					}
				}
				return ""
			})

			delete(statuses, "")
			for failure, n := range statuses {
				t.Errorf("%d callers got %s", n, failure)
			}
			if n := auth.Count(); n > 5 {
				t.Errorf("%d token requests", n)
			}
		})
	}
}

// TestHostileCallerWhileTheServerHangs: a fetch that never ends, started by a
// rejection, leaves the others their token.
func TestHostileCallerWhileTheServerHangs(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	hanging := make(chan bool)
	release := make(chan bool)
	t.Cleanup(func() { close(release) })
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		if r.Number == 1 {
			caddytest.Issuing(time.Hour)(w, r)
			return
		}
		close(hanging)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/forbidden" {
			refuse(w, r)
			return
		}
		repeat(w, r)
	})
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("timeout 1m"))
	proxy.Want(http.StatusOK)

	hostile := make(chan caddytest.Answer, 1)
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	go func() {
		r, _ := http.NewRequestWithContext(ctx, "GET", "http://"+os.Getenv("SITE")+"/forbidden", nil)
		answer, _ := caddytest.Do(proxy.Client, r)
		hostile <- answer
	}()
	<-hanging

	proxy.Want(http.StatusOK)
	api.WantAttempts(t, "access-token-1", "access-token-1", "access-token-1")
	hangUp()
	<-hostile
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// TestRejectedWhileTheServerIsDown: the API's own answer is better than ours.
func TestRejectedWhileTheServerIsDown(t *testing.T) {
	for name, outage := range map[string]func(*caddytest.AuthServer){
		"answers 503":      func(a *caddytest.AuthServer) { a.Says(503, "") },
		"refuses":          func(a *caddytest.AuthServer) { a.Says(401, `{"error":"invalid_client"}`) },
		"answers nonsense": func(a *caddytest.AuthServer) { a.Says(200, "<html>") },
		"breaks off": func(a *caddytest.AuthServer) {
			a.Answers(func(http.ResponseWriter, caddytest.TokenRequest) { panic(http.ErrAbortHandler) })
		},
		"is gone": func(a *caddytest.AuthServer) { a.CloseClientConnections(); a.Listener.Close() },
		"takes its time": func(a *caddytest.AuthServer) {
			a.Answers(func(_ http.ResponseWriter, r caddytest.TokenRequest) { <-r.Context().Done() })
		},
		"throttles for now": func(a *caddytest.AuthServer) { a.Says(429, "") },
	} {
		t.Run(name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			proxy := caddytest.Run(t, caddytest.PartnerSiteWith("timeout 200ms"))
			proxy.Want(http.StatusOK)
			api.Answers(refuse)
			outage(auth)

			statuses := together(50, func(int) string {
				r, _ := http.NewRequest("POST", "http://"+os.Getenv("SITE"), strings.NewReader("body"))
				answer, err := caddytest.Do(proxy.Client, r)
				return fmt.Sprint(answer.Status, answer.Body, answer.Header.Values("Www-Authenticate"), err)
			})

			if want := fmt.Sprint(401, refusal, []string{`Bearer error="invalid_token"`}, error(nil)); statuses[want] != 50 {
				t.Errorf("callers got %v, want %s", statuses, want)
			}
			if n := auth.Count(); n > 4 {
				t.Errorf("%d token requests", n)
			}
		})
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

// TestRequestTrailersWhileReplaying: net/http fills the trailers in at the end
// of the body, which may come while the request is being sent again.
func TestRequestTrailersWhileReplaying(t *testing.T) {
	const callers = 30
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	api.Answers(revokedFirst(refuseEarly, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.Trailer.Get("X-Checksum"), err)
	}))
	caddytest.Run(t, caddytest.PartnerSite)

	answers := together(callers, func(int) string {
		connection, err := net.Dial("tcp", os.Getenv("SITE"))
		if err != nil {
			return err.Error()
		}
		defer connection.Close()
		_ = connection.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(connection, "POST / HTTP/1.1\r\nHost: "+os.Getenv("SITE")+"\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n4\r\nbody\r\n")
		_, _ = io.WriteString(connection, "0\r\nX-Checksum: c0ffee\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			return err.Error()
		}
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.StatusCode, string(bytes.TrimSpace(body)), err)
	})

	// Where the trailers had not come when the API refused, there is no replay.
	want := fmt.Sprint(200, "c0ffee"+fmt.Sprint(error(nil)), error(nil))
	for got, n := range answers {
		if got != want && !strings.HasPrefix(got, "401") {
			t.Errorf("%d callers got %s, want %s or the API's 401", n, got, want)
		}
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
