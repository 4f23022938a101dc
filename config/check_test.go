package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// partner is a client without mistakes.
func partner() Client {
	return Client{TokenEndpoint: "https://auth.example/token", ClientID: "partner-id", ClientSecret: new(Credential("{env.SECRET}"))}
}

// checkRefused has a client checked after it was changed; a want of "" is none.
func checkRefused(t *testing.T, name string, change func(*Client), want string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		client := partner()
		change(&client)
		got := ""
		if err := client.Check(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("the error is\n%s\nwant\n%s", got, want)
		}
	})
}

// TestLiteralsThatAreMeantAsPlaceholders are refused, with what to write. What may be
// a secret is not shown.
func TestLiteralsThatAreMeantAsPlaceholders(t *testing.T) {
	const (
		secret = "the value looks like a placeholder and is none: write {env.NAME} or {file./absolute/path}"
		id     = "is not a placeholder: write "
	)
	for _, test := range []struct{ value, want string }{
		{"$CID", "$CID " + id + "{env.CID}"},
		{"${CID}", "${CID} " + id + "{env.CID}"},
		{"${env.CID}", "${env.CID} " + id + "{env.CID}"},
		{"{CID}", "{CID} " + id + "{env.CID}"},
		{"{env.CID", "{env.CID " + id + "{env.CID}"},
		{"{$CID", "{$CID " + id + "{env.CID}"},
		{"{file./run/id", "{file./run/id " + id + "{file./run/id}"},
		{"prefix-{CID}", "{CID} " + id + "{env.CID}"},
		{"$", ""},
		{"a$CID", ""},
		{"cid$", ""},
		{"{env.CID}", ""},
	} {
		want := test.want
		if want != "" {
			want = "client_id: " + want
		}
		checkRefused(t, "client_id "+test.value, func(c *Client) { c.ClientID = test.value }, want)
	}
	for _, test := range []struct{ value, want string }{
		{"$SECRET", secret},
		{"${SECRET}", secret},
		{"{SECRET}", secret},
		{"{env.SECRET", secret},
		{"{file./run/secret", secret},
		{"$ecret", ""},
		{"a{SECRET}b", ""},
		{"{x9Kd73", ""},
		{"{env.SECRET}", ""},
	} {
		want := test.want
		if want != "" {
			want = "client_secret: " + want
		}
		checkRefused(t, "client_secret "+test.value, func(c *Client) { c.ClientSecret = new(Credential(test.value)) }, want)
	}
	checkRefused(t, "a refresh token", func(c *Client) { c.Grant = &Grant{Type: "refresh_token", RefreshToken: "$TOKEN"} }, "grant: "+secret)
	checkRefused(t, "a key", func(c *Client) { c.Grant = &Grant{Type: "jwt_bearer", Key: "{env.KEY"} }, "grant: "+secret)
	checkRefused(t, "an issuer", func(c *Client) { c.Issuer = "$ISSUER" }, "issuer: $ISSUER "+id+"{env.ISSUER}")
	checkRefused(t, "a host", func(c *Client) { c.TokenEndpoint = "https://{HOST}/token" }, "token_endpoint: {HOST} "+id+"{env.HOST}")
	checkRefused(t, "what a map directive may set", func(c *Client) { c.TokenParam = map[string]Credential{"tenant": "{tenant}"} }, "")
}

