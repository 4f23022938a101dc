package authserver_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// keyFile is a key file as Google writes it, with the members that are given.
func keyFile(t *testing.T, changed map[string]any) string {
	t.Helper()
	file := map[string]any{
		"type":                        "service_account",
		"project_id":                  "example",
		"private_key_id":              "0f1e2d3c4b5a",
		"private_key":                 pkcs8(t, keys()["RSA"]),
		"client_email":                "robot@example.iam.gserviceaccount.com",
		"client_id":                   "112233",
		"auth_uri":                    "https://accounts.google.com/o/oauth2/auth",
		"token_uri":                   "https://oauth2.googleapis.com/token",
		"auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
		"universe_domain":             "googleapis.com",
	}
	maps.Copy(file, changed)
	maps.DeleteFunc(file, func(_ string, v any) bool { return v == "absent" })
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestServiceAccount(t *testing.T) {
	tests := []struct {
		name     string
		changed  map[string]any
		tokenURI string
		keyID    string
	}{
		{"as Google writes it", nil, "https://oauth2.googleapis.com/token", "0f1e2d3c4b5a"},
		{"without token_uri", map[string]any{"token_uri": "absent"}, "https://oauth2.googleapis.com/token", "0f1e2d3c4b5a"},
		{"with another token_uri", map[string]any{"token_uri": "https://sts.example.com/token"}, "https://sts.example.com/token", "0f1e2d3c4b5a"},
		{"without key id", map[string]any{"private_key_id": nil}, "https://oauth2.googleapis.com/token", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			account, err := authserver.ParseServiceAccount([]byte("\xef\xbb\xbf" + keyFile(t, test.changed) + "\n"))
			if err != nil {
				t.Fatal(err)
			}
			got := []string{account.ClientEmail, account.PrivateKeyID, account.TokenURI}
			checkSame(t, "the account", got, []string{"robot@example.iam.gserviceaccount.com", test.keyID, test.tokenURI})

			assertion, err := authserver.SignAssertion(account.Key, authserver.AssertionClaims{Issuer: account.ClientEmail, Audience: account.TokenURI})
			if err != nil {
				t.Fatal(err)
			}
			header, claims := verified(t, assertion.Reveal(), "RS256", keys()["RSA"].Public())
			want := map[string]any{"alg": "RS256", "typ": "JWT"}
			if test.keyID != "" {
				want["kid"] = test.keyID
			}
			checkSame(t, "the header", header, want)
			checkSame(t, "iss and aud", []any{claims["iss"], claims["aud"]}, []any{account.ClientEmail, account.TokenURI})
		})
	}
}

func TestServiceAccountRefused(t *testing.T) {
	whole := keyFile(t, nil)
	tests := []struct {
		name string
		data string
		says string
	}{
		{"empty", "", "not a JSON object"},
		{"the key alone", pkcs8(t, keys()["RSA"]), "not a JSON object"},
		{"an array", "[" + whole + "]", "not a JSON object"},
		{"cut short", whole[:len(whole)/2], "damaged"},
		{"two objects", whole + whole, "damaged"},
		{"a user's credentials", keyFile(t, map[string]any{"type": "authorized_user"}), "type is not service_account"},
		{"no type", keyFile(t, map[string]any{"type": "absent"}), "type is not service_account"},
		{"a type of another type", keyFile(t, map[string]any{"type": 7}), "type is not a string"},
		{"no client_email", keyFile(t, map[string]any{"client_email": "absent"}), "no client_email"},
		{"client_email in capitals", keyFile(t, map[string]any{"client_email": "absent", "CLIENT_EMAIL": "x@example.com"}), "no client_email"},
		{"no private_key", keyFile(t, map[string]any{"private_key": nil}), "no private_key"},
		{"private_key of another type", keyFile(t, map[string]any{"private_key": []string{"MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"}}), "private_key is not a string"},
		{"private_key of another kind", keyFile(t, map[string]any{"private_key": pkcs8(t, keys()["P-256"])}), "RS256"},
		{"private_key damaged", keyFile(t, map[string]any{"private_key": pkcs8(t, keys()["RSA"])[:400]}), "private_key: "},
		{"plain http", keyFile(t, map[string]any{"token_uri": "http://oauth2.example.com/token"}), "token_uri must use https"},
		{"no URL", keyFile(t, map[string]any{"token_uri": "oauth2.example.com"}), "token_uri must be an absolute URL"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			account, err := authserver.ParseServiceAccount([]byte(test.data))
			if err == nil || account != nil {
				t.Fatalf("got %v and error %v, want an error alone", account, err)
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not say %q", err, test.says)
			}
			for _, hidden := range []string{"robot@", "0f1e2d3c", "MII", "oauth2.example"} {
				if strings.Contains(err.Error(), hidden) {
					t.Errorf("%q shows %q", err, hidden)
				}
			}
		})
	}
}
