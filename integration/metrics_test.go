package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// scrape returns our metrics as the admin endpoint has them, by series without the
// common prefix.
func scrape(t *testing.T, c *caddytest.Caddy) map[string]string {
	t.Helper()
	answer := c.Send(http.MethodGet, os.Getenv("ADMIN"), "/metrics", nil)
	if answer.Status != http.StatusOK {
		t.Fatalf("the scrape is answered with %d: %s", answer.Status, answer.Body)
	}
	series := make(map[string]string)
	for line := range strings.Lines(answer.Body) {
		if ours, ok := strings.CutPrefix(strings.TrimSpace(line), "caddy_upstream_oauth2_"); ok {
			end := strings.LastIndexByte(ours, ' ')
			series[ours[:end]] = ours[end+1:]
		}
	}
	return series
}

// awaitSeries waits until a series has that value: what came of a request is counted
// behind it.
func awaitSeries(t *testing.T, c *caddytest.Caddy, series, value string) {
	t.Helper()
	caddytest.Eventually(t, series+" was "+value, func() bool { return scrape(t, c)[series] == value })
}

func TestMetricsBeginAtZero(t *testing.T) {
	caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("account {http.request.header.X-User}"))
	series := scrape(t, proxy)
	for _, want := range []string{
		`token_requests_total{client="partner",outcome="ok"}`,
		`token_requests_total{client="partner",outcome="invalid_client"}`,
		`token_requests_total{client="partner",outcome="unreachable"}`,
		`token_request_duration_seconds_count{client="partner"}`,
		`injections_total{client="partner",how="fresh"}`,
		`injections_total{client="partner",how="passed"}`,
		`replays_total{client="partner",outcome="accepted"}`,
		`replays_total{client="partner",outcome="not_replayed"}`,
		`consecutive_failures{client="partner"}`,
		`sign_in_needed{client="partner"}`,
		`accounts{client="partner"}`,
		`vault_operations_total{operation="store",outcome="failed"}`,
		`vault_operation_duration_seconds_count{operation="lock"}`,
		`grants_unstored`,
	} {
		if _, ok := series[want]; !ok {
			t.Errorf("there is no %s", want)
		} else if !strings.HasPrefix(want, "vault") && series[want] != "0" {
			t.Errorf("%s is %s before any request", want, series[want])
		}
	}
	if expiry, ok := series[`token_expiry_timestamp_seconds{client="partner"}`]; ok {
		t.Errorf("without a token its expiry is %s", expiry)
	}
	proxy.WantAs("alice", http.StatusOK)
	awaitSeries(t, proxy, `accounts{client="partner"}`, "1")
}

// TestMetricsOutliveReloads: a reload resets nothing, and neither does one that
// fails, whose admin endpoint stays. What is gone from the config is gone from them.
func TestMetricsOutliveReloads(t *testing.T) {
	const fresh, other = `injections_total{client="partner",how="fresh"}`, `injections_total{client="other",how="fresh"}`
	caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	awaitSeries(t, proxy, `token_requests_total{client="partner",outcome="ok"}`, "1")
	proxy.Want(http.StatusOK)
	proxy.Want(http.StatusOK)
	if got := scrape(t, proxy)[fresh]; got != "2" {
		t.Errorf("after two requests %s is %q", fresh, got)
	}

	proxy.Reload(strings.Replace(caddytest.PartnerSite, "http://{$SITE} {", otherDirective, 1))
	proxy.Want(http.StatusOK)
	series := scrape(t, proxy)
	if series[fresh] != "3" || series[other] != "0" {
		t.Errorf("after a reload %s is %q, and %s %q", fresh, series[fresh], other, series[other])
	}

	for name, broken := range map[string]string{
		"as it is set up":   strings.Replace(caddytest.PartnerSite, "reverse_proxy", caddytest.RefusedClient+"\treverse_proxy", 1),
		"before our app is": "{\nupstream_oauth2 {\nencryption_key no-key\n}\n}\n" + caddytest.PartnerSite,
		"as it starts":      strings.Replace(caddytest.PartnerSite, "upstream_oauth2", "bind 192.0.2.1\nupstream_oauth2", 1), // an address of nobody's
	} {
		if err := proxy.TryReload(broken); err == nil {
			t.Fatalf("the config loads that was to be refused %s", name)
		}
	}
	series = scrape(t, proxy)
	if series[fresh] != "3" || series[other] != "0" || series[`consecutive_failures{client="partner"}`] != "0" {
		t.Errorf("after reloads that fail %s is %q, and %s %q", fresh, series[fresh], other, series[other])
	}
	if refused, ok := series[`injections_total{client="refused",how="fresh"}`]; ok {
		t.Errorf("a client of a refused config has a count of %s", refused)
	}

	proxy.Reload(caddytest.PartnerSite)
	caddytest.Eventually(t, "the removed client's series were gone", func() bool {
		for name := range scrape(t, proxy) {
			if strings.Contains(name, `client="other"`) {
				return false
			}
		}
		return true
	})
}

