package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// warnings returns the log's warnings of this beginning.
func warnings(c *caddytest.Caddy, beginning string) (found []string) {
	for line := range strings.SplitSeq(c.Log(), "\n") {
		if strings.Contains(line, `"level":"warn"`) && strings.Contains(line, beginning) {
			found = append(found, line)
		}
	}
	return found
}

// TestAPIThatRejectsFreshTokens is told of once for each token, with what to check.
func TestAPIThatRejectsFreshTokens(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	api.Answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token", error_description="wrong audience"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	for range 5 {
		proxy.Want(http.StatusUnauthorized)
	}
	found := warnings(proxy, "the API rejects a fresh access token")
	if len(found) != 1 || !strings.Contains(found[0], `"status":401`) || !strings.Contains(found[0], `"error":"invalid_token"`) || !strings.Contains(found[0], `"client":"partner"`) {
		t.Errorf("the log has %q, want one warning with client, status and error", found)
	}
}

// TestRevokedTokenIsNoWarning: it is replaced, and the caller sees nothing.
func TestRevokedTokenIsNoWarning(t *testing.T) {
	caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	api.Answers(revokedFirst(refuse, repeat))
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	proxy.Want(http.StatusOK)
	if found := warnings(proxy, "the API rejects"); len(found) > 0 {
		t.Errorf("the log has %q", found)
	}
}

func TestTwoDirectivesOnOneRequest(t *testing.T) {
	const other = "upstream_oauth2 other {\ntoken_endpoint {$TOKEN_ENDPOINT}\nclient_id other\nclient_secret other-secret\n%s\n}\nreverse_proxy"
	for lines, want := range map[string]int{"": 1, "inject header X-Api-Token": 0} {
		caddytest.NewAuthServer(t)
		caddytest.NewAPIServer(t)
		proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "reverse_proxy", fmt.Sprintf(other, lines), 1))
		for range 3 {
			proxy.Want(http.StatusOK)
		}
		if found := warnings(proxy, "two upstream_oauth2 directives put a token on the same request"); len(found) != want {
			t.Errorf("with %q the log has %q, want %d warnings", lines, found, want)
		}
	}
}
