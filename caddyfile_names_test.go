package upstreamoauth2

import (
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestOptionsByOtherNames: whoever writes an option as another program calls it, or
// mistypes it, is told the line that is meant.
func TestOptionsByOtherNames(t *testing.T) {
	for _, test := range []struct{ lines, want string }{
		{"client_secret_file /run/secret", "client_secret {file./absolute/path}"},
		{"client-secret-file /run/secret", "client_secret {file./absolute/path}"},
		{"token_secret x", "client_secret <secret>"},
		{"oidc_issuer_url https://auth.example", "issuer <url>"},
		{"discovery_url https://auth.example", "issuer <url>"},
		{"tls_insecure_skip_verify", "transport http { tls_insecure_skip_verify }"},
		{"tls_trust_pool file /ca.pem", "transport http { tls_trust_pool file <ca.pem> }"},
		{"proxy_url http://proxy.example", "transport http { network_proxy url <url> }"},
		{"private_key_file /key.pem", "client_auth private_key_jwt { key <file> }"},
		{"service_account /google.json", "grant jwt_bearer { service_account <file> }"},
		{"refresh_token x", "grant refresh_token { refresh_token {file./absolute/path} }"},
		{"token_endpint https://auth.example", "token_endpoint <url>"},
		{"token_endpont_ https://auth.example", "token_endpoint <url>"},
		{"cleint_id x", "client_id <id>"},
		{"scop a", "scope <scope>..."},
		{"Time_out 5s", "timeout <duration>"},
	} {
		name, _, _ := strings.Cut(test.lines, " ")
		checkRefusedCaddyfile(t, test.lines, blockWith(test.lines), `upstream_oauth2 has no option "`+name+`": write '`+test.want+`', at Caddyfile:6`)
	}
	for _, test := range []struct{ name, lines, want string }{
		{"a near miss in a block", "client_auth private_key_jwt {\nkeyid one\n}", `client_auth private_key_jwt has no option "keyid": write 'key_id <kid>'`},
		{"a name of another block", "grant token_exchange {\nclient_secret_file /run/secret\n}", `grant token_exchange has no option "client_secret_file": write one of actor_token, actor_token_type, requested_token_type, subject_token, subject_token_type`},
	} {
		checkRefusedCaddyfile(t, test.name, blockWith(test.lines), test.want+", at Caddyfile:7")
	}
}

// checkRefusedCaddyfile adapts a Caddyfile, which is to fail.
func checkRefusedCaddyfile(t *testing.T, name, input, want string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		_, _, err := caddytest.Adapt(input)
		if err == nil {
			t.Fatal("it adapts")
		}
		if got := strings.TrimPrefix(err.Error(), "parsing caddyfile tokens for 'upstream_oauth2': "); got != want {
			t.Errorf("the error is\n%s\nwant\n%s", got, want)
		}
	})
}

// TestNamesDefinedTwice: a line's own mistake comes first, and what was defined before
// is named by its place.
func TestNamesDefinedTwice(t *testing.T) {
	const named = "client \"partner\" is defined under the global option, and not like here: refer to it without a block, or give this one another name"
	site := func(lines string) string {
		return "http://localhost:8081 {\n\tupstream_oauth2 partner " + lines + "\n}\n"
	}
	for _, test := range []struct{ name, caddyfile, want string }{
		{"a line that is none, of a name that is defined globally", globalWith(partnerClient) + blockWith("scopes more"), `upstream_oauth2 has no option "scopes": write 'scope <scope>...', at Caddyfile:15`},
		{"a value that is none, of a name that is defined globally", globalWith(partnerClient) + blockWith("on_error ignore"), `on_error: must be 'reject' or 'pass', not "ignore", at Caddyfile:15`},
		{"no lines of a name that is defined globally", globalWith(partnerClient) + site("{\n}"), named + ", at Caddyfile:11"},
		{"another definition in another site", blockWith("") + site("{\ntoken_endpoint https://auth.example/token\nclient_id other\nclient_auth none\n}"), `client "partner" is defined at Caddyfile:2 already, and not like here: define it once, under the global option upstream_oauth2, and refer to it by 'upstream_oauth2 partner', at Caddyfile:10`},
		{"a reference to what another site defines", blockWith("") + site(""), `client "partner" is defined in the block at Caddyfile:2 alone: move its lines to 'client partner { ... }' under the global option upstream_oauth2, at Caddyfile:10`},
	} {
		checkRefusedCaddyfile(t, test.name, test.caddyfile, test.want)
	}
	for name, input := range map[string]string{
		"one definition written twice": blockWith("") + strings.Replace(blockWith(""), "8080", "8081", 1),
		"two names":                    blockWith("") + strings.Replace(blockWith("scope a"), "8080 {\n\tupstream_oauth2 partner", "8081 {\n\tupstream_oauth2 other", 1),
	} {
		if _, _, err := caddytest.Adapt(input); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
