package authserver_test

import (
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// A token knows the scheme of its type and how it stands in an Authorization field,
// with that scheme or with another one.
func TestTokenField(t *testing.T) {
	tests := []struct {
		name, tokenType string
		scheme          string
		as              string // the scheme it is sent with
		field           string
	}{
		{"its own scheme", "bearer", "Bearer", "Bearer", "Bearer abc"},
		{"Apigee's type", "BearerToken", "Bearer", "Bearer", "Bearer abc"},
		{"no type", "", "Bearer", "Bearer", "Bearer abc"},
		{"DPoP", "dpop", "DPoP", "DPoP", "DPoP abc"},
		{"another scheme", "bearer", "Bearer", "Zoho-oauthtoken", "Zoho-oauthtoken abc"},
		{"a type that is not understood", "Application Access Token", "", "Bearer", "Bearer abc"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			token := authserver.NewToken("abc", test.tokenType)
			if token.Type != test.tokenType || token.Scheme != test.scheme || token.AccessToken.Reveal() != "abc" {
				t.Errorf("type %q, scheme %q, token %q", token.Type, token.Scheme, token.AccessToken.Reveal())
			}
			if got := token.Field(test.as); got != test.field {
				t.Errorf("field %q, want %q", got, test.field)
			}
		})
	}
	t.Run("made by hand", func(t *testing.T) {
		token := authserver.Token{AccessToken: authserver.NewSecret("abc"), Scheme: "Bearer"}
		if got := token.Field("Bearer"); got != "Bearer abc" {
			t.Errorf("field %q, want Bearer abc", got)
		}
	})
}
