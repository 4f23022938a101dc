package upstreamoauth2

import (
	"maps"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// gathered returns what a scrape of a config's registry would have of ours: the
// number of series of each metric for each client.
func gathered(t *testing.T) map[string]map[string]int {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	for range 2 { // the admin endpoint and the app both do
		if err := registerMetrics(registry); err != nil {
			t.Fatal(err)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := make(map[string]map[string]int)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() != "client" {
					continue
				}
				if series[label.GetValue()] == nil {
					series[label.GetValue()] = make(map[string]int)
				}
				series[label.GetValue()][family.GetName()]++
			}
		}
	}
	return series
}

// metricsClient is a client of these tests; its scope tells it from others.
func metricsClient(scope, account string) *config.Client {
	return &config.Client{
		TokenEndpoint: "http://127.0.0.1/token",
		ClientID:      "partner",
		ClientSecret:  new(config.Credential("secret")),
		Scope:         []string{scope},
		Account:       account,
	}
}

// TestMetricsOfEachClientOnce: a pedantic registry fails the whole scrape over two
// equal series, or one that is not valid.
func TestMetricsOfEachClientOnce(t *testing.T) {
	const odd = "odd \xff name"
	ctx := provisionBench(t, map[string]*config.Client{
		"plain":    metricsClient("a", ""),
		"same":     metricsClient("a", ""),
		"accounts": metricsClient("a", "{http.auth.user.id}"),
	})
	app := benchApp(t, ctx)
	t.Cleanup(func() { cleanUp(t, app) })
	for _, scope := range []string{"b", "c", "c"} { // as handlers do that have no name for theirs
		if _, err := app.open(ctx, "", *metricsClient(scope, "")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := app.open(ctx, odd, *metricsClient("d", "")); err != nil {
		t.Fatal(err)
	}
	loaded.starts(app)

	want := map[string]int{
		"caddy_upstream_oauth2_token_requests_total":           8,
		"caddy_upstream_oauth2_token_request_duration_seconds": 1,
		"caddy_upstream_oauth2_injections_total":               5,
		"caddy_upstream_oauth2_replays_total":                  4,
		"caddy_upstream_oauth2_consecutive_failures":           1,
		"caddy_upstream_oauth2_sign_in_needed":                 1,
		"caddy_upstream_oauth2_accounts":                       1,
	}
	series := gathered(t)
	for _, name := range []string{"plain", "same", "accounts", "127.0.0.1 partner", "odd \ufffd name"} {
		if got := series[name]; !maps.Equal(got, want) {
			t.Errorf("client %q has the series %v, want %v", name, got, want)
		}
	}
	if n := len(series); n != 5 {
		t.Errorf("there are series of %v, want 5 clients", slices.Sorted(maps.Keys(series)))
	}
}

// TestCountersEndWithTheLastClientOfTheirName: during a reload two configs have it.
func TestCountersEndWithTheLastClientOfTheirName(t *testing.T) {
	clients := map[string]*config.Client{t.Name(): metricsClient("a", "")}
	before := benchApp(t, provisionBench(t, clients))
	before.live[0].counters.injections[howFailed].Add(1)
	after := benchApp(t, provisionBench(t, clients))
	if before.live[0].counters != after.live[0].counters {
		t.Error("the second config begins to count anew")
	}
	cleanUp(t, before)
	if series := gathered(t)[t.Name()]; series["caddy_upstream_oauth2_injections_total"] != 5 {
		t.Errorf("the second config is left with the series %v", series)
	}
	cleanUp(t, after)
	if series := gathered(t)[t.Name()]; series != nil {
		t.Errorf("there are still the series %v, and nobody has that name", series)
	}
}

// BenchmarkScrape has a thousand clients.
func BenchmarkScrape(b *testing.B) {
	clients := benchClients("https://auth.partner.example/oauth/token")
	for _, name := range slices.Sorted(maps.Keys(clients))[1000:] {
		delete(clients, name)
	}
	app := benchApp(b, provisionBench(b, clients))
	defer cleanUp(b, app)
	loaded.starts(app)
	registry := prometheus.NewPedanticRegistry()
	if err := registerMetrics(registry); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := registry.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
