package upstreamoauth2

import (
	"bytes"
	"encoding/json"
	stdflag "flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

var update = stdflag.Bool("update", false, "write the JSON in testdata/adapt anew")

// goldenSeparator stands between the Caddyfile and the JSON it adapts to.
const goldenSeparator = "----------\n"

// TestAdapt compares what the Caddyfiles in testdata/adapt adapt to. Each has
// to be formatted as "caddy fmt" does it, and the JSON has to load.
func TestAdapt(t *testing.T) {
	for _, file := range goldenFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Setenv("PARTNER_SECRET", strings.Repeat("secret", 11)) // long enough for HS512
			for _, key := range []string{"UPSTREAM_OAUTH2_KEY", "OLD_UPSTREAM_OAUTH2_KEY"} {
				t.Setenv(key, strings.Repeat("0123456789abcdef", 4))
			}
			input, want, _ := strings.Cut(readFile(t, file), goldenSeparator)

			config, warnings, err := caddytest.Adapt(input)
			if err != nil {
				t.Fatal(err)
			}
			for _, warning := range warnings {
				t.Errorf("line %d: %s", warning.Line, warning.Message)
			}
			got := indented(t, config) + "\n"
			if *update {
				if err := os.WriteFile(file, []byte(input+goldenSeparator+got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != want {
				t.Errorf("it adapts to\n%s\nwant\n%s", got, want)
			}

			var c *caddy.Config
			if err := caddy.StrictUnmarshalJSON(config, &c); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Validate(c); err != nil {
				t.Errorf("the JSON does not load: %v", err)
			}
		})
	}
}

// TestCaddyfileAndJSONAreAtParity: whatever can be written in JSON has a line
// of the same name, and every line is in testdata/adapt.
func TestCaddyfileAndJSONAreAtParity(t *testing.T) {
	var caddyfiles, configs strings.Builder
	for _, file := range goldenFiles(t) {
		input, output, _ := strings.Cut(readFile(t, file), goldenSeparator)
		caddyfiles.WriteString(input)
		configs.WriteString(output)
	}
	options := clientOptions(nil, new(config.Client))
	for name := range options {
		if !regexp.MustCompile(`(?m)^\s*` + name + `\b`).MatchString(caddyfiles.String()) {
			t.Errorf("no Caddyfile in testdata/adapt has the line %s", name)
		}
	}
	for _, object := range []any{App{}, Handler{}, config.Client{}, config.ClientAuth{}, config.Grant{}, config.Inject{}, config.Replay{}, config.DPoP{}} {
		for field := range reflect.TypeOf(object).Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name != "" && !strings.Contains(configs.String(), `"`+name+`":`) {
				t.Errorf("no Caddyfile in testdata/adapt leads to the field %q of %T", name, object)
			}
		}
	}
	for field := range reflect.TypeFor[config.Client]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if _, ok := options[name]; !ok {
			t.Errorf("the JSON field %q has no line of that name", name)
		}
	}
}

func goldenFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/adapt/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata/adapt: %v", err)
	}
	return files
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// blockWith is a Caddyfile whose line 6 and those behind it are the given ones.
func blockWith(lines string) string {
	return `http://localhost:8080 {
	upstream_oauth2 partner {
		token_endpoint https://auth.example/token
		client_id partner-id
		client_secret {env.PARTNER_SECRET}
		` + lines + `
	}
}
`
}

// globalWith is a Caddyfile with the given lines in the global option, from
// line 3 on.
func globalWith(lines string) string {
	return "{\n\tupstream_oauth2 {\n" + lines + "\n\t}\n}\n"
}

const partnerClient = `client partner {
	token_endpoint https://auth.example/token
	client_id partner-id
	client_secret {env.PARTNER_SECRET}
}`

