package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// TestFilesThatCannotBeUsed: one that may still be written heals by itself; a
// wrong path does not.
func TestFilesThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	empty, folder, missing := filepath.Join(dir, "empty"), filepath.Join(dir, "folder"), filepath.Join(dir, "missing")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEY_FILE", "keys/partner.pem")
	secret := func(text string) Client { return Client{ClientSecret: new(Credential(text))} }
	key := func(text string) Client {
		return Client{ClientAuth: &ClientAuth{Method: "private_key_jwt", Key: Credential(text)}}
	}
	tests := []struct {
		name      string
		client    Client
		want      string // with DIR for the directory
		temporary bool
	}{
		{"an empty secret file", secret("{file." + empty + "}"), "client_secret: {file.DIR/empty} is empty", true},
		{"an empty secret file beside a variable", secret("{env.KEY_FILE}{file." + empty + "}"), "client_secret: {file.DIR/empty} is empty", true},
		{"a missing secret file", secret("{file." + missing + "}"), "client_secret: cannot read the file: open DIR/missing: no such file or directory", true},
		{"a directory for a secret file", secret("{file." + folder + "}"), "client_secret: cannot read the file: read DIR/folder: it is a directory: name the file in it", true},
		{"a variable that is not set", secret("{env.NOT_SET}"), "client_secret: the environment variable NOT_SET is not set: set it for the Caddy process", false},
		{"a variable that is not set behind one that is", secret("{env.KEY_FILE}{env.NOT_SET}"), "client_secret: the environment variable NOT_SET is not set: set it for the Caddy process", false},
		{"an empty key file", key(empty), "client_auth: cannot read the file DIR/empty: it is empty", true},
		{"a directory for a key file", key(folder), "client_auth: cannot read the file DIR/folder: it is a directory: name the file in it", true},
		{"an empty assertion file", Client{ClientAuth: &ClientAuth{Method: "assertion_file", File: empty}}, "client_auth: cannot read the file DIR/empty: it is empty", true},
		{"a relative key file from a variable", key("{env.KEY_FILE}"), "client_auth: what {env.KEY_FILE} holds is a relative path: write an absolute one, such as /etc/caddy/partner.pem", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.client.TokenEndpoint, test.client.ClientID = "https://auth.example/token", "partner-id"
			if err := test.client.Check(); err != nil {
				t.Fatalf("it is refused before a file is looked at: %v", err)
			}
			resolver := NewResolver(test.client, zap.NewNop())
			defer resolver.Close()
			_, err := resolver.Resolve(t.Context(), nil)
			if err == nil {
				t.Fatal("it resolves")
			}
			if got := strings.ReplaceAll(err.Error(), dir, "DIR"); got != test.want {
				t.Errorf("the error is\n%s\nwant\n%s", got, test.want)
			}
			if got := Temporary(err); got != test.temporary {
				t.Errorf("it is temporary: %t, want %t", got, test.temporary)
			}
		})
	}
}

// TestRelativePathsAreRefused: they would be read from wherever Caddy was started.
func TestRelativePathsAreRefused(t *testing.T) {
	const (
		relative = "is a relative path: write an absolute one, such as /etc/caddy/partner.pem"
		noPath   = "the value is neither PEM, a JWK nor the path of a file: write an absolute path, such as /etc/caddy/partner.pem"
		file     = "is a relative path: write an absolute one, such as {file./run/secrets/partner}"
	)
	auth := func(a ClientAuth) Client { return Client{ClientAuth: &a} }
	grant := func(g Grant) Client { return Client{Grant: &g, ClientSecret: new(Credential("{env.SECRET}"))} }
	tests := []struct {
		name   string
		client Client
		want   string
	}{
		{"a secret", Client{ClientSecret: new(Credential("{file.secrets/partner}"))}, "client_secret: {file.secrets/partner} " + file},
		{"a secret with an extension", Client{ClientSecret: new(Credential("{file.partner.txt}"))}, "client_secret: {file.partner.txt} " + file},
		{"a form field", Client{ClientSecret: new(Credential("{env.SECRET}")), TokenParam: map[string]Credential{"a": "{file.a/b}"}}, "token_param: {file.a/b} " + file},
		{"a refresh token", grant(Grant{Type: "refresh_token", RefreshToken: "{file.a/b}"}), "grant: {file.a/b} " + file},
		{"a key", auth(ClientAuth{Method: "private_key_jwt", Key: "partner.pem"}), "client_auth: partner.pem " + relative},
		{"a key without an extension", auth(ClientAuth{Method: "private_key_jwt", Key: "keys/partner"}), "client_auth: " + noPath},
		{"a key in a placeholder", auth(ClientAuth{Method: "private_key_jwt", Key: "{file.keys/partner}"}), "client_auth: {file.keys/partner} " + file},
		{"a certificate", auth(ClientAuth{Method: "private_key_jwt", Key: "/key.pem", Certificate: "./partner.crt"}), "client_auth: ./partner.crt " + relative},
		{"an assertion", auth(ClientAuth{Method: "assertion_file", File: "assertion.jwt"}), "client_auth: assertion.jwt " + relative},
		{"the key of an assertion", grant(Grant{Type: "jwt_bearer", Key: "partner.pem"}), "grant: partner.pem " + relative},
		{"a service account", grant(Grant{Type: "jwt_bearer", ServiceAccount: "google.json"}), "grant: google.json " + relative},
		{"the key of proofs", Client{ClientSecret: new(Credential("{env.SECRET}")), DPoP: &DPoP{Key: "proofs.pem"}, UpstreamBase: "https://api.example"}, "dpop: proofs.pem " + relative},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.client.TokenEndpoint, test.client.ClientID = "https://auth.example/token", "partner-id"
			err := test.client.Check()
			if err == nil {
				t.Fatal("it is accepted")
			}
			if err.Error() != test.want {
				t.Errorf("the error is\n%s\nwant\n%s", err, test.want)
			}
		})
	}
}
