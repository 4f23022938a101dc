package upstreamoauth2

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestReloadUnderLoadCostsNothing: unchanged settings keep their token, and
// every request that has come to the handler is answered by the API, however
// often the config is loaded.
//
// A connection may still be lost before that: Caddy opens its port anew beside
// the old one and closes what waits there, with or without this plugin.
func TestReloadUnderLoadCostsNothing(t *testing.T) {
	const reloads, callers = 20, 8
	auth, api := newAuthServer(t), newAPIServer(t)
	site := tracing + partnerSite
	proxy := runCaddy(t, site)

	var (
		calling sync.WaitGroup
		stop    atomic.Bool
		served  atomic.Int64
	)
	for range callers {
		calling.Go(func() {
			for !stop.Load() {
				answer, err := proxy.try(http.MethodGet, os.Getenv("SITE"), "/", nil)
				switch {
				case err != nil:
				case answer.status == http.StatusOK:
					served.Add(1)
				default:
					t.Errorf("status %d: %s", answer.status, answer.body)
					return
				}
			}
		})
	}
	for i := range reloads {
		// Something else in the config changes each time.
		proxy.reload(strings.Replace(site, "reverse_proxy", fmt.Sprintf("header X-Reload %d\n\treverse_proxy", i), 1))
		before := served.Load()
		eventually(t, "requests were served after the reload", func() bool {
			return served.Load() > before+callers || t.Failed()
		})
	}
	stop.Store(true)
	calling.Wait()

	if entered := proxy.entered(); int64(entered) != served.Load() {
		t.Errorf("%d requests came to the handler, and %d were answered with 200", entered, served.Load())
	}
	if n := auth.count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	for _, r := range api.seen() {
		if got := r.header.Get("Authorization"); got != "Bearer access-token-1" {
			t.Fatalf("a request reached the API with Authorization %q", got)
		}
	}
}

