package upstreamoauth2

import (
	"errors"
	"io/fs"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/upstream"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// What is counted belongs to no config: every config registers the same collectors in
// its own registry and none resets them, so that a reload, also one that fails, loses
// no count. What can be looked at is not counted, but read at each scrape.
var (
	tokenRequestDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    metricPrefix + "token_request_duration_seconds",
		Help:    "How long token requests took.",
		Buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
	}, []string{"client"})

	vaultOperations = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricPrefix + "vault_operations_total",
		Help: "Operations of the storage that grants are kept in, by what came of them.",
	}, []string{"operation", "outcome"})

	vaultOperationDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    metricPrefix + "vault_operation_duration_seconds",
		Help:    "How long operations of the storage that grants are kept in took.",
		Buckets: []float64{0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5},
	}, []string{"operation"})
)

const metricPrefix = "caddy_upstream_oauth2_"

// What the labels of the counters may be, in order. Values that callers or servers
// choose are never among them.
var (
	requestOutcomes = []string{"invalid_client", "invalid_grant", "ok", "other_oauth", "server_error", "throttled", "unreachable", "unreadable"}
	injectionHows   = []string{howFailed, string(tokencache.Fresh), howPassed, string(tokencache.Renewing), string(tokencache.Waited)}
	replayOutcomes  = []string{string(upstream.Accepted), string(upstream.Failed), string(upstream.NotReplayed), string(upstream.RejectedAgain)}
	vaultOutcomes   = []string{"absent", "failed", "ok"}
	vaultCalls      = []string{"delete", "list", "load", "lock", "store", "unlock"}
)

// How requests fared that got no token.
const (
	howFailed = "failed"
	howPassed = "passed"
)

func init() {
	for _, operation := range vaultCalls {
		vaultOperationDuration.WithLabelValues(operation)
		for _, outcome := range vaultOutcomes {
			vaultOperations.WithLabelValues(operation, outcome)
		}
	}
}

var collectors = []prometheus.Collector{perClient{}, tokenRequestDuration, vaultOperations, vaultOperationDuration}

