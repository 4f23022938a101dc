package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// TestClaims: a value that is JSON is sent as that, any other as text. What comes from
// a request or the environment is text wherever it stands.
func TestClaims(t *testing.T) {
	t.Setenv("TENANT", "5")
	t.Setenv("SIGNING_KEY", newKey(t))
	for _, test := range []struct{ name, text, want string }{
		{"text", "one", `"one"`},
		{"two words", "one two", `"one two"`},
		{"a number", "5", `5`},
		{"a number too long for a float", "12345678901234567890", `12345678901234567890`},
		{"a fraction", "1.50", `1.50`},
		{"digits that are no number", "007", `"007"`},
		{"a number and more", "5 apples", `"5 apples"`},
		{"a boolean", "true", `true`},
		{"a boolean in capitals", "True", `"True"`},
		{"null", "null", `"null"`},
		{"a number that is to be text", `"5"`, `"5"`},
		{"a list", `["a", "b", 3]`, `["a","b",3]`},
		{"an object", `{"roles": ["a"], "id": 7}`, `{"id":7,"roles":["a"]}`},
		{"a list that does not end", `["a"`, `"[\"a\""`},
		{"a variable that holds a number", "{env.TENANT}", `"5"`},
		{"a variable in a list", `["{env.TENANT}", {"id": "{env.TENANT}"}]`, `["5",{"id":"5"}]`},
		{"a caller's value that reads like JSON", "{http.vars.user}", `"[\"admin\",5]"`},
		{"a caller's value in a list", `["user", "{http.vars.user}"]`, `["user","[\"admin\",5]"]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			repl := caddy.NewReplacer()
			repl.Set("http.vars.user", `["admin",5]`)
			client := partner()
			client.ClientSecret = nil
			client.Grant = &Grant{Type: "jwt_bearer", Key: "{env.SIGNING_KEY}", Claim: map[string]string{"wanted": test.text}}
			settings := resolved(t, client, repl)
			if got := jsonOf(t, settings.Assertion.Claims.More["wanted"]); got != test.want {
				t.Errorf("the grant's assertion has %s, want %s", got, test.want)
			}
		})
	}
}

// TestClaimsOfTheClient: its own assertions take claims as those of a grant do, but
// none of a request.
func TestClaimsOfTheClient(t *testing.T) {
	t.Setenv("SIGNING_KEY", newKey(t))
	t.Setenv("TENANT", "5")
	claims := map[string]string{"tenant": "{env.TENANT}", "level": "3", "roles": `["a", "{env.TENANT}"]`}
	const want = `{"level":3,"roles":["a","5"],"tenant":"5"}`

	client := partner()
	client.ClientSecret = nil
	client.ClientAuth = &ClientAuth{Method: "private_key_jwt", Key: "{env.SIGNING_KEY}", Claim: claims}
	if got := jsonOf(t, resolved(t, client, nil).ClientAuth.(authserver.PrivateKeyJWT).More); got != want {
		t.Errorf("private_key_jwt has the claims %s, want %s", got, want)
	}
	client = partner()
	client.ClientSecret = new(Credential("secret"))
	client.ClientAuth = &ClientAuth{Method: "client_secret_jwt", Claim: claims}
	if got := jsonOf(t, resolved(t, client, nil).ClientAuth.(authserver.ClientSecretJWT).More); got != want {
		t.Errorf("client_secret_jwt has the claims %s, want %s", got, want)
	}

	auth := func(name, value string) func(*Client) {
		return func(c *Client) {
			c.ClientAuth = &ClientAuth{Method: "client_secret_jwt", Claim: map[string]string{name: value}}
		}
	}
	checkRefused(t, "who issues it", auth("iss", "x"), "client_auth: the claim iss is set by 'client_id': use that instead")
	checkRefused(t, "whom it is for", auth("aud", "x"), "client_auth: the claim aud is set by 'audience': use that instead")
	checkRefused(t, "its id", auth("jti", "x"), "client_auth: the claim jti is set anew in each assertion: remove it")
	checkRefused(t, "no name", auth("", "x"), "client_auth: a claim has no name: write 'claim <name> <value>'")
	checkRefused(t, "a caller's value", auth("user", `["{http.auth.user.id}"]`), "client_auth: "+errNotGlobal.Error())
	checkRefused(t, "claims of a method without assertions", func(c *Client) {
		c.ClientAuth = &ClientAuth{Claim: map[string]string{"a": "b"}}
	}, `client_auth: client_secret_basic does not take "claim": remove it, or name another method`)
	checkRefused(t, "x5c without a certificate", func(c *Client) {
		c.ClientSecret, c.ClientAuth = nil, &ClientAuth{Method: "private_key_jwt", Key: "/key.pem", X5C: true}
	}, "client_auth: x5c sends the certificate with its chain: write 'certificate <file>' beside it")
}

// TestCredentialsThatAreLeftOut: a public client need not have an id where the grant
// says who it is, and a secret may be empty if it is written out.
func TestCredentialsThatAreLeftOut(t *testing.T) {
	const noID = "client_id: is missing: write the client's identifier at the authorization server"
	public := func(grant string) func(*Client) {
		return func(c *Client) {
			c.ClientID, c.ClientSecret, c.ClientAuth, c.Grant = "", nil, &ClientAuth{Method: "none"}, &Grant{Type: grant}
			if grant == "jwt_bearer" {
				c.Grant.Assertion = "{http.request.header.Authorization}"
			}
		}
	}
	checkRefused(t, "token exchange of a public client", public("token_exchange"), "")
	checkRefused(t, "an assertion of a public client", public("jwt_bearer"), "")
	checkRefused(t, "client credentials of a public client", public("client_credentials"), noID)
	checkRefused(t, "token exchange of a client with a secret", func(c *Client) { c.ClientID, c.Grant = "", &Grant{Type: "token_exchange"} }, noID)
	checkRefused(t, "no secret", func(c *Client) { c.ClientSecret = nil }, "client_secret: is missing: write client_secret {env.NAME} or {file./absolute/path}, or another 'client_auth', such as 'none' for a public client")
	checkRefused(t, "an empty secret", func(c *Client) { c.ClientSecret = new(Credential("")) }, "")
	checkRefused(t, "an empty secret of a public client", func(c *Client) {
		c.ClientSecret, c.ClientAuth = new(Credential("")), &ClientAuth{Method: "none"}
	}, "client_secret: is never sent with 'client_auth none': remove one of the two")
}

func newKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func resolved(t *testing.T, client Client, repl *caddy.Replacer) *Settings {
	t.Helper()
	if err := client.Check(); err != nil {
		t.Fatal(err)
	}
	resolver := NewResolver(client, zap.NewNop())
	t.Cleanup(resolver.Close)
	values, err := client.Inputs().Values(repl)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := resolver.Resolve(t.Context(), values)
	if err != nil {
		t.Fatal(err)
	}
	return settings
}

func jsonOf(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
