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
