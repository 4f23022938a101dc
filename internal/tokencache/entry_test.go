package tokencache

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

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
		percent          int
		ahead            time.Duration
		life             time.Duration
		earliest, latest time.Duration
	}{
		{
			name:    "20% of an hour",
			percent: 20, life: time.Hour,
			earliest: 60*time.Minute - 13*time.Minute - 12*time.Second, latest: 48 * time.Minute,
		},
		{
			name:    "90% of an hour",
			percent: 90, life: time.Hour,
			earliest: 5*time.Minute + 24*time.Second, latest: 6 * time.Minute,
		},
		{
			name:  "five minutes of an hour",
			ahead: 5 * time.Minute, life: time.Hour,
			earliest: 60*time.Minute - 5*time.Minute - 30*time.Second, latest: 55 * time.Minute,
		},
		{
			name:  "five minutes of two count as one, half the life",
			ahead: 5 * time.Minute, life: 2 * time.Minute,
			earliest: 60*time.Second - 6*time.Second, latest: time.Minute,
		},
		{
			name:    "1% of an hour is more than the margin",
			percent: 1, life: time.Hour,
			earliest: 60*time.Minute - 39600*time.Millisecond, latest: 60*time.Minute - 36*time.Second,
		},
		{
			name:    "1% of a minute is less than the margin, which counts instead",
			percent: 1, life: time.Minute,
			earliest: 60*time.Second - 6600*time.Millisecond, latest: 54 * time.Second,
		},
		{
			name:    "no life stated",
			percent: 20, life: 0,
			earliest: 46800 * time.Millisecond, latest: 48 * time.Second,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				life := Settings{RefreshAheadPercent: test.percent, RefreshAhead: test.ahead, DefaultLifetime: stated(testDefaultLifetime)}
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
		if !errors.Is(got.err, ErrExpiredOnArrival) {
			t.Fatalf("the first request got %v, want %v", got.err, ErrExpiredOnArrival)
		}
		for _, got := range r.demand(10*time.Millisecond, 10*time.Minute) {
			if _, ok := errors.AsType[*Failure](got.err); !ok || got.waited != 0 {
				t.Fatalf("after waiting for %v: %v, want a failure at once", got.waited, got.err)
			}
		}
		if n := r.config.count(); n > 30 {
			t.Errorf("%d token requests in ten minutes, want a backoff", n)
		}
		if o := r.config.lastReport(t); !errors.Is(o.Err, ErrExpiredOnArrival) || o.Failures < 7 {
			t.Errorf("reported %v after %d failures", o.Err, o.Failures)
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
			held := newHeldToken(&authserver.Token{
				Lifetime:    stated(life),
				RequestedAt: withWallClock(t, now.Add(test.monotonic-life), test.wall-test.monotonic),
			}, &twentyPercent)
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
		held := newHeldToken(&authserver.Token{Lifetime: stated(100 * time.Second), RequestedAt: now}, &twentyPercent)
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

func TestTimerStoppedTooLateDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A timer may have fired already when it is stopped and set anew. It
		// then finds that nothing is due.
		r := newRig(t, twentyPercent, always(answer{err: errDown}))
		r.take(t.Context())
		r.take(t.Context())
		r.cache.only.onTimer()
		r.wantCount(1)
		if got := r.take(t.Context()); !errors.Is(got.err, errDown) {
			t.Errorf("got %v, want the known failure", got.err)
		}
		time.Sleep(time.Second)
		r.wantCount(2)
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
				r.cache.Close()
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
			time.AfterFunc(time.Second, r.cache.Close)
			if got := r.take(t.Context()); !errors.Is(got.err, context.Canceled) || got.waited != time.Second+closeGrace {
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
	cache := open(t, twentyPercent, &accountServer{lifetime: time.Hour})
	failed := &call{done: make(chan struct{}), started: time.Now(), waiters: 1, abandon: func(error) {}}
	close(failed.done)
	want, _, err := cache.only.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	if got, err := cache.only.await(t.Context(), decision{wait: failed}); got == nil || got.Token != want {
		t.Errorf("the waiter gets %v, %v", got, err)
	}
}

// TestIdleClientIsNotWarmedAgain at each reload: nobody has asked for its token.
func TestIdleClientIsNotWarmedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &accountServer{lifetime: time.Minute}
		cache := open(t, twentyPercent, server)
		cache.Entry(nil).Warm()
		time.Sleep(time.Hour)

		cache.Entry(nil).Warm()
		if n := server.requests.Load(); n != 1 {
			t.Errorf("it is warmed again: %d token requests", n)
		}
		if _, _, err := cache.Entry(nil).Token(t.Context()); err != nil || server.requests.Load() != 2 {
			t.Errorf("the next request gets %v after %d token requests", err, server.requests.Load())
		}
	})
}
