package upstreamoauth2

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

// errFull is for newcomers while too many others wait for their first token.
var errFull = errors.New("too many accounts wait for their first token")

// breaker is what accounts share about their server. When it asks to be left alone,
// or cannot be reached twice in a row, they need not each find out for themselves:
// no request is made for any of them, and one tries again when it is time.
//
// What newcomers find out holds for newcomers only: nobody who turns up can keep
// those who have a token from renewing it.
type breaker struct {
	mu        sync.Mutex
	newcomers lane
	renewals  lane
}

// lane is one kind of fetches, with as many places as may be made at a time.
type lane struct {
	places   chan struct{}
	failure  *authserver.Error // not nil: the server is unavailable
	failures int               // in a row
	until    time.Time
}

func newBreaker() *breaker {
	return &breaker{
		newcomers: lane{places: make(chan struct{}, maxFirstFetches)},
		renewals:  lane{places: make(chan struct{}, maxRenewals)},
	}
}

// laneOf returns the lane for an account with a token, or without one.
func (b *breaker) laneOf(newcomer bool) *lane {
	if newcomer {
		return &b.newcomers
	}
	return &b.renewals
}

// refuses returns the failure for an account without a token that asks while
// the server is known to be unavailable, or while too many others wait.
func (b *breaker) refuses(s *slot, phase phase, now time.Time) error {
	if s.account == nil || phase != absent || s.flight != nil {
		return nil
	}
	newcomer := s.held.Load() == nil
	if newcomer && s.cache.accounts.full() {
		return &backoffError{err: errFull, retryIn: backoffFirst}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.laneOf(newcomer)
	if l.failure == nil || reached(l.until, now) {
		return nil
	}
	return &backoffError{err: l.failure, retryIn: l.until.Sub(now)}
}

// guard makes an account's fetch when there is a place for it and the server is
// not to be left alone, and takes note of how it went.
func (b *breaker) guard(newcomer bool, fetch func() (*authserver.Token, error)) (*authserver.Token, error) {
	l := b.laneOf(newcomer)
	l.places <- struct{}{}
	defer func() { <-l.places }()
	if failed := b.hold(l); failed != nil {
		return nil, failed
	}
	token, err := fetch()
	b.note(l, err)
	return token, err
}

// hold returns the failure while the server is to be left alone, with what is left
// of that time. When it is over, it lets one fetch a second pass.
func (b *breaker) hold(l *lane) *authserver.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	switch {
	case l.failure == nil:
		return nil
	case reached(l.until, now):
		l.until = now.Add(backoffFirst)
		return nil
	}
	held := *l.failure
	held.RetryAfter = l.until.Sub(now)
	return &held
}

// note takes note of what a fetch says about the server.
func (b *breaker) note(l *lane, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	failed, ok := errors.AsType[*authserver.Error](err)
	switch {
	case err == nil, ok && (failed.Kind == authserver.Refused || failed.Kind == authserver.Unreadable):
		for _, answered := range []*lane{&b.newcomers, &b.renewals} {
			answered.failure, answered.failures = nil, 0
		}
		return
	case !ok || failed.Kind == authserver.Unprepared || failed.OfOneRequest():
		return
	}
	now := time.Now()
	if l.failure != nil && !reached(l.until, now.Add(backoffFirst)) {
		return // noted already
	}
	l.failures++
	if l.failures == 1 && failed.RetryAfter == 0 {
		return // once is nothing, unless the server asks to be left alone
	}
	l.failure, l.until = failed, now.Add(max(backoff(l.failures-1), failed.RetryAfter))
}
