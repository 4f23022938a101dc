package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestChangedSecretIsTriedAtOnce, and not when the backoff ends.
func TestChangedSecretIsTriedAtOnce(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		if _, secret, _ := r.BasicAuth(); secret != "right" {
			caddytest.Say(w, http.StatusUnauthorized, `{"error":"invalid_client"}`)
			return
		}
		caddytest.Issuing(time.Hour)(w, r)
	})
	path := caddytest.SecretFile(t, "wrong")
	t.Setenv("SECRET_FILE", path)
	proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "partner-secret\n", "{file.{$SECRET_FILE}}\n", 1))

	// Each failure says when the next attempt would be.
	var next time.Time
	caddytest.Eventually(t, "the next attempt is far away", func() bool {
		proxy.Get("/", nil)
		for _, line := range proxy.Logged(caddytest.LogFailed) {
			seconds := line["ts"].(float64) + line["next_attempt_in"].(float64)
			next = time.UnixMicro(int64(seconds * 1e6))
		}
		return time.Until(next) > 5*time.Second
	})
	caddytest.WriteSecret(t, path, "right")
	caddytest.Eventually(t, "the right secret was sent", func() bool {
		return proxy.Get("/", nil).Status == http.StatusOK
	})
	if late := time.Since(next); late > 0 {
		t.Errorf("that was %v after the attempt that was due anyway", late)
	}
}
