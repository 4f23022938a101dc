package tokencache

import (
	"errors"
	"sync"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// How many accounts' tokens are fetched at a time: first ones, and newer ones for
// accounts that had one. The latter have places of their own, so that a flood of
// newcomers does not keep them from being renewed.
const (
	maxFirstFetches = 96
	maxRenewals     = 32
)

// breaker is a circuit breaker shared by a client's accounts. It opens when the
// server asks for a pause, or is unreachable twice in a row, and lets one probe
// through when the pause ends.
//
// What newcomers find out holds for newcomers only: nobody who turns up can keep
// those who have a token from renewing it.
type breaker struct {
	mu        sync.Mutex
	newcomers circuit
	renewals  circuit
}

// circuit is for one kind of fetches, with a permit for each that may be made at
// a time.
type circuit struct {
	permits   chan struct{}
	failure   *authserver.Error // not nil: open, the server is unavailable
	failures  int               // in a row
	openUntil time.Time
}

func newBreaker() *breaker {
	return &breaker{
		newcomers: circuit{permits: make(chan struct{}, maxFirstFetches)},
		renewals:  circuit{permits: make(chan struct{}, maxRenewals)},
	}
}

// circuitOf returns the circuit for an account with a token, or without one.
func (b *breaker) circuitOf(newcomer bool) *circuit {
	if newcomer {
		return &b.newcomers
	}
	return &b.renewals
}

// refuses returns the failure for an account without a token that asks while
// the server is known to be unavailable, or while too many others wait.
func (b *breaker) refuses(e *Entry, phase phase, now time.Time) error {
	if e.account == nil || phase != absent || e.call != nil {
		return nil
	}
	newcomer := e.held.Load() == nil
	if newcomer && e.cache.accounts.full() {
		return &Failure{RetryIn: backoffFirst, err: ErrTooManyWaiting}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.circuitOf(newcomer)
	if c.failure == nil || reached(c.openUntil, now) {
		return nil
	}
	return &Failure{RetryIn: c.openUntil.Sub(now), err: c.failure}
}

// do makes an account's fetch when there is a permit for it and the circuit is not
// open, and records how it went.
func (b *breaker) do(newcomer bool, fetch func() (*authserver.Token, error)) (*authserver.Token, error) {
	c := b.circuitOf(newcomer)
	c.permits <- struct{}{}
	defer func() { <-c.permits }()
	if failed := b.admit(c); failed != nil {
		return nil, failed
	}
	token, err := fetch()
	b.record(c, err)
	return token, err
}

// admit returns the failure while the circuit is open, with what is left of that
// time. When it is over, it lets one fetch a second pass.
func (b *breaker) admit(c *circuit) *authserver.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	switch {
	case c.failure == nil:
		return nil
	case reached(c.openUntil, now):
		c.openUntil = now.Add(backoffFirst)
		return nil
	}
	failed := *c.failure
	failed.RetryAfter = c.openUntil.Sub(now)
	return &failed
}

// record notes what a fetch says about the server.
func (b *breaker) record(c *circuit, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	failed, ok := errors.AsType[*authserver.Error](err)
	switch {
	case err == nil, ok && (failed.Kind == authserver.Refused || failed.Kind == authserver.Unreadable):
		for _, answered := range []*circuit{&b.newcomers, &b.renewals} {
			answered.failure, answered.failures = nil, 0
		}
		return
	case !ok || failed.Kind == authserver.Unprepared || failed.OfOneRequest():
		return
	}
	now := time.Now()
	if c.failure != nil && !reached(c.openUntil, now.Add(backoffFirst)) {
		return // recorded already
	}
	c.failures++
	if c.failures == 1 && failed.RetryAfter == 0 {
		return // once is nothing, unless the server asks to be left alone
	}
	c.failure, c.openUntil = failed, now.Add(max(backoff(c.failures-1), failed.RetryAfter))
}
