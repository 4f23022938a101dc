package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestReloadUnderLoadCostsNothing: unchanged settings keep their token, and
// every request that has come to the handler is answered by the API, however
// often the config is loaded.
//
// A connection may still be lost before that: Caddy opens its port anew beside
// the old one and closes what waits there, with or without this plugin.
func TestReloadUnderLoadCostsNothing(t *testing.T) {
	const reloads, callers = 20, 8
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	site := caddytest.Tracing + caddytest.PartnerSite
	proxy := caddytest.Run(t, site)

	var (
		calling sync.WaitGroup
		stop    atomic.Bool
		served  atomic.Int64
	)
	for range callers {
		calling.Go(func() {
			for !stop.Load() {
				answer, err := proxy.Try(http.MethodGet, os.Getenv("SITE"), "/", nil)
				switch {
				case err != nil:
				case answer.Status == http.StatusOK:
					served.Add(1)
				default:
					t.Errorf("status %d: %s", answer.Status, answer.Body)
					return
				}
			}
		})
	}
	for i := range reloads {
		// Something else in the config changes each time.
		proxy.Reload(strings.Replace(site, "reverse_proxy", fmt.Sprintf("header X-Reload %d\n\treverse_proxy", i), 1))
		before := served.Load()
		caddytest.Eventually(t, "requests were served after the reload", func() bool {
			return served.Load() > before+callers || t.Failed()
		})
	}
	stop.Store(true)
	calling.Wait()

	if entered := proxy.Entered(); int64(entered) != served.Load() {
		t.Errorf("%d requests came to the handler, and %d were answered with 200", entered, served.Load())
	}
	if n := auth.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	for _, r := range api.Seen() {
		if got := r.Header.Get("Authorization"); got != "Bearer access-token-1" {
			t.Fatalf("a request reached the API with Authorization %q", got)
		}
	}
}

