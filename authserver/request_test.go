package authserver_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// What arrives at the server, byte by byte where it matters.
func TestRequestAsSent(t *testing.T) {
	type arrived struct {
		method, uri, body string
		header            http.Header
		length            int64
	}
	secret := authserver.NewSecret("s3cret")
	tests := []struct {
		name   string
		change func(*authserver.Request)
		uri    string
		body   string
		header http.Header // besides the fields of every request
	}{
		{
			name:   "nothing but the grant",
			change: func(*authserver.Request) {},
			uri:    "/token",
			body:   "client_id=app&client_secret=s3cret&grant_type=client_credentials",
		},
		{
			name: "parameters",
			change: func(r *authserver.Request) {
				r.Form.Set("scope", "read write")
				r.Form.Set("audience", "https://api.example.com/?a=b&c")
			},
			uri:  "/token",
			body: "audience=https%3A%2F%2Fapi.example.com%2F%3Fa%3Db%26c&client_id=app&client_secret=s3cret&grant_type=client_credentials&scope=read+write",
		},
		{
			name: "empty parameters are left out",
			change: func(r *authserver.Request) {
				r.Form.Set("scope", "")
				r.Form["audience"] = []string{"", "a", ""}
				r.Form["resource"] = nil
			},
			uri:  "/token",
			body: "audience=a&client_id=app&client_secret=s3cret&grant_type=client_credentials",
		},
		{
			// RFC 8707 section 2: the one parameter that may come again.
			name:   "several resources",
			change: func(r *authserver.Request) { r.Form["resource"] = []string{"https://a", "https://b"} },
			uri:    "/token",
			body:   "client_id=app&client_secret=s3cret&grant_type=client_credentials&resource=https%3A%2F%2Fa&resource=https%3A%2F%2Fb",
		},
		{
			name: "the client's id and secret are not repeated",
			change: func(r *authserver.Request) {
				r.Form.Set("client_id", "other")
				r.Form.Set("client_secret", "other")
			},
			uri:  "/token",
			body: "client_id=app&client_secret=s3cret&grant_type=client_credentials",
		},
		{
			name:   "no secret in the body with Basic",
			change: func(r *authserver.Request) { r.Auth = authserver.ClientSecretBasic{ID: "app", Secret: secret} },
			uri:    "/token",
			body:   "grant_type=client_credentials",
			header: http.Header{"Authorization": {"Basic YXBwOnMzY3JldA=="}},
		},
		{
			// RFC 6749 section 3.2: the endpoint's query is kept.
			name:   "the endpoint's query",
			change: func(r *authserver.Request) { r.Endpoint += "?tenant=a%2Fb&empty=&v=2" },
			uri:    "/token?tenant=a%2Fb&empty=&v=2",
			body:   "client_id=app&client_secret=s3cret&grant_type=client_credentials",
		},
		{
			name:   "the endpoint's path as it is written",
			change: func(r *authserver.Request) { r.Endpoint += "/a%2Fb//c" },
			uri:    "/token/a%2Fb//c",
			body:   "client_id=app&client_secret=s3cret&grant_type=client_credentials",
		},
		{
			name: "header fields win over ours",
			change: func(r *authserver.Request) {
				r.Header = http.Header{"Accept": {"*/*"}, "User-Agent": {"mine/2"}, "X-Tenant": {"a"}}
			},
			uri:    "/token",
			body:   "client_id=app&client_secret=s3cret&grant_type=client_credentials",
			header: http.Header{"Accept": {"*/*"}, "User-Agent": {"mine/2"}, "X-Tenant": {"a"}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got arrived
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = arrived{r.Method, r.RequestURI, string(body), r.Header, r.ContentLength}
				_, _ = io.WriteString(w, goodBody)
			}))
			defer server.Close()

			r := request(server.URL + "/token")
			r.Auth = authserver.ClientSecretPost{ID: "app", Secret: secret}
			test.change(&r)
			token, err := do(t, r, newTransport(t))
			if access := mustSucceed(t, token, err).AccessToken.Reveal(); access != "tok-25" {
				t.Errorf("access token %q, want tok-25", access)
			}

			if got.method != http.MethodPost {
				t.Errorf("method %s, want POST", got.method)
			}
			if got.uri != test.uri {
				t.Errorf("request target %q, want %q", got.uri, test.uri)
			}
			if got.body != test.body {
				t.Errorf("body %q\n want %q", got.body, test.body)
			}
			if got.length != int64(len(test.body)) {
				t.Errorf("Content-Length %d, want %d", got.length, len(test.body))
			}
			header := http.Header{
				"Accept":          {"application/json"},
				"Accept-Encoding": {"gzip"},
				"Connection":      {"close"},
				"Content-Length":  {fmt.Sprint(len(test.body))},
				"Content-Type":    {"application/x-www-form-urlencoded"},
				"User-Agent":      {"test/1"},
			}
			for name, values := range test.header {
				header[name] = values
			}
			for name := range header {
				if !slices.Equal(got.header[name], header[name]) {
					t.Errorf("%s: %q, want %q", name, got.header[name], header[name])
				}
			}
			for name := range got.header {
				if header[name] == nil {
					t.Errorf("unexpected field %s: %q", name, got.header[name])
				}
			}
		})
	}
}

