package upstreamoauth2

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
)

// caches holds the state that outlives a config reload: one tokenCache for
// each set of resolved client settings, by their hash. It captures nothing
// that a config owns; clients lend it their fetchers while they live.
var caches = caddy.NewUsagePool()

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

// fetcher makes one token request. It belongs to a config; the cache borrows it.
type fetcher interface {
	// Fetch makes one token request. inputs are what the account's requests
	// contribute, nil without accounts; held is the token in hand, nil if there is
	// none.
	Fetch(ctx context.Context, inputs []string, held *authserver.Token) (*authserver.Token, error)

	// report is told how each fetch went.
	report(outcome)
}

// outcome is what there is to say about one finished fetch.
type outcome struct {
	err      error
	failures int           // in a row, up to and including this fetch
	retryIn  time.Duration // until the next attempt may be made
	lifeLeft time.Duration // of the token in hand; 0 if there is none to use
	renewIn  time.Duration // until the token is renewed
	first    bool          // the first token since the slot came to be
	account  string        // a short name for the account, which tells nothing about it
}

// ahead is how long before its expiry a token is renewed: a part of its life,
// or a duration.
type ahead struct {
	percent int
	fixed   time.Duration
}

// of returns the time for a token with the given life: a duration counts at
// most half of it, so that short tokens are not renewed without end.
func (a ahead) of(life time.Duration) time.Duration {
	if a.fixed > 0 {
		return min(a.fixed, life/2)
	}
	return life * time.Duration(a.percent) / 100
}

// lifeSettings are the durations that shape a token's life.
type lifeSettings struct {
	refreshAhead    ahead
	defaultLifetime time.Duration
}

// tokenCache keeps the token of one client, for all sites, routes and reloads
// whose resolved settings are the same.
type tokenCache struct {
	life   lifeSettings
	ctx    context.Context // of fetches
	cancel context.CancelFunc

	mu       sync.Mutex
	fetchers []fetcher // of the configs that use the cache, the newest last

	slot     slot      // of the client without accounts
	accounts *accounts // of a client with accounts, else nil
	breaker  *breaker  // for accounts, else nil
}

// shared is what clients with the same resolved settings share.
type shared struct {
	cache  *tokenCache
	server tokensource.Server
}

// openShared returns what is shared under key, and counts its user until
// closeShared.
func openShared(key string, definition config.Client) (*shared, error) {
	value, _, err := caches.LoadOrNew(key, func() (caddy.Destructor, error) {
		life, err := definition.Life()
		return &shared{cache: newTokenCache(lifeSettings{
			refreshAhead:    ahead{percent: life.AheadPercent, fixed: life.Ahead},
			defaultLifetime: life.Default,
		}, definition.AccountLimit())}, err
	})
	if err != nil {
		return nil, err
	}
	return value.(*shared), nil
}

// closeShared ends the use of what is shared, which ends with its last user.
func closeShared(key string) error {
	_, err := caches.Delete(key)
	return err
}

// Destruct implements caddy.Destructor.
func (s *shared) Destruct() error {
	s.cache.close()
	return nil
}

// lend makes f the newest of the cache's fetchers.
func (c *tokenCache) lend(f fetcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fetchers = append(c.fetchers, f)
}

// takeBack takes f out of the cache's fetchers.
func (c *tokenCache) takeBack(f fetcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fetchers = slices.DeleteFunc(c.fetchers, func(other fetcher) bool { return other == f })
}

func newTokenCache(life lifeSettings, maxAccounts int) *tokenCache {
	c := &tokenCache{life: life}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.slot.cache = c
	if maxAccounts > 0 {
		c.accounts, c.breaker = newAccounts(c, maxAccounts), newBreaker()
	}
	return c
}

// fetchGrace is how long fetches may go on that were in progress when the last
// config let go: its requests may still wait for them.
const fetchGrace = time.Minute

// close ends the timers at once, and fetches after a while.
func (c *tokenCache) close() {
	time.AfterFunc(fetchGrace, c.cancel)
	c.slot.stop()
	if c.accounts != nil {
		c.accounts.stop()
	}
}

// fetcher returns the newest config's fetcher; nil if none is left.
func (c *tokenCache) fetcher() fetcher {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.fetchers) == 0 {
		return nil
	}
	return c.fetchers[len(c.fetchers)-1]
}

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

