package tokencache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// Accounts that turn up for the first time, and callers who turn up with junk.

// doomed are the failures that a server may answer one caller's junk with, and
// everybody during an outage.
var doomed = []struct {
	name string
	err  error
}{
	{"a server that hangs up", &authserver.Error{Kind: authserver.Unavailable}},
	{"503", &authserver.Error{Kind: authserver.Unavailable, Status: 503}},
	{"429", &authserver.Error{Kind: authserver.Unavailable, Status: 429}},
	{"429 that asks for time", &authserver.Error{Kind: authserver.Unavailable, Status: 429, RetryAfter: 10 * time.Minute}},
}

// junkFails fails the accounts whose names begin with "junk".
func junkFails(err error) *accountServer {
	return &accountServer{lifetime: time.Hour, failsFor: func(account string) error {
		if strings.HasPrefix(account, "junk") {
			return err
		}
		return nil
	}}
}

// newcomers has accounts that nobody has seen before ask for a token, at regular
// intervals for some time. It returns how many got none.
func newcomers(t *testing.T, cache *Cache, name string, every, total time.Duration) (refused int) {
	for i := range int(total / every) {
		if _, _, err := cache.Entry([]string{fmt.Sprint(name, " ", i)}).Token(t.Context()); err != nil {
			refused++
		}
		time.Sleep(every)
	}
	return refused
}

// TestJunkKeepsNobodyElseOut: ten callers a second bring what the server fails on.
func TestJunkKeepsNobodyElseOut(t *testing.T) {
	for _, test := range doomed {
		t.Run(test.name+", others come all the time", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cache := openAccounts(t, 10_000, junkFails(test.err))
				var flood sync.WaitGroup
				flood.Go(func() { newcomers(t, cache, "junk", 100*time.Millisecond, 5*time.Minute) })
				if n := newcomers(t, cache, "good", time.Second, 5*time.Minute); n > 0 {
					t.Errorf("%d of 300 newcomers were refused", n)
				}
				flood.Wait()
			})
		})
		t.Run(test.name+", others come later", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cache := openAccounts(t, 10_000, junkFails(test.err))
				var flood sync.WaitGroup
				flood.Go(func() { newcomers(t, cache, "junk", 100*time.Millisecond, 20*time.Minute) })
				time.Sleep(5 * time.Minute)
				newcomers(t, cache, "good", time.Second, 10*time.Minute) // the first of them has to be lucky
				if n := newcomers(t, cache, "more", time.Second, 5*time.Minute); n > 0 {
					t.Errorf("%d of 300 newcomers were refused", n)
				}
				flood.Wait()
			})
		})
	}
}

// TestFailingAccountKeepsNobodyElseOut: however often its one caller asks, and also
// if it had a token once.
func TestFailingAccountKeepsNobodyElseOut(t *testing.T) {
	for _, test := range doomed {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprint(test.name, ", known: ", known), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var failing atomic.Bool
					failing.Store(!known)
					server := &accountServer{lifetime: time.Minute, failsFor: func(account string) error {
						if account == "eve" && failing.Load() {
							return test.err
						}
						return nil
					}}
					cache := openAccounts(t, 100, server)
					ask := func(account string) error {
						_, _, err := cache.Entry([]string{account}).Token(t.Context())
						return err
					}
					_ = ask("eve")
					failing.Store(true)
					for range 3600 { // an hour
						_ = ask("eve")
						time.Sleep(time.Second)
					}
					if err := ask("bob"); err != nil {
						t.Errorf("bob gets %v", err)
					}
					time.Sleep(50 * time.Second) // his token is being renewed
					if err := ask("bob"); err != nil {
						t.Errorf("bob gets %v", err)
					}
					synctest.Wait()
					if phase := cache.Entry([]string{"bob"}).held.Load().phase(time.Now()); phase != fresh {
						t.Errorf("bob's token has not been renewed: its phase is %v", phase)
					}
				})
			})
		}
	}
}

