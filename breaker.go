package upstreamoauth2

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/tokenendpoint"
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
// they fail at once, and one of them tries again when it is time.
type breaker struct {
	mu       sync.Mutex
	failure  error // not nil: the server is unavailable
	failures int   // in a row
	until    time.Time

	first    chan struct{} // places for first fetches
	renewals chan struct{}
}

func newBreaker() *breaker {
	return &breaker{first: make(chan struct{}, maxFirstFetches), renewals: make(chan struct{}, maxRenewals)}
}

// refuses returns the failure for an account without a token that asks while
// the server is known to be unavailable, or while too many others wait. When it
// is time to try an unavailable server again, it lets one account a second pass.
func (b *breaker) refuses(s *slot, phase phase, now time.Time) error {
	if s.account == nil || phase != absent || s.flight != nil {
		return nil
	}
	if s.held.Load() == nil && s.cache.accounts.full() {
		return &backoffError{err: errFull, retryIn: backoffFirst}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.failure == nil:
		return nil
	case reached(b.until, now):
		b.until = now.Add(backoffFirst)
		return nil
	}
	return &backoffError{err: b.failure, retryIn: b.until.Sub(now)}
}

// guard makes an account's fetch when there is a place for it, and takes note
// of how it went.
func (b *breaker) guard(first bool, fetch func() (*tokenendpoint.Token, error)) (*tokenendpoint.Token, error) {
	places := b.renewals
	if first {
		places = b.first
	}
	waited := false
	select {
	case places <- struct{}{}:
	default:
		waited = true
		places <- struct{}{}
	}
	defer func() { <-places }()
	if err := b.known(); waited && err != nil {
		return nil, err // it has been found out meanwhile
	}
	token, err := fetch()
	b.note(err)
	return token, err
}

func (b *breaker) known() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failure
}

// note takes note of what a fetch says about the server.
func (b *breaker) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	failed, ok := errors.AsType[*tokenendpoint.Error](err)
	switch {
	case err == nil, ok && (failed.Kind == tokenendpoint.Refused || failed.Kind == tokenendpoint.Unreadable):
		b.failure, b.failures = nil, 0 // the server answers
		return
	case !ok || failed.Kind == tokenendpoint.Unprepared:
		return // it was not asked
	case failed.Status == http.StatusInternalServerError || failed.Code == "server_error":
		return // as like as not it stumbles over one caller's token: the others have theirs
	}
	now := time.Now()
	if b.failure != nil && !reached(b.until, now.Add(backoffFirst)) {
		return // noted already
	}
	b.failures++
	if b.failures == 1 && failed.RetryAfter == 0 {
		return // once is nothing, unless the server asks to be left alone
	}
	b.failure, b.until = err, now.Add(max(backoff(b.failures-1), failed.RetryAfter))
}
