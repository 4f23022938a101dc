package config

import (
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
		secret = "the value is taken as it is written, and looks as if it were meant as a placeholder: write {env.NAME} or {file./absolute/path}"
		id     = "is taken as it is written, and looks as if it were meant as a placeholder: write "
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
