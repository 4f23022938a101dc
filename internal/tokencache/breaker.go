package tokencache

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

const (
	// How many accounts' tokens are fetched at a time: first ones, and newer ones
	// for accounts that had one. The latter have permits of their own, so that a
	// flood of newcomers does not keep them from being renewed.
	maxFirstFetches = 96
	maxRenewals     = 32

	// How many accounts must fail in a row to open a circuit.
	newcomersInARow = maxFirstFetches
	renewalsInARow  = 2

	// How long nobody may have been answered before the newcomers' circuit opens.
	newcomersSilence = 30 * time.Second

	// How long a newcomer's try keeps others from trying while the circuit is open:
	// the longer one where the server asks for time. Up to half is added.
	newcomersPause    = time.Second
	newcomersMaxPause = 4 * time.Second
)

// breaker is a circuit breaker shared by a client's accounts. While its circuit is
// open, accounts fail without a token request; one probe at a time is let through.
//
// What a failure says depends on whose it is. An account that is being renewed has
// had a token, so there is nothing wrong with what its callers bring: the second
// such account to fail in a row speaks for the server. A newcomer's failure may be
// its caller's own doing: servers hang up on malformed tokens, and throttle single
// users. Nothing tells one caller's junk from an outage but that others are
// answered. So the newcomers' circuit opens when a whole round of them has failed
// in a row and nobody has been answered for a while, and even then one of them may
// try every second or so. An answer to anybody closes both circuits.
//
// An account backs off by itself, and counts once in a row: one that keeps failing
// opens nothing.
type breaker struct {
	maxWait time.Duration // for a permit

	mu        sync.Mutex
	answered  time.Time // when the server last answered an account
	newcomers circuit
	renewals  circuit
}

// circuit is for one kind of fetches, with a permit for each that may be made at
// a time.
type circuit struct {
	permits chan struct{}
	inARow  int
	silence time.Duration
	pause   func(failures int, retryAfter time.Duration) time.Duration

	failures  int               // accounts in a row while closed, then probes
	failure   *authserver.Error // not nil: open
	openUntil time.Time         // when the next probe is let through
}

func newBreaker(maxWait time.Duration) *breaker {
	return &breaker{
		maxWait: maxWait,
		newcomers: circuit{
			permits: make(chan struct{}, maxFirstFetches),
			inARow:  newcomersInARow,
			silence: newcomersSilence,
			pause: func(_ int, retryAfter time.Duration) time.Duration {
				pause := min(max(newcomersPause, retryAfter), newcomersMaxPause)
				return pause + rand.N(pause/2)
			},
		},
		renewals: circuit{
			permits: make(chan struct{}, maxRenewals),
			inARow:  renewalsInARow,
			pause: func(failures int, retryAfter time.Duration) time.Duration {
				return max(backoff(failures-renewalsInARow), retryAfter)
			},
		},
	}
}

// refuses returns the failure for an account without a token that asks while
// its circuit is open, or while too many others wait.
func (b *breaker) refuses(e *Entry, phase phase, now time.Time) error {
	if e.account == nil || phase != absent || e.call != nil {
		return nil
	}
	c := &b.renewals
	if e.held.Load() == nil {
		if e.cache.accounts.full() {
			return &Failure{RetryIn: backoffFirst, err: ErrTooManyWaiting}
		}
		c = &b.newcomers
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.failure == nil || reached(c.openUntil, now) {
		return nil
	}
	return &Failure{RetryIn: c.openUntil.Sub(now), err: c.failure}
}

// do makes an account's fetch when there is a permit for it, unless the circuit is
// open, and records how it went. The end of queue ends the wait for a permit. again
// says that the account's fetch before failed.
func (b *breaker) do(queue context.Context, c *circuit, again bool, fetch func() (*authserver.Token, error)) (*authserver.Token, error) {
	if err := b.acquire(queue, c); err != nil {
		return nil, err
	}
	defer func() { <-c.permits }()
	if failed := b.admit(c); failed != nil {
		return nil, failed
	}
	token, err := fetch()
	b.record(c, again, err)
	return token, err
}

// acquire waits for a permit, which the caller gives back.
func (b *breaker) acquire(queue context.Context, c *circuit) error {
	tooLong := time.NewTimer(b.maxWait)
	defer tooLong.Stop()
	select {
	case c.permits <- struct{}{}:
	case <-tooLong.C:
		return ErrTooManyWaiting
	case <-queue.Done():
		return context.Cause(queue)
	}
	if queue.Err() != nil { // select takes either
		<-c.permits
		return context.Cause(queue)
	}
	return nil
}

// admit returns the failure while the circuit is open, with what is left of that
// time. When it is over, it lets one fetch a second pass.
func (b *breaker) admit(c *circuit) *authserver.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if c.failure == nil {
		return nil
	}
	if reached(c.openUntil, now) {
		c.openUntil = now.Add(backoffFirst)
		return nil
	}
	failed := *c.failure
	failed.RetryAfter = c.openUntil.Sub(now)
	return &failed
}

// record notes what a fetch says about the server.
func (b *breaker) record(c *circuit, again bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	failed, ok := errors.AsType[*authserver.Error](err)
	if err == nil || ok && (failed.Kind == authserver.Refused || failed.Kind == authserver.Unreadable) {
		b.answered = now
		for _, closed := range []*circuit{&b.newcomers, &b.renewals} {
			closed.failure, closed.failures = nil, 0
		}
		return
	}
	if !ok || failed.Kind == authserver.Unprepared || failed.OfOneRequest() {
		return
	}
	open := c.failure != nil
	if open && !reached(c.openUntil, now.Add(backoffFirst)) {
		return // it was under way when the circuit opened
	}
	if open || !again {
		c.failures++
	}
	if open || c.failures >= c.inARow && now.Sub(b.answered) >= c.silence {
		c.failure, c.openUntil = failed, now.Add(c.pause(c.failures, failed.RetryAfter))
	}
}
