package config

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestInputs(t *testing.T) {
	input := func(option, text string) Input { return Input{Option: option, Text: text} }
	for _, test := range []struct {
		name   string
		client Client
		want   Inputs
	}{
		{"none", partner(), nil},
		{"variables and files are the operator's", Client{Scope: []string{"{env.SCOPE}", "{file./scope}", "{system.hostname}"}}, nil},
		{"an account", Client{Account: "{http.auth.user.id}"}, Inputs{input("account", "{http.auth.user.id}")}},
		{"what a map directive sets", Client{Audience: []string{"api", "{tenant}"}}, Inputs{input("audience", "{tenant}")}},
		{"the caller's token, by default", Client{Grant: &Grant{Type: "token_exchange"}}, Inputs{input("subject_token", "{http.request.header.Authorization}")}},
		{"the texts in a claim", Client{Grant: &Grant{Type: "jwt_bearer", Claim: map[string]string{"b": `["{http.auth.user.id}", 5, "x"]`, "a": "{http.request.host}"}}},
			Inputs{input("claim", "{http.request.host}"), input("claim", "{http.auth.user.id}")}},
		{"never credentials of our own", Client{ClientSecret: new(Credential("{http.request.header.X}")), TokenHeader: map[string]Credential{"X": "{tenant}"}}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.client.Inputs(); !slices.Equal(got, test.want) {
				t.Errorf("the inputs are %v, want %v", got, test.want)
			}
		})
	}
}

// TestInputValues: a request's values are what a server can take, or its caller is at
// fault.
func TestInputValues(t *testing.T) {
	long := strings.Repeat("a", maxInputs+1)
	const (
		header  = "{http.request.header.Authorization}"
		value   = "{http.vars.value}"
		noToken = "holds characters that do not belong in a token"
		noScope = "is not a scope (RFC 6749 section 3.3)"
		noURI   = "is not an absolute URI without a fragment (RFC 8707 section 2)"
		noText  = "holds characters that are no text"
		parts   = "has characters that separate the parts of a URI (RFC 3986 section 2.2)"
	)
	for _, test := range []struct{ name, option, text, value, want, flaw string }{
		{"an account", "account", value, "alice", "alice", ""},
		{"an account in other letters", "account", value, "älice", "älice", ""},
		{"an account with text around it", "account", "user-" + value, "alice", "user-alice", ""},
		{"no account", "account", value, "", "", "nothing"},
		{"an account of spaces", "account", value, "  ", "", "nothing"},
		{"an account with a line break", "account", value, "a\nb", "", noText},
		{"an account that is not UTF-8", "account", value, "\xff", "", noText},
		{"too long an account", "account", value, long, "", "is too long"},
		{"a token", "subject_token", header, "Bearer abc", "abc", ""},
		{"a token in another case", "subject_token", header, "bearer  abc", "abc", ""},
		{"a password for a token", "subject_token", header, "Basic YTpi", "", "nothing"},
		{"a token without a scheme", "subject_token", header, "abc", "", "nothing"},
		{"a token of another field", "subject_token", value, "abc", "abc", ""},
		{"a token with a space", "assertion", value, "a b", "", noToken},
		{"a token that is not ASCII", "actor_token", value, "ä", "", noToken},
		{"scopes", "scope", value, "a b", "a b", ""},
		{"scopes where one is wanted", "scope", "read:" + value, "a b", "", noScope},
		{"a scope with a quote", "scope", value, `a"b`, "", noScope},
		{"a resource", "resource", value, "https://api.example", "https://api.example", ""},
		{"a resource that is none", "resource", value, "api", "", noURI},
		{"a part of a resource", "resource", "https://api.example/" + value, "a", "https://api.example/a", ""},
		{"a part that makes another resource", "resource", "https://api.example/" + value, "a/b", "", parts},
		{"a query in a part", "resource", "https://api.example/" + value, "a?b", "", parts},
	} {
		t.Run(test.name, func(t *testing.T) {
			repl := caddy.NewReplacer()
			for _, name := range []string{"http.vars.value", "http.request.header.Authorization"} {
				repl.Set(name, test.value)
			}
			values, err := Inputs{{test.option, test.text}}.Values(repl)
			if test.flaw == "" {
				if err != nil || !slices.Equal(values, []string{test.want}) {
					t.Errorf("the values are %q, %v; want %q", values, err, test.want)
				}
				return
			}
			caller, ok := errors.AsType[*CallerError](err)
			if !ok {
				t.Fatalf("the error is %v", err)
			}
			shown := value
			if test.text == header {
				shown = header
			}
			want := "the request's value for " + test.option + " (" + shown + ") " + test.flaw
			if test.flaw == "nothing" {
				want = "the request has nothing for " + test.option + " (" + shown + ")"
			}
			if caller.Error() != want {
				t.Errorf("the error is\n%s\nwant\n%s", caller, want)
			}
		})
	}

	t.Run("together too long", func(t *testing.T) {
		repl := caddy.NewReplacer()
		repl.Set("http.vars.value", long[:maxInputs/2+1])
		if _, err := (Inputs{{"account", value}, {"audience", value}}).Values(repl); err == nil || err.Error() != "the request's value for audience ({http.vars.value}) is too long" {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("a placeholder that the request lacks", func(t *testing.T) {
		_, err := Inputs{{"account", "{http.auth.user.id}"}}.Values(caddy.NewReplacer())
		if err == nil || err.Error() != "the request has nothing for account ({http.auth.user.id})" {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestCallerFields(t *testing.T) {
	for _, test := range []struct {
		name   string
		inputs Inputs
		want   []string
	}{
		{"none", nil, nil},
		{"an account is no credential", Inputs{{"account", "{http.request.header.X-User}"}}, nil},
		{"a header field", Inputs{{"subject_token", "{http.request.header.x-token}"}}, []string{"X-Token"}},
		{"by way of a variable", Inputs{{"assertion", "{http.vars.token}"}}, []string{"Authorization"}},
		{"two", Inputs{{"subject_token", "{http.request.header.Authorization}"}, {"actor_token", "{http.request.header.X-Actor}"}}, []string{"Authorization", "X-Actor"}},
	} {
		if got := test.inputs.CallerFields(); !slices.Equal(got, test.want) {
			t.Errorf("%s: the fields are %q, want %q", test.name, got, test.want)
		}
	}
}
