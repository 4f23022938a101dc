package caddytest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// APIServer stands in for the API behind Caddy. Unless told otherwise it
// answers every request with "fine".
type APIServer struct {
	*httptest.Server

	mu       sync.Mutex
	requests []APIRequest
	answer   http.HandlerFunc
}

// APIRequest is what reached the API.
type APIRequest struct {
	Method, URI string
	Header      http.Header
}

// NewAPIServer starts one, with TLS if it is given a config for it.
func NewAPIServer(t testing.TB, configure ...func(*httptest.Server)) *APIServer {
	t.Helper()
	a := new(APIServer)
	a.Answers(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") })
	a.Server = start(t, a, configure)
	t.Setenv("API", a.Listener.Addr().String())
	return a
}

// ServeHTTP implements http.Handler.
func (a *APIServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.requests = append(a.requests, APIRequest{r.Method, r.RequestURI, r.Header.Clone()})
	answer := a.answer
	a.mu.Unlock()

	answer(w, r)
}

// Answers tells the API how to answer from now on.
func (a *APIServer) Answers(f http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

// Seen returns the requests that have reached the API so far.
func (a *APIServer) Seen() []APIRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.requests)
}

// Last returns the newest request.
func (a *APIServer) Last(t testing.TB) APIRequest {
	t.Helper()
	seen := a.Seen()
	if len(seen) == 0 {
		t.Fatal("no request has reached the API")
	}
	return seen[len(seen)-1]
}

// LastAuthorization returns the Authorization field of the newest request.
func (a *APIServer) LastAuthorization(t testing.TB) string {
	t.Helper()
	return a.Last(t).Header.Get("Authorization")
}

// Attempts returns the tokens of the requests that have reached the API.
func (a *APIServer) Attempts() []string {
	var tokens []string
	for _, r := range a.Seen() {
		tokens = append(tokens, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	}
	return tokens
}

// WantAttempts fails the test unless exactly these tokens have reached the API.
func (a *APIServer) WantAttempts(t testing.TB, want ...string) {
	t.Helper()
	if got := a.Attempts(); !slices.Equal(got, want) {
		t.Errorf("the API saw %q, want %q", got, want)
	}
}