// A request can be used again and by several at once: Do changes nothing of it.
func TestRequestIsNotChanged(t *testing.T) {
	r := request(endpoint)
	r.Form["empty"] = []string{""}
	r.Header = http.Header{"X-Tenant": {"a"}}
	r.Auth = authserver.ClientSecretBasic{ID: "app", Secret: authserver.NewSecret("s3cret")}
	form, header := r.Form.Encode(), fmt.Sprint(r.Header)

	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := do(t, r, answering(http.StatusOK, http.Header{}, goodBody)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if r.Form.Encode() != form || fmt.Sprint(r.Header) != header {
		t.Errorf("form and header are now %v and %v", r.Form, r.Header)
	}
}

// A token's life counts from when it was asked for, not from when it came.
func TestRequestedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		slow := roundTrip(func(r *http.Request) (*http.Response, error) {
			<-time.After(5 * time.Second)
			return answering(http.StatusOK, http.Header{}, goodBody)(r)
		})
		token, err := do(t, request(endpoint), slow)
		if got := mustSucceed(t, token, err).RequestedAt; !got.Equal(start) {
			t.Errorf("requested at %s, want %s", got, start)
		}
	})
}

type failingAuth struct{ error }

func (a failingAuth) Authenticate(url.Values, http.Header) error { return a.error }
func (a failingAuth) Advice() string                             { return "" }
func (a failingAuth) Secrets() []authserver.Secret               { return nil }

// Without credentials nothing is sent.
func TestRequestUnprepared(t *testing.T) {
	unused := roundTrip(func(*http.Request) (*http.Response, error) {
		t.Error("a request went out")
		return nil, errors.ErrUnsupported
	})
	t.Run("credentials that cannot be read", func(t *testing.T) {
		r := request(endpoint)
		r.Auth = failingAuth{errors.New("client.pem is gone")}
		token, err := do(t, r, unused)
		failed := mustFail(t, token, err)
		checkKind(t, failed, authserver.Unprepared)
		if failed.Error() != "client.pem is gone" {
			t.Errorf("the error says %q", failed)
		}
	})
	t.Run("an endpoint that is no URL", func(t *testing.T) {
		token, err := do(t, request("https://auth.example.com/%zz"), unused)
		checkKind(t, mustFail(t, token, err), authserver.Unprepared)
	})
}

// Every kind of redirect ends the request: the credentials in it are for the
// configured endpoint alone.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var elsewhere atomic.Int32
	count := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		elsewhere.Add(1)
		_, _ = io.WriteString(w, goodBody)
	})
	other, otherTLS := httptest.NewServer(count), httptest.NewTLSServer(count)
	defer other.Close()
	defer otherTLS.Close()

	targets := []struct{ name, location string }{
		{"the same URL", "/token"},
		{"the same host", "/elsewhere"},
		{"another host", other.URL},
		{"another host without a scheme", strings.TrimPrefix(other.URL, "http:")},
		{"another scheme", otherTLS.URL},
		{"nowhere", ""},
		{"no URL", "http://%zz"},
	}
	for _, status := range []int{300, 301, 302, 303, 304, 305, 307, 308} {
		for _, target := range targets {
			t.Run(fmt.Sprintf("%d to %s", status, target.name), func(t *testing.T) {
				var asked atomic.Int32
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					asked.Add(1)
					if target.location != "" {
						w.Header().Set("Location", target.location)
					}
					w.WriteHeader(status)
				}))
				defer server.Close()

				transport := otherTLS.Client().Transport // trusts the other host, too
				token, err := do(t, request(server.URL+"/token"), transport)
				failed := mustFail(t, token, err)
				checkKind(t, failed, authserver.Unreadable)
				if failed.Status != status || !strings.Contains(failed.Error(), "redirects are not followed") {
					t.Errorf("status %d, error %v", failed.Status, failed)
				}
				if asked.Load() != 1 || elsewhere.Load() != 0 {
					t.Errorf("%d requests here and %d elsewhere, want 1 and 0", asked.Load(), elsewhere.Load())
				}
			})
		}
	}
}

