package tokencache

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// randomLife sends thousands of requests at random times through a cache whose
// server gives random lives, latencies and failures. It hands each result to
// check, with the token that was there when the request came.
func randomLife(t *testing.T, seed uint64, check func(got taken, before issuedToken)) {
	synctest.Test(t, func(t *testing.T) {
		// Two sources, as the server's goroutine draws at its own times.
		weather, dice := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
		settings := Settings{RefreshAheadPercent: 1 + dice.IntN(90), DefaultLifetime: stated(testDefaultLifetime)}
		if dice.IntN(2) == 0 {
			settings.RefreshAhead = upTo(dice, 2*time.Minute)
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
