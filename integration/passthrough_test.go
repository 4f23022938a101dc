package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

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
	_ = connection.SetDeadline(time.Now().Add(caddytest.Patience))
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
		_ = connection.SetDeadline(time.Now().Add(caddytest.Patience))
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