// registerMetrics registers all metrics in a config's registry, once.
func registerMetrics(registry *prometheus.Registry) error {
	for _, c := range collectors {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

// counters are those of a client. They are looked up when the client is opened, so
// that to count costs a request next to nothing.
type counters struct {
	users       int // clients of that name, in all configs
	requestTime prometheus.Observer
	requests    counts // by outcome
	injections  counts // by how
	replays     counts // by outcome
}

// counts are those of a metric, by the label that it has beside the client.
type counts map[string]*atomic.Uint64

func newCounts(labels []string) counts {
	c := make(counts)
	for _, label := range labels {
		c[label] = new(atomic.Uint64)
	}
	return c
}

// countersByName holds the counters of all clients.
type countersByName struct {
	mu     sync.Mutex
	byName map[string]*counters
}

var counted = countersByName{byName: make(map[string]*counters)}

// open returns the counters of the clients of that name, until close. They begin at
// zero, so that the first failure shows as an increase.
func (n *countersByName) open(name string) *counters {
	name = clientLabel(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	c, ok := n.byName[name]
	if !ok {
		c = &counters{
			requestTime: tokenRequestDuration.WithLabelValues(name),
			requests:    newCounts(requestOutcomes),
			injections:  newCounts(injectionHows),
			replays:     newCounts(replayOutcomes),
		}
		n.byName[name] = c
	}
	c.users++
	return c
}

// close ends a client's use of its counters. The series end with the last client of
// that name.
func (n *countersByName) close(name string) {
	name = clientLabel(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.byName[name]
	if c.users--; c.users > 0 {
		return
	}
	delete(n.byName, name)
	tokenRequestDuration.DeleteLabelValues(name)
}

// all returns the counters in the order of their labels.
func (n *countersByName) all() iter.Seq2[string, *counters] {
	n.mu.Lock()
	names := slices.Sorted(maps.Keys(n.byName))
	byName := maps.Clone(n.byName)
	n.mu.Unlock()
	return func(yield func(string, *counters) bool) {
		for _, name := range names {
			if !yield(name, byName[name]) {
				return
			}
		}
	}
}

// clientLabel is a client's name as Prometheus takes it.
func clientLabel(name string) string { return strings.ToValidUTF8(name, "\ufffd") }

// requested counts a token request.
func (c *counters) requested(took time.Duration, err error) {
	if outcome := requestOutcome(err); outcome != "" {
		c.requests[outcome].Add(1)
		c.requestTime.Observe(took.Seconds())
	}
}

// requestOutcome says what came of a token request; "" if none was sent.
func requestOutcome(err error) string {
	if err == nil {
		return "ok"
	}
	failed, ok := errors.AsType[*authserver.Error](err)
	switch {
	case !ok || failed.Kind == authserver.Unprepared:
		return ""
	case failed.Kind == authserver.Unreadable:
		return "unreadable"
	case failed.Kind == authserver.Refused && (failed.Code == "invalid_client" || failed.Code == "invalid_grant"):
		return failed.Code
	case failed.Kind == authserver.Refused:
		return "other_oauth"
	case failed.Status == http.StatusTooManyRequests || failed.Code == "slow_down":
		return "throttled"
	case failed.Status == 0:
		return "unreachable"
	}
	return "server_error"
}

// countOperation counts an operation of the vault's storage.
func countOperation(o vault.Outcome) {
	if o.Event != vault.Operated {
		return
	}
	outcome := "ok"
	switch {
	case errors.Is(o.Err, fs.ErrNotExist):
		outcome = "absent"
	case o.Err != nil:
		outcome = "failed"
	}
	vaultOperations.WithLabelValues(o.Operation, outcome).Inc()
	vaultOperationDuration.WithLabelValues(o.Operation).Observe(o.Took.Seconds())
}

// perClient collects what there is for each client: the counts of all that are loaded,
// and how those are off whose config is the newest that has started.
type perClient struct{}

var (
	tokenRequests       = newDesc("token_requests_total", "Token requests, by what came of them.", "client", "outcome")
	injections          = newDesc("injections_total", "Requests that were to get a token, by how they came by it; failed and passed ones got none.", "client", "how")
	replays             = newDesc("replays_total", "Requests whose token the API rejected, by what came of sending them again.", "client", "outcome")
	tokenExpiry         = newDesc("token_expiry_timestamp_seconds", "When the token in hand expires; with accounts, the one that expires first.", "client")
	consecutiveFailures = newDesc("consecutive_failures", "How many attempts to get a token have failed in a row; with accounts, of the one with the most.", "client")
	signInNeeded        = newDesc("sign_in_needed", "How many grants are dead or were never there, so that somebody has to sign in.", "client")
	accountsHeld        = newDesc("accounts", "How many accounts with a token are held.", "client")
	grantsUnstored      = newDesc("grants_unstored", "How many grants were refreshed and are not stored yet: a crash would lose them.")
)

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricPrefix+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (perClient) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		tokenRequests, injections, replays, tokenExpiry, consecutiveFailures, signInNeeded, accountsHeld, grantsUnstored,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. Series that come in order need no sorting.
func (perClient) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	count := func(d *prometheus.Desc, c counts, label, client string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(c[label].Load()), client, label)
	}
	for client, c := range counted.all() {
		for _, outcome := range requestOutcomes {
			count(tokenRequests, c.requests, outcome, client)
		}
		for _, how := range injectionHows {
			count(injections, c.injections, how, client)
		}
		for _, outcome := range replayOutcomes {
			count(replays, c.replays, outcome, client)
		}
	}
	for client, s := range loaded.running().summaries() {
		gauge(consecutiveFailures, float64(s.failures), client)
		gauge(signInNeeded, float64(s.signIn), client)
		gauge(accountsHeld, float64(s.accounts), client)
		if !s.expires.IsZero() {
			gauge(tokenExpiry, float64(s.expires.UnixMilli())/1000, client)
		}
	}
	gauge(grantsUnstored, float64(grants.sealed.Unstored()))
}

// summary is what gauges say of the clients of one name.
type summary struct {
	failures, signIn, accounts int
	expires                    time.Time
}

// summaries returns what there is to say of the app's clients, by their label. Some
// may have the same name, and those with the same settings are one.
func (a *App) summaries() map[string]summary {
	byLabel := make(map[string]summary)
	for _, c := range a.clients() {
		s := byLabel[clientLabel(c.name)]
		s.accounts += c.shared.cache.Accounts()
		for status := range c.shared.cache.Statuses() {
			s.failures = max(s.failures, status.Failures)
			if needsSignIn(status) {
				s.signIn++
			}
			if !status.ExpiresAt.IsZero() && (s.expires.IsZero() || status.ExpiresAt.Before(s.expires)) {
				s.expires = status.ExpiresAt
			}
		}
		byLabel[clientLabel(c.name)] = s
	}
	return byLabel
}

// needsSignIn reports whether the last attempt failed for want of a grant.
func needsSignIn(s tokencache.Status) bool {
	_, dead := errors.AsType[*tokensource.GrantError](s.LastError)
	return dead && s.Failures > 0
}