func compress(t *testing.T, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// padded is a good answer of n bytes.
func padded(n int) []byte {
	return append([]byte(goodBody), bytes.Repeat([]byte(" "), n-len(goodBody))...)
}

// An answer counts by its size after decompression.
func TestAnswerSize(t *testing.T) {
	const most = 1 << 20
	tests := []struct {
		name string
		body []byte
		gzip bool
		ok   bool
	}{
		{"small", []byte(goodBody), false, true},
		{"small, compressed", []byte(goodBody), true, true},
		{"the largest", padded(most), false, true},
		{"the largest, compressed", padded(most), true, true},
		{"one byte more", padded(most + 1), false, false},
		{"one byte more, compressed", padded(most + 1), true, false},
		{"a compressed bomb", padded(8 * most), true, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				body := test.body
				if test.gzip {
					w.Header().Set("Content-Encoding", "gzip")
					body = compress(t, body)
				}
				_, _ = w.Write(body)
			}))
			defer server.Close()

			token, err := do(t, request(server.URL), newTransport(t))
			if test.ok {
				mustSucceed(t, token, err)
				return
			}
			failed := mustFail(t, token, err)
			checkKind(t, failed, authserver.Unreadable)
			if !strings.Contains(failed.Error(), "larger than 1048576 bytes") {
				t.Errorf("the error does not name the limit: %v", failed)
			}
		})
	}
}

// An endless answer is left where the limit is, not read until it ends.
func TestEndlessAnswer(t *testing.T) {
	endless := newRawServer(t, func(_ int, c *rawConn) {
		if !c.readRequest() {
			return
		}
		c.write("HTTP/1.1 200 OK\r\n\r\n")
		for {
			if _, err := c.Write(bytes.Repeat([]byte("x"), 64<<10)); err != nil {
				return // hung up on
			}
		}
	})
	token, err := do(t, request(endless.url), newTransport(t))
	checkKind(t, mustFail(t, token, err), authserver.Unreadable)
}

// An encoding that was not asked for, or that is not what it says, is no
// token; the server was reached, though.
func TestAnswerEncoding(t *testing.T) {
	tests := []struct {
		name, encoding, body string
		want                 authserver.Kind
	}{
		{"gzip that is none", "gzip", goodBody, authserver.Unreadable},
		{"gzip with a wrong checksum", "gzip", corrupt(string(compress(t, []byte(goodBody)))), authserver.Unreadable},
		{"br", "br", "\x0b\x0c\x80" + goodBody + "\x03", authserver.Unreadable},
		{"deflate", "deflate", "\x78\x9c\xab\x56\x4a\x4c", authserver.Unreadable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", test.encoding)
				_, _ = io.WriteString(w, test.body)
			}))
			defer server.Close()
			token, err := do(t, request(server.URL), newTransport(t))
			checkKind(t, mustFail(t, token, err), test.want)
		})
	}
}

// corrupt changes the checksum at the end of a gzip stream.
func corrupt(stream string) string {
	b := []byte(stream)
	b[len(b)-8] ^= 0xff
	return string(b)
}

// A server that falls silent at any stage costs no more than the timeout. The
// connection is a pipe and the clock the bubble's, so nothing really waits.
func TestTimeout(t *testing.T) {
	const timeout = 7 * time.Second
	tests := []struct {
		name  string
		serve func(server net.Conn) // on a goroutine of its own
	}{
		{"before the request is read", func(net.Conn) {}},
		{"in the request", func(c net.Conn) { _, _ = c.Read(make([]byte, 10)) }},
		{"before the answer", func(c net.Conn) { readWhole(c) }},
		{"in the status line", func(c net.Conn) { readWhole(c); _, _ = io.WriteString(c, "HTTP/1.1 2") }},
		{"in the header", func(c net.Conn) { readWhole(c); _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-") }},
		{"in 1xx answers", func(c net.Conn) { readWhole(c); _, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n") }},
		{"before the body", func(c net.Conn) {
			readWhole(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n")
		}},
		{"in the body", func(c net.Conn) {
			readWhole(c)
			_, _ = io.WriteString(c, strings.TrimSuffix(goodAnswer, "}"))
		}},
		{"a byte each second", func(c net.Conn) {
			readWhole(c)
			for _, b := range []byte(goodAnswer) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				<-time.After(time.Second)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				var serving sync.WaitGroup
				serving.Go(func() { test.serve(server) })
				defer serving.Wait()
				defer server.Close()
				transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
				defer transport.CloseIdleConnections()

				start := time.Now()
				r := request("http://auth.example.com/token")
				r.Timeout = timeout
				token, err := do(t, r, transport)
				failed := mustFail(t, token, err)
				checkKind(t, failed, authserver.Unavailable)
				if took := time.Since(start); took != timeout {
					t.Errorf("it took %s, want %s", took, timeout)
				}
				if !strings.Contains(failed.Error(), "'timeout' is 7s") {
					t.Errorf("the error does not name the option: %v", failed)
				}
			})
		})
	}
	t.Run("in the connection", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// net/http lets a dial go on by itself, for whoever comes next.
			over := make(chan struct{})
			defer close(over)
			transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				<-over
				return nil, net.ErrClosed
			}}
			start := time.Now()
			r := request("http://auth.example.com/token")
			r.Timeout = timeout
			token, err := do(t, r, transport)
			checkKind(t, mustFail(t, token, err), authserver.Unavailable)
			if took := time.Since(start); took != timeout {
				t.Errorf("it took %s, want %s", took, timeout)
			}
		})
	})
}

