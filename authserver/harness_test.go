package authserver_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// The credentials of every test here. The secret has what form-encoding,
// base64, JSON and letter case each change, and no piece of it occurs in any
// text of the package.
const (
	clientID     = "app-7"
	clientSecret = "Zq7/+wX~9 kV%4&jHuM"
	endpoint     = "https://auth.example.com/oauth/token"
)

// request is a token request as the proxy makes it.
func request(endpoint string) authserver.Request {
	return authserver.Request{
		Endpoint:  endpoint,
		Form:      url.Values{"grant_type": {"client_credentials"}},
		Auth:      authserver.ClientSecretPost{ID: clientID, Secret: authserver.NewSecret(clientSecret)},
		UserAgent: "test/1",
		Timeout:   time.Minute,
	}
}

// roundTrip is a transport without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answering is a transport that gives one answer to whatever it is asked.
func answering(status int, header http.Header, body string) roundTrip {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: status,
			Header:     header,
			Body:       io.NopCloser(strings.NewReader(body)),
			Request:    r,
		}, nil
	}
}

func contentType(value string) http.Header {
	if value == "" {
		return http.Header{}
	}
	return http.Header{"Content-Type": {value}}
}

// mustFail returns the error of a token request, which is always an *Error
// with a text, and never comes with a token.
func mustFail(t *testing.T, token *authserver.Token, err error) *authserver.Error {
	t.Helper()
	failed, ok := errors.AsType[*authserver.Error](err)
	if !ok || token != nil {
		t.Fatalf("got token %v and error %v (%[2]T), want an *Error", token, err)
	}
	if failed.Error() == "" {
		t.Error("the error has no text")
	}
	return failed
}

// mustSucceed returns the token of a token request.
func mustSucceed(t *testing.T, token *authserver.Token, err error) *authserver.Token {
	t.Helper()
	if err != nil {
		t.Fatalf("got error %q, want a token", err)
	}
	return token
}

var kindNames = map[authserver.Kind]string{
	authserver.Unprepared:  "Unprepared",
	authserver.Unavailable: "Unavailable",
	authserver.Refused:     "Refused",
	authserver.Unreadable:  "Unreadable",
}

func checkKind(t *testing.T, failed *authserver.Error, want authserver.Kind) {
	t.Helper()
	if failed.Kind != want {
		t.Errorf("the error is %s, want %s: %v", kindNames[failed.Kind], kindNames[want], failed)
	}
}

// rawServer is a server below HTTP: it hands each connection to serve, with
// its number from 1 on, and remembers the requests that were read from it.
type rawServer struct {
	url string

	mu       sync.Mutex
	received []string
}

func newRawServer(t *testing.T, serve func(connection int, c *rawConn)) *rawServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{url: "http://" + l.Addr().String() + "/token"}
	var serving sync.WaitGroup
	serving.Go(func() {
		for n := 1; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				serve(n, &rawConn{Conn: conn, reader: bufio.NewReader(conn), server: s})
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return s
}

// requests returns the bodies of all requests so far.
func (s *rawServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.received...)
}

// rawConn is one connection of a rawServer.
type rawConn struct {
	net.Conn
	reader *bufio.Reader
	server *rawServer
}

// readRequest reads one whole request; false if there is none any more.
func (c *rawConn) readRequest() bool {
	r, err := http.ReadRequest(c.reader)
	if err != nil {
		return false
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(r.Body); err != nil {
		return false
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.server.received = append(c.server.received, body.String())
	return true
}

func (c *rawConn) write(text string) { _, _ = io.WriteString(c, text) }

// goodAnswer is a whole answer with a token, after which the connection stays.
const goodAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n" + goodBody

// goodBody is 25 bytes long.
const goodBody = `{"access_token":"tok-25"}`

// newTransport is a transport of the standard library that belongs to one test.
func newTransport(t *testing.T) *http.Transport {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// do sends r on the context of the test.
func do(t *testing.T, r authserver.Request, transport http.RoundTripper) (*authserver.Token, error) {
	return r.Do(context.WithoutCancel(t.Context()), transport)
}