// hold works out the phases of a token's life. Its last second is not counted:
// servers round the time of issue, and so the expiry, down to a second.
func (l lifeSettings) hold(token *authserver.Token) *heldToken {
	life := token.Lifetime
	if life == 0 {
		life = l.defaultLifetime
	}
	life -= min(time.Second, life/2)
	margin := min(marginMax, life/10)
	ahead := max(l.refreshAhead.of(life), margin)
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

// slot is where one token lives: it holds the current one and decides when a
// new one is fetched. All of a token's life happens here.
//
//	absent ──fetched──► fresh ──► renewing ──► margin ──expires──► absent
//	                      ▲           │           │
//	                      └──fetched──┴───────────┘
//
// A failed fetch changes nothing about the token in hand. It sets failure, and
// until the timer tries again, requests that have no token left fail at once.
type slot struct {
	cache   *tokenCache
	account *account // nil for the client's only slot
	held    atomic.Pointer[heldToken]

	mu       sync.Mutex
	flight   *flight     // the fetch in progress
	timer    *time.Timer // the next renewal or retry
	due      time.Time   // when the timer fires
	failures int         // in a row
	failure  error       // not nil: known to be failing, requests do not wait
	wanted   bool        // a request asked since the last fetch began
	letGo    bool        // the timer found no demand: nobody knows how things are now
	stopped  bool        // no timer any more
	rejected time.Time   // when a rejection last led to a fetch
}

// flight is a fetch in progress. done closes when it has ended either way; held
// is set by then if it brought a token.
type flight struct {
	done    chan struct{}
	held    *heldToken
	started time.Time
	probe   bool // after a failure, for a request rather than by the timer
}

// backoffError is the failure of requests for which there is no token until
// the next attempt.
type backoffError struct {
	err     error
	retryIn time.Duration
}

func (e *backoffError) Error() string { return e.err.Error() }
func (e *backoffError) Unwrap() error { return e.err }

// token returns a token that is not expired. It waits only if there is none to
// use and nothing known to be wrong; ctx ends the wait, not the fetch.
func (s *slot) token(ctx context.Context) (*authserver.Token, error) {
	held := s.held.Load()
	if held == nil || reached(held.renewAt, time.Now()) {
		var err error
		if held, err = s.tokenNotFresh(ctx); err != nil {
			return nil, err
		}
		return held.Token, nil
	}
	held.markUsed()
	return held.Token, nil
}

func (s *slot) tokenNotFresh(ctx context.Context) (*heldToken, error) {
	s.mu.Lock()
	now := time.Now()
	held := s.held.Load()
	phase := held.phase(now)
	if phase == fresh { // renewed since token looked
		s.mu.Unlock()
		held.markUsed()
		return held, nil
	}
	s.wanted = true
	var failure error // what to answer with if nothing comes in time
	if s.failure != nil {
		failure = s.backingOff(now)
		if s.flight == nil && s.letGo {
			s.fetchNow().probe = true
		}
		if s.flight == nil || !s.flight.probe {
			s.mu.Unlock()
			return orFail(held, phase, failure)
		}
	} else if err := s.cache.breaker.refuses(s, phase, now); err != nil {
		s.mu.Unlock()
		s.cache.accounts.fail(s.account)
		return nil, err
	}
	flight := s.fetchNow()
	s.mu.Unlock()
	if phase == renewing {
		return held, nil
	}
	return s.await(ctx, flight, held, failure)
}

// orFail returns the token, if there is one to use, or the failure.
func orFail(held *heldToken, phase phase, failure error) (*heldToken, error) {
	if phase == absent {
		return nil, failure
	}
	return held, nil
}

// await waits for a fetch. Where there is something else to do, which is to use
// what is left of held or to fail as the fetch before did, it waits for the
// first second of the fetch only.
func (s *slot) await(ctx context.Context, f *flight, held *heldToken, failure error) (*heldToken, error) {
	now := time.Now()
	phase := held.phase(now)
	var enough <-chan time.Time
	if phase != absent || failure != nil {
		patience := f.started.Add(marginWait).Sub(now)
		if phase != absent {
			patience = min(patience, held.expires.Sub(now)/2)
		}
		if patience <= 0 {
			return orFail(held, phase, failure)
		}
		timer := time.NewTimer(patience)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case <-f.done:
		if f.held != nil {
			held = f.held
		} else if newest := s.held.Load(); newest != nil { // it failed, and another one has not
			held = newest
		}
	case <-enough:
		if held.phase(time.Now()) == absent && failure == nil { // the machine was suspended
			return s.await(ctx, f, nil, nil)
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	now = time.Now()
	if held.phase(now) != absent {
		// An account's first request may be its only one: it alone is no reason
		// to renew the token.
		if s.account == nil {
			held.markUsed()
		}
		return held, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return nil, s.backingOff(now)
}

// errNoLife is for answers slower than the life of the token they bring.
var errNoLife = errors.New("the token had expired before it could be used")

// backingOff returns the failure that requests get until the next attempt.
// s.mu is held.
func (s *slot) backingOff(now time.Time) error {
	err := s.failure
	if err == nil {
		err = errNoLife
	}
	return &backoffError{err: err, retryIn: max(s.due.Sub(now), 0)}
}

// reject notes that the API refuses t. If that is still the token in hand, it is
// in its margin from now on: requests wait for a newer one, but should none be
// had, the API's own answer is better than ours. So neither a caller who
// provokes rejections nor an API that is out of order takes a token away from
// others, or causes more than one token request every rejectionPause.
//
// replacement is the fetch that brings a newer token; nil if there is nothing to
// wait for.
func (s *slot) reject(t *authserver.Token) (replacement *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	held := s.held.Load()
	if held == nil || held.Token != t {
		return nil // it has been replaced already
	}
	if s.flight == nil {
		if s.failure != nil || now.Sub(s.rejected) < rejectionPause {
			return nil
		}
		s.rejected = now
	}
	s.held.Store(&heldToken{Token: held.Token, renewAt: now, marginAt: now, expires: held.expires})
	return s.fetchNow()
}

// Reject is reject for those who do not wait.
func (s *slot) Reject(t *authserver.Token) { s.reject(t) }

// Replace returns the token that takes the place of t, which the API refuses;
// nil if there is none.
func (s *slot) Replace(ctx context.Context, t *authserver.Token) *authserver.Token {
	if flight := s.reject(t); flight != nil {
		select {
		case <-flight.done:
		case <-ctx.Done():
			return nil
		}
	}
	newest := s.held.Load()
	if newest.phase(time.Now()) == absent || newest.Token == t {
		return nil
	}
	newest.markUsed()
	return newest.Token
}

// warm fetches the first token, unless there is one or a reason to wait. It
// returns the fetch, nil if there is none.
func (s *slot) warm() *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held.Load() == nil && s.failure == nil {
		return s.fetchNow()
	}
	return nil
}

// fetchNow starts a fetch, or returns the one in progress. s.mu is held.
func (s *slot) fetchNow() *flight {
	if s.flight != nil {
		return s.flight
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.wanted, s.letGo = false, false
	if s.account != nil {
		s.cache.accounts.wait(s.account)
	}
	s.flight = &flight{done: make(chan struct{}), started: time.Now()}
	var held *authserver.Token
	if h := s.held.Load(); h != nil {
		held = h.Token
	}
	go s.fly(s.flight, held)
	return s.flight
}

// fly makes the fetch. It belongs to no request, and to no config: only its own
// deadline ends it.
func (s *slot) fly(f *flight, held *authserver.Token) {
	source := s.cache.fetcher()
	if source == nil { // the last config is going
		s.land(f, nil, context.Canceled)
		close(f.done)
		return
	}
	token, err := s.fetch(source, held)
	o := s.land(f, token, err)
	if s.account != nil {
		o.account = s.account.name()
		if o.err == nil {
			s.cache.accounts.prove(s.account)
		} else {
			s.cache.accounts.fail(s.account)
		}
	}
	close(f.done)
	if s.cache.ctx.Err() == nil {
		defer func() { _ = recover() }() // of a log core that another plugin brings
		source.report(o)
	}
}

// errPanic is for a fetch that panicked, in a transport or network proxy that
// another plugin brings. Its value is not shown: it may hold anything.
var errPanic = errors.New("the token request panicked: check 'transport'")

// fetch makes the fetch when it is this slot's turn.
func (s *slot) fetch(source fetcher, held *authserver.Token) (token *authserver.Token, err error) {
	defer func() {
		if recover() != nil {
			token, err = nil, errPanic
		}
	}()
	if s.account != nil {
		return s.cache.breaker.guard(held == nil, func() (*authserver.Token, error) {
			return source.Fetch(s.cache.ctx, s.account.request, held)
		})
	}
	return source.Fetch(s.cache.ctx, nil, held)
}

// land ends a flight with what it brought.
func (s *slot) land(f *flight, token *authserver.Token, err error) outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight = nil
	if err != nil {
		return s.fail(err)
	}
	o := s.keep(token)
	if o.err == nil {
		f.held = s.held.Load()
	}
	return o
}

// keep takes a fetched token into use. s.mu is held.
func (s *slot) keep(token *authserver.Token) outcome {
	now := time.Now()
	held := s.cache.life.hold(token)
	if held.phase(now) == absent {
		return s.fail(errNoLife)
	}
	o := outcome{
		first:    s.held.Load() == nil,
		failures: s.failures,
		lifeLeft: held.expires.Sub(now),
		renewIn:  held.renewAt.Sub(now),
	}
	s.held.Store(held)
	s.failures, s.failure = 0, nil
	s.schedule(held.renewAt)
	return o
}

// fail notes a failed fetch and when the next may be made. s.mu is held.
func (s *slot) fail(err error) outcome {
	now := time.Now()
	delay := backoff(s.failures)
	if e, ok := errors.AsType[*authserver.Error](err); ok {
		delay = max(delay, e.RetryAfter+rand.N(e.RetryAfter/10+1))
	}
	s.failures++
	s.failure = err
	s.schedule(now.Add(delay))

	o := outcome{err: err, failures: s.failures, retryIn: delay}
	if held := s.held.Load(); held != nil {
		held.used.Store(false)
		o.lifeLeft = max(held.expires.Sub(now), 0)
	}
	return o
}

// backoff returns how long to wait after a failure that followed n others.
func backoff(n int) time.Duration {
	step := backoffMax
	if n < 6 {
		step = min(backoffFirst<<n, backoffMax)
	}
	return step/4 + rand.N(step*3/4)
}

// schedule sets the timer for the next renewal or retry. s.mu is held.
func (s *slot) schedule(due time.Time) {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.due = due
	if !s.stopped {
		s.timer = time.AfterFunc(time.Until(due), s.onTimer)
	}
}

// onTimer renews, or tries again, for those who asked since the last fetch. If
// nobody did, the slot is let go: the next request finds out how things are. It
// does not start from the beginning, though: failures still counts, so a server
// in trouble is spared as before.
func (s *slot) onTimer() {
	if s.idle() && s.account != nil {
		s.cache.accounts.drop(s.account)
	}
}

// idle starts a fetch if there is demand for one. It reports whether the slot
// holds nothing that is worth keeping.
func (s *slot) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !reached(s.due, now) || s.stopped {
		return false // stopped too late: it has been set anew
	}
	held := s.held.Load()
	if s.wanted || held != nil && held.used.Load() {
		s.fetchNow()
		return false
	}
	first := !s.letGo
	s.letGo = true
	switch {
	case held.phase(now) != absent:
		s.schedule(held.expires)
		return false
	case first && s.failure != nil: // remembered for a while
		s.schedule(now.Add(backoffMax))
		return false
	}
	return true
}

// forget lets the token go as well: the runtime may hold a stopped timer for a
// while, and the timer holds the slot.
func (s *slot) forget() {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held.Store(nil)
}

// stop ends the timer for good. Requests that are still on their way may use
// the token.
func (s *slot) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// sharingKey identifies what a token request is made of, and how its token is kept:
// clients with the same key share it. It leaves out of the definition what is
// resolved beside it and what only the request side reads, and has all the rest: an
// option that is forgotten here costs sharing, and never shares a wrong token.
//
// A changed secret gives another key. Key and assertion files prove the same client,
// whatever is in them; but two files are two things, even while they hold the same,
// and so are two clients with something that cannot be read yet.
func (c *client) sharingKey(s *config.Settings, unread error) string {
	written, _ := json.Marshal(c.definition)
	d := c.definition
	d.Issuer, d.TokenEndpoint, d.ClientID, d.ClientSecret = "", "", "", ""
	d.Scope, d.Audience, d.Resource, d.TokenParam, d.TokenHeader = nil, nil, nil, nil, nil
	d.Inject, d.KeepExisting, d.OnError, d.Replay, d.UpstreamBase = nil, false, "", nil, ""
	rest, _ := json.Marshal(d)

	thumbprint := ""
	if c.proofKey != nil {
		thumbprint = c.proofKey.Thumbprint()
	}
	parts := []string{
		s.Issuer, s.TokenEndpoint, s.ClientID, s.ClientSecret.Reveal(), s.FirstRefreshToken.Reveal(),
		s.Form.Encode(), url.Values(s.Header).Encode(), thumbprint, string(rest),
		fmt.Sprint(c.definition.TakesAnyTokenType(), c.definition.TakesUntyped()),
	}
	for _, in := range c.inputs { // a value may read like a placeholder
		parts = append(parts, "from the request", in.Option, in.Text)
	}
	parts = append(parts, config.Files(string(written))...)
	if unread != nil {
		parts = append(parts, c.name, string(written))
	}
	key := keyOf(parts)
	return hex.EncodeToString(key[:])
}