// TestReloadKeepsWhatWasLearned: the rotated refresh token, and the time to
// leave a failing server alone.
func TestReloadKeepsWhatWasLearned(t *testing.T) {
	t.Run("a rotated refresh token", func(t *testing.T) {
		auth := newAuthServer(t)
		newAPIServer(t)
		auth.answers(func(w http.ResponseWriter, r tokenRequest) {
			say(w, http.StatusOK, fmt.Sprintf(`{"access_token":"T","expires_in":1,"refresh_token":"refresh-%d"}`, r.number))
		})
		site := partnerSiteWith("grant refresh_token {\nrefresh_token configured\n}")
		proxy := runCaddy(t, site)
		proxy.want(http.StatusOK)

		proxy.reload(site)
		eventually(t, "the token was renewed", func() bool {
			proxy.want(http.StatusOK)
			return auth.count() >= 2
		})
		if got := auth.seen()[1].form.Get("refresh_token"); got != "refresh-1" {
			t.Errorf("the second token request has refresh token %q", got)
		}
	})
	t.Run("backoff", func(t *testing.T) {
		auth := newAuthServer(t)
		newAPIServer(t)
		auth.answers(func(w http.ResponseWriter, _ tokenRequest) {
			w.Header().Set("Retry-After", "300")
			say(w, http.StatusServiceUnavailable, "")
		})
		proxy := runCaddy(t, partnerSite)
		proxy.want(http.StatusServiceUnavailable)

		for range 5 {
			proxy.reload(partnerSite)
			proxy.want(http.StatusServiceUnavailable)
		}
		if n := auth.count(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

// TestChangedSettingsGiveANewToken at the reload that changes them.
func TestChangedSettingsGiveANewToken(t *testing.T) {
	auth, api := newAuthServer(t), newAPIServer(t)
	path := secretFile(t, "from-the-file")
	t.Setenv("SECRET_FILE", path)
	proxy := runCaddy(t, partnerSite)
	proxy.want(http.StatusOK)

	changes := []struct {
		name   string
		site   string
		secret string // that the token request has
	}{
		{"another secret", strings.Replace(partnerSite, "partner-secret\n", "other-secret\n", 1), "other-secret"},
		{"the secret from a file", strings.Replace(partnerSite, "partner-secret\n", "{file.{$SECRET_FILE}}\n", 1), "from-the-file"},
		{"another scope", partnerSiteWith("scope more"), "partner-secret"},
	}
	for i, change := range changes {
		proxy.reload(change.site)
		proxy.want(http.StatusOK)

		want := fmt.Sprintf("Bearer access-token-%d", i+2)
		if got := api.lastAuthorization(t); got != want {
			t.Errorf("%s: Authorization is %q, want %q", change.name, got, want)
		}
		seen := auth.seen()
		if _, secret, _ := seen[len(seen)-1].BasicAuth(); secret != change.secret {
			t.Errorf("%s: the secret is %q, want %q", change.name, secret, change.secret)
		}
	}
}

// TestSecretFileRotatedBeforeAReloadGivesANewToken: the line in the config is
// the same, what it stands for is not.
func TestSecretFileRotatedBeforeAReloadGivesANewToken(t *testing.T) {
	auth, api := newAuthServer(t), newAPIServer(t)
	path := secretFile(t, "first-secret")
	t.Setenv("SECRET_FILE", path)
	site := strings.Replace(partnerSite, "partner-secret\n", "{file.{$SECRET_FILE}}\n", 1)
	proxy := runCaddy(t, site)
	proxy.want(http.StatusOK)

	writeSecret(t, path, "second-secret")
	proxy.reload(site)
	proxy.want(http.StatusOK)

	if got := api.lastAuthorization(t); got != "Bearer access-token-2" {
		t.Errorf("Authorization is %q", got)
	}
	if _, secret, _ := auth.seen()[1].BasicAuth(); secret != "second-secret" {
		t.Errorf("the secret is %q", secret)
	}
}

// TestRefusedReloadLeavesTheRunningConfigAlone, with its token.
func TestRefusedReloadLeavesTheRunningConfigAlone(t *testing.T) {
	auth, api := newAuthServer(t), newAPIServer(t)
	proxy := runCaddy(t, partnerSite)
	proxy.want(http.StatusOK)

	config, _, err := adaptCaddyfile(inSurroundings(strings.Replace(partnerSite, "partner-secret\n", "{env.NOT_SET}\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err == nil {
		t.Fatal("a config with an unset environment variable loads")
	}

	proxy.want(http.StatusOK)
	if got := api.lastAuthorization(t); got != "Bearer access-token-1" || auth.count() != 1 {
		t.Errorf("Authorization is %q after %d token requests", got, auth.count())
	}
}

// TestRefusedConfigMakesNoTokenRequests: what it had joined before it was
// refused goes on without it.
func TestRefusedConfigMakesNoTokenRequests(t *testing.T) {
	auth := newAuthServer(t)
	newAPIServer(t)
	auth.answers(issuing(time.Second))
	proxy := runCaddy(t, partnerSite)
	proxy.want(http.StatusOK)

	t.Setenv("LOG_FILE", proxy.logFile+".refused")
	halfGood := strings.Replace(partnerSite, "reverse_proxy", refusedClient+"\treverse_proxy", 1)
	config, _, err := adaptCaddyfile(inSurroundings(halfGood))
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err == nil || !strings.Contains(err.Error(), `client "refused": client_secret: `) {
		t.Fatalf("the error is %v", err)
	}

	renewed := len(proxy.logged(logRenewed))
	eventually(t, "the running config told of a renewal", func() bool {
		proxy.want(http.StatusOK)
		return len(proxy.logged(logRenewed)) > renewed
	})
}

// TestReloadGoesOnLoggingWhereTheNewConfigSays: what outlives a reload holds
// nothing that the old config owned.
func TestReloadGoesOnLoggingWhereTheNewConfigSays(t *testing.T) {
	auth := newAuthServer(t)
	newAPIServer(t)
	auth.answers(issuing(time.Second))
	proxy := runCaddy(t, partnerSite)
	proxy.want(http.StatusOK)

	proxy.logFile += ".new"
	t.Setenv("LOG_FILE", proxy.logFile)
	proxy.reload(partnerSite)

	eventually(t, "the new log told of a renewal", func() bool {
		proxy.want(http.StatusOK)
		return proxy.logged(logRenewed) != nil
	})
}