// TestReloadKeepsWhatWasLearned: the rotated refresh token, and the time to
// leave a failing server alone.
func TestReloadKeepsWhatWasLearned(t *testing.T) {
	t.Run("a rotated refresh token", func(t *testing.T) {
		auth := caddytest.NewAuthServer(t)
		caddytest.NewAPIServer(t)
		auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
			caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":"T","expires_in":1,"refresh_token":"refresh-%d"}`, r.Number))
		})
		site := caddytest.PartnerSiteWith("grant refresh_token {\nrefresh_token configured\n}")
		proxy := caddytest.Run(t, site)
		proxy.Want(http.StatusOK)

		proxy.Reload(site)
		caddytest.Eventually(t, "the token was renewed", func() bool {
			proxy.Want(http.StatusOK)
			return auth.Count() >= 2
		})
		if got := auth.Seen()[1].PostForm.Get("refresh_token"); got != "refresh-1" {
			t.Errorf("the second token request has refresh token %q", got)
		}
	})
	t.Run("backoff", func(t *testing.T) {
		auth := caddytest.NewAuthServer(t)
		caddytest.NewAPIServer(t)
		auth.Answers(func(w http.ResponseWriter, _ caddytest.TokenRequest) {
			w.Header().Set("Retry-After", "300")
			caddytest.Say(w, http.StatusServiceUnavailable, "")
		})
		proxy := caddytest.Run(t, caddytest.PartnerSite)
		proxy.Want(http.StatusServiceUnavailable)

		for range 5 {
			proxy.Reload(caddytest.PartnerSite)
			proxy.Want(http.StatusServiceUnavailable)
		}
		if n := auth.Count(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

// TestChangedSettingsGiveANewToken at the reload that changes them.
func TestChangedSettingsGiveANewToken(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	path := caddytest.SecretFile(t, "from-the-file")
	t.Setenv("SECRET_FILE", path)
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	proxy.Want(http.StatusOK)

	changes := []struct {
		name   string
		site   string
		secret string // that the token request has
	}{
		{"another secret", strings.Replace(caddytest.PartnerSite, "partner-secret\n", "other-secret\n", 1), "other-secret"},
		{"the secret from a file", strings.Replace(caddytest.PartnerSite, "partner-secret\n", "{file.{$SECRET_FILE}}\n", 1), "from-the-file"},
		{"another scope", caddytest.PartnerSiteWith("scope more"), "partner-secret"},
	}
	for i, change := range changes {
		proxy.Reload(change.site)
		proxy.Want(http.StatusOK)

		want := fmt.Sprintf("Bearer access-token-%d", i+2)
		if got := api.LastAuthorization(t); got != want {
			t.Errorf("%s: Authorization is %q, want %q", change.name, got, want)
		}
		seen := auth.Seen()
		if _, secret, _ := seen[len(seen)-1].BasicAuth(); secret != change.secret {
			t.Errorf("%s: the secret is %q, want %q", change.name, secret, change.secret)
		}
	}
}

// TestSecretFileRotatedBeforeAReloadGivesANewToken: the line in the config is
// the same, what it stands for is not.
func TestSecretFileRotatedBeforeAReloadGivesANewToken(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	path := caddytest.SecretFile(t, "first-secret")
	t.Setenv("SECRET_FILE", path)
	site := strings.Replace(caddytest.PartnerSite, "partner-secret\n", "{file.{$SECRET_FILE}}\n", 1)
	proxy := caddytest.Run(t, site)
	proxy.Want(http.StatusOK)

	caddytest.WriteSecret(t, path, "second-secret")
	proxy.Reload(site)
	proxy.Want(http.StatusOK)

	if got := api.LastAuthorization(t); got != "Bearer access-token-2" {
		t.Errorf("Authorization is %q", got)
	}
	if _, secret, _ := auth.Seen()[1].BasicAuth(); secret != "second-secret" {
		t.Errorf("the secret is %q", secret)
	}
}

// TestRefusedReloadLeavesTheRunningConfigAlone, with its token.
func TestRefusedReloadLeavesTheRunningConfigAlone(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	proxy.Want(http.StatusOK)

	if err := proxy.TryReload(strings.Replace(caddytest.PartnerSite, "partner-secret\n", "{env.NOT_SET}\n", 1)); err == nil {
		t.Fatal("a config with an unset environment variable loads")
	}

	proxy.Want(http.StatusOK)
	if got := api.LastAuthorization(t); got != "Bearer access-token-1" || auth.Count() != 1 {
		t.Errorf("Authorization is %q after %d token requests", got, auth.Count())
	}
}

// TestRefusedConfigMakesNoTokenRequests: what it had joined before it was
// refused goes on without it.
func TestRefusedConfigMakesNoTokenRequests(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Answers(caddytest.Issuing(time.Second))
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	proxy.Want(http.StatusOK)

	t.Setenv("LOG_FILE", proxy.LogFile+".refused")
	halfGood := strings.Replace(caddytest.PartnerSite, "reverse_proxy", caddytest.RefusedClient+"\treverse_proxy", 1)
	if err := proxy.TryReload(halfGood); err == nil || !strings.Contains(err.Error(), `client "refused": client_secret: `) {
		t.Fatalf("the error is %v", err)
	}

	renewed := len(proxy.Logged(caddytest.LogRenewed))
	caddytest.Eventually(t, "the running config told of a renewal", func() bool {
		proxy.Want(http.StatusOK)
		return len(proxy.Logged(caddytest.LogRenewed)) > renewed
	})
}

// TestReloadGoesOnLoggingWhereTheNewConfigSays: what outlives a reload holds
// nothing that the old config owned.
func TestReloadGoesOnLoggingWhereTheNewConfigSays(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Answers(caddytest.Issuing(time.Second))
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	proxy.Want(http.StatusOK)

	proxy.LogFile += ".new"
	t.Setenv("LOG_FILE", proxy.LogFile)
	proxy.Reload(caddytest.PartnerSite)

	caddytest.Eventually(t, "the new log told of a renewal", func() bool {
		proxy.Want(http.StatusOK)
		return proxy.Logged(caddytest.LogRenewed) != nil
	})
}

// TestReloadWithHalfASecret: a tool is writing the file anew. The token in hand is
// as good as it was, and the whole secret is found without another reload.
func TestReloadWithHalfASecret(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		if _, secret, _ := r.BasicAuth(); secret != "first-secret" && secret != "second-secret" {
			caddytest.Say(w, http.StatusUnauthorized, `{"error":"invalid_client"}`)
			return
		}
		caddytest.Issuing(time.Hour)(w, r)
	})
	path := caddytest.SecretFile(t, "first-secret")
	t.Setenv("SECRET_FILE", path)
	site := strings.Replace(caddytest.PartnerSite, "partner-secret\n", "{file.{$SECRET_FILE}}\n", 1)
	proxy := caddytest.Run(t, site)
	proxy.Want(http.StatusOK)

	caddytest.WriteSecret(t, path, "second-")
	proxy.Reload(site)
	for range 5 {
		proxy.Want(http.StatusOK)
	}

	caddytest.WriteSecret(t, path, "second-secret")
	caddytest.Eventually(t, "the whole secret was sent", func() bool {
		proxy.Want(http.StatusOK)
		requests := auth.Seen()
		_, secret, _ := requests[len(requests)-1].BasicAuth()
		return secret == "second-secret"
	})
}
