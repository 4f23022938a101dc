package tokencache

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

const (
	// The margin before a token expires in which it is no longer handed out
	// without asking for a newer one first: marginMax, or a tenth of the life
	// if that is shorter. It makes up for clocks and for the way to the API.
	marginMax = 10 * time.Second

	// How long a request in the margin waits for the newer token before it
	// makes do with the one that still has some life left.
	marginWait = time.Second

	// How long after a token was replaced because the API rejected it another
	// such replacement may be asked for.
	rejectionPause = 30 * time.Second

	// Backoff after failures: steps double from backoffFirst to backoffMax,
	// and the delay is drawn from the upper three quarters of the step. The
	// jitter keeps instances apart; the lower bound keeps the number of token
	// requests in a long outage small however the dice fall.
	backoffFirst = time.Second
	backoffMax   = time.Minute
)

// heldToken is a token together with the times at which its phases begin.
// It does not change, but for the mark that it was used.
type heldToken struct {
	*authserver.Token

	renewAt  time.Time // fresh before, renewing from here on
	marginAt time.Time // in the margin from here on
	expires  time.Time

	used atomic.Bool
}

// markUsed notes that a request used the token. Only the first one writes, so
// that requests on several processors share the cache line.
func (t *heldToken) markUsed() {
	if !t.used.Load() {
		t.used.Store(true)
	}
}

// newHeldToken works out the phases of a token's life. Its last second is not
// counted: servers round the time of issue, and so the expiry, down to a second.
func newHeldToken(token *authserver.Token, settings *Settings) *heldToken {
	life := token.Lifetime
	if life == 0 {
		life = settings.DefaultLifetime
	}
	life -= min(time.Second, life/2)
	margin := min(marginMax, life/10)
	ahead := max(settings.refreshAhead(life), margin)
	if token.RenewIn > 0 && token.RenewIn < life { // as the server wants it
		ahead = max(ahead, life-token.RenewIn)
	}
	ahead += rand.N(min(ahead, life-ahead)/10 + 1) // so that instances do not renew together

	expires := token.RequestedAt.Add(life)
	return &heldToken{
		Token:    token,
		renewAt:  expires.Add(-ahead),
		marginAt: expires.Add(-margin),
		expires:  expires,
	}
}

// phase is where in its life a token is.
type phase int

const (
	absent   phase = iota // no token, or an expired one
	fresh                 // served at once
	renewing              // served at once, renewed behind the traffic
	margin                // requests wait for the fetch in flight
)

func (t *heldToken) phase(now time.Time) phase {
	switch {
	case t == nil || reached(t.expires, now):
		return absent
	case reached(t.marginAt, now):
		return margin
	case reached(t.renewAt, now):
		return renewing
	}
	return fresh
}

// reached reports whether t has come by the monotonic clock or by the wall
// clock: the first one stands still while a machine is suspended, the second
// one may be set back.
func reached(t, now time.Time) bool {
	return !now.Before(t) || now.UnixNano() >= t.UnixNano()
}

// Entry is where one token lives: it holds the current one and decides when a
// new one is fetched. All of a token's life happens here.
//
//	absent ──fetched──► fresh ──► renewing ──► margin ──expires──► absent
//	                      ▲           │           │
//	                      └──fetched──┴───────────┘
//
// A failed fetch changes nothing about the token in hand. It counts, and
// until the timer tries again, requests that have no token left fail at once.
type Entry struct {
	cache   *Cache
	account *account // nil for the only entry of a client without accounts
	held    atomic.Pointer[heldToken]

	mu       sync.Mutex
	call     *call       // the fetch in progress
	timer    *time.Timer // the next renewal or retry
	due      time.Time   // when the timer fires
	failures int         // in a row; if any, requests do not wait
	failure  *failure    // the last one; nil if there was none
	wanted   bool        // a request asked since the last fetch began
	dormant  bool        // nobody asked when the timer fired: how things are now is unknown
	stopped  bool        // no timer any more
	rejected time.Time   // when a rejection last led to a fetch

	// What Forget dropped: the next fetch is to bring another one, and what is kept
	// beside the token may be needed for that.
	forgotten *authserver.Token
}

// failure is a failed fetch.
type failure struct {
	err   error
	at    time.Time
	first time.Time // of those in a row
}

// call is a fetch in progress. done closes when it has ended; held or err is set
// by then.
type call struct {
	done    chan struct{}
	held    *heldToken
	err     error
	started time.Time
	probe   bool // after a failure, for a request rather than by the timer
	again   bool // the entry's fetch before failed

	// For a first token, the wait for a permit ends when the callers who wait for
	// it have all hung up.
	waiters int // guarded by the entry's mu
	queue   context.Context
	abandon context.CancelCauseFunc
}

