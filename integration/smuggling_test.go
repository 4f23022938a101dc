package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// These callers write their requests byte by byte, to get a credential of their
// own past us, or ours away. Caddy may refuse such a request; if it reaches the
// API, then with one credential, which is ours.

// witness is an API that notes every credential it could find in a request,
// wherever it is and however its name is spelled.
type witness struct {
	mu          sync.Mutex
	requests    int
	credentials []string
}

func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // then the trailers are known
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests++
	for _, fields := range []http.Header{r.Header, r.Trailer} {
		for name, values := range fields {
			if strings.EqualFold(readLoosely(name), "authorization") || strings.EqualFold(readLoosely(name), "x-api-key") {
				w.credentials = append(w.credentials, values...)
			}
		}
	}
	if query, _ := url.ParseQuery(strings.ReplaceAll(r.URL.RawQuery, ";", "&")); query.Has("access_token") {
		w.credentials = append(w.credentials, query["access_token"]...)
	}
}

// readLoosely is a field's name as some upstreams read it: CGI has underscores for all
// separators.
func readLoosely(name string) string { return strings.NewReplacer("_", "-", ".", "-").Replace(name) }

// check fails the test unless the request was refused, or has reached the API
// with our credential alone.
func (w *witness) check(t testing.TB, status int, want string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case status >= 400 && w.requests > 0:
		t.Errorf("status %d, but the request has reached the API", status)
	case status == http.StatusOK && w.requests == 0:
		t.Error("the request has not reached the API")
	case !slices.Equal(w.credentials, slices.Repeat([]string{want}, w.requests)):
		t.Errorf("the API sees %q in %d requests, want %q alone", w.credentials, w.requests, want)
	}
}

// witnessed runs a Caddy in front of a witness. The site takes h2c as well.
func witnessed(t testing.TB, lines string) *witness {
	t.Helper()
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	auth.Says(http.StatusOK, `{"access_token":"ours"}`)
	w := new(witness)
	api.Answers(w.ServeHTTP)
	caddytest.Run(t, strings.Replace(aliasesWelcome, "servers {", "servers {\nprotocols h1 h2c", 1)+caddytest.PartnerSiteWith(lines))
	return w
}

