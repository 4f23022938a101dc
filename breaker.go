package upstreamoauth2

import (
	"errors"
	"sync"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/tokenendpoint"
)

// maxFetches is how many accounts' tokens are fetched at a time.
const maxFetches = 128

// breaker is what accounts share about their server. When it cannot be reached
// or throttles one of them, the others need not find out for themselves: they
// fail at once, and one of them tries again when it is time.
type breaker struct {
	mu       sync.Mutex
	failure  error // not nil: the server is unavailable
	failures int   // in a row
	until    time.Time
	places   chan struct{}
}

// refuses returns the failure for an account without a token that asks while
// the server is known to be unavailable. When it is time to try again, it lets
// one account a second pass.
func (b *breaker) refuses(s *slot, phase phase, now time.Time) error {
	if s.account == nil || phase != absent || s.flight != nil {
		return nil
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
func (b *breaker) guard(fetch func() (*tokenendpoint.Token, error)) (*tokenendpoint.Token, error) {
	b.mu.Lock()
	if b.places == nil {
		b.places = make(chan struct{}, maxFetches)
	}
	b.mu.Unlock()

	waited := false
	select {
	case b.places <- struct{}{}:
	default:
		waited = true
		b.places <- struct{}{}
	}
	defer func() { <-b.places }()
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

func (b *breaker) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	failed, ok := errors.AsType[*tokenendpoint.Error](err)
	if !ok || failed.Kind != tokenendpoint.Unavailable {
		b.failure, b.failures = nil, 0 // the server answers
		return
	}
	now := time.Now()
	if b.failure != nil && !reached(b.until, now.Add(backoffFirst)) {
		return // noted already
	}
	b.failure, b.until = err, now.Add(max(backoff(b.failures), failed.RetryAfter))
	b.failures++
}
