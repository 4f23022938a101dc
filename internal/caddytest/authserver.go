package caddytest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// AuthServer stands in for the authorization server. Unless told otherwise it
// issues access-token-1, access-token-2 and so on, for an hour each.
type AuthServer struct {
	*httptest.Server

	mu       sync.Mutex
	requests []TokenRequest
	answer   func(http.ResponseWriter, TokenRequest)
}

// TokenRequest is what reached the server, which is a token request unless it is for
// metadata. Its body is read: see PostForm.
type TokenRequest struct {
	*http.Request

	Number int // 1 for the first
}

// NewAuthServer starts one, with TLS if it is given a config for it.
func NewAuthServer(t testing.TB, configure ...func(*httptest.Server)) *AuthServer {
	t.Helper()
	a := new(AuthServer)
	a.Answers(Issuing(time.Hour))
	a.Server = start(t, a, configure)
	t.Setenv("TOKEN_ENDPOINT", a.URL+"/token")
	return a
}

// ServeHTTP implements http.Handler.
func (a *AuthServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.PostForm, _ = url.ParseQuery(string(body))

	a.mu.Lock()
	request := TokenRequest{Request: r, Number: len(a.requests) + 1}
	a.requests = append(a.requests, request)
	answer := a.answer
	a.mu.Unlock()

	answer(w, request)
}

// Answers tells the server how to answer from now on.
func (a *AuthServer) Answers(f func(http.ResponseWriter, TokenRequest)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

// Says tells the server to give one answer from now on.
func (a *AuthServer) Says(status int, body string) {
	a.Answers(func(w http.ResponseWriter, _ TokenRequest) { Say(w, status, body) })
}

// Seen returns the requests so far.
func (a *AuthServer) Seen() []TokenRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.requests)
}

// Count is how many requests there have been.
func (a *AuthServer) Count() int { return len(a.Seen()) }

// Issuing is an answer for AuthServer.Answers: a new token for each request.
func Issuing(life time.Duration) func(http.ResponseWriter, TokenRequest) {
	return func(w http.ResponseWriter, r TokenRequest) {
		Issue(w, fmt.Sprintf("access-token-%d", r.Number), life)
	}
}

// Issue answers a token request with a token.
func Issue(w http.ResponseWriter, token string, life time.Duration) {
	Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":%v}`, token, life.Seconds()))
}

// Say answers a request with JSON.
func Say(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// Asked lists the requests that have come to the server.
func (a *AuthServer) Asked() []string {
	var asked []string
	for _, r := range a.Seen() {
		asked = append(asked, r.Method+" "+r.URL.Path)
	}
	return asked
}

// TokenRequests counts the requests that are not for metadata.
func (a *AuthServer) TokenRequests() int {
	n := 0
	for _, r := range a.Seen() {
		if r.Method == http.MethodPost {
			n++
		}
	}
	return n
}
