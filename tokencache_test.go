package upstreamoauth2

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// These tests run in synctest bubbles: the clock stands still while anything
// runs, and jumps when all goroutines sleep. A wait of zero is exactly zero,
// and a day takes no time.

// answer is what a scriptedConfig's token request comes to.
type answer struct {
	after    time.Duration // the request takes this long
	lifetime time.Duration // 0: the server stated none
	err      error         // instead of a token
}

// never is for requests that hang until their context ends.
const never = 1000 * time.Hour

// always gives every request the same answer.
func always(a answer) func(int) answer {
	return func(int) answer { return a }
}

// inTurn gives each request the next answer; the last one is for all the rest.
func inTurn(answers ...answer) func(int) answer {
	return func(n int) answer { return answers[min(n, len(answers))-1] }
}

// outage is a switch for a script: while it is on, the server is down.
type outage struct{ on atomic.Bool }

func (o *outage) script(up, down answer) func(int) answer {
	return func(int) answer {
		if o.on.Load() {
			return down
		}
		return up
	}
}

// errDown is what an unreachable server gives.
var errDown error = &authserver.Error{Kind: authserver.Unavailable}

// scriptedConfig is a config that uses a cache, and the authorization server
// behind it. Its n-th token is called "token-n", n counting requests from 1.
type scriptedConfig struct {
	name   string
	script func(n int) answer

	mu       sync.Mutex
	requests []time.Time // when each token request went out
	issued   map[string]issuedToken
	newest   issuedToken
	reports  []report
	inFlight int
	overlap  bool // two have been in flight at a time
}

type issuedToken struct {
	name            string
	margin, expires time.Time
}

type report struct {
	outcome
	at time.Time
}

func (c *scriptedConfig) Fetch(ctx context.Context, _ []string, _ *authserver.Token) (*authserver.Token, error) {
	now := time.Now()
	c.mu.Lock()
	c.requests = append(c.requests, now)
	n := len(c.requests)
	c.inFlight++
	c.overlap = c.overlap || c.inFlight > 1
	c.mu.Unlock()

	a := c.script(n)
	if a.after > 0 {
		select {
		case <-time.After(a.after):
		case <-ctx.Done():
			a.err = ctx.Err()
		}
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight--
	if a.err != nil {
		return nil, a.err
	}
	c.newest = c.issue(fmt.Sprintf("%stoken-%d", c.name, n), now, a.lifetime)
	token := authserver.NewToken(c.newest.name, "Bearer")
	token.Lifetime, token.RequestedAt = stated(a.lifetime), now
	return token, nil
}

// issue writes down what the design says about the token's life: it counts
// from the request, and its margin is ten seconds or a tenth.
func (c *scriptedConfig) issue(name string, now time.Time, life time.Duration) issuedToken {
	if life == 0 {
		life = testDefaultLifetime
	}
	expires := now.Add(life)
	token := issuedToken{name: name, expires: expires, margin: expires.Add(-min(10*time.Second, life/10))}
	if c.issued == nil {
		c.issued = make(map[string]issuedToken)
	}
	c.issued[name] = token
	return token
}

func (c *scriptedConfig) report(o outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reports = append(c.reports, report{o, time.Now()})
}

// count returns how many token requests have gone out.
func (c *scriptedConfig) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.requests)
}

// tokens returns how many tokens have been issued, and the newest one.
func (c *scriptedConfig) tokens() (int, issuedToken) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.issued), c.newest
}

// silent reports whether the config was told of no fetch.
func (c *scriptedConfig) silent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.reports) == 0
}

// overlapped reports whether two token requests were ever in flight at a time.
func (c *scriptedConfig) overlapped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.overlap
}

// busy reports whether a token request is in flight.
func (c *scriptedConfig) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight > 0
}

// gaps returns the times between one token request and the next.
func (c *scriptedConfig) gaps() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var gaps []time.Duration
	for i := 1; i < len(c.requests); i++ {
		gaps = append(gaps, c.requests[i].Sub(c.requests[i-1]))
	}
	return gaps
}

// lastReport returns the newest report.
func (c *scriptedConfig) lastReport(t *testing.T) report {
	t.Helper()
	synctest.Wait() // a report follows its token at once, but on its own goroutine
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.reports) == 0 {
		t.Fatal("nothing has been reported")
	}
	return c.reports[len(c.reports)-1]
}

// testDefaultLifetime is for tokens without a stated life.
const testDefaultLifetime = time.Minute

// stated is the life that a server states for one of the given length: the last
// second, or half of it, by which servers round it up, is not counted.
func stated(life time.Duration) time.Duration {
	return life + min(life, time.Second)
}

// twentyPercent are the default settings.
var twentyPercent = lifeSettings{refreshAhead: ahead{percent: 20}, defaultLifetime: stated(testDefaultLifetime)}

// rig is a cache under test, used by one config. It watches over what must
// hold in every test: no expired token is handed out, and one token request is
// made at a time.
type rig struct {
	t      *testing.T
	shared *shared
	cache  *tokenCache
	config *scriptedConfig
}

// rigs numbers the rigs, so that each has a key of its own in the pool.
var rigs atomic.Int64

func newRig(t *testing.T, life lifeSettings, script func(n int) answer) *rig {
	t.Helper()
	key := fmt.Sprintf("%s %d", t.Name(), rigs.Add(1))
	r := &rig{t: t, config: &scriptedConfig{script: script}}
	var err error
	if r.shared, err = openTestShared(key, life, r.config); err != nil {
		t.Fatal(err)
	}
	r.cache = r.shared.cache
	t.Cleanup(func() {
		if err := closeTestShared(key, r.shared, r.config); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * fetchGrace) // by then the last fetch has been ended
		if r.config.overlapped() {
			t.Error("two token requests were in flight at a time")
		}
	})
	return r
}

// taken is what came of asking for a token.
type taken struct {
	token  string // its name
	err    error
	asked  time.Time
	waited time.Duration
}