// TestRefusedCaddyfiles: a mistake is refused with the place it is at and what
// to write instead.
func TestRefusedCaddyfiles(t *testing.T) {
	const (
		hopByHop  = "field never reaches the upstream, as it is for one connection only: use another, at Caddyfile:6"
		duration  = "is not a duration longer than zero: write one such as 30s, 5m or 1h, at Caddyfile:6"
		injectUse = "write 'inject header [<name> [<scheme>]] | query <name>'"
		replayUse = "write 'replay off | { status <code>... body_limit <size> }', at Caddyfile:6"
		scopeText = "write them one by one, in ASCII, without quotes and backslashes (RFC 6749 section 3.3), at Caddyfile:6"
		fileText  = "a {file.*} placeholder without a slash is short for a part of the request path: write an absolute path, such as {file./run/secrets/partner}"
		aheadText = "must be a percentage of the token's life, such as 20%, or a duration, such as 5m, at Caddyfile:6"
	)
	tests := []struct {
		name      string
		caddyfile string
		want      string
	}{
		// Lines that are not there.
		{"a line of another plugin", blockWith("token_url https://auth.example"), `upstream_oauth2 has no option "token_url": write 'token_endpoint <url>', at Caddyfile:6`},
		{"the plural", blockWith("scopes a b"), `upstream_oauth2 has no option "scopes": write 'scope <scope>...', at Caddyfile:6`},
		{"a line with a dash and a capital", blockWith("Client-Auth none"), `upstream_oauth2 has no option "Client-Auth": write 'client_auth <method> [{ ... }]', at Caddyfile:6`},
		{"the name of the form field", blockWith("grant_type password"), `upstream_oauth2 has no option "grant_type": write 'grant <type> [{ ... }]', at Caddyfile:6`},
		{"a line nobody knows", blockWith("colour blue"), `upstream_oauth2 has no option "colour": write one of ` + strings.Join(slices.Sorted(maps.Keys(clientOptions(nil, new(config.Client)))), ", ") + `, at Caddyfile:6`},

		// Arguments and blocks.
		{"a missing argument", blockWith("scope"), `scope has no value: write 'scope <scope>...' (an unset {$NAME} leaves none), at Caddyfile:6`},
		{"half of two arguments", blockWith("token_param tenant"), `token_param has too few values: write 'token_param <name> <value>', at Caddyfile:6`},
		{"a surplus argument", blockWith("timeout 5s 6s"), `timeout has too many values: write 'timeout <duration>', at Caddyfile:6`},
		{"an argument of a switch", blockWith("keep_existing yes"), `keep_existing takes no value: write 'keep_existing', at Caddyfile:6`},
		{"another switch switched off", blockWith("allow_http off"), `allow_http takes no value: write 'allow_http', at Caddyfile:6`},
		{"a block where none goes", blockWith("scope a {\n b\n}"), `scope takes no block: write 'scope <scope>...', at Caddyfile:6`},
		{"a block at client_auth", blockWith("client_auth client_secret_post {\n key x\n}"), `client_auth client_secret_post takes no block: remove the block, at Caddyfile:6`},
		{"a line given twice", blockWith("client_id other"), `client_id is given twice, first at Caddyfile:4: remove one, at Caddyfile:6`},
		{"two secrets", blockWith("client_secret {env.OTHER_SECRET}"), `client_secret is given twice, first at Caddyfile:5: remove one, at Caddyfile:6`},
		{"two places for the token", blockWith("inject header X-A\ninject query b"), `inject is given twice, first at Caddyfile:6: remove one, at Caddyfile:7`},
		{"a form field given twice", blockWith("token_param a 1\ntoken_param a 2"), `token_param: a is given twice: remove one, at Caddyfile:7`},
		{"an option that opens a block where none goes", blockWith("client_auth none {\n}"), `client_auth none takes no block: remove the block, at Caddyfile:6`},
		{"a block in a block", blockWith("replay {\n status 401 {\n  a\n }\n}"), `status takes no block: write 'status <code>...', at Caddyfile:7`},
		{"an empty scope", blockWith("scope \" \""), `scope has an empty value: write 'scope <scope>...', or remove the line, at Caddyfile:6`},
		{"the middle one of three lines", blockWith("token_param a scopes\ntoken_param scope 2\ntoken_param c 3"), `token_param: the form field scope is set by 'scope': use that instead, at Caddyfile:7`},
		{"the middle one of three header fields", blockWith("token_header X-A 1\ntoken_header content-type 2\ntoken_header X-C 3"), `token_header: the Content-Type field is set by the request itself: remove it, at Caddyfile:7`},
		{"the first one of two lines", blockWith("resource /a\nresource https://b.example"), `resource: "/a" must be an absolute URI without a fragment, such as https://api.example.com (RFC 8707 section 2), at Caddyfile:6`},
		{"a header field given twice in two cases", blockWith("token_header X-A 1\ntoken_header x-a 2"), `token_header: x-a is given twice: remove one, at Caddyfile:7`},

		// Numbers and durations.
		{"a duration that is none", blockWith("timeout soon"), `timeout: "soon" ` + duration},
		{"a duration without a unit", blockWith("default_lifetime 3600"), `default_lifetime: "3600" ` + duration},
		{"no duration at all", blockWith("timeout 0s"), `timeout: "0s" ` + duration},
		{"a negative duration", blockWith("default_lifetime -1h"), `default_lifetime: "-1h" ` + duration},
		{"too small a percentage", blockWith("refresh_ahead 0%"), `refresh_ahead: "0%" must be a whole number between 1% and 90%, such as 20%, at Caddyfile:6`},
		{"too large a percentage", blockWith("refresh_ahead 91%"), `refresh_ahead: "91%" must be a whole number between 1% and 90%, such as 20%, at Caddyfile:6`},
		{"a part of a percentage", blockWith("refresh_ahead 1.5%"), `refresh_ahead: "1.5%" must be a whole number between 1% and 90%, such as 20%, at Caddyfile:6`},
		{"a percentage without its sign", blockWith("refresh_ahead 20"), `refresh_ahead: "20" ` + aheadText},
		{"a negative refresh_ahead", blockWith("refresh_ahead -5m"), `refresh_ahead: "-5m" ` + aheadText},
		{"refresh_ahead in words", blockWith("refresh_ahead half"), `refresh_ahead: "half" ` + aheadText},

		// The client.
		{"no token endpoint", "http://localhost {\n\tupstream_oauth2 {\n\t\tclient_id a\n\t}\n}\n", `token_endpoint: is missing: write the URL that tokens are requested from, or the 'issuer' whose metadata tells it, at Caddyfile:2`},
		{"no client id", "http://localhost {\n\tupstream_oauth2 {\n\t\ttoken_endpoint https://auth.example\n\t}\n}\n", `client_id: is missing: write the client's identifier at the authorization server, at Caddyfile:2`},
		{"no secret", "http://localhost {\n\tupstream_oauth2 {\n\t\ttoken_endpoint https://auth.example\n\t\tclient_id a\n\t}\n}\n", `client_secret: is missing: write client_secret {env.NAME} or {file./absolute/path}, or another 'client_auth', such as 'none' for a public client, at Caddyfile:2`},
		{"a secret beside none", blockWith("client_auth none"), `client_secret: is never sent with 'client_auth none': remove one of the two, at Caddyfile:5`},
		{"an unknown method", blockWith("client_auth basic"), `client_auth: unknown method "basic": use one of client_secret_basic, client_secret_basic_raw, client_secret_post, client_secret_jwt, private_key_jwt, tls_client_auth, assertion_file, none, at Caddyfile:6`},

		// Placeholders.
		{"an endpoint that comes from the request", strings.Replace(blockWith(""), "auth.example", "{http.request.host}", 1), `token_endpoint: it holds a placeholder that differs from request to request, which is allowed in account, actor_token, assertion, audience, claim, resource, scope, subject, subject_token, token_param only: use {env.*} or {file.*}, at Caddyfile:3`},
		{"a secret file without a slash", strings.Replace(blockWith(""), "{env.PARTNER_SECRET}", "{file.secret}", 1), `client_secret: ` + fileText + `, at Caddyfile:5`},
		{"a form field from a file without a slash", blockWith("token_param a 1\ntoken_param otp {file.otp}"), `token_param: ` + fileText + `, at Caddyfile:7`},
		{"an account from a file without a slash", blockWith("account {file.user}"), `account: ` + fileText + `, at Caddyfile:6`},

		// The token request.
		{"a form field with a line of its own", blockWith("token_param client_secret x"), `token_param: the form field client_secret is set by 'client_secret': use that instead, at Caddyfile:6`},
		{"the grant as a form field", blockWith("token_param grant_type x"), `token_param: the form field grant_type is set by 'grant': use that instead, at Caddyfile:6`},
		{"the refresh token as a form field", blockWith("token_param refresh_token x"), `token_param: the form field refresh_token is set by 'grant refresh_token': use that instead, at Caddyfile:6`},
		{"a header field name with a space", blockWith("token_header \"X A\" 1"), `token_header: "X A" is not a header field name: write one such as X-Tenant, at Caddyfile:6`},
		{"a header field the request sets", blockWith("token_header content-type text/plain"), `token_header: the Content-Type field is set by the request itself: remove it, at Caddyfile:6`},
		{"Authorization beside the client's", blockWith("token_header Authorization x"), `token_header: the Authorization field carries the client's credentials: write 'client_auth client_secret_post' or 'client_auth none' to use it otherwise, at Caddyfile:6`},
		{"a scope with a quote", blockWith("scope `a\"b`"), `scope: "a\"b" is not a scope: ` + scopeText},
		{"a scope with a backslash", blockWith("scope a\\b"), `scope: "a\\b" is not a scope: ` + scopeText},
		{"a scope that is not ASCII", blockWith("scope lesen schreiben ändern"), `scope: "ändern" is not a scope: ` + scopeText},
		{"a resource that is no URI", blockWith("resource api.example"), `resource: "api.example" must be an absolute URI without a fragment, such as https://api.example.com (RFC 8707 section 2), at Caddyfile:6`},
		{"a resource without a host", blockWith("resource https:api.example"), `resource: "https:api.example" must be an absolute URI without a fragment, such as https://api.example.com (RFC 8707 section 2), at Caddyfile:6`},
		{"a resource with a fragment", blockWith("resource https://a.example https://b.example/#c"), `resource: "https://b.example/#c" must be an absolute URI without a fragment, such as https://api.example.com (RFC 8707 section 2), at Caddyfile:6`},
		{"the refresh token is missing", blockWith("grant refresh_token"), `grant: the first refresh token is missing: write 'grant refresh_token { refresh_token {file./absolute/path} }', at Caddyfile:6`},
		{"the refresh token on the grant's line", blockWith("grant refresh_token {file./x}"), `grant has too many values: write 'grant <type> [{ ... }]', at Caddyfile:6`},
		{"an unknown line of the grant", blockWith("grant refresh_token {\n token x\n}"), `grant refresh_token has no option "token": write 'refresh_token <placeholder>', at Caddyfile:7`},
		{"two refresh tokens", blockWith("grant refresh_token {\n refresh_token {env.A}\n refresh_token {env.B}\n}"), `refresh_token is given twice, first at Caddyfile:7: remove one, at Caddyfile:8`},
		{"a refresh token for another grant", blockWith("grant client_credentials {\n refresh_token x\n}"), `grant client_credentials takes no block: write further form fields as 'token_param <name> <value>', at Caddyfile:6`},
		{"form fields in the grant's block", blockWith("grant account_credentials {\n account_id 7\n}"), `grant account_credentials takes no block: write further form fields as 'token_param <name> <value>', at Caddyfile:6`},
		{"another transport", blockWith("transport fastcgi"), `transport: unexpected "fastcgi": write 'transport http { ... }' with the options of reverse_proxy's http transport, at Caddyfile:6`},
		{"no transport named", blockWith("transport {\n dial_timeout 1s\n}"), `transport has no value: write 'transport http { ... }' (an unset {$NAME} leaves none), at Caddyfile:6`},
		{"an unknown line of the transport", blockWith("transport http {\n proxy x\n}"), `unrecognized subdirective proxy, at Caddyfile:7`},

		// Where the token goes, and what happens without one.
		{"inject without a place", blockWith("inject"), `inject has no value: ` + injectUse + ` (an unset {$NAME} leaves none), at Caddyfile:6`},
		{"inject into a cookie", blockWith("inject cookie session"), `inject: must be 'header' or 'query', not "cookie": ` + injectUse + `, at Caddyfile:6`},
		{"inject without saying where", blockWith("inject X-Api-Key"), `inject: must be 'header' or 'query', not "X-Api-Key": ` + injectUse + `, at Caddyfile:6`},
		{"inject into a query parameter without a name", blockWith("inject query"), `inject: the query parameter has no name: write 'inject query access_token', at Caddyfile:6`},
		{"a scheme in the query", blockWith("inject query token Bearer"), `inject: a query parameter takes no scheme: write 'inject query token', at Caddyfile:6`},
		{"more than a scheme", blockWith("inject header Authorization Bearer x"), `inject has too many values: ` + injectUse + `, at Caddyfile:6`},
		{"a field that is dropped on the way", blockWith("inject header connection"), `inject: the Connection ` + hopByHop},
		{"another one", blockWith("inject header Proxy-Authorization Bearer"), `inject: the Proxy-Authorization ` + hopByHop},
		{"Host", blockWith("inject header Host"), `inject: the Host ` + hopByHop},
		{"a field name with a space", blockWith("inject header \"X A\""), `inject: "X A" is not a header field name: write one such as X-Api-Key, at Caddyfile:6`},
		{"a scheme that is none", blockWith("inject header Authorization \"a b\""), `inject: "a b" is not an authentication scheme: write one word, such as Bearer, at Caddyfile:6`},
		{"replay without more", blockWith("replay"), "replay has neither 'off' nor a block: " + replayUse},
		{"replay switched on", blockWith("replay on"), `replay: unexpected "on": ` + replayUse},
		{"replay off with a block", blockWith("replay off {\n status 401\n}"), `replay off takes no block: remove 'off' or the block, at Caddyfile:6`},
		{"replay off with an empty block", blockWith("replay off {\n}"), `replay off takes no block: remove 'off' or the block, at Caddyfile:6`},
		{"two sizes", blockWith("replay {\n body_limit 64 KiB\n}"), `body_limit has too many values: write 'body_limit <size>', at Caddyfile:7`},
		{"a status in words", blockWith("replay {\n status unauthorized\n}"), `status: "unauthorized" is not a status code: write numbers with spaces between, such as 401 403, at Caddyfile:7`},
		{"a status that is no rejection", blockWith("replay {\n status 401 302\n}"), `replay: status 302 is no rejection: write error statuses, such as 401, at Caddyfile:6`},
		{"a body limit that is no size", blockWith("replay {\n body_limit much\n}"), `body_limit: "much" is not a size: write one such as 64KiB, or 0, at Caddyfile:7`},
		{"two body limits", blockWith("replay {\n body_limit 1KiB\n body_limit 2KiB\n}"), `body_limit is given twice, first at Caddyfile:7: remove one, at Caddyfile:8`},
		{"an unknown line of replay", blockWith("replay {\n times 3\n}"), `replay has no option "times": write one of body_limit, status, at Caddyfile:7`},
		{"on_error with a typing error", blockWith("on_error ignore"), `on_error: must be 'reject' or 'pass', not "ignore", at Caddyfile:6`},

		// The directive and the global option.
		{"nothing at all", "http://localhost {\n\tupstream_oauth2\n}\n", `upstream_oauth2 needs a block that defines the client, or the name of one that is defined under the global option upstream_oauth2, at Caddyfile:2`},
		{"an empty name", "http://localhost {\n\tupstream_oauth2 \"\" {\n\t}\n}\n", `the client's name is empty: write 'upstream_oauth2 [<matcher>] [<name>] { ... }', at Caddyfile:2`},
		{"two names", "http://localhost {\n\tupstream_oauth2 a b\n}\n", `unexpected "b": write 'upstream_oauth2 [<matcher>] [<name>] { ... }', at Caddyfile:2`},
		{"a client without a name", globalWith("client {\n}"), `client has no value: write 'client <name> { ... }' (an unset {$NAME} leaves none), at Caddyfile:3`},
		{"a client with an empty name", globalWith("client \"\" {\n}"), `client has an empty value: write 'client <name> { ... }', or remove the line, at Caddyfile:3`},
		{"a client with two names", globalWith("client a b {\n}"), `client has too many values: write 'client <name> { ... }', at Caddyfile:3`},
		{"a client without lines", globalWith("client a"), `token_endpoint: is missing: write the URL that tokens are requested from, or the 'issuer' whose metadata tells it, at Caddyfile:3`},
		{"a client defined twice", globalWith(partnerClient + "\n" + partnerClient), `client: "partner" is defined twice: remove one, or give it another name, at Caddyfile:8`},
		{"something else under the global option", globalWith("partner {\n}"), `the global option upstream_oauth2 has no option "partner": write 'client <name> { ... }', at Caddyfile:3`},
		{"an argument of the global option", "{\n\tupstream_oauth2 partner\n}\n", `unexpected "partner": write 'upstream_oauth2 { client <name> { ... } }', at Caddyfile:2`},
		{"the global option twice", "{\n\tupstream_oauth2 {\n\t}\n\tupstream_oauth2 {\n\t}\n}\n", `the global option upstream_oauth2 is given twice: put all clients into one, at Caddyfile:4`},
		{"a reference to nothing", "http://localhost {\n\tupstream_oauth2 partner\n}\n", `there is no client "partner" under the global option upstream_oauth2, which defines none: write 'client partner { ... }' there, or give the directive a block, at Caddyfile:2`},
		{"a reference with a typing error", globalWith(partnerClient) + "http://localhost {\n\tupstream_oauth2 parnter\n}\n", `there is no client "parnter" under the global option upstream_oauth2, which defines partner: write 'client parnter { ... }' there, or give the directive a block, at Caddyfile:11`},
		{"a name that is a matcher", globalWith("client /partner {\n}"), `client: "/partner" is a matcher where the client is used: write a name that begins with a letter, at Caddyfile:3`},
		{"a name that is defined globally and in place", globalWith(partnerClient) + blockWith("scope more"), `client "partner" is defined under the global option, and not like here: refer to it without a block, or give this one another name, at Caddyfile:11`},
		{"a line that is meant to change a named client", globalWith(partnerClient) + "http://localhost {\n\tupstream_oauth2 partner {\n\t\tscope more\n\t}\n}\n", `client "partner" is defined under the global option, and not like here: refer to it without a block, or give this one another name, at Caddyfile:11`},
		{"a mistake in a named client", globalWith("client a {\n\ttoken_endpoint https://auth.example\n\tclient_id a\n\tclient_secret b\n\ton_error ignore\n}"), `on_error: must be 'reject' or 'pass', not "ignore", at Caddyfile:7`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := caddytest.Adapt(test.caddyfile)
			if err == nil {
				t.Fatal("it adapts")
			}
			if got := strings.TrimPrefix(err.Error(), "parsing caddyfile tokens for 'upstream_oauth2': "); got != test.want {
				t.Errorf("the error is\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestRefusedEndpoints: credentials go there, so the URL is looked at twice.
func TestRefusedEndpoints(t *testing.T) {
	const notAbsolute = "must be an absolute URL, such as https://auth.example.com/oauth/token"
	tests := []struct{ name, endpoint, want string }{
		{"plain http off loopback", "http://auth.example/token", "must use https, as credentials go there: write https://, or 'allow_http' if the network in between is trusted"},
		{"plain http in a private network", "http://192.168.1.1/token", "must use https, as credentials go there: write https://, or 'allow_http' if the network in between is trusted"},
		{"plain http to a name under localhost", "http://auth.localhost/token", "must use https, as credentials go there: write https://, or 'allow_http' if the network in between is trusted"},
		{"plain http to what only looks like loopback", "http://localhost.example/token", "must use https, as credentials go there: write https://, or 'allow_http' if the network in between is trusted"},
		{"a fragment", "https://auth.example/token#a", "must not have a fragment (RFC 6749 section 3.2)"},
		{"an empty fragment", "https://auth.example/token#", "must not have a fragment (RFC 6749 section 3.2)"},
		{"credentials", "https://partner:secret@auth.example/token", "must not hold credentials: use 'client_id' and 'client_secret'"},
		{"no scheme", "auth.example/token", notAbsolute},
		{"no host", "https:///token", notAbsolute},
		{"a path alone", "/token", notAbsolute},
		{"a port that is none", "https://auth.example:https/token", notAbsolute},
		{"another scheme", "ftp://auth.example/token", `must be an https URL, not one of "ftp"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PARTNER_SECRET", "secret")
			err := caddytest.Validate(strings.Replace(blockWith(""), "https://auth.example/token", test.endpoint, 1))
			want := "parsing caddyfile tokens for 'upstream_oauth2': token_endpoint: " + test.want + ", at Caddyfile:3"
			if err == nil || err.Error() != want {
				t.Errorf("the error is\n%v\nwant\n%s", err, want)
			}
		})
	}
	for _, endpoint := range []string{"http://127.0.0.1:1/token", "http://127.9.9.9/token", "http://[::1]:1/token", "http://localhost:1/token", "https://auth.example:8443/token?a=b"} {
		t.Run("but not "+endpoint, func(t *testing.T) {
			t.Setenv("PARTNER_SECRET", "secret")
			if err := caddytest.Validate(strings.Replace(blockWith(""), "https://auth.example/token", endpoint, 1)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("nor plain http with allow_http", func(t *testing.T) {
		t.Setenv("PARTNER_SECRET", "secret")
		if err := caddytest.Validate(strings.Replace(blockWith("allow_http"), "https://auth.example", "http://auth.example", 1)); err != nil {
			t.Error(err)
		}
	})
}

// TestRefusedByValidate: what shows only with the environment, or with all of
// the config, is refused by "caddy validate".
func TestRefusedByValidate(t *testing.T) {
	tests := []struct {
		name      string
		caddyfile string
		want      string
	}{
		{
			"an unset environment variable as secret",
			strings.Replace(blockWith(""), "PARTNER_SECRET", "NOT_SET", 1),
			`client "partner": client_secret: the environment variable NOT_SET is not set: set it for the Caddy process`,
		},
		{
			"an unset environment variable inside a value",
			blockWith("audience https://{env.NOT_SET}/"),
			`client "partner": audience: the environment variable NOT_SET is not set: set it for the Caddy process`,
		},
		{
			"an unset environment variable as form field",
			blockWith("token_param tenant {env.NOT_SET}"),
			`client "partner": token_param: the environment variable NOT_SET is not set: set it for the Caddy process`,
		},
		{
			"an unset environment variable as refresh token",
			blockWith("grant refresh_token {\nrefresh_token {env.NOT_SET}\n}"),
			`client "partner": refresh_token: the environment variable NOT_SET is not set: set it for the Caddy process`,
		},
		{
			"an endpoint that comes from the environment",
			strings.Replace(blockWith(""), "https://auth.example/token", "{env.HTTP_ENDPOINT}", 1),
			`client "partner": token_endpoint: must use https, as credentials go there: write https://, or 'allow_http' if the network in between is trusted`,
		},
		{
			"an issuer that comes from the environment",
			blockWith("issuer {env.ISSUER}"),
			`client "partner": issuer: must have neither a query nor a fragment (RFC 8414 section 2)`,
		},
		{
			"a mistake in a client without a name",
			strings.Replace(strings.Replace(blockWith(""), "PARTNER_SECRET", "NOT_SET", 1), "upstream_oauth2 partner {", "upstream_oauth2 {", 1),
			`client "auth.example partner-id": client_secret: the environment variable NOT_SET is not set: set it for the Caddy process`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PARTNER_SECRET", "secret")
			t.Setenv("HTTP_ENDPOINT", "http://auth.example/token")
			t.Setenv("ISSUER", "https://auth.example/?a=b")
			err := caddytest.Validate(test.caddyfile)
			if err == nil {
				t.Fatal("it validates")
			}
			// Caddy says first where in the JSON the module stands.
			got := err.Error()
			if i := strings.LastIndex(got, "upstream_oauth2: client"); i >= 0 {
				got = got[i+len("upstream_oauth2: "):]
			}
			if got != test.want {
				t.Errorf("the error is\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestMistakesThatLookHarmless are refused like the others; which words say so
// is left open, but not where they point.
func TestMistakesThatLookHarmless(t *testing.T) {
	tests := []struct {
		name, lines string
		line        string
		names       string // what the error has to name
	}{
		{"a surplus argument of transport", "transport http fast", "Caddyfile:6", "transport"},
		{"a surplus argument of transport, which hides its block", "transport http fast {\n dial_timeout 3s\n}", "Caddyfile:6", "transport"},
		{"an empty block", "keep_existing {\n}", "Caddyfile:6", "keep_existing"},
		{"a form field without a name", `token_param "" x`, "Caddyfile:6", "token_param"},
		{"an empty audience", `audience ""`, "Caddyfile:6", "audience"},
		{"an empty scope", `scope ""`, "Caddyfile:6", "scope"},
		{"an empty grant", `grant ""`, "Caddyfile:6", "grant"},
		{"an empty method", `client_auth ""`, "Caddyfile:6", "client_auth"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PARTNER_SECRET", "secret")
			err := caddytest.Validate(blockWith(test.lines))
			if err == nil {
				t.Fatal("it validates")
			}
			if !strings.Contains(err.Error(), test.names) || !strings.Contains(err.Error(), test.line) {
				t.Errorf("the error is %q: it does not name %s and %s", err, test.names, test.line)
			}
		})
	}
}

// TestWhatOnlyLooksLikeAMistake is accepted.
func TestWhatOnlyLooksLikeAMistake(t *testing.T) {
	for _, lines := range []string{
		`scope "a b" c:d/e.f`,
		"audience {$NOT_SET:api}",
		"account {file.base}",
		"account caller-{http.auth.user.id}",
		"resource urn:example:api",
		"grant account_credentials",
		"grant urn:ietf:params:oauth:grant-type:token-exchange\ntoken_param subject_token {env.PARTNER_SECRET}",
		"grant token_exchange {\n}",
		"token_param json `{\"a\":{}}`",
		"token_header dpop {env.PARTNER_SECRET}",
		"refresh_ahead 90%",
		"replay {\nbody_limit 0\n}",
		"replay {\nstatus 401\nstatus 403\n}",
		"inject query access_token\nkeep_existing",
	} {
		t.Run(lines, func(t *testing.T) {
			t.Setenv("PARTNER_SECRET", "secret")
			if err := caddytest.Validate(blockWith(lines)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSecretsThatNeverResolveAreRefused: unlike a file that may still appear,
// they are mistakes in the config, and would fail each request for good.
func TestSecretsThatNeverResolveAreRefused(t *testing.T) {
	for name, secret := range map[string]string{
		"a placeholder of the request":       "{http.request.header.X-Secret}",
		"its short form":                     "{header.X-Secret}",
		"a placeholder nobody knows":         "{secrets.partner}",
		"a file without an absolute path":    "{file.secret}",
		"an environment variable left empty": "{env.EMPTY}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("EMPTY", "")
			if err := caddytest.Validate(strings.Replace(blockWith(""), "{env.PARTNER_SECRET}", secret, 1)); err == nil {
				t.Error("it validates")
			} else if !strings.Contains(err.Error(), "client_secret: ") {
				t.Errorf("the error does not name client_secret: %v", err)
			}
		})
	}
}

// TestErrorsPointIntoImportedFiles: that is where the user finds the line.
func TestErrorsPointIntoImportedFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "partner.caddyfile")
	for _, test := range []struct{ lines, want string }{
		{"scope a\non_error ignore\n", `on_error: must be 'reject' or 'pass', not "ignore", at ` + file + ":2 import chain ['Caddyfile:6 (import)']"},
		{"scope a\nscopes b\n", `upstream_oauth2 has no option "scopes": write 'scope <scope>...', at ` + file + ":2 import chain ['Caddyfile:6 (import)']"},
	} {
		if err := os.WriteFile(file, []byte(test.lines), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := caddytest.Adapt(blockWith("import " + file))
		if want := "parsing caddyfile tokens for 'upstream_oauth2': " + test.want; err == nil || err.Error() != want {
			t.Errorf("the error is\n%v\nwant\n%s", err, want)
		}
	}
}

// FuzzCaddyfile: the parser never panics, its errors never hold a secret, and
// what it takes comes back from JSON as it went in.
func FuzzCaddyfile(f *testing.F) {
	const secret = "s3cret-that-no-error-may-hold"
	for _, file := range goldenFiles(f) {
		input, _, _ := strings.Cut(readFile(f, file), goldenSeparator)
		for block := range strings.SplitSeq(input, "upstream_oauth2") {
			f.Add(block)
		}
	}
	for _, block := range []string{
		"", "partner", "a b", "{", "{\n}", "partner {\nclient_secret", "{\nclient_secret SECRET SECRET\n}",
		"{\nclient_secret SECRET\nclient_secret SECRET\n}", "{\nclient_secret SECRET {\n}\n}", "{\nclient_id a\nclient_auth none\nclient_secret SECRET\ntoken_endpoint b\n}",
		"{\ntoken_param a SECRET\ntoken_param a SECRET\n}", "{\ntoken_param a SECRET SECRET\n}", "{\ntoken_param grant_type SECRET\n}",
		"{\ntoken_header a SECRET\ntoken_header A SECRET\n}", "{\ntoken_header \"a b\" SECRET\n}",
		"{\ngrant refresh_token {\nrefresh_token SECRET\nrefresh_token SECRET\n}\n}", "{\ngrant refresh_token {\nrefresh_token SECRET SECRET\n}\n}",
		"{\ngrant refresh_token SECRET\n}", "{\ngrant client_credentials {\nrefresh_token SECRET\n}\n}",
		"{\nscope \"\" \"a b\"\n}", "{\nrefresh_ahead 0%\n}", "{\ntimeout 99999999999999999999h\n}", "{\ninject header \"\x00\"\n}",
		"{\ntransport http {\ntls_trust_pool\n}\n}", "{\ntransport http {\nnetwork_proxy url SECRET\n}\n}",
	} {
		f.Add(block)
	}
	f.Fuzz(func(t *testing.T, block string) {
		input := strings.ReplaceAll("upstream_oauth2 "+block, "SECRET", secret)
		tokens, err := caddyfile.Tokenize([]byte(input), "Caddyfile")
		if err != nil || len(tokens) == 0 || tokens[0].Text != directive {
			return
		}
		handler := new(Handler)
		err = handler.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens))
		if err != nil {
			if strings.Contains(err.Error(), secret) && !secretElsewhere(tokens, secret) {
				t.Errorf("the error holds a secret: %v", err)
			}
			return
		}
		encoded, err := json.Marshal(handler)
		if err != nil {
			t.Fatalf("it has no JSON: %v", err)
		}
		again := new(Handler)
		if err := caddy.StrictUnmarshalJSON(encoded, again); err != nil {
			t.Fatalf("its JSON is refused: %v\n%s", err, encoded)
		}
		if back, _ := json.Marshal(again); string(back) != string(encoded) {
			t.Errorf("it comes back as\n%s\nand was\n%s", back, encoded)
		}
		if !again.Client.Equal(config.Client{}) {
			if err := again.Check(); err != nil {
				t.Errorf("the Caddyfile is accepted, and its JSON is not: %v", err)
			}
		}
	})
}

// secretElsewhere reports whether the secret stands where none belongs, so that
// an error may quote it: not in a value of the options that take secrets.
func secretElsewhere(tokens []caddyfile.Token, secret string) bool {
	first := 0 // of the line
	for i, token := range tokens {
		if i > 0 && token.Line != tokens[i-1].Line {
			first = i
		}
		if !strings.Contains(token.Text, secret) {
			continue
		}
		value := i - first
		switch tokens[first].Text {
		case "client_secret", "refresh_token":
			if value >= 1 {
				continue
			}
		case "token_param", "token_header":
			if value >= 2 {
				continue
			}
		}
		return true
	}
	return false
}

// indented is JSON as a person reads it.
func indented(t testing.TB, raw []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
