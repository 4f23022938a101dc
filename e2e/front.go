package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// front is the address at which the world reaches an authorization server. It passes everything on
// unchanged, keeps a record of the token requests, and can fail the ways a network fails.
type front struct {
	addr      string
	tokenPath string
	backend   *httputil.ReverseProxy

	mu     sync.Mutex
	server *http.Server  // nil while connections are refused
	broken outage        // "" while all is well
	held   chan struct{} // token requests wait until it is closed; nil: they don't
	seen   []*tokenRequest
}

// tokenRequest is what the front saw of one.
type tokenRequest struct {
	at           time.Time
	grant        string
	clientAuth   string // how the client proved itself, by the IANA name; two names when it used two ways
	scope        string
	refreshToken string
	subjectToken string
	assertion    string // of the grant

	clientAssertion string
	certificate     string // the client's, as base64
	status          int    // 0: no answer came
}

// outage is a way in which a server is away.
type outage string

const (
	refused     outage = "connections are refused"
	dropped     outage = "connections are closed without an answer"
	unavailable outage = "every answer is 503"
	silent      outage = "no answer ever comes"
)

type recordKey struct{}

// clientCertificate is the field that hands the client's certificate on to the server.
const clientCertificate = "X-Client-Cert"

func startFront(t *testing.T, port, backendPort int) *front {
	t.Helper()
	f := &front{addr: loopback(port)}
	f.backend = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: loopback(backendPort)})
			r.Out.Host = r.In.Host // servers name themselves by it
		},
		ModifyResponse: func(r *http.Response) error {
			if record, ok := r.Request.Context().Value(recordKey{}).(*tokenRequest); ok {
				f.mu.Lock()
				record.status = r.StatusCode
				f.mu.Unlock()
			}
			return nil
		},
		// A connection that the server closes for idleness is a matter between it and its clients:
		// the front has none of its own and closes theirs like oidc-provider.
		Transport:    &http.Transport{DisableKeepAlives: true},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     log.New(io.Discard, "", 0),
	}
	f.open(t)
	t.Cleanup(func() { f.fail(refused) })
	return f
}

func (f *front) open(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	f.server = &http.Server{Handler: f, IdleTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	go f.server.Serve(listener)
}

// fail begins an outage.
func (f *front) fail(how outage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = how
	if how == refused && f.server != nil {
		f.server.Close()
		f.server = nil
	}
}

// mend ends an outage.
func (f *front) mend(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = ""
	if f.server == nil {
		f.open(t)
	}
}

// hold keeps token requests waiting until release is called.
func (f *front) hold() (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := make(chan struct{})
	f.held = held
	return sync.OnceFunc(func() {
		f.mu.Lock()
		f.held = nil
		f.mu.Unlock()
		close(held)
	})
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Header.Del(clientCertificate)
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		r.Header.Set(clientCertificate, base64.StdEncoding.EncodeToString(r.TLS.PeerCertificates[0].Raw))
	}
	isToken := r.URL.Path == f.tokenPath
	if isToken {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		record := readTokenRequest(r, string(body))
		r = r.WithContext(context.WithValue(r.Context(), recordKey{}, record))
		f.mu.Lock()
		f.seen = append(f.seen, record)
		f.mu.Unlock()
	}
	f.mu.Lock()
	broken, held := f.broken, f.held
	f.mu.Unlock()

	switch broken {
	case dropped, refused:
		panic(http.ErrAbortHandler)
	case unavailable:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case silent:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	if isToken && held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	f.backend.ServeHTTP(w, r)
}

func readTokenRequest(r *http.Request, body string) *tokenRequest {
	form, _ := url.ParseQuery(body)
	var ways []string
	if strings.HasPrefix(r.Header.Get("Authorization"), "Basic ") {
		ways = append(ways, "client_secret_basic")
	}
	if form.Has("client_secret") {
		ways = append(ways, "client_secret_post")
	}
	if r.Header.Get(clientCertificate) != "" {
		ways = append(ways, "tls_client_auth")
	}
	if form.Has("client_assertion") {
		ways = append(ways, assertionMethod(form.Get("client_assertion")))
	}
	return &tokenRequest{
		at:           time.Now(),
		grant:        form.Get("grant_type"),
		clientAuth:   strings.Join(ways, " and "),
		scope:        form.Get("scope"),
		refreshToken: form.Get("refresh_token"),
		subjectToken: form.Get("subject_token"),
		assertion:    form.Get("assertion"),
		certificate:  r.Header.Get(clientCertificate),

		clientAssertion: form.Get("client_assertion"),
	}
}

// assertionMethod says by its algorithm which method a client's assertion belongs to.
func assertionMethod(assertion string) string {
	encoded, _, _ := strings.Cut(assertion, ".")
	var header struct {
		Alg string `json:"alg"`
	}
	if decoded, err := base64.RawURLEncoding.DecodeString(encoded); err != nil || json.Unmarshal(decoded, &header) != nil {
		return "an assertion that is not a JWT"
	}
	if strings.HasPrefix(header.Alg, "HS") {
		return "client_secret_jwt"
	}
	return "private_key_jwt"
}

// tokenRequests returns all token requests so far, those of the tests' own sign-ins left out.
func (f *front) tokenRequests() []tokenRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	var requests []tokenRequest
	for _, r := range f.seen {
		if r.grant != "authorization_code" {
			requests = append(requests, *r)
		}
	}
	return requests
}

// granted returns the token requests that were answered with a token.
func (f *front) granted() []tokenRequest {
	return slices.DeleteFunc(f.tokenRequests(), func(r tokenRequest) bool { return r.status != http.StatusOK })
}

// awaitTokenRequest waits for the next one, and no longer than that.
func (f *front) awaitTokenRequest(patience time.Duration) {
	before := len(f.tokenRequests())
	for end := time.Now().Add(patience); len(f.tokenRequests()) == before && time.Now().Before(end); {
		<-time.After(time.Millisecond)
	}
}