func (r *rig) take(ctx context.Context) taken {
	asked := time.Now()
	held, err := r.cache.slot.token(ctx)
	got := taken{err: err, asked: asked, waited: time.Since(asked)}
	if err != nil {
		return got
	}
	got.token = held.AccessToken.Reveal()
	r.config.mu.Lock()
	defer r.config.mu.Unlock()
	if token, known := r.config.issued[got.token]; known && !time.Now().Before(token.expires) {
		r.t.Errorf("%s was handed out %v after it had expired", got.token, time.Since(token.expires))
	}
	return got
}

// warm does what every client without accounts does at start.
func (r *rig) warm() {
	r.cache.slot.warm()
	synctest.Wait()
}

// request takes a token, which must be the named one and come after a wait.
func (r *rig) request(token string, wait time.Duration) {
	r.t.Helper()
	got := r.take(r.t.Context())
	if got.err != nil {
		r.t.Fatalf("no token after %v: %v, want %s", got.waited, got.err, token)
	}
	if got.token != token || got.waited != wait {
		r.t.Fatalf("got %s after waiting for %v, want %s after %v", got.token, got.waited, token, wait)
	}
}

// atOnce takes a token, which must be the named one and come without a wait.
func (r *rig) atOnce(token string) {
	r.t.Helper()
	r.request(token, 0)
}

// demand asks for a token at regular intervals for some time. The requests do
// not wait for each other. It returns when all of them have an answer.
func (r *rig) demand(every, total time.Duration) []taken {
	results := make([]taken, total/every)
	var requests sync.WaitGroup
	for i := range results {
		requests.Go(func() { results[i] = r.take(r.t.Context()) })
		time.Sleep(every)
	}
	requests.Wait()
	return results
}

// wantCount fails the test unless that many token requests have gone out.
func (r *rig) wantCount(want int) {
	r.t.Helper()
	synctest.Wait()
	if got := r.config.count(); got != want {
		r.t.Fatalf("%d token requests, want %d", got, want)
	}
}

// wantBetween fails the test unless low <= got <= high.
func wantBetween(t *testing.T, what string, got, low, high time.Duration) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s is %v, want between %v and %v", what, got, low, high)
	}
}

// A token in its prime.

func TestFreshTokenIsServedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twentyPercent, always(answer{after: 2 * time.Second, lifetime: time.Hour}))
		r.request("token-1", 2*time.Second)

		// Four fifths of the life, less a tenth of the last fifth for jitter.
		fresh := 46*time.Minute + 48*time.Second
		for range 1000 {
			time.Sleep((fresh - 2*time.Second) / 1001)
			r.atOnce("token-1")
		}
		r.wantCount(1)
	})
}

func TestRenewalComesAtRefreshAheadWithJitter(t *testing.T) {
	tests := []struct {
		name             string
		ahead            ahead
		life             time.Duration
		earliest, latest time.Duration
	}{
		{
			name:  "20% of an hour",
			ahead: ahead{percent: 20}, life: time.Hour,
			earliest: 60*time.Minute - 13*time.Minute - 12*time.Second, latest: 48 * time.Minute,
		},
		{
			name:  "90% of an hour",
			ahead: ahead{percent: 90}, life: time.Hour,
			earliest: 5*time.Minute + 24*time.Second, latest: 6 * time.Minute,
		},
		{
			name:  "five minutes of an hour",
			ahead: ahead{fixed: 5 * time.Minute}, life: time.Hour,
			earliest: 60*time.Minute - 5*time.Minute - 30*time.Second, latest: 55 * time.Minute,
		},
		{
			name:  "five minutes of two count as one, half the life",
			ahead: ahead{fixed: 5 * time.Minute}, life: 2 * time.Minute,
			earliest: 60*time.Second - 6*time.Second, latest: time.Minute,
		},
		{
			name:  "1% of an hour is more than the margin",
			ahead: ahead{percent: 1}, life: time.Hour,
			earliest: 60*time.Minute - 39600*time.Millisecond, latest: 60*time.Minute - 36*time.Second,
		},
		{
			name:  "1% of a minute is less than the margin, which counts instead",
			ahead: ahead{percent: 1}, life: time.Minute,
			earliest: 60*time.Second - 6600*time.Millisecond, latest: 54 * time.Second,
		},
		{
			name:  "no life stated",
			ahead: ahead{percent: 20}, life: 0,
			earliest: 46800 * time.Millisecond, latest: 48 * time.Second,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				life := lifeSettings{refreshAhead: test.ahead, defaultLifetime: stated(testDefaultLifetime)}
				var many []*rig
				for range 200 {
					r := newRig(t, life, inTurn(answer{lifetime: test.life}, answer{lifetime: never}))
					r.atOnce("token-1")
					many = append(many, r)
				}
				time.Sleep(time.Hour)

				first, last := never, time.Duration(0)
				for _, r := range many {
					r.wantCount(2)
					came := r.config.gaps()[0]
					wantBetween(t, "the time until renewal", came, test.earliest, test.latest)
					first, last = min(first, came), max(last, came)
				}
				// Instances that started together must not renew together. Of
				// 200 draws from the span, the extremes lie far apart.
				if spread := last - first; spread < (test.latest-test.earliest)/2 {
					t.Errorf("renewals came within %v of each other, want jitter over most of %v", spread, test.latest-test.earliest)
				}
			})
		})
	}
}

func TestTokenIsRenewedBehindTheTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twentyPercent, always(answer{after: 5 * time.Second, lifetime: 100 * time.Second}))
		r.warm()
		time.Sleep(5 * time.Second)

		seen := make(map[string]int)
		for _, got := range r.demand(10*time.Millisecond, 3*time.Minute) {
			if got.err != nil || got.waited != 0 {
				t.Fatalf("a request waited for %v while a token was there (error: %v)", got.waited, got.err)
			}
			seen[got.token]++
		}
		for _, token := range []string{"token-1", "token-2", "token-3"} {
			if seen[token] == 0 {
				t.Errorf("%s was never handed out: %v", token, seen)
			}
		}
	})
}

func TestUsedTokenIsRenewedOncePerLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twentyPercent, always(answer{after: 50 * time.Millisecond, lifetime: time.Minute}))
		r.demand(time.Second, 2*time.Hour)

		gaps := r.config.gaps()
		if len(gaps) < 100 {
			t.Fatalf("the token was renewed %d times in two hours", len(gaps))
		}
		for _, gap := range gaps {
			wantBetween(t, "the time between renewals", gap, 46800*time.Millisecond, 48*time.Second)
		}
	})
}

func TestIdleTokenIsLetGo(t *testing.T) {
	t.Run("that was never used", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, always(answer{lifetime: time.Minute}))
			r.warm()
			time.Sleep(24 * time.Hour)
			r.wantCount(1)
			r.atOnce("token-2")
		})
	})
	t.Run("whose predecessor was used", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, always(answer{lifetime: time.Minute}))
			r.atOnce("token-1")
			time.Sleep(24 * time.Hour)
			r.wantCount(2) // one renewal for the use, none for its idle successor
			r.atOnce("token-3")
		})
	})
	t.Run("whose renewal failed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, inTurn(answer{lifetime: time.Minute}, answer{err: errDown}, answer{lifetime: time.Minute}))
			r.atOnce("token-1")
			time.Sleep(24 * time.Hour)
			r.wantCount(2) // nobody asked since: no retry
			r.atOnce("token-3")
		})
	})
}

func TestWarmFetchesTheFirstToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down outage
		r := newRig(t, twentyPercent, down.script(answer{lifetime: time.Minute}, answer{err: errDown}))
		r.warm()
		r.wantCount(1)
		r.atOnce("token-1")

		r.warm() // as each reload does
		r.wantCount(1)

		down.on.Store(true)
		time.Sleep(2 * time.Minute) // the renewal fails and the token expires
		r.take(t.Context())
		requests := r.config.count()
		r.warm() // reloads do not get around the backoff
		r.wantCount(requests)
	})
}

// A token near its end.

func TestRequestInTheMarginWaitsBriefly(t *testing.T) {
	tests := []struct {
		name   string
		left   time.Duration // of the token's life
		second answer
		token  string
		wait   time.Duration
	}{
		{
			name: "for the newer token",
			left: 5 * time.Second, second: answer{after: 300 * time.Millisecond, lifetime: time.Hour},
			token: "token-2", wait: 300 * time.Millisecond,
		},
		{
			name: "at most a second for a slow server",
			left: 9 * time.Second, second: answer{after: 8 * time.Second, lifetime: time.Hour},
			token: "token-1", wait: time.Second,
		},
		{
			name: "at most half of what is left",
			left: 400 * time.Millisecond, second: answer{after: 8 * time.Second, lifetime: time.Hour},
			token: "token-1", wait: 200 * time.Millisecond,
		},
		{
			name: "no longer than until the failure",
			left: 5 * time.Second, second: answer{after: 300 * time.Millisecond, err: errDown},
			token: "token-1", wait: 300 * time.Millisecond,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, twentyPercent, inTurn(answer{lifetime: 100 * time.Second}, test.second))
				r.warm() // unused, so that no renewal comes before the margin
				time.Sleep(100*time.Second - test.left)
				r.wantCount(1)
				r.request(test.token, test.wait)
			})
		})
	}

	t.Run("not at all once the server is known to fail", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, inTurn(answer{lifetime: 100 * time.Second}, answer{after: 300 * time.Millisecond, err: errDown}))
			r.warm()
			time.Sleep(95 * time.Second)
			r.request("token-1", 300*time.Millisecond)
			for range 40 {
				time.Sleep(100 * time.Millisecond)
				r.atOnce("token-1")
			}
		})
	})

	t.Run("and the fetch goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, inTurn(answer{lifetime: 100 * time.Second}, answer{after: 8 * time.Second, lifetime: time.Hour}))
			r.warm()
			time.Sleep(91 * time.Second)
			r.request("token-1", time.Second)
			time.Sleep(7*time.Second + time.Millisecond)
			r.atOnce("token-2")
			r.wantCount(2)
		})
	})
}

func TestShortTokensAreCached(t *testing.T) {
	for _, life := range []time.Duration{5 * time.Second, time.Second} {
		t.Run(life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const latency = 20 * time.Millisecond
				r := newRig(t, twentyPercent, always(answer{after: latency, lifetime: life}))
				r.request("token-1", latency)
				for _, got := range r.demand(5*time.Millisecond, time.Minute) {
					if got.err != nil || got.waited != 0 {
						t.Fatalf("a request waited for %v (error: %v)", got.waited, got.err)
					}
				}
				for _, gap := range r.config.gaps() {
					wantBetween(t, "the time between renewals", gap, life*78/100, life*80/100)
				}
			})
		})
	}
}

func TestTokenThatArrivesExpiredIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The answer takes longer than the token lives.
		r := newRig(t, twentyPercent, always(answer{after: 3 * time.Second, lifetime: 2 * time.Second}))
		got := r.take(t.Context())
		if !errors.Is(got.err, errNoLife) {
			t.Fatalf("the first request got %v, want %v", got.err, errNoLife)
		}
		for _, got := range r.demand(10*time.Millisecond, 10*time.Minute) {
			if _, ok := errors.AsType[*backoffError](got.err); !ok || got.waited != 0 {
				t.Fatalf("after waiting for %v: %v, want a failure at once", got.waited, got.err)
			}
		}
		if n := r.config.count(); n > 30 {
			t.Errorf("%d token requests in ten minutes, want a backoff", n)
		}
		if o := r.config.lastReport(t); !errors.Is(o.err, errNoLife) || o.failures < 7 {
			t.Errorf("reported %v after %d failures", o.err, o.failures)
		}
	})
}

