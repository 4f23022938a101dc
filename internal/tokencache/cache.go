// Package tokencache decides when an access token is fetched, how long it is
// served and who waits for a newer one. All of a token's life is in entry.go; a
// client with accounts has one entry for each of them, see accounts.go, and a
// circuit breaker that they share, see breaker.go.
//
// It knows neither HTTP nor what a token request is made of: a Source makes it.
package tokencache

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// Source makes the token requests. It belongs to a config; the cache, which
// outlives configs, borrows it.
type Source interface {
	// Fetch makes one token request. inputs are the values of the account's
	// requests, nil without accounts; held is the token in hand, nil if there is
	// none. ctx ends with the cache only: the deadline is the source's own.
	Fetch(ctx context.Context, inputs []string, held *authserver.Token) (*authserver.Token, error)

	// Report is told how each fetch went.
	Report(Outcome)
}

// Outcome is what there is to say about one finished fetch.
type Outcome struct {
	Err      error
	Failures int           // in a row: up to and including this fetch, or before it if it brought a token
	RetryIn  time.Duration // after a failure: until the next attempt may be made
	LifeLeft time.Duration // of the token in hand; 0 if there is none to use
	RenewIn  time.Duration // after a success: until the token is renewed
	First    bool          // the first token since the entry came to be
	Account  string        // a short name for the account, which tells nothing about it; "" without accounts
}

// Settings shape the lives of a cache's tokens.
type Settings struct {
	// A token is renewed when this percentage of its life is left.
	RefreshAheadPercent int

	// If set, a token is renewed this long before its expiry instead, but not
	// before half of its life is over, so that short ones are not renewed
	// without end.
	RefreshAhead time.Duration

	// DefaultLifetime is the life of a token whose server states none.
	DefaultLifetime time.Duration

	// MaxAccounts is how many accounts with a token are held; 0 for a client
	// without accounts.
	MaxAccounts int

	// MaxWait is how long an account's fetch waits while too many others are being
	// made.
	MaxWait time.Duration
}

// refreshAhead returns how long before its expiry a token of that life is renewed.
func (s *Settings) refreshAhead(life time.Duration) time.Duration {
	if s.RefreshAhead > 0 {
		return min(s.RefreshAhead, life/2)
	}
	return life * time.Duration(s.RefreshAheadPercent) / 100
}

// Failure is what requests get for which there is no token until the next attempt.
// It wraps the error of the last one.
type Failure struct {
	RetryIn time.Duration // until the next attempt; 0 while one is being made
	err     error
}

func (f *Failure) Error() string { return f.err.Error() }
func (f *Failure) Unwrap() error { return f.err }

var (
	// ErrExpiredOnArrival is for answers slower than the life of their token.
	ErrExpiredOnArrival = errors.New("the token had expired before it could be used")

	// ErrProvisional is for a token that is not used yet, as the one before it is good
	// and what came with the new one is not safe.
	ErrProvisional = errors.New("the newest refresh token cannot be stored; until it is, the token in hand is used as long as it is good")

	// ErrTooManyWaiting is for accounts without a token, while too many others
	// wait for their first one.
	ErrTooManyWaiting = errors.New("too many accounts wait for their first token")
)

// Cache keeps the token of one client, or of each of its accounts, for all sites,
// routes and reloads whose settings are the same.
type Cache struct {
	settings Settings
	ctx      context.Context // of fetches
	cancel   context.CancelFunc

	mu      sync.Mutex
	sources []Source // of the configs that use the cache, the newest last

	only     Entry     // of a client without accounts
	accounts *accounts // of a client with accounts, else nil
	breaker  *breaker  // for accounts, else nil
}

// New returns an empty cache. Close ends its work.
func New(settings Settings) *Cache {
	c := &Cache{settings: settings}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.only.cache = c
	if settings.MaxAccounts > 0 {
		c.accounts, c.breaker = newAccounts(c, settings.MaxAccounts), newBreaker(settings.MaxWait)
	}
	return c
}

// Lend makes s the newest of the cache's sources, which makes all fetches from
// now on.
func (c *Cache) Lend(s Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sources = append(c.sources, s)
}

// TakeBack takes s out of the cache's sources. A fetch in progress goes on.
func (c *Cache) TakeBack(s Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sources = slices.DeleteFunc(c.sources, func(other Source) bool { return other == s })
}

// source returns the newest config's source; nil if none is left.
func (c *Cache) source() Source {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sources) == 0 {
		return nil
	}
	return c.sources[len(c.sources)-1]
}

// Entry returns the entry for a request: the client's only one, or that of the
// account with these values, an empty one if they are new. The request asks it for
// a token at once.
func (c *Cache) Entry(values []string) *Entry {
	if c.accounts == nil {
		return &c.only
	}
	return c.accounts.entry(values)
}

// closeGrace is how long fetches may go on that were in progress when the last
// config let go: its requests may still wait for them.
const closeGrace = time.Minute

// Close ends the timers at once, and fetches after a while.
func (c *Cache) Close() {
	time.AfterFunc(closeGrace, c.cancel)
	for _, e := range c.entries() {
		e.stop()
	}
}

// entries returns all entries that are held.
func (c *Cache) entries() []*Entry {
	if c.accounts == nil {
		return []*Entry{&c.only}
	}
	var entries []*Entry
	for _, acc := range c.accounts.all() {
		entries = append(entries, &acc.Entry)
	}
	return entries
}
