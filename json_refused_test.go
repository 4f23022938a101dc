package upstreamoauth2

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestRefusedJSON: what the Caddyfile refuses while it is read is refused in
// JSON, too, with the client's name for its place.
func TestRefusedJSON(t *testing.T) {
	client := func(fields string) string {
		return `{"partner": {"token_endpoint": "https://auth.example", "client_id": "a", "client_secret": "{env.PARTNER_SECRET}"` + fields + `}}`
	}
	proven := func(fields string) string {
		return `{"partner": {"token_endpoint": "https://auth.example", "client_id": "a"` + fields + `}}`
	}
	const partner = `client "partner": `
	tests := []struct {
		name    string
		clients string
		want    string
	}{
		{"a client that is null", `{"partner": null}`, partner + "is null: write its settings, or remove it"},
		{"a client without settings", `{"partner": {}}`, partner + "token_endpoint: is missing: write the URL that tokens are requested from, or the 'issuer' whose metadata tells it"},
		{"a client without a name", strings.Replace(client(""), "partner", "", 1), "a client has no name: give it one that handlers can refer to"},
		{"options of no method", client(`, "client_auth": {"key": "/key.pem"}`), partner + `client_auth: client_secret_basic does not take "key": remove it, or name another method`},
		{"an option of another method", proven(`, "client_auth": {"method": "tls_client_auth", "certificate": "/cert.pem", "key_id": "1"}`), partner + `client_auth: tls_client_auth does not take "key_id": remove it, or name another method`},
		{"no key", proven(`, "client_auth": {"method": "private_key_jwt"}`), partner + `client_auth: private_key_jwt needs "key": write 'key <file>' in its block`},
		{"no assertion file", proven(`, "client_auth": {"method": "assertion_file"}`), partner + "client_auth: assertion_file needs a file: write 'client_auth assertion_file <file>'"},
		{"an assertion that has expired already", proven(`, "client_auth": {"method": "private_key_jwt", "key": "/key.pem", "lifetime": -1}`), partner + "client_auth: lifetime must be longer than zero"},
		{"options of no grant", client(`, "grant": {"refresh_token": "x"}`), partner + `grant: client_credentials does not take "refresh_token": remove it, or name another grant`},
		{"an option of another grant", client(`, "grant": {"type": "token_exchange", "key": "/key.pem"}`), partner + `grant: token_exchange does not take "key": remove it, or name another grant`},
		{"a claim without a name", client(`, "grant": {"type": "jwt_bearer", "key": "/key.pem", "claim": {"": "x"}}`), partner + "grant: a claim has no name: write 'claim <name> <value>'"},
		{"an empty audience", client(`, "audience": [""]`), partner + "audience: has an empty value: remove it"},
		{"an empty scope", client(`, "scope": [""]`), partner + `scope: "" is not a scope: write them one by one, in ASCII, without quotes and backslashes (RFC 6749 section 3.3)`},
		{"two scopes in one", client(`, "scope": ["a b"]`), partner + `scope: "a b" is not a scope: write them one by one, in ASCII, without quotes and backslashes (RFC 6749 section 3.3)`},
		{"a form field without a name", client(`, "token_param": {"": "x"}`), partner + `token_param: "" has an empty name or value: remove it`},
		{"a form field without a value", client(`, "token_param": {"x": ""}`), partner + `token_param: "x" has an empty name or value: remove it`},
		{"a header field without a value", client(`, "token_header": {"x-a": ""}`), partner + "token_header: the X-A field has an empty value: remove it"},
		{"a header field given twice in two cases", client(`, "token_header": {"x-a": "1", "X-A": "2"}`), partner + "token_header: the X-A field is given twice: remove one"},
		{"a header field the request sets, in another case", client(`, "token_header": {"content-TYPE": "text/plain"}`), partner + "token_header: the Content-Type field is set by the request itself: remove it"},
		{"authorization beside the client's", client(`, "token_header": {"authorization": "x"}`), partner + "token_header: the Authorization field carries the client's credentials: write 'client_auth client_secret_post' or 'client_auth none' to use it otherwise"},
		{"too few accounts", client(`, "account": "{http.auth.user.id}", "max_accounts": -1`), partner + "max_accounts: must be a number greater than zero"},
		{"a timeout that is over", client(`, "timeout": -1`), partner + "timeout: must be longer than zero"},
		{"a life that is over", client(`, "default_lifetime": -1`), partner + "default_lifetime: must be longer than zero"},
		{"a body limit below zero", client(`, "replay": {"body_limit": -1}`), partner + "replay: body_limit must not be negative"},
		{"replay off and more", client(`, "replay": {"off": true, "status": [401]}`), partner + "replay: 'replay off' takes nothing else: remove 'off' or the block"},
		{"inject into a cookie", client(`, "inject": {"in": "cookie"}`), partner + `inject: must be 'header' or 'query', not "cookie": write 'inject header [<name> [<scheme>]] | query <name>'`},
		{"another transport", client(`, "transport": {"protocol": "fastcgi"}`), partner + "transport: *fastcgi.Transport cannot send a token request: write 'transport http'"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PARTNER_SECRET", "secret")
			checkRefusedJSON(t, `{"apps": {"upstream_oauth2": {"clients": `+test.clients+`}}}`, test.want)
		})
	}
}

