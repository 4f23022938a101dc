package authserver_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// expected is a response that names its issuer.
var expected = authserver.ExpectedResponse{State: authserver.NewSecret("state-1"), Issuer: issuer, NamesIssuer: true}

// issQuery is the iss of issuer in a query.
const issQuery = "&iss=https%3A%2F%2Fauth.example.com"

func TestAuthorizationResponse(t *testing.T) {
	silent := expected
	silent.NamesIssuer = false
	byHand := authserver.ExpectedResponse{State: expected.State}
	tests := []struct {
		name     string
		expected authserver.ExpectedResponse
		query    string
		want     string
	}{
		{"with iss", expected, "code=c-1&state=state-1" + issQuery, "c-1"},
		{"with iss that is not announced", silent, "code=c-1&state=state-1" + issQuery, "c-1"},
		{"without iss", silent, "code=c-1&state=state-1", "c-1"},
		{"with iss where the issuer is not known", byHand, "code=c-1&state=state-1" + issQuery, "c-1"},
		{"with parameters of the server's own", silent, "session_state=x&code=c-1&scope=a+b&state=state-1&scope=c&authuser=0", "c-1"},
		{"with an empty error", silent, "code=c-1&state=state-1&error=", "c-1"},
		{"any code (RFC 6749 appendix A.11)", silent, "state=state-1&code=4%2F0AX4%20%2B%7E", "4/0AX4 +~"},
		{"long code", silent, "state=state-1&code=" + strings.Repeat("x", 9000), strings.Repeat("x", 9000)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, err := test.expected.Code(test.query)
			if err != nil {
				t.Fatal(err)
			}
			if code.Reveal() != test.want {
				t.Errorf("code %q, want %q", code.Reveal(), test.want)
			}
		})
	}
}

func TestAuthorizationResponseRefused(t *testing.T) {
	const good = "&state=state-1" + issQuery
	unasked := expected
	unasked.State = authserver.Secret{}
	tests := []struct {
		name  string
		query string
		kind  authserver.Kind
		code  string
		says  []string
	}{
		// No response to this request: the right one may still come.
		{"empty", "", authserver.Unreadable, "", []string{"no state"}},
		{"no state", "code=c-1" + issQuery, authserver.Unreadable, "", []string{"no state", "in the window in which it began"}},
		{"another state", "code=c-1&state=state-2" + issQuery, authserver.Unreadable, "", []string{"state is of another sign-in"}},
		{"part of the state", "code=c-1&state=state" + issQuery, authserver.Unreadable, "", []string{"state is of another sign-in"}},
		{"more than the state", "code=c-1&state=state-11" + issQuery, authserver.Unreadable, "", []string{"state is of another sign-in"}},
		{"two states", "code=c-1&state=state-2" + good, authserver.Unreadable, "", []string{"more than one state"}},
		{"two codes", "code=c-1&code=c-2" + good, authserver.Unreadable, "", []string{"more than one code"}},
		{"two issuers", "code=c-1&iss=https%3A%2F%2Fevil.example.com" + good, authserver.Unreadable, "", []string{"more than one iss"}},
		{"two errors", "error=a&error=b" + good, authserver.Unreadable, "", []string{"more than one error"}},
		{"no code", good, authserver.Unreadable, "", []string{"no code"}},
		{"empty code", "code=" + good, authserver.Unreadable, "", []string{"no code"}},
		{"no iss", "code=c-1&state=state-1", authserver.Unreadable, "", []string{"no iss", "RFC 9207"}},
		{"empty iss", "code=c-1&state=state-1&iss=", authserver.Unreadable, "", []string{"no iss", "RFC 9207"}},
		{"iss of another server", "code=c-1&state=state-1&iss=https%3A%2F%2Fevil.example.com", authserver.Unreadable, "", []string{`"https://evil.example.com"`, `"https://auth.example.com"`}},
		{"iss with a slash more", "code=c-1&state=state-1" + issQuery + "%2F", authserver.Unreadable, "", []string{`"https://auth.example.com/"`}},
		{"error without iss", "error=access_denied&state=state-1", authserver.Unreadable, "", []string{"no iss"}},
		{"error with another state", "error=access_denied&error_description=Hello&state=state-2" + issQuery, authserver.Unreadable, "", []string{"state is of another sign-in"}},
		{"broken escape", "code=%zz" + good, authserver.Unreadable, "", []string{"malformed"}},
		{"semicolons", "code=c-1;state=state-1", authserver.Unreadable, "", []string{"malformed"}},

		// The server's word.
		{"denied", "error=access_denied" + good, authserver.Refused, "access_denied", []string{"refused the authorization request (access_denied)", "agree to what is asked for"}},
		{"denied, with a reason", "error=access_denied&error_description=The+user+said+no" + good, authserver.Refused, "access_denied", []string{`the server says "The user said no"`}},
		{"denied, and a code", "code=c-1&error=access_denied" + good, authserver.Refused, "access_denied", nil},
		{"client may not", "error=unauthorized_client" + good, authserver.Refused, "unauthorized_client", []string{"allow this client the authorization code grant"}},
		{"response type", "error=unsupported_response_type" + good, authserver.Refused, "unsupported_response_type", []string{"allow this client the authorization code grant"}},
		{"malformed request", "error=invalid_request" + good, authserver.Refused, "invalid_request", []string{"'authorization_param'", "redirect URI"}},
		{"scope", "error=invalid_scope" + good, authserver.Refused, "invalid_scope", []string{"check 'scope'"}},
		{"resource", "error=invalid_target" + good, authserver.Refused, "invalid_target", []string{"'resource'"}},
		{"nothing to be shown", "error=login_required" + good, authserver.Refused, "login_required", []string{"'prompt none'"}},
		{"no code at all", "error=Sorry,+no" + good, authserver.Refused, "", []string{"with an error code that is not one"}},
		{"failed", "error=server_error" + good, authserver.Unavailable, "server_error", []string{"perhaps later"}},
		{"busy", "error=temporarily_unavailable" + good, authserver.Unavailable, "temporarily_unavailable", []string{"perhaps later"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, err := expected.Code(test.query)
			failed, ok := errors.AsType[*authserver.Error](err)
			if !ok || !code.IsZero() {
				t.Fatalf("got a code (%t) and error %v, want an *Error", !code.IsZero(), err)
			}
			checkKind(t, failed, test.kind)
			if failed.Code != test.code {
				t.Errorf("error code %q, want %q", failed.Code, test.code)
			}
			for _, says := range test.says {
				if !strings.Contains(failed.Error(), says) {
					t.Errorf("%q does not say %q", failed, says)
				}
			}
			if strings.Contains(failed.Error(), "Hello") {
				t.Errorf("%q repeats what somebody without the state says", failed)
			}
		})
	}
	t.Run("where no state is expected", func(t *testing.T) {
		if code, err := unasked.Code("code=c-1&state=" + issQuery); err == nil || !code.IsZero() {
			t.Error("an empty state passed")
		}
	})
}

