package tokensource

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// panickingTransport is one of another plugin, which is out of order at first.
type panickingTransport struct{ requests int }

// RoundTrip implements http.RoundTripper.
func (p *panickingTransport) RoundTrip(*http.Request) (*http.Response, error) {
	if p.requests++; p.requests == 1 {
		panic("out of order")
	}
	answer := httptest.NewRecorder()
	issue(answer, "")
	return answer.Result(), nil
}

// TestPanicLeavesTheRefreshTokenFree for the next token request.
func TestPanicLeavesTheRefreshTokenFree(t *testing.T) {
	source := newSource(t, config.Client{
		TokenEndpoint: "https://auth.example/token", ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret")),
		Grant: &config.Grant{Type: "refresh_token", RefreshToken: "configured"},
	}, new(panickingTransport))

	// No answer came, so it is sent once more.
	if token, err := source.Fetch(t.Context(), nil, nil); err != nil || token.AccessToken.Reveal() != "T" {
		t.Errorf("it gets %v and %v", token, err)
	}
}