// errAbandoned is for a fetch that nobody waits for any more. It was not made.
var errAbandoned = errors.New("everybody who waited for the token has left")

// How says how a request came by its token.
type How string

const (
	Fresh    How = "fresh"    // at once
	Renewing How = "renewing" // at once, while it is being renewed, or cannot be
	Waited   How = "waited"   // after waiting for a fetch
)

// Token returns a token that is not expired, and how it was had. It waits only if
// there is none to use and nothing known to be wrong; ctx ends the wait, not the
// fetch. While there is none to be had, the error is a *Failure.
func (e *Entry) Token(ctx context.Context) (*authserver.Token, How, error) {
	held := e.held.Load()
	if held == nil || reached(held.renewAt, time.Now()) {
		return e.tokenNotFresh(ctx)
	}
	held.markUsed()
	return held.Token, Fresh, nil
}

func (e *Entry) tokenNotFresh(ctx context.Context) (*authserver.Token, How, error) {
	d := e.decide(time.Now())
	held, err := d.held, d.failure
	if d.wait != nil {
		held, err = e.await(ctx, d)
		if err == errAbandoned { // by others, as this request came
			return e.tokenNotFresh(ctx)
		}
	} else if held == nil && e.account != nil {
		e.cache.accounts.refused(e.account)
	}
	if held == nil {
		return nil, "", err
	}
	return held.Token, d.how, nil
}

// decision is what a request gets that found no fresh token: what comes of wait,
// if there is something to wait for, or else held or failure at once.
type decision struct {
	how      How
	held     *heldToken // what there is to use, nil if there is nothing
	failure  error      // of the attempt before, if it failed
	wait     *call
	patience time.Duration // how long to wait before making do with held or failure; 0: to the end
}

func (e *Entry) decide(now time.Time) decision {
	e.mu.Lock()
	defer e.mu.Unlock()
	held := e.held.Load()
	phase := held.phase(now)
	if phase == fresh { // renewed since Token looked
		held.markUsed()
		return decision{how: Fresh, held: held}
	}
	e.wanted = true
	d := decision{how: Renewing}
	if phase != absent {
		d.held = held
	}
	if e.failures > 0 {
		d.failure = e.backingOff(now)
		if e.call == nil && e.dormant {
			e.fetchNow().probe = true
		}
		if e.call == nil || !e.call.probe {
			return d
		}
	} else if d.failure = e.cache.breaker.refuses(e, phase, now); d.failure != nil {
		return d
	}
	c := e.fetchNow()
	if phase == renewing {
		return d
	}
	if d.held != nil || d.failure != nil { // wait for the first second of the fetch only
		d.patience = c.started.Add(marginWait).Sub(now)
		if d.held != nil {
			d.patience = min(d.patience, held.expires.Sub(now)/2)
		}
		if d.patience <= 0 {
			return d
		}
	}
	c.waiters++
	d.how, d.wait = Waited, c
	return d
}

// await waits for a fetch, as long as the decision says.
func (e *Entry) await(ctx context.Context, d decision) (*heldToken, error) {
	defer e.leave(ctx, d.wait)
	return e.outcome(ctx, d)
}

// leave takes a request from those that wait for a call. Nobody is left if it was
// the last one and its caller has hung up; who has been told to come back counts.
func (e *Entry) leave(ctx context.Context, c *call) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.waiters--; c.waiters == 0 && ctx.Err() != nil {
		c.abandon(errAbandoned)
	}
}

