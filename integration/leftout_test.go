package integration

import (
	"crypto/elliptic"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestEmptySecret is sent as it is written, and warned of.
func TestEmptySecret(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "partner-secret\n", "\"\"\n", 1))
	proxy.AwaitLog("client_secret is empty, as it is written out: if that is not meant, write {env.NAME} or {file./absolute/path} (an unset {$NAME} in quotes is empty, too)")
	if answer := proxy.Get("/", nil); answer.Status != http.StatusOK {
		t.Errorf("the caller reads %s", answer.Body)
	}
	if id, secret, ok := auth.Seen()[0].BasicAuth(); id != "partner-id" || secret != "" || !ok {
		t.Errorf("the token request has the credentials %q and %q", id, secret)
	}
}

// TestTokenExchangeWithoutClientID: the caller's token says who asks.
func TestTokenExchangeWithoutClientID(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Says(http.StatusOK, `{"access_token":"a","token_type":"Bearer","expires_in":60,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`)
	proxy := caddytest.Run(t, `
http://{$SITE} {
	upstream_oauth2 partner {
		token_endpoint {$TOKEN_ENDPOINT}
		client_auth none
		grant token_exchange
	}
	reverse_proxy {$API}
}`)
	if answer := proxy.Get("/", http.Header{"Authorization": {"Bearer callers"}}); answer.Status != http.StatusOK {
		t.Errorf("the caller reads %s", answer.Body)
	}
	form := auth.Seen()[0].PostForm
	if form.Has("client_id") || form.Get("subject_token") != "callers" || auth.Seen()[0].Header.Get("Authorization") != "" {
		t.Errorf("the token request is %v", form)
	}
}

// TestClientAssertionSaysMore: further claims are signed into it, and the certificate
// goes with it.
func TestClientAssertionSaysMore(t *testing.T) {
	key := newECKey(t, elliptic.P256())
	authority := newCertificateAuthority(t)
	certificate := certificateFor(t, key, authority)
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	t.Setenv("KEY_FILE", caddytest.SecretFile(t, pkcs8Text(t, key)))
	t.Setenv("CERT_FILE", caddytest.SecretFile(t, certificateText(certificate)+certificateText(authority.certificate)))
	t.Setenv("TENANT", "7")
	proxy := caddytest.Run(t, keySiteWith("client_auth private_key_jwt {\nkey {$KEY_FILE}\ncertificate {$CERT_FILE}\nx5c\nclaim level 3\nclaim tenant {env.TENANT}\nclaim roles [\"a\",\"b\"]\n}"))
	proxy.WantAs("alice", http.StatusOK)

	assertion := auth.Seen()[0].PostForm.Get("client_assertion")
	if _, err := verify(assertion, "ES256", key.Public()); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(assertion, ".")
	header, _ := base64.RawURLEncoding.DecodeString(parts[0])
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	chain := `"x5c":["` + base64.StdEncoding.EncodeToString(certificate.Raw) + `","` + base64.StdEncoding.EncodeToString(authority.certificate.Raw) + `"]`
	if !strings.Contains(string(header), chain) {
		t.Errorf("the header is %s, want %s in it", header, chain)
	}
	for _, claim := range []string{`"level":3`, `"tenant":"7"`, `"roles":["a","b"]`} {
		if !strings.Contains(string(payload), claim) {
			t.Errorf("the claims are %s, want %s among them", payload, claim)
		}
	}
}
