package tokencache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

func TestHowTheTokenWasHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down outage
		r := newRig(t, twentyPercent, down.script(answer{after: time.Second, lifetime: 100 * time.Second}, answer{after: 5 * time.Second, err: errDown}))
		want := func(want How) {
			t.Helper()
			if _, how, err := r.cache.Entry(nil).Token(t.Context()); err != nil || how != want {
				t.Errorf("the token was had %q, %v, want %q", how, err, want)
			}
		}
		want(Waited)
		want(Fresh)
		down.on.Store(true)
		time.Sleep(81 * time.Second)
		want(Renewing) // a fetch is in progress
		time.Sleep(12 * time.Second)
		want(Waited)   // in the margin, for a second
		want(Renewing) // and no longer
		down.on.Store(false)
		time.Sleep(time.Minute)
		want(Fresh)
	})
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down outage
		r := newRig(t, twentyPercent, down.script(answer{after: time.Second, lifetime: 100 * time.Second}, answer{err: errDown}))
		entry := r.cache.Entry(nil)
		start := time.Now()
		var s Status
		want := func(when string, state State, failures int) {
			t.Helper()
			synctest.Wait()
			s = entry.Status()
			if s.State != state || s.Failures != failures || mostFailures(r.cache) != failures {
				t.Errorf("%s the state is %q after %d failures, want %q and %d", when, s.State, s.Failures, state, failures)
			}
			if usable := state != StateAbsent && state != StateFailing; s.ExpiresAt.IsZero() == usable || s.RenewAt.IsZero() == usable {
				t.Errorf("%s the token is said to be renewed at %v and to expire at %v", when, s.RenewAt, s.ExpiresAt)
			}
			if failed := failures > 0; s.LastFailure.IsZero() == failed || errors.Is(s.LastError, errDown) != failed {
				t.Errorf("%s the last failure is %v at %v", when, s.LastError, s.LastFailure)
			}
		}

		want("at first", StateAbsent, 0)
		if s != (Status{State: StateAbsent}) {
			t.Errorf("at first the status is %+v", s)
		}
		r.request("token-1", time.Second)
		want("with a token", StateFresh, 0)
		if !s.LastSuccess.Equal(start) || !s.ExpiresAt.Equal(start.Add(100*time.Second)) || !s.NextAttempt.IsZero() {
			t.Errorf("with a token the status is %+v", s)
		}
		wantBetween(t, "the time until renewal", s.RenewAt.Sub(start), 78*time.Second, 80*time.Second)

		down.on.Store(true)
		time.Sleep(time.Until(s.RenewAt))
		want("as the renewal fails", StateRenewing, 1)
		if !s.LastFailure.Equal(time.Now()) {
			t.Errorf("the last failure is said to be %v ago", time.Since(s.LastFailure))
		}
		wantBetween(t, "the time until the next attempt", time.Until(s.NextAttempt), time.Second/4, time.Second)
		time.Sleep(time.Until(s.ExpiresAt.Add(-time.Second))) // nobody asks for another one
		want("near the end", StateMargin, 1)
		if !s.NextAttempt.IsZero() {
			t.Errorf("the next attempt, which the next request makes, is said to come in %v", time.Until(s.NextAttempt))
		}
		time.Sleep(time.Second)
		want("without a token", StateFailing, 1)
		if !s.LastSuccess.Equal(start) {
			t.Errorf("the last success is said to be %v ago", time.Since(s.LastSuccess))
		}

		down.on.Store(false)
		go r.take(t.Context())
		want("during the next attempt", StateFailing, 1)
		if !s.NextAttempt.IsZero() {
			t.Errorf("the next attempt, which is being made, is said to come in %v", time.Until(s.NextAttempt))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if s = entry.Status(); s.State != StateFresh || s.Failures != 0 || s.LastFailure.IsZero() || !s.NextAttempt.IsZero() {
			t.Errorf("after the recovery the status is %+v", s)
		}
	})
}

// TestFailingSince: failures in a row are told from the first of them.
func TestFailingSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twentyPercent, always(answer{err: errDown}))
		entry := r.cache.Entry(nil)
		start := time.Now()
		for range 3 {
			_, _, _ = entry.Token(t.Context())
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if s := entry.Status(); s.Failures < 2 || !s.FailingSince.Equal(start) || !s.LastFailure.After(start) {
			t.Errorf("after failures for %v the status is %+v", time.Since(start), s)
		}
	})
}

func TestStatusOfAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := junkFails(&authserver.Error{Kind: authserver.Unavailable})
		cache := openAccounts(t, 100, server)
		for i := range 3 {
			_, _, _ = cache.Entry([]string{fmt.Sprint("good ", i)}).Token(t.Context())
		}
		for range 10 {
			_, _, _ = cache.Entry([]string{"junk"}).Token(t.Context())
			time.Sleep(time.Second)
		}
		if n := cache.Accounts(); n != 3 {
			t.Errorf("%d accounts are held, want 3", n)
		}
		junk := cache.Known([]string{"junk"}).Status()
		if junk.State != StateFailing || junk.Failures < 3 || mostFailures(cache) != junk.Failures {
			t.Errorf("of an account that fails the status is %+v, and %d failures are said to be the most", junk, mostFailures(cache))
		}
		if s := cache.Known([]string{"good 1"}).Status(); s.State != StateFresh || s.Failures != 0 {
			t.Errorf("of an account with a token the status is %+v", s)
		}
		if cache.Known([]string{"good 7"}) != nil {
			t.Error("an account is known that never asked")
		}
	})
	cache := open(t, twentyPercent, new(accountServer))
	if cache.Known(nil) != cache.Entry(nil) || cache.Accounts() != 0 {
		t.Error("a client without accounts has another entry, or an account")
	}
}

func TestRenew(t *testing.T) {
	throttled := &authserver.Error{Kind: authserver.Unavailable, RetryAfter: time.Minute}
	renew := func(r *rig) error { return r.cache.Entry(nil).Renew(r.t.Context()) }

	t.Run("while the token is fresh", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, always(answer{lifetime: time.Hour}))
			r.atOnce("token-1")
			if err := renew(r); err != nil {
				t.Error(err)
			}
			r.atOnce("token-2")
		})
	})
	t.Run("joins the fetch in progress", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, always(answer{after: time.Second, lifetime: time.Hour}))
			r.warm()
			if err := renew(r); err != nil {
				t.Error(err)
			}
			r.atOnce("token-1")
			r.wantCount(1)
		})
	})
	t.Run("tells of a failure, also with a token in hand", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, inTurn(answer{lifetime: time.Hour}, answer{err: errDown}))
			r.atOnce("token-1")
			if err := renew(r); !errors.Is(err, errDown) {
				t.Errorf("got %v", err)
			}
			r.atOnce("token-1")
		})
	})
	t.Run("goes past the backoff", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, inTurn(answer{err: errDown}, answer{lifetime: time.Hour}))
			r.take(t.Context())
			if err := renew(r); err != nil {
				t.Error(err)
			}
			r.atOnce("token-2")
		})
	})
	t.Run("keeps to the time that the server asked for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, inTurn(answer{err: throttled}, answer{lifetime: time.Hour}))
			r.take(t.Context())
			time.Sleep(time.Minute - 1)
			err := renew(r)
			if failure, ok := errors.AsType[*Failure](err); !ok || !errors.Is(err, throttled) || failure.RetryIn <= 0 {
				t.Errorf("got %v", err)
			}
			r.wantCount(1)
			time.Sleep(time.Nanosecond)
			if err := renew(r); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("ends with its context, and the fetch goes on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, always(answer{after: time.Minute, lifetime: time.Hour}))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := r.cache.Entry(nil).Renew(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			r.request("token-1", 59*time.Second)
		})
	})
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twentyPercent, always(answer{lifetime: time.Minute}))
		r.atOnce("token-1")
		r.cache.Forget()
		if s := r.cache.Entry(nil).Status(); s != (Status{State: StateAbsent}) {
			t.Errorf("the status is %+v", s)
		}
		r.atOnce("token-2")
		r.cache.Forget()
		time.Sleep(24 * time.Hour)
		r.wantCount(2)
		r.atOnce("token-3")
	})
	synctest.Test(t, func(t *testing.T) {
		server := &accountServer{lifetime: time.Hour}
		cache := openAccounts(t, 1000, server)
		ask := func() {
			t.Helper()
			for i := range 10 {
				account := fmt.Sprint("account ", i)
				if token, _, err := cache.Entry([]string{account}).Token(t.Context()); err != nil || token.AccessToken.Reveal() != "for "+account {
					t.Errorf("%s gets %v", account, err)
				}
			}
		}
		ask()
		cache.Known([]string{"account 3"}).Forget()
		ask()
		if n := server.requests.Load(); n != 11 {
			t.Errorf("%d token requests after one account was forgotten, want 11", n)
		}
		cache.Forget()
		ask()
		if n := server.requests.Load(); n != 21 {
			t.Errorf("%d token requests after all were forgotten, want 21", n)
		}
	})
}

