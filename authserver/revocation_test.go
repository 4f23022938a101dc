package authserver_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

func TestRevoke(t *testing.T) {
	const held = "ref-Kq8vT2mXw5Zr9Lb3"
	tests := []struct {
		name       string
		status     int
		header     http.Header
		answer     string
		kind       authserver.Kind
		code       string
		retryAfter time.Duration
		says       string // of the error; "" if it works
	}{
		{name: "revoked", status: 200},
		{name: "revoked, with an answer that says nothing (RFC 7009 section 2.2)", status: 200, answer: "<html>"},
		{name: "revoked, with an empty object", status: 200, answer: "{}"},
		{name: "revoked, with no content", status: 204},
		{name: "not known, as Google says it", status: 400, answer: `{"error":"invalid_token"}`},

		{name: "error with 200", status: 200, answer: `{"error":"invalid_request"}`, kind: authserver.Refused, code: "invalid_request", says: "the revocation request (invalid_request)"},
		{name: "not this kind", status: 400, answer: `{"error":"unsupported_token_type"}`, kind: authserver.Refused, code: "unsupported_token_type", says: "stay valid until they expire"},
		{name: "refused client", status: 401, answer: `{"error":"invalid_client"}`, kind: authserver.Refused, code: "invalid_client", says: "'client_secret'"},
		{name: "not now (RFC 7009 section 2.2.1)", status: 503, header: http.Header{"Retry-After": {"120"}}, kind: authserver.Unavailable, retryAfter: 2 * time.Minute, says: "status 503"},
		{name: "invalid_token while it fails", status: 503, answer: `{"error":"invalid_token"}`, kind: authserver.Unavailable, code: "invalid_token", says: "status 503"},
		{name: "no such place", status: 404, kind: authserver.Unreadable, says: "answered 404 (no content type): check the path of 'revocation_endpoint'"},
		{name: "no OAuth answer", status: 400, answer: "<html>", kind: authserver.Unreadable, says: "check that 'revocation_endpoint' is the revocation endpoint of this server"},
		{name: "redirect", status: 307, header: http.Header{"Location": {"/elsewhere"}}, kind: authserver.Unreadable, says: "write the final address as 'revocation_endpoint'"},
		{name: "echo", status: 400, answer: `{"error":"invalid_request","error_description":"bad refresh_token ` + held + `"}`, kind: authserver.Refused, code: "invalid_request", says: "bad refresh_token [redacted]"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var body string
			requests := 0
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests++
				sent, _ := io.ReadAll(r.Body)
				body = string(sent)
				if r.Header.Get("DPoP") != "" {
					t.Error("a proof came along")
				}
				for name, values := range test.header {
					w.Header()[name] = values
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.answer)
			}))
			defer server.Close()

			r := request(server.URL)
			r.Form = url.Values{"tenant": {"tenant-7"}}
			r.Auth = authserver.ClientSecretPost{ID: "app", Secret: authserver.NewSecret(clientSecret)}
			r.Proof, r.Nonces = mustProofKey(t, edJWK), &authserver.Nonces{}
			err := r.Revoke(t.Context(), server.Client().Transport, authserver.NewSecret(held), "refresh_token")

			want := "client_id=app&client_secret=" + url.QueryEscape(clientSecret) + "&tenant=tenant-7&token=" + held + "&token_type_hint=refresh_token"
			if body != want || requests != 1 {
				t.Errorf("%d requests, the last %q, want one %q", requests, body, want)
			}
			if len(r.Form) != 1 {
				t.Errorf("the caller's form is now %v", r.Form)
			}
			if test.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			failed, ok := errors.AsType[*authserver.Error](err)
			if !ok {
				t.Fatalf("got error %v, want an *Error", err)
			}
			checkKind(t, failed, test.kind)
			if failed.Code != test.code || failed.RetryAfter != test.retryAfter {
				t.Errorf("code %q, retry after %s; want %q, %s", failed.Code, failed.RetryAfter, test.code, test.retryAfter)
			}
			if !strings.Contains(failed.Error(), test.says) {
				t.Errorf("%q does not say %q", failed, test.says)
			}
			checkHidden(t, failed.Error())
		})
	}
}