// What the server says is shown cleaned, short and without what must not show.
func TestAuthorizationResponseQuoted(t *testing.T) {
	const code = "Kq8vT2mXw5Zr9Lb3"
	state := authserver.NewState()
	e := authserver.ExpectedResponse{State: state}
	_, err := e.Code("error=access_denied&state=" + state.Reveal() + "&code=" + code +
		"&error_description=%1B%5B31m" + code + "+" + state.Reveal() + "%0d%0a" + strings.Repeat("x", 9000))
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	if strings.Contains(text, code[:8]) || strings.Contains(text, state.Reveal()[:8]) {
		t.Errorf("%q shows the code or the state", text)
	}
	if !printable(text) || len(text) > 1024 {
		t.Errorf("%q is not fit for a log line", text)
	}
}

// FuzzAuthorizationResponse feeds any query to the redirect URI. Without the state
// it comes to nothing; with it, to a code or to an error that is fit to be shown.
//
//	go test -fuzz FuzzAuthorizationResponse ./authserver
func FuzzAuthorizationResponse(f *testing.F) {
	for _, query := range []string{
		"", "&", "=", "code=c&state=state-1" + issQuery, "code=c&state=state-1", "state=state-1&state=state-1",
		"error=access_denied&state=state-1" + issQuery, "error=%00&state=state-1" + issQuery,
		"error=" + strings.Repeat("a", 70) + "&error_description=%ff%1b&state=state-1" + issQuery,
		"code=%zz", "code=a;state=state-1", "STATE=state-1&code=c", "iss=&state=state-1&code=c",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		code, err := expected.Code(query)
		if err == nil {
			if code.IsZero() || !strings.Contains(query, "=") {
				t.Errorf("no code in %q, and no error", query)
			}
			return
		}
		failed, ok := errors.AsType[*authserver.Error](err)
		if !ok || !code.IsZero() {
			t.Fatalf("got a code (%t) and error %v (%[2]T), want an *Error", !code.IsZero(), err)
		}
		if text := failed.Error(); !printable(text) || len(text) > 1536 {
			t.Errorf("%q is not fit for a log line", text)
		}
		if _, err := (authserver.ExpectedResponse{State: authserver.NewState()}).Code(query); err == nil {
			t.Errorf("%q passed without the state", query)
		}
	})
}
