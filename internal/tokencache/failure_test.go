package tokencache

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

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
			failure, ok := errors.AsType[*Failure](got.err)
			switch {
			case !ok || !errors.Is(got.err, errDown):
				t.Fatalf("a request got error %v, want the server's", got.err)
			case got.waited > 0:
				t.Fatalf("a request waited for %v before it failed", got.waited)
			case busy && failure.RetryIn != 0:
				t.Fatalf("during the retry the next one is said to come in %v", failure.RetryIn)
			case !busy && (failure.RetryIn <= 0 || failure.RetryIn > time.Minute):
				t.Fatalf("the next attempt is said to come in %v", failure.RetryIn)
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
			failure, ok := errors.AsType[*Failure](got.err)
			if !ok {
				t.Fatalf("got %v, want a failure that knows when to try again", got.err)
			}
			requests := r.config.count()
			if said := r.config.lastReport(t).RetryIn; said != failure.RetryIn {
				t.Errorf("reported to come in %v, told the request %v", said, failure.RetryIn)
			}
			time.Sleep(failure.RetryIn - 1)
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
					said := r.config.lastReport(t).RetryIn
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
		wantBetween(t, "the delay after the second failure", r.config.lastReport(t).RetryIn, time.Second/2, 2*time.Second)
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

func TestReportsTellTheStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency = time.Second
		var down outage
		r := newRig(t, twentyPercent, down.script(answer{after: latency, lifetime: 100 * time.Second}, answer{err: errDown}))

		r.request("token-1", latency)
		o := r.config.lastReport(t)
		if o.Err != nil || !o.First || o.Failures != 0 {
			t.Errorf("the first token is reported as %+v", o)
		}
		if o.LifeLeft != 99*time.Second {
			t.Errorf("the first token is said to live for %v, want 99s", o.LifeLeft)
		}
		wantBetween(t, "the time until renewal", o.RenewIn, 77*time.Second, 79*time.Second)
		time.Sleep(o.RenewIn)
		r.wantCount(2)

		time.Sleep(latency)
		o = r.config.lastReport(t)
		if o.Err != nil || o.First || o.Failures != 0 {
			t.Errorf("the renewed token is reported as %+v", o)
		}
		r.atOnce("token-2")

		down.on.Store(true)
		time.Sleep(o.RenewIn)
		synctest.Wait()
		for failures := 1; failures <= 10; failures++ {
			o := r.config.lastReport(t)
			if !errors.Is(o.Err, errDown) || o.Failures != failures {
				t.Fatalf("failure %d is reported as %+v", failures, o)
			}
			_, held := r.config.tokens()
			if left := max(held.expires.Sub(o.at), 0); o.LifeLeft != left {
				t.Errorf("with failure %d the token is said to live for %v, want %v", failures, o.LifeLeft, left)
			}
			r.take(t.Context())
			time.Sleep(o.RetryIn)
		}

		down.on.Store(false)
		failures := r.config.lastReport(t).Failures
		r.take(t.Context())
		time.Sleep(r.config.lastReport(t).RetryIn + latency)
		if o := r.config.lastReport(t); o.Err != nil || o.First || o.Failures != failures {
			t.Errorf("the recovery after %d failures is reported as %+v", failures, o)
		}
	})
}