// TestNobodysFetchIsNotMade: callers with junk have hung up, and what is left of
// them keeps no newcomer waiting.
func TestNobodysFetchIsNotMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 800 * time.Millisecond
		server := &accountServer{lifetime: time.Hour, takes: func(string) time.Duration { return takes }}
		cache := openAccounts(t, 10_000, server)
		hungUp, hangUp := context.WithCancel(t.Context())
		var flood sync.WaitGroup
		for i := range 1500 {
			flood.Go(func() {
				_, _, err := cache.Entry([]string{fmt.Sprint("junk ", i)}).Token(hungUp)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("a caller who hung up gets %v", err)
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		hangUp()
		flood.Wait()

		asked := time.Now()
		if _, _, err := cache.Entry([]string{"good"}).Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(asked); waited > 2*takes {
			t.Errorf("the newcomer waited for %v", waited)
		}
		if n := server.requests.Load(); n != maxFirstFetches+1 {
			t.Errorf("%d token requests, want those that were being made and the newcomer's", n)
		}
		if n := cache.accounts.counts[pending].Load(); n != 0 {
			t.Errorf("%d accounts are said to wait", n)
		}

		// A caller who comes back is served like any other.
		if _, _, err := cache.Entry([]string{"junk 1499"}).Token(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestCallerComesBackWhileTheQueueIsLong: whoever hangs up and asks anew gets a
// token, and makes for one token request.
func TestCallerComesBackWhileTheQueueIsLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &accountServer{lifetime: time.Hour, takes: func(string) time.Duration { return time.Second }}
		cache := openAccounts(t, 10_000, server)
		var others sync.WaitGroup
		for i := range 2 * maxFirstFetches {
			others.Go(func() { _, _, _ = cache.Entry([]string{fmt.Sprint("other ", i)}).Token(t.Context()) })
		}
		synctest.Wait()
		alice := cache.Entry([]string{"alice"})
		for range 10 {
			ctx, hangUp := context.WithCancel(t.Context())
			time.AfterFunc(10*time.Millisecond, hangUp)
			if _, _, err := alice.Token(ctx); !errors.Is(err, context.Canceled) {
				t.Fatalf("who hangs up gets %v", err)
			}
		}
		if _, how, err := alice.Token(t.Context()); err != nil || how != Waited {
			t.Errorf("who comes back gets %q, %v", how, err)
		}
		others.Wait()
		if n := server.requests.Load(); n != 2*maxFirstFetches+1 {
			t.Errorf("%d token requests, want one for each account", n)
		}
	})
}

// TestWaitForAPermitHasAnEnd, however long other accounts' fetches take.
func TestWaitForAPermitHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &accountServer{lifetime: time.Hour, takes: func(account string) time.Duration {
			if account == "alice" {
				return 0
			}
			return time.Minute
		}}
		cache := openAccounts(t, 10_000, server)
		for i := range maxFirstFetches {
			go func() { _, _, _ = cache.Entry([]string{fmt.Sprint("other ", i)}).Token(t.Context()) }()
		}
		synctest.Wait()
		asked := time.Now()
		_, _, err := cache.Entry([]string{"alice"}).Token(t.Context())
		failure, ok := errors.AsType[*Failure](err)
		if !ok || !errors.Is(err, ErrTooManyWaiting) || failure.RetryIn <= 0 {
			t.Errorf("the newcomer gets %v", err)
		}
		if waited := time.Since(asked); waited != twentyPercent.MaxWait {
			t.Errorf("the newcomer waited for %v, want %v", waited, twentyPercent.MaxWait)
		}
		time.Sleep(time.Minute)
		if _, _, err := cache.Entry([]string{"alice"}).Token(t.Context()); err != nil {
			t.Errorf("a minute later it gets %v", err)
		}
	})
}

// TestCallerWhoIsToldToComeBackKeepsItsPlace: only callers who hang up give theirs
// up.
func TestCallerWhoIsToldToComeBackKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mended atomic.Bool
		server := &accountServer{
			lifetime: time.Hour,
			refuse:   func(account string) bool { return account == "alice" && !mended.Load() },
			takes: func(account string) time.Duration {
				if account == "alice" {
					return 0
				}
				return 5 * time.Second
			},
		}
		cache := openAccounts(t, 10_000, server)
		alice := cache.Entry([]string{"alice"})
		_, _, _ = alice.Token(t.Context())
		time.Sleep(2 * time.Second) // nobody asks: the next request finds out
		mended.Store(true)
		for i := range maxFirstFetches {
			go func() { _, _, _ = cache.Entry([]string{fmt.Sprint("other ", i)}).Token(t.Context()) }()
		}
		synctest.Wait()

		asked := time.Now()
		if _, _, err := alice.Token(t.Context()); !errors.Is(err, errRefused) || time.Since(asked) != time.Second {
			t.Errorf("the request gets %v after %v, want the failure of before after 1s", err, time.Since(asked))
		}
		time.Sleep(5 * time.Second)
		if _, how, err := alice.Token(t.Context()); err != nil || how != Fresh {
			t.Errorf("the next one gets %q, %v", how, err)
		}
	})
}