const otherDirective = `http://{$OTHER_SITE} {
	upstream_oauth2 other {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      other-id
		client_secret  other-secret
	}
	reverse_proxy {$API}
}
http://{$SITE} {`

func TestTokenRequestsAreCountedByOutcome(t *testing.T) {
	tests := []struct {
		name    string
		status  int
		body    string
		outcome string
	}{
		{"a token", 200, `{"access_token":"T","token_type":"Bearer","expires_in":3600}`, "ok"},
		{"wrong secret", 401, `{"error":"invalid_client"}`, "invalid_client"},
		{"dead assertion", 400, `{"error":"invalid_grant"}`, "invalid_grant"},
		{"another refusal", 400, `{"error":"invalid_scope"}`, "other_oauth"},
		{"a code of the server's own", 400, `{"error":"account_on_holiday"}`, "other_oauth"},
		{"too many", 429, ``, "throttled"},
		{"out of order", 503, ``, "server_error"},
		{"a web page", 200, `<html>`, "unreadable"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Says(test.status, test.body)
			proxy := caddytest.Run(t, caddytest.PartnerSite)
			awaitSeries(t, proxy, fmt.Sprintf(`token_requests_total{client="partner",outcome=%q}`, test.outcome), "1")
			if got := scrape(t, proxy)[`token_request_duration_seconds_count{client="partner"}`]; got != "1" {
				t.Errorf("%s durations are counted, want 1", got)
			}
			failures := "1"
			if test.outcome == "ok" {
				failures = "0"
			}
			awaitSeries(t, proxy, `consecutive_failures{client="partner"}`, failures)
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		caddytest.NewAuthServer(t).Close()
		caddytest.NewAPIServer(t)
		proxy := caddytest.Run(t, caddytest.PartnerSite)
		awaitSeries(t, proxy, `token_requests_total{client="partner",outcome="unreachable"}`, "1")
	})
}

// TestRequestsAreCountedOnce by how they came by their token; a replay is counted by
// what came of it.
func TestRequestsAreCountedOnce(t *testing.T) {
	t.Run("waited and replayed", func(t *testing.T) {
		auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
		api.Answers(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.Header.Get("Authorization"), "-1") {
				w.WriteHeader(http.StatusUnauthorized)
			}
		})
		proceed := make(chan struct{})
		auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
			<-proceed
			caddytest.Issuing(time.Hour)(w, r)
		})
		proxy := caddytest.Run(t, caddytest.PartnerSiteWith("account {http.request.header.X-User}"))
		close(proceed)
		proxy.WantAs("alice", http.StatusOK)
		series := scrape(t, proxy)
		for name, want := range map[string]string{
			`injections_total{client="partner",how="fresh"}`:         "0",
			`injections_total{client="partner",how="waited"}`:        "1",
			`injections_total{client="partner",how="failed"}`:        "0",
			`replays_total{client="partner",outcome="accepted"}`:     "1",
			`replays_total{client="partner",outcome="not_replayed"}`: "0",
		} {
			if series[name] != want {
				t.Errorf("%s is %q, want %s", name, series[name], want)
			}
		}
	})
	t.Run("without a token", func(t *testing.T) {
		auth := caddytest.NewAuthServer(t)
		caddytest.NewAPIServer(t)
		auth.Says(http.StatusUnauthorized, `{"error":"invalid_client"}`)
		proxy := caddytest.Run(t, caddytest.PartnerSite)
		proxy.Want(http.StatusBadGateway)
		awaitSeries(t, proxy, `injections_total{client="partner",how="failed"}`, "1")

		proxy.Reload(caddytest.PartnerSiteWith("on_error pass"))
		proxy.Want(http.StatusOK)
		awaitSeries(t, proxy, `injections_total{client="partner",how="passed"}`, "1")
	})
}
