package upstreamoauth2

import (
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// provenBlockWith is a Caddyfile without a secret, whose line 5 and those behind
// it are the given ones.
func provenBlockWith(lines string) string {
	return `http://localhost:8080 {
	upstream_oauth2 partner {
		token_endpoint https://auth.example/token
		client_id partner-id
		` + lines + `
	}
}
`
}

// TestRefusedCaddyfilesOfProofsAndGrants are the rows of TestRefusedCaddyfiles for
// assertions, certificates, grants on behalf of someone, accounts and DPoP.
func TestRefusedCaddyfilesOfProofsAndGrants(t *testing.T) {
	const (
		line5    = ", at Caddyfile:5"
		line6    = ", at Caddyfile:6"
		line7    = ", at Caddyfile:7"
		jwtBlock = "algorithm, audience, certificate, claim, key, key_id, lifetime, x5c"
		methods  = "use one of client_secret_basic, client_secret_basic_raw, client_secret_post, client_secret_jwt, private_key_jwt, tls_client_auth, assertion_file, none"
		fields   = "write further form fields as 'token_param <name> <value>'"
		duration = "is not a duration longer than zero: write one such as 30s, 5m or 1h"
		baseText = "must be an absolute URL without credentials, query and fragment, such as https://api.example.com"
	)
	tests := []struct {
		name      string
		caddyfile string
		want      string
	}{
		// The authorization server.
		{"neither issuer nor endpoint", strings.Replace(blockWith(""), "\t\ttoken_endpoint https://auth.example/token\n", "", 1), "token_endpoint: is missing: write the URL that tokens are requested from, or the 'issuer' whose metadata tells it, at Caddyfile:2"},
		{"an issuer with plain http", blockWith("issuer http://auth.example"), "issuer: must use https, as credentials go there: write https://, or 'allow_http' if the network in between is trusted" + line6},
		{"an issuer that is no URL", blockWith("issuer auth.example"), "issuer: must be an absolute URL, such as https://auth.example.com" + line6},
		{"an issuer with a fragment", blockWith("issuer https://auth.example/#a"), "issuer: must have neither a query nor a fragment (RFC 8414 section 2)" + line6},
		{"an issuer with a query", blockWith("issuer https://auth.example/?a=b"), "issuer: must have neither a query nor a fragment (RFC 8414 section 2)" + line6},
		{"the metadata of an issuer", blockWith("issuer https://auth.example/.well-known/openid-configuration"), "issuer: must be the issuer itself, such as https://auth.example.com, and not the address of its metadata" + line6},
		{"an issuer with credentials", blockWith("issuer https://a:b@auth.example"), "issuer: must not hold credentials: use 'client_id' and 'client_secret'" + line6},
		{"an issuer with another scheme", blockWith("issuer ftp://auth.example"), `issuer: must be an https URL, not one of "ftp"` + line6},
		{"two issuers", blockWith("issuer https://a.example\nissuer https://b.example"), "issuer is given twice, first at Caddyfile:6: remove one" + line7},

		// How the client proves itself.
		{"no key", provenBlockWith("client_auth private_key_jwt"), `client_auth: private_key_jwt needs "key": write 'key <file>' in its block` + line5},
		{"an empty block", provenBlockWith("client_auth private_key_jwt {\n}"), `client_auth: private_key_jwt needs "key": write 'key <file>' in its block` + line5},
		{"the key on the method's line", provenBlockWith("client_auth private_key_jwt /key.pem"), "client_auth: private_key_jwt takes no value: write its options in a block" + line5},
		{"a secret beside a key", blockWith("client_auth private_key_jwt {\nkey /key.pem\n}"), "client_secret: is never sent with 'client_auth private_key_jwt': remove one of the two" + line5},
		{"a line nobody knows", provenBlockWith("client_auth private_key_jwt {\nkey_file /key.pem\n}"), `client_auth private_key_jwt has no option "key_file": write one of ` + jwtBlock + line6},
		{"two keys", provenBlockWith("client_auth private_key_jwt {\nkey /a.pem\nkey /b.pem\n}"), "key is given twice, first at Caddyfile:6: remove one" + line7},
		{"a key without a file", provenBlockWith("client_auth private_key_jwt {\nkey\n}"), "key has no value: write 'key <file|placeholder>' (an unset {$NAME} leaves none)" + line6},
		{"a key with two files", provenBlockWith("client_auth private_key_jwt {\nkey /a.pem /b.pem\n}"), "key has too many values: write 'key <file|placeholder>'" + line6},
		{"an empty audience", provenBlockWith("client_auth private_key_jwt {\nkey /a.pem\naudience \"\"\n}"), "audience has an empty value: write 'audience <aud>', or remove the line" + line7},
		{"a life without a unit", provenBlockWith("client_auth private_key_jwt {\nlifetime 60\n}"), `lifetime: "60" ` + duration + line6},
		{"no life at all", provenBlockWith("client_auth private_key_jwt {\nlifetime 0s\n}"), `lifetime: "0s" ` + duration + line6},
		{"client_secret_jwt without a secret", provenBlockWith("client_auth client_secret_jwt"), "client_secret: is missing: write client_secret {env.NAME} or {file./absolute/path}, or another 'client_auth', such as 'none' for a public client, at Caddyfile:2"},
		{"a key for client_secret_jwt", blockWith("client_auth client_secret_jwt {\nkey /key.pem\n}"), `client_auth client_secret_jwt has no option "key": write one of algorithm, audience, claim, lifetime` + line7},
		{"no client certificate", provenBlockWith("client_auth tls_client_auth"), `client_auth: tls_client_auth needs "certificate": write 'certificate <file>' in its block` + line5},
		{"a client key without its certificate", provenBlockWith("client_auth tls_client_auth {\nkey /key.pem\n}"), `client_auth: tls_client_auth needs "certificate": write 'certificate <file>' in its block` + line5},
		{"the certificate on the method's line", provenBlockWith("client_auth tls_client_auth /cert.pem"), "client_auth: tls_client_auth takes no value: write its options in a block" + line5},
		{"an audience of a certificate", provenBlockWith("client_auth tls_client_auth {\naudience x\n}"), `client_auth tls_client_auth has no option "audience": write one of certificate, key` + line6},
		{"no assertion file", provenBlockWith("client_auth assertion_file"), "client_auth: assertion_file needs one file: write 'client_auth assertion_file <file>'" + line5},
		{"the assertion file in a block", provenBlockWith("client_auth assertion_file {\nfile /token\n}"), "client_auth: assertion_file needs one file: write 'client_auth assertion_file <file>'" + line5},
		{"an assertion file and a block", provenBlockWith("client_auth assertion_file /token {\naudience x\n}"), "client_auth assertion_file takes no block: remove the block" + line5},
		{"two assertion files", provenBlockWith("client_auth assertion_file /a /b"), "client_auth: assertion_file needs one file: write 'client_auth assertion_file <file>'" + line5},
		{"a file for no method that has one", provenBlockWith("client_auth none /token"), "client_auth: none takes no value: write 'client_auth none'" + line5},
		{"another name of a method, with a block", provenBlockWith("client_auth jwt {\nkey /key.pem\n}"), `client_auth: unknown method "jwt": ` + methods + line5},
		{"a block at a key", provenBlockWith("client_auth private_key_jwt {\nkey /key.pem {\n}\n}"), "key takes no block: write 'key <file|placeholder>'" + line6},
		{"a secret beside an assertion file", blockWith("client_auth assertion_file /token"), "client_secret: is never sent with 'client_auth assertion_file': remove one of the two" + line5},
		{"another name of a method", provenBlockWith("client_auth self_signed_tls_client_auth"), `client_auth: unknown method "self_signed_tls_client_auth": ` + methods + line5},
		{"an assertion as a form field", blockWith("token_param client_assertion x"), "token_param: the form field client_assertion is set by 'client_auth': use that instead" + line6},

		// Grants on behalf of someone.
		{"nothing to ask with", blockWith("grant jwt_bearer"), "grant: jwt_bearer needs 'assertion', or 'key' or 'service_account' to sign one with" + line6},
		{"an assertion that is ready-made and signed", blockWith("grant jwt_bearer {\nassertion {env.A}\nkey /key.pem\n}"), "grant: an assertion is either ready-made or signed here: remove 'assertion', or what it would be signed with" + line6},
		{"an assertion from a file without a slash", blockWith("grant jwt_bearer {\nassertion {file.assertion}\n}"), "grant: assertion: a {file.*} placeholder without a slash is short for a part of the request path: write an absolute path, such as {file./run/secrets/partner}" + line6},
		{"two keys for an assertion", blockWith("grant jwt_bearer {\nservice_account /google.json\nkey /key.pem\n}"), "grant: a service_account brings its own key: remove 'key', 'key_id' and 'algorithm'" + line6},
		{"a claim with an option of its own", blockWith("grant jwt_bearer {\nkey /key.pem\nclaim sub alice\n}"), "grant: the claim sub is set by 'subject': use that instead" + line6},
		{"a claim that each assertion has", blockWith("grant jwt_bearer {\nkey /key.pem\nclaim jti 1\n}"), "grant: the claim jti is set anew in each assertion: remove it" + line6},
		{"a claim without a name", blockWith("grant jwt_bearer {\nkey /key.pem\nclaim \"\" 1\n}"), "claim has an empty value: write 'claim <name> <value>', or remove the line, at Caddyfile:8"},
		{"an assertion that is ready-made and has a life", blockWith("grant jwt_bearer {\nassertion {env.A}\nlifetime 5m\n}"), "grant: an assertion is either ready-made or signed here: remove 'assertion', or what it would be signed with" + line6},
		{"a grant with dashes", blockWith("grant token-exchange {\nsubject_token {env.A}\n}"), `grant: unknown grant "token-exchange": write 'grant token_exchange'` + line6},
		{"a grant in capitals", blockWith("grant Client_Credentials"), `grant: unknown grant "Client_Credentials": write 'grant client_credentials'` + line6},
		{"a grant of two words", blockWith("grant \"client credentials\""), `grant: unknown grant "client credentials": write 'grant client_credentials'` + line6},
		{"a grant with a space", blockWith("grant \"on behalf\""), `grant: "on behalf" is not a grant type: write its name, or its URI (RFC 6749 appendix A.10)` + line6},
		{"a grant that is mistyped", blockWith("grant client_credential"), `grant: unknown grant "client_credential": write 'grant client_credentials'` + line6},
		{"a grant from the environment", blockWith("grant {env.GRANT}"), `grant: "{env.GRANT}" is not a grant type: write its name, or its URI (RFC 6749 appendix A.10)` + line6},
		{"a claim without a value", blockWith("grant jwt_bearer {\nclaim tenant\n}"), "claim has too few values: write 'claim <name> <value>'" + line7},
		{"a claim given twice", blockWith("grant jwt_bearer {\nclaim tenant 1\nclaim tenant 2\n}"), "claim: tenant is given twice: remove one, at Caddyfile:8"},
		{"an option of token exchange", blockWith("grant jwt_bearer {\nsubject_token {env.A}\n}"), `grant jwt_bearer has no option "subject_token": write one of algorithm, assertion, audience, claim, issuer, key, key_id, lifetime, service_account, subject` + line7},
		{"an option of jwt_bearer", blockWith("grant token_exchange {\nassertion {env.A}\n}"), `grant token_exchange has no option "assertion": write one of actor_token, actor_token_type, requested_token_type, subject_token, subject_token_type` + line7},
		{"a grant by its URN", blockWith("grant urn:ietf:params:oauth:grant-type:token-exchange {\nsubject_token {env.A}\n}"), `grant urn:ietf:params:oauth:grant-type:token-exchange takes no block: ` + fields + line6},
		{"a token type that is none", blockWith("grant token_exchange {\nsubject_token_type bearer\n}"), `grant: "bearer" is not a token type: write a URN, or one of access_token, id_token, refresh_token, jwt, saml1, saml2` + line6},
		{"the type of no actor", blockWith("grant token_exchange {\nactor_token_type jwt\n}"), "grant: actor_token_type is for an actor_token, which is missing (RFC 8693 section 2.1)" + line6},
		{"the caller's token in a field of its own is both kept and exchanged", blockWith("keep_existing\ninject header X-Token\ngrant token_exchange {\nsubject_token {header.x-token}\n}"), "keep_existing: every caller brings an X-Token field here, so none would get a token: remove 'keep_existing', or take the caller's token from another field" + line6},
		{"the caller's token is both kept and exchanged", blockWith("grant token_exchange\nkeep_existing"), "keep_existing: every caller brings an Authorization field here, so none would get a token: remove 'keep_existing', or take the caller's token from another field" + line7},
		{"the subject token as a form field", blockWith("grant token_exchange\ntoken_param subject_token x"), "token_param: the form field subject_token is set by 'grant token_exchange': use that instead" + line7},

		// Accounts.
		{"an account that is the same for all", blockWith("account {env.USER}"), `account: "{env.USER}" is the same for every request: write a request placeholder, such as {http.auth.user.id}` + line6},
		{"an account without a placeholder", blockWith("account alice"), `account: "alice" is the same for every request: write a request placeholder, such as {http.auth.user.id}` + line6},
		{"two accounts", blockWith("account {header.A} {header.B}"), "account has too many values: write 'account <placeholder>'" + line6},
		{"a limit without accounts", blockWith("max_accounts 10"), "max_accounts: goes with 'account', or with a grant for each caller" + line6},
		{"a limit that is no number", blockWith("max_accounts many"), `max_accounts: "many" is not a number of accounts: write one such as 10000` + line6},
		{"a limit of nothing", blockWith("max_accounts 0"), `max_accounts: "0" is not a number of accounts: write one such as 10000` + line6},

		// DPoP.
		{"dpop without the API's URL", blockWith("dpop"), "dpop: needs 'upstream_base', the URL that the API is known by: it is part of each request's proof" + line6},
		{"the API's URL without dpop", blockWith("upstream_base https://api.example"), "upstream_base: goes with 'dpop' only: write both or none" + line6},
		{"an API without a scheme", blockWith("dpop\nupstream_base api.example"), "upstream_base: " + baseText + line7},
		{"an API with a query", blockWith("dpop\nupstream_base https://api.example/?v=1"), "upstream_base: " + baseText + line7},
		{"an API with credentials", blockWith("dpop\nupstream_base https://a:b@api.example"), "upstream_base: " + baseText + line7},
		{"an API whose name is not ASCII", blockWith("dpop\nupstream_base https://büro.example"), "upstream_base: " + baseText + line7},
		{"an API with another scheme", blockWith("dpop\nupstream_base h2c://api.example"), "upstream_base: " + baseText + line7},
		{"bound tokens in another field", blockWith("inject header X-Api-Key\ndpop\nupstream_base https://api.example"), "inject: tokens bound by 'dpop' go into the Authorization field (RFC 9449 section 7.1): remove 'inject'" + line6},
		{"a proof by hand", blockWith("token_header dpop x\ndpop\nupstream_base https://api.example"), "token_header: the DPoP field is set by 'dpop': remove one of the two" + line6},
		{"two keys of proofs", blockWith("dpop /a.pem /b.pem"), "dpop has too many values: write 'dpop [<key file>]'" + line6},
		{"the key of proofs in a block", blockWith("dpop {\nkey /a.pem\n}"), "dpop takes no block: write 'dpop [<key file>]'" + line6},
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