// outcome is await for a request that is counted.
func (e *Entry) outcome(ctx context.Context, d decision) (*heldToken, error) {
	var enough <-chan time.Time
	if d.patience > 0 {
		timer := time.NewTimer(d.patience)
		defer timer.Stop()
		enough = timer.C
	}
	held := d.held
	select {
	case <-d.wait.done:
		if d.wait.err == errAbandoned {
			return nil, errAbandoned
		}
		if d.wait.held != nil {
			held = d.wait.held
		} else if newest := e.held.Load(); newest != nil { // it failed, and another one has not
			held = newest
		}
	case <-enough:
		if held.phase(time.Now()) == absent && d.failure == nil { // the machine was suspended
			return e.outcome(ctx, decision{wait: d.wait})
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	now := time.Now()
	if held.phase(now) != absent {
		// An account's first request may be its only one: it alone is no reason
		// to renew the token.
		if e.account == nil {
			held.markUsed()
		}
		return held, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return nil, e.backingOff(now)
}

// backingOff returns the failure that requests get until the next attempt.
// e.mu is held.
func (e *Entry) backingOff(now time.Time) error {
	err := ErrExpiredOnArrival
	if e.failures > 0 {
		err = e.failure.err
	}
	return &Failure{RetryIn: max(e.due.Sub(now), 0), err: err}
}

// Reject notes that the API refuses t, and has it replaced behind the traffic.
func (e *Entry) Reject(t *authserver.Token) { e.reject(t) }

// Replace returns the token that takes the place of t, which the API refuses;
// nil if there is none.
func (e *Entry) Replace(ctx context.Context, t *authserver.Token) *authserver.Token {
	if c := e.reject(t); c != nil {
		select {
		case <-c.done:
		case <-ctx.Done():
			return nil
		}
	}
	newest := e.held.Load()
	if newest.phase(time.Now()) == absent || newest.Token == t {
		return nil
	}
	newest.markUsed()
	return newest.Token
}

// reject puts t into its margin, if it is still the token in hand: requests wait
// for a newer one, but should none be had, the API's own answer is better than
// ours. So neither a caller who provokes rejections nor an API that is out of order
// takes a token away from others, or causes more than one token request every
// rejectionPause.
//
// It returns the fetch that brings a newer token; nil if there is nothing to wait
// for.
func (e *Entry) reject(t *authserver.Token) *call {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	held := e.held.Load()
	if held == nil || held.Token != t {
		return nil // it has been replaced already
	}
	if e.call == nil {
		if e.failures > 0 || now.Sub(e.rejected) < rejectionPause {
			return nil
		}
		e.rejected = now
	}
	e.held.Store(&heldToken{Token: held.Token, renewAt: now, marginAt: now, expires: held.expires})
	return e.fetchNow()
}

// Warm fetches the first token and returns when that has ended, unless there is a
// token or a reason to wait.
func (e *Entry) Warm() {
	if c := e.fetchFirst(); c != nil {
		<-c.done
	}
}

// fetchFirst starts the first fetch; nil if there is none to make.
func (e *Entry) fetchFirst() *call {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.held.Load() == nil && e.failures == 0 {
		return e.fetchNow()
	}
	return nil
}

// fetchNow starts a fetch, or returns the one in progress. e.mu is held.
func (e *Entry) fetchNow() *call {
	if e.call != nil {
		return e.call
	}
	if e.timer != nil {
		e.timer.Stop()
	}
	e.wanted, e.dormant = false, false
	e.call = &call{done: make(chan struct{}), started: time.Now(), again: e.failures > 0}
	e.call.queue, e.call.abandon = context.WithCancelCause(e.cache.ctx)
	if e.account != nil {
		e.cache.accounts.began(e.account, e.call)
	}
	held := e.forgotten
	if h := e.held.Load(); h != nil {
		held = h.Token
	}
	go e.run(e.call, held)
	return e.call
}

// run makes the fetch. It belongs to no request, and to no config: only its own
// deadline ends it.
func (e *Entry) run(c *call, held *authserver.Token) {
	defer c.abandon(nil)
	source := e.cache.source()
	if source == nil { // the last config is going
		e.finish(c, nil, context.Canceled)
		close(c.done)
		return
	}
	token, err := e.fetch(source, c, held)
	o := e.finish(c, token, err)
	if e.account != nil {
		o.Account = e.account.name()
		e.cache.accounts.ended(e.account, c, o.Err)
	}
	close(c.done)
	if c.err != errAbandoned && e.cache.ctx.Err() == nil {
		defer func() { _ = recover() }() // of a log core that another plugin brings
		source.Report(o)
	}
}

// errPanic is for a fetch that panicked, in a transport or network proxy that
// another plugin brings. Its value is not shown: it may hold anything.
var errPanic = errors.New("the token request panicked: check 'transport'")

// fetch makes the fetch, when it is this account's turn.
func (e *Entry) fetch(source Source, c *call, held *authserver.Token) (token *authserver.Token, err error) {
	defer func() {
		if recover() != nil {
			token, err = nil, errPanic
		}
	}()
	if e.account == nil {
		return source.Fetch(e.cache.ctx, nil, held)
	}
	circuit, queue := &e.cache.breaker.renewals, e.cache.ctx
	if held == nil {
		circuit, queue = &e.cache.breaker.newcomers, c.queue
	}
	return e.cache.breaker.do(queue, circuit, c.again, func() (*authserver.Token, error) {
		return source.Fetch(e.cache.ctx, e.account.values, held)
	})
}

// finish ends a call with what it brought.
func (e *Entry) finish(c *call, token *authserver.Token, err error) (o Outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.call = nil
	switch err {
	case nil:
		o = e.keep(token)
	case errAbandoned:
		o.Err, e.dormant = err, true
	default:
		o = e.fail(err)
	}
	if c.err = o.Err; c.err == nil {
		c.held = e.held.Load()
	}
	return o
}

// keep takes a fetched token into use. e.mu is held.
func (e *Entry) keep(token *authserver.Token) Outcome {
	now := time.Now()
	held := newHeldToken(token, &e.cache.settings)
	if held.phase(now) == absent {
		return e.fail(ErrExpiredOnArrival)
	}
	if token.Provisional && e.held.Load().phase(now) < margin && e.held.Load().phase(now) != absent {
		return e.fail(ErrProvisional)
	}
	o := Outcome{
		First:    e.held.Load() == nil,
		Failures: e.failures,
		LifeLeft: held.expires.Sub(now),
		RenewIn:  held.renewAt.Sub(now),
	}
	e.held.Store(held)
	e.failures, e.forgotten = 0, nil
	e.schedule(held.renewAt)
	return o
}

// fail notes a failed fetch and when the next may be made. e.mu is held.
func (e *Entry) fail(err error) Outcome {
	now := time.Now()
	delay := backoff(e.failures)
	if asked := retryAfter(err); asked > 0 {
		delay = max(delay, asked+rand.N(asked/10+1))
	}
	if paced, ok := errors.AsType[pacedError](err); ok {
		delay = paced.RetryDelay()
	}
	if err == ErrProvisional { // which asks for no token, and has one from the margin on
		delay = min(delay, max(e.held.Load().marginAt.Sub(now), 0))
	}
	first := now
	if e.failures > 0 {
		first = e.failure.first
	}
	e.failures++
	e.failure = &failure{err: err, at: now, first: first}
	e.schedule(now.Add(delay))

	o := Outcome{Err: err, Failures: e.failures, RetryIn: delay}
	if held := e.held.Load(); held != nil {
		held.used.Store(false)
		o.LifeLeft = max(held.expires.Sub(now), 0)
	}
	return o
}

// pacedError is an error after which a retry costs the server nothing, and is due
// after a time of its own.
type pacedError interface {
	error
	RetryDelay() time.Duration
}

// retryAfter returns how long the server asked to be left alone.
func retryAfter(err error) time.Duration {
	if failed, ok := errors.AsType[*authserver.Error](err); ok {
		return failed.RetryAfter
	}
	return 0
}

// backoff returns how long to wait after a failure that followed n others.
func backoff(n int) time.Duration {
	step := backoffMax
	if n < 6 {
		step = min(backoffFirst<<n, backoffMax)
	}
	return step/4 + rand.N(step*3/4)
}

// schedule sets the timer for the next renewal or retry. e.mu is held.
func (e *Entry) schedule(due time.Time) {
	if e.timer != nil {
		e.timer.Stop()
	}
	e.due = due
	if !e.stopped {
		e.timer = time.AfterFunc(time.Until(due), e.onTimer)
	}
}

// onTimer renews the token or retries the fetch if a request has asked since the
// last one. Otherwise the entry goes dormant and the next request probes. The
// failure count stays, so a struggling server is spared.
func (e *Entry) onTimer() {
	if e.renewIfWanted() && e.account != nil {
		e.cache.accounts.evictIdle(e.account)
	}
}

// renewIfWanted starts a fetch if there is demand for one. It reports whether the
// entry can be evicted.
func (e *Entry) renewIfWanted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if !reached(e.due, now) || e.stopped {
		return false // stopped too late: it has been set anew
	}
	held := e.held.Load()
	if e.wanted || held != nil && held.used.Load() {
		e.fetchNow()
		return false
	}
	first := !e.dormant
	e.dormant = true
	if held.phase(now) != absent {
		e.schedule(held.expires)
		return false
	}
	if first && e.failures > 0 { // remembered for a while
		e.schedule(now.Add(backoffMax))
		return false
	}
	return true
}

// stop ends the timer for good. Requests that are still on their way may use
// the token.
func (e *Entry) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = true
	if e.timer != nil {
		e.timer.Stop()
	}
}

// discard stops an evicted entry and lets its token go: the runtime may hold a
// stopped timer for a while, and the timer holds the entry.
func (e *Entry) discard() {
	e.stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held.Store(nil)
	e.forgotten = nil
}