func TestTokenExpiresByEitherClock(t *testing.T) {
	now := time.Now()
	tests := []struct {
		name      string
		monotonic time.Duration // how far the token's expiry is by each clock
		wall      time.Duration
		want      bool
	}{
		{"neither has come to it", time.Second, time.Second, false},
		{"both have", -time.Second, -time.Second, true},
		{"both are just there", 0, 0, true},
		{"the machine slept: the monotonic clock stood still", time.Hour, -time.Second, true},
		{"the clock was set back", -time.Second, time.Hour, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			expires := withWallClock(t, now.Add(test.monotonic), test.wall-test.monotonic)
			if got := reached(expires, now); got != test.want {
				t.Errorf("reached = %v, want %v", got, test.want)
			}

			const life = time.Hour
			held := twentyPercent.hold(&authserver.Token{
				Lifetime:    stated(life),
				RequestedAt: withWallClock(t, now.Add(test.monotonic-life), test.wall-test.monotonic),
			})
			if got := held.phase(now) == absent; got != test.want {
				t.Errorf("the token is gone = %v, want %v", got, test.want)
			}
		})
	}
}

// withWallClock returns the time with its wall clock moved, by whole seconds,
// and its monotonic clock as it was.
func withWallClock(t *testing.T, at time.Time, by time.Duration) time.Time {
	t.Helper()
	// Package time has no way to part the two clocks. A Time that has both
	// keeps the wall clock's seconds in its first word, from bit 30.
	moved := at
	*(*uint64)(unsafe.Pointer(&moved)) += uint64(int64(by/time.Second) << 30)
	if moved.Sub(at) != 0 || moved.Round(0).Sub(at.Round(0)) != by {
		t.Fatal("time.Time is laid out in another way by now: mend withWallClock")
	}
	return moved
}

func TestPhasesOfALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		held := twentyPercent.hold(&authserver.Token{Lifetime: stated(100 * time.Second), RequestedAt: now})
		tests := []struct {
			at   time.Duration
			want phase
		}{
			{0, fresh},
			{77 * time.Second, fresh},
			{80 * time.Second, renewing},
			{90*time.Second - 1, renewing},
			{90 * time.Second, margin},
			{100*time.Second - 1, margin},
			{100 * time.Second, absent},
			{time.Hour, absent},
		}
		for _, test := range tests {
			if got := held.phase(now.Add(test.at)); got != test.want {
				t.Errorf("after %v of 100s the phase is %d, want %d", test.at, got, test.want)
			}
		}
		if got := (*heldToken)(nil).phase(now); got != absent {
			t.Errorf("without a token the phase is %d, want %d", got, absent)
		}
	})
}

// Promises over random schedules.

// randomLife sends thousands of requests at random times through a cache whose
// server gives random lives, latencies and failures. It hands each result to
// check, with the token that was there when the request came.
func randomLife(t *testing.T, seed uint64, check func(got taken, before issuedToken)) {
	synctest.Test(t, func(t *testing.T) {
		// Two sources, as the server's goroutine draws at its own times.
		weather, dice := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
		settings := lifeSettings{refreshAhead: ahead{percent: 1 + dice.IntN(90)}, defaultLifetime: stated(testDefaultLifetime)}
		if dice.IntN(2) == 0 {
			settings.refreshAhead = ahead{fixed: upTo(dice, 2*time.Minute)}
		}
		bad := false
		r := newRig(t, settings, func(int) answer {
			if weather.IntN(10) == 0 {
				bad = !bad
			}
			a := answer{
				after:    oneOf(weather, 0, upTo(weather, 200*time.Millisecond), upTo(weather, 200*time.Millisecond), upTo(weather, 15*time.Second)),
				lifetime: oneOf(weather, 0, time.Second, 5*time.Second, upTo(weather, time.Minute), upTo(weather, 20*time.Minute)),
			}
			if bad && weather.IntN(4) > 0 {
				a.err = &authserver.Error{Kind: authserver.Unavailable, RetryAfter: oneOf(weather, 0, 0, upTo(weather, 20*time.Second))}
			}
			return a
		})

		var served, failed int
		for range 3000 {
			time.Sleep(oneOf(dice, upTo(dice, 50*time.Millisecond), upTo(dice, 2*time.Second), upTo(dice, 10*time.Second), upTo(dice, time.Minute)))
			synctest.Wait() // what is due now has happened
			_, before := r.config.tokens()
			results := make([]taken, 1+dice.IntN(8))
			var burst sync.WaitGroup
			for i := range results {
				burst.Go(func() { results[i] = r.take(t.Context()) })
			}
			burst.Wait()
			for _, got := range results {
				check(got, before)
				if got.err != nil {
					failed++
				} else {
					served++
				}
			}
		}
		if tokens, _ := r.config.tokens(); served < 1000 || failed < 100 || tokens < 100 {
			t.Errorf("a tame schedule: %d served, %d failed, %d tokens", served, failed, tokens)
		}
	})
}

// upTo returns a random duration between 1ns and the limit.
func upTo(dice *rand.Rand, limit time.Duration) time.Duration {
	return 1 + time.Duration(dice.Int64N(int64(limit)))
}

func oneOf(dice *rand.Rand, choices ...time.Duration) time.Duration {
	return choices[dice.IntN(len(choices))]
}

const randomSeeds = 20

func TestNoExpiredTokenIsEverHandedOut(t *testing.T) {
	for seed := range uint64(randomSeeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			randomLife(t, seed, func(taken, issuedToken) {
				// The rig itself compares each token's expiry with the clock.
			})
		})
	}
}

func TestNoRequestWaitsOrFailsWhileATokenIsUsable(t *testing.T) {
	for seed := range uint64(randomSeeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			randomLife(t, seed, func(got taken, before issuedToken) {
				if !got.asked.Before(before.expires) {
					return
				}
				left := before.expires.Sub(got.asked)
				if got.err != nil {
					t.Errorf("a request failed with %v of %s's life left: %v", left, before.name, got.err)
				}
				if got.asked.Before(before.margin) && got.waited > 0 {
					t.Errorf("a request waited for %v with %v of %s's life left", got.waited, left, before.name)
				}
				if got.waited > time.Second {
					t.Errorf("in the margin a request waited for %v", got.waited)
				}
			})
		})
	}
}

