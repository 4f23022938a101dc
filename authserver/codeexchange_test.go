package authserver_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// codeServer is an authorization server for one client, which signs in whoever
// comes. It takes a code once, with the redirect URI, the verifier and the key that
// the authorization request was made with.
type codeServer struct {
	*httptest.Server
	asked url.Values // the authorization request
	spent int        // how often a code was presented
}

func newCodeServer(t *testing.T) *codeServer {
	t.Helper()
	s := &codeServer{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		s.asked = r.URL.Query()
		back := url.Values{"code": {"code-1"}, "state": {s.asked.Get("state")}, "iss": {s.URL}}
		http.Redirect(w, r, s.asked.Get("redirect_uri")+"?"+back.Encode(), http.StatusSeeOther)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		challenge := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		thumbprint := ""
		if proof := r.Header.Get("DPoP"); proof != "" {
			verified(t, proof, "EdDSA", publicOf(t, edJWK))
			thumbprint = edThumbprint
		}
		s.spent++
		switch {
		case s.spent > 1,
			r.PostFormValue("grant_type") != "authorization_code",
			r.PostFormValue("code") != "code-1",
			r.PostFormValue("redirect_uri") != s.asked.Get("redirect_uri"),
			base64.RawURLEncoding.EncodeToString(challenge[:]) != s.asked.Get("code_challenge"),
			thumbprint != s.asked.Get("dpop_jkt"):
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"invalid_grant"}`)
			return
		}
		fmt.Fprint(w, `{"access_token":"tok-25","refresh_token":"ref-25","scope":"read write"}`)
	})
	s.Server = httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s
}

// signIn goes to the address as a browser does and returns the query with which it
// comes back.
func (s *codeServer) signIn(t *testing.T, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	return back.RawQuery
}

// The whole way, from the authorization request to the token.
func TestCodeExchange(t *testing.T) {
	other := authserver.NewVerifier()
	tests := []struct {
		name     string
		proof    *authserver.ProofKey // of the authorization request
		exchange func(r *authserver.Request)
		code     string // of the error
	}{
		{"as it should be", nil, func(*authserver.Request) {}, ""},
		{"bound to a key", mustProofKey(t, edJWK), func(*authserver.Request) {}, ""},
		{"with another verifier", nil, func(r *authserver.Request) { r.Form.Set("code_verifier", other.Reveal()) }, "invalid_grant"},
		{"with another redirect URI", nil, func(r *authserver.Request) { r.Form.Set("redirect_uri", "https://evil.example.com/") }, "invalid_grant"},
		{"without the key", mustProofKey(t, edJWK), func(r *authserver.Request) { r.Proof = nil }, "invalid_grant"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := newCodeServer(t)
			asks := authorization()
			asks.Endpoint = server.URL + "/authorize"
			asks.State, asks.Verifier, asks.Proof = authserver.NewState(), authserver.NewVerifier(), test.proof
			address, err := asks.URL()
			if err != nil {
				t.Fatal(err)
			}
			code, err := authserver.ExpectedResponse{State: asks.State, Issuer: server.URL, NamesIssuer: true}.Code(server.signIn(t, address))
			if err != nil {
				t.Fatal(err)
			}

			r := request(server.URL + "/token")
			r.Form = authserver.CodeExchange(code, redirectURI, asks.Verifier)
			r.Proof, r.Nonces = test.proof, &authserver.Nonces{}
			test.exchange(&r)
			token, err := do(t, r, server.Client().Transport)
			if test.code != "" {
				failed := mustFail(t, token, err)
				if failed.Code != test.code || !strings.Contains(failed.Error(), "sign in anew") {
					t.Errorf("%q does not say to sign in anew after %s", failed, test.code)
				}
				return
			}
			mustSucceed(t, token, err)
			if token.RefreshToken.Reveal() != "ref-25" || token.Scope != "read write" {
				t.Errorf("refresh token %q, scope %q", token.RefreshToken.Reveal(), token.Scope)
			}
		})
	}
}

// A code is presented once, whatever the answer: a server that sees it twice
// revokes what came of it (RFC 6749 section 4.1.2). Where a nonce is wanted, the
// server has not taken the code yet (RFC 9449 section 8).
func TestCodeIsPresentedOnce(t *testing.T) {
	tests := []struct {
		name   string
		answer func(c *rawConn)
		want   int // requests
	}{
		{"refused client", func(c *rawConn) {
			c.write("HTTP/1.1 401 Unauthorized\r\nContent-Length: 26\r\n\r\n" + `{"error":"invalid_client"}`)
		}, 1},
		{"failure", func(c *rawConn) {
			c.write("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n")
		}, 1},
		{"no answer", func(*rawConn) {}, 1},
		{"half an answer", func(c *rawConn) { c.write(goodAnswer[:len(goodAnswer)-5]) }, 1},
		{"nonce wanted", func(c *rawConn) {
			c.write("HTTP/1.1 400 Bad Request\r\nDPoP-Nonce: n-1\r\nContent-Length: 26\r\n\r\n" + `{"error":"use_dpop_nonce"}`)
		}, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := newRawServer(t, func(_ int, c *rawConn) {
				if c.readRequest() {
					test.answer(c)
				}
			})
			r := request(server.url)
			r.Form = authserver.CodeExchange(authserver.NewSecret("code-1"), redirectURI, authserver.NewVerifier())
			r.Proof, r.Nonces = mustProofKey(t, edJWK), &authserver.Nonces{}
			token, err := do(t, r, newTransport(t))
			mustFail(t, token, err)
			if got := len(server.requests()); got != test.want {
				t.Errorf("%d requests, want %d", got, test.want)
			}
		})
	}
}