// TestGrantTypes: one that is known is meant by what reads nearly the same; any
// other goes out as it is written.
func TestGrantTypes(t *testing.T) {
	for _, test := range []struct{ name, want string }{
		{"client_credential", "client_credentials"},
		{"client-credentials", "client_credentials"},
		{"clientcredentials", "client_credentials"},
		{"jwt_barer", "jwt_bearer"},
		{"refresh", ""},
		{"token_exchang", "token_exchange"},
		{"client_credentials", ""},
		{"account_credentials", ""},
		{"password", ""},
		{"device_code", ""},
		{"urn:ietf:params:oauth:grant-type:token-exchange", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, want := "", test.want
			if want != "" {
				want = `unknown grant "` + test.name + `": write 'grant ` + want + "'"
			}
			if err := CheckGrantType(test.name); err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("the error is %q, want %q", got, want)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	known := []string{"scope", "issuer", "audience", "token_endpoint", "a", "ab"}
	for _, test := range []struct{ name, want string }{
		{"scpoe", "scope"},
		{"sope", "scope"},
		{"token_endpint", "token_endpoint"},
		{"tokenendpoint", "token_endpoint"},
		{"isuer", "issuer"},
		{"colour", ""},
		{"b", ""},
		{"", ""},
		{strings.Repeat("x", 1000), ""},
	} {
		if got := Nearest(test.name, known); got != test.want {
			t.Errorf("nearest to %q is %q, want %q", test.name, got, test.want)
		}
	}
}

// TestDurations: a number in JSON counts nanoseconds, which is never meant.
func TestDurations(t *testing.T) {
	const short = `is far too short, as a number in JSON counts nanoseconds: write a text such as "10s"`
	const negative = "must be longer than zero"
	for _, option := range []struct {
		name string
		set  func(*Client, caddy.Duration)
	}{
		{"timeout: ", func(c *Client, d caddy.Duration) { c.Timeout = d }},
		{"default_lifetime: ", func(c *Client, d caddy.Duration) { c.DefaultLifetime = d }},
		{"client_auth: lifetime ", func(c *Client, d caddy.Duration) {
			c.ClientAuth = &ClientAuth{Method: "client_secret_jwt", Lifetime: d}
		}},
		{"grant: lifetime ", func(c *Client, d caddy.Duration) {
			c.Grant = &Grant{Type: "jwt_bearer", Key: "/key.pem", Lifetime: d}
		}},
	} {
		checkRefused(t, option.name+"10", func(c *Client) { option.set(c, 10) }, option.name+"10ns "+short)
		checkRefused(t, option.name+"999999", func(c *Client) { option.set(c, 999_999) }, option.name+"999.999µs "+short)
		checkRefused(t, option.name+"-1", func(c *Client) { option.set(c, -1) }, option.name+negative)
		checkRefused(t, option.name+"1ms", func(c *Client) { option.set(c, 1_000_000) }, "")
	}
}

// TestCheck: each option's own mistakes, with the way out.
func TestCheck(t *testing.T) {
	const (
		scope    = " is not a scope: write them one by one, in ASCII, without quotes and backslashes (RFC 6749 section 3.3)"
		resource = " must be an absolute URI without a fragment, such as https://api.example.com (RFC 8707 section 2)"
	)
	header := func(name, value string) func(*Client) {
		return func(c *Client) { c.TokenHeader = map[string]Credential{name: Credential(value)} }
	}
	param := func(name, value string) func(*Client) {
		return func(c *Client) { c.TokenParam = map[string]Credential{name: Credential(value)} }
	}
	for _, test := range []struct {
		name   string
		change func(*Client)
		want   string
	}{
		{"nothing wrong", func(*Client) {}, ""},
		{"neither endpoint nor issuer", func(c *Client) { c.TokenEndpoint = "" }, "token_endpoint: is missing: write the URL that tokens are requested from, or the 'issuer' whose metadata tells it"},
		{"an issuer alone", func(c *Client) { c.TokenEndpoint, c.Issuer = "", "https://auth.example" }, ""},
		{"an issuer that is no URL", func(c *Client) { c.Issuer = "auth" }, "issuer: must be an absolute URL, such as https://auth.example.com"},
		{"an issuer with a query", func(c *Client) { c.Issuer = "https://auth.example?a" }, "issuer: must have neither a query nor a fragment (RFC 8414 section 2)"},
		{"metadata for an issuer", func(c *Client) { c.Issuer = "https://auth.example/.well-known/x" }, "issuer: must be the issuer itself, such as https://auth.example.com, and not the address of its metadata"},
		{"plain http", func(c *Client) { c.TokenEndpoint = "http://auth.example" }, "token_endpoint: must use https, as credentials go there: write https://, or 'allow_http' if the network in between is trusted"},
		{"plain http where it is allowed", func(c *Client) { c.TokenEndpoint, c.AllowHTTP = "http://auth.example", true }, ""},
		{"an endpoint that is not known yet", func(c *Client) { c.TokenEndpoint = "{env.ENDPOINT}" }, ""},

		{"two scopes in one", func(c *Client) { c.Scope = []string{"a b"} }, `scope: "a b"` + scope},
		{"an empty scope", func(c *Client) { c.Scope = []string{""} }, `scope: ""` + scope},
		{"an empty audience", func(c *Client) { c.Audience = []string{"a", ""} }, "audience: has an empty value: remove it"},
		{"a resource without a host", func(c *Client) { c.Resource = []string{"https:api"} }, `resource: "https:api"` + resource},
		{"a resource with a fragment", func(c *Client) { c.Resource = []string{"urn:a#b"} }, `resource: "urn:a#b"` + resource},
		{"a URN", func(c *Client) { c.Resource = []string{"urn:a"} }, ""},
		{"a form field of an option", param("scope", "a"), "token_param: the form field scope is set by 'scope': use that instead"},
		{"a form field of another grant", param("assertion", "a"), "token_param: the form field assertion is set by 'grant jwt_bearer': use that instead"},
		{"a form field of a grant that is sent as it is", func(c *Client) {
			param("assertion", "a")(c)
			c.Grant = &Grant{Type: "urn:ietf:params:oauth:grant-type:jwt-bearer"}
		}, ""},
		{"an empty form field", param("a", ""), `token_param: "a" has an empty name or value: remove it`},
		{"no header field", header("a b", "x"), `token_header: "a b" is not a header field name: write one such as X-Tenant`},
		{"an empty header field", header("x-a", ""), "token_header: the X-A field has an empty value: remove it"},
		{"a header field given twice", func(c *Client) { c.TokenHeader = map[string]Credential{"x-a": "1", "X-A": "2"} }, "token_header: the X-A field is given twice: remove one"},
		{"a header field of net/http", header("host", "x"), "token_header: the Host field is set by the request itself: remove it"},
		{"the credentials' header field", header("Authorization", "x"), "token_header: the Authorization field carries the client's credentials: write 'client_auth client_secret_post' or 'client_auth none' to use it otherwise"},
		{"the same beside a secret in the form", func(c *Client) {
			header("Authorization", "x")(c)
			c.ClientAuth = &ClientAuth{Method: "client_secret_post"}
		}, ""},

		{"an account for all", func(c *Client) { c.Account = "alice" }, `account: "alice" is the same for every request: write a request placeholder, such as {http.auth.user.id}`},
		{"fewer accounts than none", func(c *Client) { c.MaxAccounts = -1 }, "max_accounts: must be a number greater than zero"},
		{"a limit without accounts", func(c *Client) { c.MaxAccounts = 1 }, "max_accounts: goes with 'account', or with a grant for each caller"},
		{"a caller's token that is kept", func(c *Client) { c.Grant, c.KeepExisting = &Grant{Type: "token_exchange"}, true }, "keep_existing: every caller brings an Authorization field here, so none would get a token: remove 'keep_existing', or take the caller's token from another field"},
		{"on_error", func(c *Client) { c.OnError = "ignore" }, `on_error: must be 'reject' or 'pass', not "ignore"`},
		{"refresh_ahead", func(c *Client) { c.RefreshAhead = "0%" }, `refresh_ahead: "0%" must be a whole number between 1% and 90%, such as 20%`},
	} {
		checkRefused(t, test.name, test.change, test.want)
	}
}

// TestOptionErrorIsAbout finds the line of an option that is written on several.
func TestOptionErrorIsAbout(t *testing.T) {
	client := partner()
	client.TokenHeader = map[string]Credential{"X-A": "1", "Content-Type": "2"}
	mistake, ok := errors.AsType[*OptionError](client.Check())
	if !ok || mistake.Option != "token_header" || !mistake.IsAbout("content-type") || mistake.IsAbout("X-A") || mistake.IsAbout("") {
		t.Errorf("the mistake is %+v", mistake)
	}
	if client = partner(); client.Check() != nil {
		t.Error("a client without mistakes is refused")
	}
	client.OnError = "ignore"
	if mistake, ok = errors.AsType[*OptionError](client.Check()); !ok || mistake.IsAbout("") || mistake.IsAbout("ignore") {
		t.Errorf("the mistake is %+v", mistake)
	}
}