// Many requests, one fetch.

func TestThousandRequestsShareOneFetch(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
	}{{"that succeeds", nil}, {"that fails", errDown}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const latency = 2 * time.Second
				r := newRig(t, twentyPercent, always(answer{after: latency, lifetime: time.Hour, err: test.err}))
				results := make([]taken, 1000)
				var requests sync.WaitGroup
				for i := range results {
					requests.Go(func() { results[i] = r.take(t.Context()) })
				}
				requests.Wait()

				r.wantCount(1)
				for _, got := range results {
					if got.waited != latency {
						t.Fatalf("a request waited for %v, want %v", got.waited, latency)
					}
					if !errors.Is(got.err, test.err) {
						t.Fatalf("a request got error %v, want %v", got.err, test.err)
					}
					if test.err == nil && got.token != "token-1" {
						t.Fatalf("a request got %q, want token-1", got.token)
					}
				}
			})
		})
	}
}

func TestWaitingRequestLeavesWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twentyPercent, always(answer{after: 5 * time.Second, lifetime: time.Hour}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got := r.take(ctx)
		if !errors.Is(got.err, context.DeadlineExceeded) || got.waited != time.Second {
			t.Fatalf("after %v: %v, want to leave after 1s with the context's error", got.waited, got.err)
		}

		// The fetch is nobody's in particular: it goes on for the next request.
		time.Sleep(time.Second)
		r.request("token-1", 3*time.Second)
		r.wantCount(1)
	})
}

// Failures.

func TestFailureWithLifeLeftIsInvisible(t *testing.T) {
	tests := []struct {
		name string
		down answer
	}{
		{"the server refuses connections", answer{err: errDown}},
		{"the server hangs", answer{after: 10 * time.Second, err: errDown}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var down outage
				r := newRig(t, twentyPercent, down.script(answer{lifetime: 5 * time.Minute}, test.down))
				r.atOnce("token-1")

				// Down from the first renewal until a second before the end, and
				// up again: the retries find it. Renewal starts a minute ahead.
				down.on.Store(true)
				for _, got := range r.demand(100*time.Millisecond, 5*time.Minute) {
					if got.err != nil || got.waited > 0 || got.token != "token-1" {
						t.Fatalf("%v into the outage: %q after %v, error %v", time.Since(got.asked), got.token, got.waited, got.err)
					}
				}
				if n := r.config.count(); n < 3 {
					t.Errorf("%d token requests, want retries during the outage", n)
				}
			})
		})
	}
}

func TestRecoveryBeforeTheExpiryIsInvisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down outage
		r := newRig(t, twentyPercent, down.script(answer{lifetime: time.Hour}, answer{err: errDown}))
		r.atOnce("token-1")
		down.on.Store(true)
		time.AfterFunc(58*time.Minute, func() { down.on.Store(false) })

		results := r.demand(100*time.Millisecond, 70*time.Minute)
		for _, got := range results {
			if got.err != nil || got.waited > 0 {
				t.Fatalf("a request waited for %v, error %v", got.waited, got.err)
			}
		}
		if last := results[len(results)-1].token; last == "token-1" {
			t.Error("the token was not renewed")
		}
	})
}

func TestWithoutLifeRequestsFailAtOnceUntilARetrySucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down outage
		down.on.Store(true)
		const hang = 3 * time.Second
		r := newRig(t, twentyPercent, down.script(
			answer{after: hang, lifetime: time.Hour},
			answer{after: hang, err: errDown}))

		// Nothing is known about the server yet: the first request waits.
		if got := r.take(t.Context()); !errors.Is(got.err, errDown) || got.waited != hang {
			t.Fatalf("the first request got %v after %v, want the server's failure after %v", got.err, got.waited, hang)
		}

		var whileRetrying, between int
		failAtOnce := func() {
			t.Helper()
			synctest.Wait() // no fetch is about to begin or to end
			busy := r.config.busy()
			got := r.take(t.Context())
			failure, ok := errors.AsType[*backoffError](got.err)
			switch {
			case !ok || !errors.Is(got.err, errDown):
				t.Fatalf("a request got error %v, want the server's", got.err)
			case got.waited > 0:
				t.Fatalf("a request waited for %v before it failed", got.waited)
			case busy && failure.retryIn != 0:
				t.Fatalf("during the retry the next one is said to come in %v", failure.retryIn)
			case !busy && (failure.retryIn <= 0 || failure.retryIn > time.Minute):
				t.Fatalf("the next attempt is said to come in %v", failure.retryIn)
			}
			if busy {
				whileRetrying++
			} else {
				between++
			}
		}
		for range 12_000 { // two minutes
			failAtOnce()
			time.Sleep(10 * time.Millisecond)
		}

		// The server is back: requests fail until the next retry has succeeded,
		// also while it is on its way.
		down.on.Store(false)
		for {
			synctest.Wait()
			if tokens, _ := r.config.tokens(); tokens > 0 {
				break
			}
			failAtOnce()
			time.Sleep(10 * time.Millisecond)
		}
		for range 100 {
			got := r.take(t.Context())
			if got.err != nil || got.waited > 0 {
				t.Fatalf("after the recovery: %v, waited for %v", got.err, got.waited)
			}
		}
		if whileRetrying < 1000 || between < 1000 {
			t.Errorf("%d requests came during a retry and %d between them, want many of both", whileRetrying, between)
		}
	})
}

func TestFailureTellsWhenTheNextAttemptComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twentyPercent, always(answer{after: 10 * time.Millisecond, err: errDown}))
		r.take(t.Context())
		for range 20 {
			got := r.take(t.Context())
			failure, ok := errors.AsType[*backoffError](got.err)
			if !ok {
				t.Fatalf("got %v, want a failure that knows when to try again", got.err)
			}
			requests := r.config.count()
			if said := r.config.lastReport(t).retryIn; said != failure.retryIn {
				t.Errorf("reported to come in %v, told the request %v", said, failure.retryIn)
			}
			time.Sleep(failure.retryIn - 1)
			r.wantCount(requests)
			time.Sleep(time.Nanosecond)
			r.wantCount(requests + 1)
			time.Sleep(10 * time.Millisecond) // the attempt fails, too
			synctest.Wait()
		}
	})
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	// The delay after each failure is drawn from the upper three quarters of
	// a step.
	steps := []time.Duration{
		1 * time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second,
		time.Minute, time.Minute, time.Minute, time.Minute,
	}
	t.Run("as drawn", func(t *testing.T) {
		for i, step := range append(steps, time.Minute) {
			shortest, longest := never, time.Duration(0)
			for range 1000 {
				delay := backoff(i)
				shortest, longest = min(shortest, delay), max(longest, delay)
			}
			wantBetween(t, fmt.Sprintf("the shortest of 1000 delays after %d failures", i+1), shortest, step/4, step/3)
			wantBetween(t, fmt.Sprintf("the longest of 1000 delays after %d failures", i+1), longest, step*9/10, step)
		}
		for _, failures := range []int{62, 63, 64, 1000, 1 << 40} { // no shift overflows
			wantBetween(t, fmt.Sprintf("the delay after %d failures", failures), backoff(failures), time.Minute/4, time.Minute)
		}
	})
	t.Run("as seen by the server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, always(answer{err: errDown}))
			r.demand(100*time.Millisecond, 15*time.Minute)
			gaps := r.config.gaps()
			for i, step := range steps {
				wantBetween(t, fmt.Sprintf("the delay after %d failures", i+1), gaps[i], step/4, step)
			}
		})
	})
	t.Run("and starts anew after a success", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fail := answer{err: errDown}
			r := newRig(t, twentyPercent, inTurn(fail, fail, fail, answer{lifetime: 10 * time.Second}, fail))
			r.demand(10*time.Millisecond, time.Minute)
			wantBetween(t, "the delay after the first failure since a success", r.config.gaps()[4], time.Second/4, time.Second)
		})
	})
}

func TestRetryAfterIsObeyed(t *testing.T) {
	tests := []struct {
		name             string
		retryAfter       time.Duration
		earliest, latest time.Duration
	}{
		{"none", 0, time.Second / 4, time.Second},
		{"shorter than the backoff", 100 * time.Millisecond, time.Second / 4, time.Second},
		{"two minutes", 2 * time.Minute, 2 * time.Minute, 2*time.Minute + 12*time.Second},
		{"ten minutes", 10 * time.Minute, 10 * time.Minute, 11 * time.Minute},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				throttled := &authserver.Error{Kind: authserver.Unavailable, RetryAfter: test.retryAfter}
				first, last := never, time.Duration(0)
				for range 100 {
					r := newRig(t, twentyPercent, inTurn(answer{err: fmt.Errorf("wrapped: %w", throttled)}, answer{lifetime: time.Hour}))
					r.take(t.Context())
					said := r.config.lastReport(t).retryIn
					wantBetween(t, "the delay", said, test.earliest, test.latest)
					first, last = min(first, said), max(last, said)

					// Whatever the demand, the server is left alone until then.
					time.Sleep(said / 2)
					if got := r.take(t.Context()); !errors.Is(got.err, throttled) || got.waited > 0 {
						t.Fatalf("got %v after %v, want the failure at once", got.err, got.waited)
					}
					time.Sleep(said - said/2 - 1)
					r.wantCount(1)
					time.Sleep(time.Nanosecond)
					r.wantCount(2)
					r.atOnce("token-2")
				}
				// Throttled instances must not come back all at once.
				if spread := last - first; spread < (test.latest-test.earliest)/2 {
					t.Errorf("the delays lie within %v, want jitter over most of %v", spread, test.latest-test.earliest)
				}
			})
		})
	}
}

func TestLongOutageIsCheapAndEndsSoon(t *testing.T) {
	tests := []struct {
		name   string
		demand time.Duration
		down   answer
	}{
		{"steady demand, server refuses", 250 * time.Millisecond, answer{after: 5 * time.Millisecond, err: errDown}},
		{"steady demand, server hangs", 250 * time.Millisecond, answer{after: 10 * time.Second, err: errDown}},
		{"a request every three seconds", 3 * time.Second, answer{after: 5 * time.Millisecond, err: errDown}},
		{"a request every seven seconds", 7 * time.Second, answer{after: 5 * time.Millisecond, err: errDown}},
		{"a request every forty seconds", 40 * time.Second, answer{after: 5 * time.Millisecond, err: errDown}},
		{"a request every two minutes", 2 * time.Minute, answer{after: 5 * time.Millisecond, err: errDown}},
	}
	const (
		repetitions = 40 // the cache draws its own random numbers
		latency     = 50 * time.Millisecond
		length      = 10 * time.Minute
	)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for range repetitions {
				synctest.Test(t, func(t *testing.T) {
					var down outage
					r := newRig(t, twentyPercent, down.script(answer{after: latency, lifetime: time.Minute}, test.down))
					r.demand(test.demand, 2*time.Minute)
					before := r.config.count()

					down.on.Store(true)
					during := r.demand(test.demand, length)
					if n := r.config.count() - before; n > 30 {
						t.Errorf("%d token requests during the outage, want at most 30", n)
					}
					if last := during[len(during)-1]; !errors.Is(last.err, errDown) {
						t.Errorf("the last request of the outage got %q, %v", last.token, last.err)
					}

					// One backoff step, and what was under way when the server
					// came back. Whoever asks after that gets a token.
					down.on.Store(false)
					back := time.Now()
					recovered := back.Add(time.Minute + test.down.after + latency)
					for _, got := range r.demand(test.demand, 5*time.Minute) {
						if got.err != nil && got.asked.After(recovered) {
							t.Errorf("%v after the server's return: %v", got.asked.Sub(back), got.err)
						}
					}
				})
			}
		})
	}
}

func TestDormantAfterAFailureWithoutDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency = 50 * time.Millisecond
		var down outage
		down.on.Store(true)
		r := newRig(t, twentyPercent, down.script(answer{after: latency, lifetime: time.Hour}, answer{after: latency, err: errDown}))
		r.take(t.Context())
		time.Sleep(24 * time.Hour)
		r.wantCount(1)

		// The next request finds out for itself, and does not start the
		// backoff from the beginning.
		if got := r.take(t.Context()); !errors.Is(got.err, errDown) || got.waited != latency {
			t.Fatalf("got %v after %v, want a failure that was waited for", got.err, got.waited)
		}
		wantBetween(t, "the delay after the second failure", r.config.lastReport(t).retryIn, time.Second/2, 2*time.Second)
		r.wantCount(2)

		time.Sleep(24 * time.Hour)
		down.on.Store(false)
		r.request("token-3", latency)
	})
}

func TestSuccessForgetsTheFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slow = 30 * time.Second
		r := newRig(t, twentyPercent, inTurn(
			answer{err: errDown},
			answer{lifetime: time.Minute},
			answer{after: slow, lifetime: time.Hour}, // the renewal outlasts the token
		))
		r.take(t.Context())
		r.take(t.Context())
		time.Sleep(time.Second) // the retry
		r.atOnce("token-2")

		// The server is not known to fail: a request without a token waits.
		time.Sleep(time.Minute)
		got := r.take(t.Context())
		if got.err != nil || got.token != "token-3" {
			t.Fatalf("got %q, %v, want token-3", got.token, got.err)
		}
		wantBetween(t, "the wait", got.waited, 10*time.Second, slow)
	})
}

func TestTimerStoppedTooLateDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A timer may have fired already when it is stopped and set anew. It
		// then finds that nothing is due.
		r := newRig(t, twentyPercent, always(answer{err: errDown}))
		r.take(t.Context())
		r.take(t.Context())
		r.cache.slot.onTimer()
		r.wantCount(1)
		if got := r.take(t.Context()); !errors.Is(got.err, errDown) {
			t.Errorf("got %v, want the known failure", got.err)
		}
		time.Sleep(time.Second)
		r.wantCount(2)
	})
}

func TestReportsTellTheStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency = time.Second
		var down outage
		r := newRig(t, twentyPercent, down.script(answer{after: latency, lifetime: 100 * time.Second}, answer{err: errDown}))

		r.request("token-1", latency)
		o := r.config.lastReport(t)
		if o.err != nil || !o.first || o.failures != 0 {
			t.Errorf("the first token is reported as %+v", o)
		}
		if o.lifeLeft != 99*time.Second {
			t.Errorf("the first token is said to live for %v, want 99s", o.lifeLeft)
		}
		wantBetween(t, "the time until renewal", o.renewIn, 77*time.Second, 79*time.Second)
		time.Sleep(o.renewIn)
		r.wantCount(2)

		time.Sleep(latency)
		o = r.config.lastReport(t)
		if o.err != nil || o.first || o.failures != 0 {
			t.Errorf("the renewed token is reported as %+v", o)
		}
		r.atOnce("token-2")

		down.on.Store(true)
		time.Sleep(o.renewIn)
		synctest.Wait()
		for failures := 1; failures <= 10; failures++ {
			o := r.config.lastReport(t)
			if !errors.Is(o.err, errDown) || o.failures != failures {
				t.Fatalf("failure %d is reported as %+v", failures, o)
			}
			_, held := r.config.tokens()
			if left := max(held.expires.Sub(o.at), 0); o.lifeLeft != left {
				t.Errorf("with failure %d the token is said to live for %v, want %v", failures, o.lifeLeft, left)
			}
			r.take(t.Context())
			time.Sleep(o.retryIn)
		}

		down.on.Store(false)
		failures := r.config.lastReport(t).failures
		r.take(t.Context())
		time.Sleep(r.config.lastReport(t).retryIn + latency)
		if o := r.config.lastReport(t); o.err != nil || o.first || o.failures != failures {
			t.Errorf("the recovery after %d failures is reported as %+v", failures, o)
		}
	})
}

// Reloads.

// join has one more config use the rig's cache.
func (r *rig) join(key, name string) (config *scriptedConfig, leave func()) {
	r.t.Helper()
	config = &scriptedConfig{name: name, script: r.config.script}
	shared, err := openTestShared(key, twentyPercent, config)
	if err != nil {
		r.t.Fatal(err)
	}
	r.shared, r.cache = shared, shared.cache
	return config, func() {
		if err := closeTestShared(key, shared, config); err != nil {
			r.t.Error(err)
		}
	}
}

// references returns how many configs use the cache for key.
func references(key string) int {
	n, _ := caches.References(key)
	return n
}