// TestRefusedHandlersInJSON: a handler refers to a client that is there, or is
// one.
func TestRefusedHandlersInJSON(t *testing.T) {
	const clients = `"upstream_oauth2": {"clients": {"partner": {"token_endpoint": "https://auth.example", "client_id": "a", "client_auth": {"method": "none"}}}}, `
	tests := []struct{ name, clients, handler, want string }{
		{"neither", clients, `{"handler": "upstream_oauth2"}`, "the handler neither refers to a client nor has the settings of one: write the name of one as its 'client', or the settings"},
		{"a reference to nothing", "", `{"handler": "upstream_oauth2", "client": "partner"}`, `there is no client "partner" under the global option upstream_oauth2, which defines none: write 'client partner { ... }' there, or give the directive a block`},
		{"a reference with a typing error", clients, `{"handler": "upstream_oauth2", "client": "parnter"}`, `there is no client "parnter" under the global option upstream_oauth2, which defines partner: write 'client parnter { ... }' there, or give the directive a block`},
		{"one name for two definitions", clients, `{"handler": "upstream_oauth2", "client": "partner", "token_endpoint": "https://auth.example", "client_id": "b", "client_auth": {"method": "none"}}`, `client "partner" is defined twice, and not alike: define it once, under the global option upstream_oauth2, and refer to it by 'upstream_oauth2 partner'`},
		{"settings for a client that is defined", clients, `{"handler": "upstream_oauth2", "client": "partner", "scope": ["more"]}`, `client "partner" is defined twice, and not alike: define it once, under the global option upstream_oauth2, and refer to it by 'upstream_oauth2 partner'`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			checkRefusedJSON(t, `{"apps": {`+test.clients+`"http": {"servers": {"site": {"listen": ["127.0.0.1:0"], "routes": [{"handle": [`+test.handler+`]}]}}}}}`, test.want)
		})
	}
}

// checkRefusedJSON validates a config. Caddy's error says first where in it the
// module stands.
func checkRefusedJSON(t *testing.T, config, want string) {
	t.Helper()
	var c *caddy.Config
	if err := caddy.StrictUnmarshalJSON([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	err := caddy.Validate(c)
	if err == nil {
		t.Fatal("it validates")
	}
	got := err.Error()
	if i := strings.LastIndex(got, "upstream_oauth2: "); i >= 0 {
		got = got[i+len("upstream_oauth2: "):]
	}
	if got != want {
		t.Errorf("the error is\n%s\nwant\n%s", got, want)
	}
}

// TestJSONOfAnotherType: the error says what to write, in JSON's words.
func TestJSONOfAnotherType(t *testing.T) {
	for _, test := range []struct{ name, fields, want string }{
		{"text for a list", `"scope": "a b"`, `scope: must be a list, such as ["one", "two"], not of the type string`},
		{"a number in a list", `"audience": [5]`, `audience: must be text in quotes, not of the type number`},
		{"a number for text", `"client_id": 5`, `client_id: must be text in quotes, not of the type number`},
		{"a number for a secret", `"client_secret": 5`, `client_secret: must be text in quotes, not of the type number`},
		{"text for a boolean", `"allow_http": "yes"`, `allow_http: must be true or false, without quotes, not of the type string`},
		{"text for a number", `"max_accounts": "5"`, `max_accounts: must be a whole number, without quotes, not of the type string`},
		{"a fraction for a number", `"max_accounts": 1.5`, `max_accounts: must be a whole number, without quotes, not of the type number 1.5`},
		{"text for an object", `"client_auth": "none"`, `client_auth: must be an object, such as {"name": "value"}, not of the type string`},
		{"a list for names and values", `"token_param": ["a=b"]`, `token_param: must be an object, such as {"name": "value"}, not of the type array`},
		{"a field of a block", `"grant": {"type": 5}`, `grant.type: must be text in quotes, not of the type number`},
		{"a field nobody knows", `"scopes": ["a"]`, `unknown field "scopes"`},
		{"a duration that is none", `"timeout": "soon"`, `time: invalid duration "soon"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, config := range []string{
				`{"apps": {"http": {"servers": {"site": {"listen": ["127.0.0.1:0"], "routes": [{"handle": [{"handler": "upstream_oauth2", ` + test.fields + `}]}]}}}}}`,
				`{"apps": {"upstream_oauth2": {"clients": {"partner": {` + test.fields + `}}}}}`,
			} {
				checkRefusedJSON(t, config, test.want)
			}
		})
	}
}