// TestForgottenTokenIsNotFetchedAgain: the source learns which one it was, as what it
// keeps may have it still.
func TestForgottenTokenIsNotFetchedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := new(tellsHeld)
		cache := open(t, twentyPercent, source)
		entry := cache.Entry(nil)
		for range 2 {
			_, _, _ = entry.Token(t.Context())
			entry.Forget()
		}
		first, _, _ := entry.Token(t.Context())
		if told := source.told(); told[0] != nil || told[1] == nil || told[2] == nil || told[1] == told[2] {
			t.Errorf("the source was told of %v", told)
		}
		time.Sleep(55 * time.Second)
		_, _, _ = entry.Token(t.Context())
		synctest.Wait()
		if source.told()[3] != first {
			t.Error("a renewal was told of another token than the one in hand")
		}
	})
}

// tellsHeld is a source that remembers which token was in hand at each fetch.
type tellsHeld struct {
	mu   sync.Mutex
	held []*authserver.Token
}

func (s *tellsHeld) told() []*authserver.Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.held)
}

func (s *tellsHeld) Fetch(_ context.Context, _ []string, held *authserver.Token) (*authserver.Token, error) {
	s.mu.Lock()
	s.held = append(s.held, held)
	s.mu.Unlock()
	token := authserver.NewToken("token", "Bearer")
	token.Lifetime, token.RequestedAt = time.Minute, time.Now()
	return token, nil
}

func (*tellsHeld) Report(Outcome) {}

func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down outage
		r := newRig(t, twentyPercent, down.script(answer{lifetime: time.Minute}, answer{err: errDown}))
		entry := r.cache.Entry(nil)
		ready := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if got := entry.Ready(); got != want {
				t.Errorf("%s Ready is %t", when, got)
			}
		}
		ready("before the first token", false)
		ready("once it has come", true)
		for range 60 { // who asks for nothing else
			time.Sleep(10 * time.Second)
			ready("while it is asked", true)
		}
		time.Sleep(time.Hour)
		ready("after an hour in which nobody asked", false)
		ready("right after that", true)

		down.on.Store(true)
		time.Sleep(2 * time.Minute)
		ready("in an outage", false)
		down.on.Store(false)
		time.Sleep(2 * time.Minute)
		ready("when it is over", false)
		ready("right after that", true)
	})
}

func TestRetryNow(t *testing.T) {
	refused := answer{err: errRefused}

	t.Run("for requests that have asked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, inTurn(refused, refused, answer{lifetime: time.Hour}))
			r.take(t.Context())
			r.cache.RetryNow()
			r.wantCount(1) // nobody has asked since
			r.take(t.Context())
			r.wantCount(2)
			r.take(t.Context())
			r.cache.RetryNow()
			r.wantCount(3)
			r.atOnce("token-3")
		})
	})
	t.Run("for the next request", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, inTurn(refused, answer{lifetime: time.Hour}))
			r.take(t.Context())
			r.cache.RetryNow()
			r.atOnce("token-2")
		})
	})
	t.Run("not while a token request is being made", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, inTurn(refused, answer{after: 5 * time.Second, lifetime: time.Hour}))
			r.take(t.Context())
			r.take(t.Context())
			time.Sleep(time.Second)
			r.cache.RetryNow()
			r.wantCount(2)
			time.Sleep(5 * time.Second)
			r.atOnce("token-2")
		})
	})
	t.Run("not before the time that the server asked for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			throttled := &authserver.Error{Kind: authserver.Unavailable, RetryAfter: time.Minute}
			r := newRig(t, twentyPercent, inTurn(answer{err: throttled}, answer{lifetime: time.Hour}))
			r.take(t.Context())
			r.take(t.Context())
			r.cache.RetryNow()
			r.take(t.Context())
			r.wantCount(1)
		})
	})
	t.Run("not without a failure", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, always(answer{after: time.Second, lifetime: 100 * time.Second}))
			r.request("token-1", time.Second)
			time.Sleep(85 * time.Second)
			r.atOnce("token-2")
			r.take(t.Context())
			r.cache.RetryNow()
			r.wantCount(2)
		})
	})
	t.Run("not when the cache is closed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, always(refused))
			r.take(t.Context())
			r.take(t.Context())
			r.cache.Close()
			r.cache.RetryNow()
			r.wantCount(1)
		})
	})
	t.Run("for all accounts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var mended atomic.Bool
			server := &accountServer{lifetime: time.Hour, refuse: func(string) bool { return !mended.Load() }}
			cache := openAccounts(t, 100, server)
			ask := func(i int) error {
				_, _, err := cache.Entry([]string{fmt.Sprint(i)}).Token(t.Context())
				return err
			}
			for i := range 5 {
				_ = ask(i)
			}
			mended.Store(true)
			cache.RetryNow()
			for i := range 5 {
				if err := ask(i); err != nil {
					t.Errorf("account %d gets %v", i, err)
				}
			}
		})
	})
}

// mostFailures returns the failures in a row of the entry with the most of them.
func mostFailures(c *Cache) int {
	most := 0
	for s := range c.Statuses() {
		most = max(most, s.Failures)
	}
	return most
}