func TestCacheOutlivesTheConfigsThatUseIt(t *testing.T) {
	const hour = time.Hour

	t.Run("a reload keeps the token", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			key := t.Name()
			r := &rig{t: t, config: &scriptedConfig{script: always(answer{lifetime: hour})}}
			_, leaveOld := r.join(key, "old ")
			r.atOnce("old token-1")
			cache := r.cache

			newConfig, leaveNew := r.join(key, "new ")
			if r.cache != cache {
				t.Error("the second config got a cache of its own")
			}
			if n := references(key); n != 2 {
				t.Errorf("%d configs are counted, want 2", n)
			}
			leaveOld()
			r.atOnce("old token-1")
			if newConfig.count() != 0 {
				t.Error("the reload cost a token request")
			}
			if n := references(key); n != 1 {
				t.Errorf("%d configs are counted, want 1", n)
			}
			leaveNew()
			if n := references(key); n != 0 {
				t.Errorf("%d configs are counted, want 0", n)
			}

			// Nobody kept it: the token is gone with the cache.
			_, leave := r.join(key, "late ")
			defer leave()
			r.atOnce("late token-1")
		})
	})

	t.Run("the newest config makes the requests", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			key := t.Name()
			r := &rig{t: t, config: &scriptedConfig{script: always(answer{lifetime: time.Minute})}}
			oldConfig, leaveOld := r.join(key, "old ")
			defer leaveOld()
			newConfig, leaveNew := r.join(key, "new ")
			r.atOnce("new token-1")
			if o := newConfig.lastReport(t); o.err != nil {
				t.Errorf("the newest config was told of %v", o.err)
			}
			if !oldConfig.silent() {
				t.Error("the old config was told of a request that was not its own")
			}

			// The new config turns out wrong and is dropped: the old one goes on.
			leaveNew()
			time.Sleep(hour)
			r.atOnce(fmt.Sprintf("old token-%d", oldConfig.count()+1))
			if newConfig.count() != 1 {
				t.Errorf("the dropped config made %d token requests, want 1", newConfig.count())
			}
		})
	})

	t.Run("a request in flight survives its config", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			key := t.Name()
			r := &rig{t: t, config: &scriptedConfig{script: always(answer{after: 5 * time.Second, lifetime: hour})}}
			_, leaveOld := r.join(key, "old ")
			var waiting sync.WaitGroup
			waiting.Go(func() { r.request("old token-1", 5*time.Second) })
			time.Sleep(time.Second)

			newConfig, leaveNew := r.join(key, "new ")
			defer leaveNew()
			leaveOld()
			waiting.Wait()
			r.atOnce("old token-1")
			if newConfig.count() != 0 {
				t.Error("the reload cost a token request")
			}
		})
	})

	t.Run("a failing server is remembered, too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			key := t.Name()
			r := &rig{t: t, config: &scriptedConfig{script: always(answer{err: errDown})}}
			_, leaveOld := r.join(key, "old ")
			r.take(t.Context())
			newConfig, leaveNew := r.join(key, "new ")
			defer leaveNew()
			leaveOld()
			r.warm()
			if got := r.take(t.Context()); !errors.Is(got.err, errDown) || newConfig.count() != 0 {
				t.Errorf("got %v after %d token requests, want the known failure", got.err, newConfig.count())
			}
		})
	})
}

func TestRequestAfterTheLastConfigFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, config: &scriptedConfig{script: always(answer{lifetime: time.Minute})}}
		config, leave := r.join(t.Name(), "")
		r.atOnce("token-1")
		leave()

		// Requests that still drain use the token while it lasts.
		r.atOnce("token-1")
		time.Sleep(time.Minute)
		if got := r.take(t.Context()); !errors.Is(got.err, context.Canceled) || got.waited > 0 {
			t.Errorf("got %q, %v after %v, want an error at once", got.token, got.err, got.waited)
		}
		if config.count() != 1 {
			t.Errorf("the config made %d token requests, one of them after it had left", config.count())
		}
	})
}

func TestDestructEndsTimersAndFetches(t *testing.T) {
	// The configs do not leave first, as they would: whatever stays alive shows
	// in their count. synctest finds the goroutines that stay.
	tests := []struct {
		name   string
		script func(int) answer
		start  func(r *rig)
	}{
		{
			name:   "a renewal that is due",
			script: always(answer{lifetime: time.Minute}),
			start:  func(r *rig) { r.atOnce("token-1") },
		},
		{
			name:   "a retry that is due",
			script: always(answer{err: errDown}),
			start:  func(r *rig) { r.take(r.t.Context()); r.take(r.t.Context()) },
		},
		{
			name:   "a fetch in flight",
			script: always(answer{after: never}),
			start:  func(r *rig) { r.warm() },
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, twentyPercent, test.script)
				test.start(r)
				r.wantCount(1)
				r.cache.close()
				time.Sleep(24 * time.Hour)
				r.wantCount(1)
				if r.config.busy() {
					t.Error("the fetch is still in flight")
				}
			})
		})
	}

	t.Run("and lets waiting requests go", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, always(answer{after: never}))
			time.AfterFunc(time.Second, r.cache.close)
			if got := r.take(t.Context()); !errors.Is(got.err, context.Canceled) || got.waited != time.Second+fetchGrace {
				t.Errorf("got %v after %v, want the end of the cache, a minute after its last config's", got.err, got.waited)
			}
			synctest.Wait()
			if !r.config.silent() {
				t.Error("the end of the cache was reported as a failed token request")
			}
		})
	})
}

// TestWaiterThatWakesLate, after a later fetch has brought a token.
func TestWaiterThatWakesLate(t *testing.T) {
	cache := newTokenCache(twentyPercent, 0)
	cache.fetchers = []fetcher{&accountServer{lifetime: time.Hour}}
	defer cache.close()
	failed := &flight{done: make(chan struct{}), started: time.Now()}
	close(failed.done)
	want, err := cache.slot.token(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	if got, err := cache.slot.await(t.Context(), failed, nil, nil); got == nil || got.Token != want {
		t.Errorf("the waiter gets %v, %v", got, err)
	}
}

// TestIdleClientIsNotWarmedAgain at each reload: nobody has asked for its token.
func TestIdleClientIsNotWarmedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &accountServer{lifetime: time.Minute}
		cache := newTokenCache(twentyPercent, 0)
		cache.fetchers = []fetcher{server}
		defer cache.close()
		<-cache.slot.warm().done
		time.Sleep(time.Hour)

		if flight := cache.slot.warm(); flight != nil {
			t.Error("it is warmed again")
			<-flight.done
		}
		if _, err := cache.slot.token(t.Context()); err != nil || server.requests.Load() != 2 {
			t.Errorf("the next request gets %v after %d token requests", err, server.requests.Load())
		}
	})
}

func openTestShared(key string, life lifeSettings, f fetcher) (*shared, error) {
	value, _, err := caches.LoadOrNew(key, func() (caddy.Destructor, error) { return &shared{cache: newTokenCache(life, 100)}, nil })
	s := value.(*shared)
	s.cache.lend(f)
	return s, err
}

func closeTestShared(key string, s *shared, f fetcher) error {
	s.cache.takeBack(f)
	return closeShared(key)
}
