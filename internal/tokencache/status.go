package tokencache

import (
	"context"
	"iter"
	"time"
)

// What people and other parts of the program ask of a cache beside tokens: how it
// is, and to renew, to forget or to retry.

// State says how a client, or an account, is off.
type State string

// A token that can be used is fresh, renewing or in its margin. Without one, the
// state is failing after a failure, and absent if nothing is known to be wrong.
const (
	StateFresh    State = "fresh"
	StateRenewing State = "renewing"
	StateMargin   State = "margin"
	StateAbsent   State = "absent"
	StateFailing  State = "failing"
)

var states = [...]State{absent: StateAbsent, fresh: StateFresh, renewing: StateRenewing, margin: StateMargin}

// Status is what there is to say about an entry. It holds no token.
type Status struct {
	State        State
	ExpiresAt    time.Time // of the token in hand; zero if there is none to use
	RenewAt      time.Time // likewise: from when on it is renewed
	LastSuccess  time.Time // when the token in hand was requested, an expired one included; zero if there is none
	LastFailure  time.Time // zero if there was none
	LastError    error     // of the last failure; its text is for the operator
	NextAttempt  time.Time // after a failure: the next retry; zero while it is made, and if the next request makes it
	Failures     int       // in a row
	FailingSince time.Time // the first of those; zero if there are none
}

// Status returns what there is to say about the entry now.
func (e *Entry) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	held := e.held.Load()
	phase := held.phase(time.Now())
	s := Status{State: states[phase], Failures: e.failures}
	if held != nil {
		s.LastSuccess = held.RequestedAt
	}
	if e.failure != nil {
		s.LastFailure, s.LastError = e.failure.at, e.failure.err
	}
	if phase != absent {
		s.ExpiresAt, s.RenewAt = held.expires, held.renewAt
	} else if e.failures > 0 {
		s.State = StateFailing
	}
	if e.failures > 0 {
		s.FailingSince = e.failure.first
	}
	if e.failures > 0 && e.call == nil && !e.dormant {
		s.NextAttempt = e.due
	}
	return s
}

// Accounts returns how many accounts are held that have had a token.
func (c *Cache) Accounts() int {
	if c.accounts == nil {
		return 0
	}
	return int(c.accounts.counts[good].Load())
}

// Statuses returns what there is to say about each entry that is held.
func (c *Cache) Statuses() iter.Seq[Status] {
	return func(yield func(Status) bool) {
		for _, e := range c.entries() {
			if !yield(e.Status()) {
				return
			}
		}
	}
}

// Known is Entry for those who ask about an account, and want no token for it: nil
// if the account is not held.
func (c *Cache) Known(values []string) *Entry {
	if c.accounts == nil {
		return &c.only
	}
	return c.accounts.known(values)
}

// Renew makes a fetch, or joins the one in progress, and returns how that went. It
// goes past our own backoff, but not past the time for which the server asked to be
// left alone: the error is that failure then.
func (e *Entry) Renew(ctx context.Context) error {
	c, err := e.renew(time.Now())
	if err != nil {
		return err
	}
	defer e.leave(ctx, c)
	select {
	case <-c.done:
		if c.err == errAbandoned { // by others, as we came
			return e.Renew(ctx)
		}
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// renew returns the call that a Renew waits for.
func (e *Entry) renew(now time.Time) (*call, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.call == nil && e.asksForTime(now) {
		return nil, e.backingOff(now)
	}
	c := e.fetchNow()
	c.waiters++
	return c, nil
}

// asksForTime reports whether the server, when it failed, asked to be left alone
// for longer than until now. e.mu is held.
func (e *Entry) asksForTime(now time.Time) bool {
	return e.failures > 0 && !reached(e.failure.at.Add(retryAfter(e.failure.err)), now)
}

// Ready reports whether there is a token to use. It counts as a request for it and
// waits for none: a program that is asked for nothing else until it is ready would
// else never fetch again once its token has expired.
func (e *Entry) Ready() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	held := e.held.Load()
	phase := held.phase(time.Now())
	if phase == fresh {
		held.markUsed()
		return true
	}
	e.wanted = true
	if e.call == nil && (e.failures == 0 || e.dormant) {
		e.fetchNow().probe = e.failures > 0
	}
	return phase != absent
}

// Forget drops the token. The next request has a new one fetched.
func (e *Entry) Forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if held := e.held.Swap(nil); held != nil {
		e.forgotten = held.Token
	}
}

// Forget drops all tokens.
func (c *Cache) Forget() {
	for _, e := range c.entries() {
		e.Forget()
	}
}

// RetryNow ends the backoff of all that has failed, as there is reason to believe
// that it would succeed by now: a credential has changed, say. Where requests have
// asked since the failure, the fetch is made at once, else when the next one asks.
// The time for which the server asked to be left alone is kept to.
func (c *Cache) RetryNow() {
	for _, e := range c.entries() {
		e.retryNow()
	}
}

func (e *Entry) retryNow() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failures == 0 || e.call != nil || e.stopped || e.asksForTime(time.Now()) {
		return
	}
	if e.wanted {
		e.fetchNow()
	} else {
		e.dormant = true
	}
}