// rawRequest sends bytes to {$SITE} and returns the status of the answer. HOST
// in them stands for the site's address.
func rawRequest(t testing.TB, request string) int {
	t.Helper()
	connection, err := net.Dial("tcp", os.Getenv("SITE"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(caddytest.Patience))
	_, _ = io.WriteString(connection, strings.ReplaceAll(request, "HOST", os.Getenv("SITE")))
	resp, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestNoCredentialIsSmuggledOverHTTP1(t *testing.T) {
	const chunked = "Transfer-Encoding: chunked\r\n"
	tests := []struct {
		name   string
		lines  string
		fields string // of the header
		rest   string // behind the empty line
		status int
	}{
		{name: "a credential", fields: "Authorization: Bearer theirs\r\n", status: 200},
		{name: "an empty one", fields: "Authorization:\r\n", status: 200},
		{name: "two", fields: "Authorization: a\r\nAuthorization: b\r\n", status: 200},
		{name: "in odd case", fields: "aUTHORIZATION: a\r\nAUTHORIZATION: b\r\nauthorization: c\r\n", status: 200},
		{name: "without a space", fields: "Authorization:theirs\r\n", status: 200},
		{name: "with tabs", fields: "Authorization:\t\ttheirs\t\r\n", status: 200},
		{name: "folded", fields: "Authorization: Bearer\r\n theirs\r\n", status: 200},
		{name: "folded behind another field", fields: "X-A: 1\r\n Authorization: theirs\r\n", status: 200},
		{name: "folded behind another field, by a tab", fields: "X-A: 1\r\n\tAuthorization: theirs\r\n", status: 200},
		{name: "a space behind the name", fields: "Authorization : theirs\r\n", status: 400},
		{name: "a space before the name", fields: "X-A: 1\r\nX-B:\r\n Authorization : theirs\r\n", status: 200},
		{name: "a tab behind the name", fields: "Authorization\t: theirs\r\n", status: 400},
		{name: "a NUL in the name", fields: "Author\x00ization: theirs\r\n", status: 400},
		{name: "a NUL in the value", fields: "Authorization: the\x00irs\r\n", status: 400},
		{name: "a bare CR", fields: "X-A: 1\rAuthorization: theirs\r\n", status: 400},
		{name: "bare LFs", fields: "X-A: 1\nAuthorization: theirs\n", status: 200},
		{name: "a name in Latin-1", fields: "Authorizat\xecon: theirs\r\n", status: 400},

		{name: "nominated", fields: "Connection: authorization\r\nAuthorization: theirs\r\n", status: 200},
		{name: "nominated, though not sent", fields: "Connection: Authorization\r\n", status: 200},
		{name: "nominated with close", fields: "Connection: close,AUTHORIZATION\r\n", status: 200},
		{name: "nominated with keep-alive", fields: "Connection: keep-alive, Authorization\r\n", status: 200},
		{name: "nominated among empty members", fields: "Connection: ,,\t authorization\t,, \r\n", status: 200},
		{name: "nominated on several lines", fields: "Connection: x\r\nconnection: Authorization\r\nCONNECTION: authorization\r\n", status: 200},
		{name: "nominated in a folded line", fields: "Connection: x,\r\n Authorization\r\n", status: 200},
		{name: "nominated thousand times", fields: "Connection: " + strings.Repeat("authorization, ", 1000) + "x\r\n", status: 200},
		{name: "nominated by Proxy-Connection", fields: "Proxy-Connection: authorization\r\n", status: 200},
		{name: "nominated by Keep-Alive", fields: "Keep-Alive: authorization\r\nConnection: keep-alive\r\n", status: 200},
		{name: "nominated as a trailer", fields: "TE: trailers\r\nTrailer: Authorization\r\n", status: 200},
		{name: "nominated in quotes", fields: "Connection: \"authorization\"\r\n", status: 200},
		{name: "nominated with parameters", fields: "Connection: authorization;q=1\r\n", status: 200},
		{name: "Connection nominates itself", fields: "Connection: connection, authorization\r\n", status: 200},

		{name: "another field by its aliases", lines: "inject header X-Api-Key", fields: "X-Api-Key: a\r\nX_Api_Key: b\r\nX.Api.Key: c\r\nX-Api_Key: d\r\n", status: 200},
		{name: "another field, nominated", lines: "inject header X-Api-Key", fields: "Connection: x-api-key\r\nX-Api-Key: a\r\n", status: 200},
		{name: "another field, an alias nominated", lines: "inject header X-Api-Key", fields: "Connection: X_Api_Key, X.Api.Key\r\nX_Api_Key: a\r\n", status: 200},

		{name: "an announced trailer", fields: chunked + "Trailer: Authorization\r\n", rest: "1\r\na\r\n0\r\nAuthorization: theirs\r\n\r\n", status: 200},
		{name: "an announced trailer in odd case", fields: chunked + "trailer: X-A, aUTHORIZATION\r\n", rest: "0\r\nauthorizATION: theirs\r\nX-A: 1\r\n\r\n", status: 200},
		{name: "a trailer that is not announced", fields: chunked, rest: "1\r\na\r\n0\r\nAuthorization: theirs\r\n\r\n", status: 200},
		{name: "a trailer announced under another name", fields: chunked + "Trailer: X-A\r\n", rest: "1\r\na\r\n0\r\nAuthorization: theirs\r\n\r\n", status: 200},
		{name: "a trailer with another field's alias", lines: "inject header X-Api-Key", fields: chunked + "Trailer: X_Api_Key, X-A\r\n", rest: "0\r\nX_Api_Key: a\r\nX.Api.Key: b\r\n\r\n", status: 200},

		{name: "both lengths", fields: chunked + "Content-Length: 5\r\n", rest: "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\nAuthorization: theirs\r\n\r\n", status: 200},
		{name: "two lengths", fields: "Content-Length: 0\r\nContent-Length: 5\r\n", rest: "hello", status: 400},
		{name: "a coding that is none", fields: "Transfer-Encoding: chunked, identity\r\n", rest: "0\r\n\r\n", status: 501},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			api := witnessed(t, test.lines)
			want := "Bearer ours"
			if test.lines != "" {
				want = "ours"
			}

			status := rawRequest(t, "POST / HTTP/1.1\r\nHost: HOST\r\n"+test.fields+"\r\n"+test.rest)

			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			api.check(t, status, want)
		})
	}
}

// TestNoCredentialIsSmuggledInTheQuery: whatever the API takes for a separator
// or for the parameter's name, it finds ours alone.
func TestNoCredentialIsSmuggledInTheQuery(t *testing.T) {
	for _, query := range []string{
		"access_token=theirs",
		"access_token=a&access_token=b",
		"access_token",
		"access_token=",
		"a=1;access_token=theirs",
		"access_token=theirs;a=1",
		"&;&access_token=theirs;;&",
		"%61ccess_token=theirs",
		"access%5Ftoken=theirs&%61%63%63%65%73%73%5f%74%6f%6b%65%6e=theirs",
		"access_token=%",
		"a=%&access_token=theirs",
		"=&access_token==theirs=",
		"?access_token=theirs&access_token=theirs",
		"a=1%26access_token=theirs",
		"access_token=theirs%26access_token=theirs",
	} {
		t.Run(query, func(t *testing.T) {
			api := witnessed(t, "inject query access_token")
			status := rawRequest(t, "GET /?"+query+" HTTP/1.1\r\nHost: HOST\r\n\r\n")
			if status != http.StatusOK {
				t.Errorf("status %d, want 200", status)
			}
			api.check(t, status, "ours")
		})
	}
}