// A server that switches protocols does not speak HTTP any more, and net/http
// no longer ends the connection with the context: nothing is read from it.
func TestSwitchedProtocols(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
		var serving sync.WaitGroup
		serving.Go(func() {
			defer server.Close()
			readWhole(server)
			_, _ = io.WriteString(server, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
			<-time.After(time.Hour)
		})
		defer serving.Wait()

		start := time.Now()
		token, err := do(t, request("http://auth.example.com/token"), transport)
		checkKind(t, mustFail(t, token, err), authserver.Unreadable)
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %s", took)
		}
	})
}

func readWhole(c net.Conn) {
	if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// The caller's context ends the request, too.
func TestContextEndsRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := newRawServer(t, func(_ int, c *rawConn) {
		if c.readRequest() {
			cancel()
			c.readRequest() // until hung up on
		}
	})
	token, err := request(server.url).Do(ctx, newTransport(t))
	checkKind(t, mustFail(t, token, err), authserver.Unavailable)
	if got := len(server.requests()); got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
}

// A connection that dies is not tried again: the server may have spent what
// was sent, and the next attempt is for whoever keeps count of them.
func TestDeadConnection(t *testing.T) {
	tests := []struct {
		name string
		dies func(*rawConn) // what the connection does with the request
		kind authserver.Kind
	}{
		{"closed", func(*rawConn) {}, authserver.Unavailable},
		{"reset", func(c *rawConn) { _ = c.Conn.(*net.TCPConn).SetLinger(0) }, authserver.Unavailable},
		{"broken off in the status line", func(c *rawConn) { c.write("HTTP/1.1 20") }, authserver.Unavailable},
		{"broken off in the header", func(c *rawConn) { c.write("HTTP/1.1 200 OK\r\nContent-Le") }, authserver.Unavailable},
		{"broken off before the body", func(c *rawConn) { c.write("HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n") }, authserver.Unavailable},
		{"broken off in the body", func(c *rawConn) { c.write("HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{") }, authserver.Unavailable},
		{"nonsense", func(c *rawConn) { c.write("nonsense\r\n\r\n") }, authserver.Unreadable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := newRawServer(t, func(_ int, c *rawConn) {
				if c.readRequest() {
					test.dies(c)
				}
			})
			token, err := do(t, request(server.url), newTransport(t))
			checkKind(t, mustFail(t, token, err), test.kind)
			if got := len(server.requests()); got != 1 {
				t.Errorf("%d requests, want 1", got)
			}
		})
	}
}

// Each token request has a connection of its own, so that none goes out on one
// that has gone stale, and a server that says more than it was asked on an idle
// connection is not heard.
func TestConnectionIsNotKept(t *testing.T) {
	var connections atomic.Int32
	server := newRawServer(t, func(n int, c *rawConn) {
		connections.Store(int32(n))
		for c.readRequest() {
			c.write(goodAnswer)
		}
	})
	transport := newTransport(t)
	for range 3 {
		token, err := do(t, request(server.url), transport)
		mustSucceed(t, token, err)
	}
	if got := connections.Load(); got != 3 {
		t.Errorf("%d connections, want 3", got)
	}
}

// Where a server says that it has not looked at a request, net/http sends it again,
// for which it asks for the body anew, twice. That is allowed once.
func TestRequestIsRepeatedOnce(t *testing.T) {
	token, err := do(t, request(endpoint), roundTrip(func(r *http.Request) (*http.Response, error) {
		for call := 1; call <= 4; call++ {
			body, err := r.GetBody()
			if call > 2 {
				if err == nil {
					t.Errorf("call %d for the body is answered", call)
				}
				continue
			}
			if err != nil {
				t.Fatalf("call %d for the body: %v", call, err)
			}
			if sent, _ := io.ReadAll(body); !strings.Contains(string(sent), "grant_type=client_credentials") {
				t.Errorf("call %d returns %q", call, sent)
			}
		}
		return answering(http.StatusOK, http.Header{}, goodBody)(r)
	}))
	mustSucceed(t, token, err)
}