// TestNoCredentialIsSmuggledOverHTTP2 with frames that no library would send.
func TestNoCredentialIsSmuggledOverHTTP2(t *testing.T) {
	tests := []struct {
		name    string
		lines   string
		method  string
		fields  []string // name, value, …
		trailer []string
		status  int // 0: the stream or the connection is reset
	}{
		{name: "a credential", fields: []string{"authorization", "theirs"}, status: 200},
		{name: "two", fields: []string{"authorization", "a", "authorization", "b"}, status: 200},
		{name: "an empty one", fields: []string{"authorization", ""}, status: 200},
		{name: "in capitals", fields: []string{"Authorization", "theirs"}},
		{name: "with a space behind the name", fields: []string{"authorization ", "theirs"}},
		{name: "with a colon in the name", fields: []string{"authorization:", "theirs"}},
		{name: "with a line break in the value", fields: []string{"x-a", "1\r\nauthorization: theirs"}},
		{name: "with a line break in the name", fields: []string{"x-a: 1\r\nauthorization", "theirs"}},
		{name: "as a pseudo-header", fields: []string{":authorization", "theirs"}},
		{name: "with Connection", fields: []string{"connection", "authorization", "authorization", "theirs"}, status: 400},
		{name: "with Proxy-Connection", fields: []string{"proxy-connection", "authorization"}, status: 400},
		{name: "with Transfer-Encoding", fields: []string{"transfer-encoding", "chunked", "authorization", "theirs"}, status: 400},
		{name: "with TE", fields: []string{"te", "authorization"}, status: 400},
		{name: "with TE: trailers", fields: []string{"te", "trailers", "authorization", "theirs"}, status: 200},
		// net/http knows Authorization as a field that is no trailer.
		{name: "an announced trailer", fields: []string{"trailer", "authorization"}, trailer: []string{"authorization", "theirs"}},
		{name: "a trailer beside an announced one", fields: []string{"trailer", "x-a"}, trailer: []string{"x-a", "1", "authorization", "theirs"}},
		{name: "a trailer that is not announced", trailer: []string{"authorization", "theirs"}, status: 200},
		{name: "another field as an announced trailer", lines: "inject header X-Api-Key", fields: []string{"trailer", "x-api-key, x_api_key"}, trailer: []string{"x-api-key", "a", "x_api_key", "b"}, status: 200},
		{name: "another field beside an announced trailer", lines: "inject header X-Api-Key", fields: []string{"trailer", "x-a"}, trailer: []string{"x-a", "1", "x-api-key", "a", "x.api.key", "b"}, status: 200},
		{name: "a trailer in capitals", fields: []string{"trailer", "Authorization"}, trailer: []string{"Authorization", "theirs"}},
		{name: "TRACE", method: "TRACE", fields: []string{"authorization", "theirs"}, status: 405},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			api := witnessed(t, test.lines)
			want := "Bearer ours"
			if test.lines != "" {
				want = "ours"
			}
			if test.method == "" {
				test.method = "POST"
			}

			status := rawHTTP2(t, test.method, test.fields, test.trailer)

			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			api.check(t, status, want)
		})
	}
}

// rawHTTP2 sends a request to {$SITE} with whatever fields, and returns the
// status of the answer; 0 if the stream or the connection is reset.
func rawHTTP2(t testing.TB, method string, fields, trailer []string) (status int) {
	t.Helper()
	connection, err := net.Dial("tcp", os.Getenv("SITE"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(caddytest.Patience))
	_, _ = io.WriteString(connection, http2.ClientPreface)
	framer := http2.NewFramer(connection, connection)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = framer.WriteSettings()

	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encode := func(fields ...string) []byte {
		block.Reset()
		for pair := range slices.Chunk(fields, 2) {
			_ = encoder.WriteField(hpack.HeaderField{Name: pair[0], Value: pair[1]})
		}
		return bytes.Clone(block.Bytes())
	}
	header := encode(append([]string{":method", method, ":scheme", "http", ":authority", os.Getenv("SITE"), ":path", "/"}, fields...)...)
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: header, EndHeaders: true, EndStream: trailer == nil})
	if trailer != nil {
		_ = framer.WriteData(1, false, []byte("body"))
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(trailer...), EndHeaders: true, EndStream: true})
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return 0 // the connection is gone
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return status
		case *http2.MetaHeadersFrame:
			_, _ = fmt.Sscan(frame.PseudoValue("status"), &status)
			if frame.StreamEnded() {
				return status
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				return status
			}
		}
	}
}

// TestTraceIsRefusedInAnyForm that Caddy takes for TRACE.
func TestTraceIsRefusedInAnyForm(t *testing.T) {
	for name, line := range map[string]string{
		"HTTP/1.1":      "TRACE / HTTP/1.1",
		"HTTP/1.0":      "TRACE / HTTP/1.0",
		"absolute form": "TRACE http://HOST/ HTTP/1.1",
	} {
		t.Run(name, func(t *testing.T) {
			api := witnessed(t, "")
			status := rawRequest(t, line+"\r\nHost: HOST\r\nMax-Forwards: 0\r\n\r\n")
			if status != http.StatusMethodNotAllowed {
				t.Errorf("status %d, want 405", status)
			}
			api.check(t, status, "")
		})
	}
}
