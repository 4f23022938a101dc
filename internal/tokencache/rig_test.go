package tokencache

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// These tests run in synctest bubbles: the clock stands still while anything
// runs, and jumps when all goroutines sleep. A wait of zero is exactly zero,
// and a day takes no time.

// answer is what a scriptedConfig's token request comes to.
type answer struct {
	after    time.Duration // the request takes this long
	lifetime time.Duration // 0: the server stated none
	err      error         // instead of a token

	provisional bool // the token is for when the one before has to be replaced
}

// never is for requests that hang until their context ends.
const never = 1000 * time.Hour

// always gives every request the same answer.
func always(a answer) func(int) answer {
	return func(int) answer { return a }
}

// inTurn gives each request the next answer; the last one is for all the rest.
func inTurn(answers ...answer) func(int) answer {
	return func(n int) answer { return answers[min(n, len(answers))-1] }
}

// outage is a switch for a script: while it is on, the server is down.
type outage struct{ on atomic.Bool }

func (o *outage) script(up, down answer) func(int) answer {
	return func(int) answer {
		if o.on.Load() {
			return down
		}
		return up
	}
}

// errDown is what an unreachable server gives.
var errDown error = &authserver.Error{Kind: authserver.Unavailable}

// scriptedConfig is a config that uses a cache, and the authorization server
// behind it. Its n-th token is called "token-n", n counting requests from 1.
type scriptedConfig struct {
	script func(n int) answer

	mu       sync.Mutex
	requests []time.Time // when each token request went out
	issued   map[string]issuedToken
	newest   issuedToken
	reports  []report
	inFlight int
	overlap  bool // two have been in flight at a time
}

type issuedToken struct {
	name            string
	margin, expires time.Time
}

type report struct {
	Outcome
	at time.Time
}

func (c *scriptedConfig) Fetch(ctx context.Context, _ []string, _ *authserver.Token) (*authserver.Token, error) {
	now := time.Now()
	c.mu.Lock()
	c.requests = append(c.requests, now)
	n := len(c.requests)
	c.inFlight++
	c.overlap = c.overlap || c.inFlight > 1
	c.mu.Unlock()

	a := c.script(n)
	if a.after > 0 {
		select {
		case <-time.After(a.after):
		case <-ctx.Done():
			a.err = ctx.Err()
		}
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight--
	if a.err != nil {
		return nil, a.err
	}
	c.newest = c.issue(fmt.Sprintf("token-%d", n), now, a.lifetime)
	token := authserver.NewToken(c.newest.name, "Bearer")
	token.Lifetime, token.RequestedAt, token.Provisional = stated(a.lifetime), now, a.provisional
	return token, nil
}

// issue writes down what the design says about the token's life: it counts
// from the request, and its margin is ten seconds or a tenth.
func (c *scriptedConfig) issue(name string, now time.Time, life time.Duration) issuedToken {
	if life == 0 {
		life = testDefaultLifetime
	}
	expires := now.Add(life)
	token := issuedToken{name: name, expires: expires, margin: expires.Add(-min(10*time.Second, life/10))}
	if c.issued == nil {
		c.issued = make(map[string]issuedToken)
	}
	c.issued[name] = token
	return token
}

func (c *scriptedConfig) Report(o Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reports = append(c.reports, report{o, time.Now()})
}

// count returns how many token requests have gone out.
func (c *scriptedConfig) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.requests)
}

// tokens returns how many tokens have been issued, and the newest one.
func (c *scriptedConfig) tokens() (int, issuedToken) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.issued), c.newest
}

// silent reports whether the config was told of no fetch.
func (c *scriptedConfig) silent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.reports) == 0
}

// overlapped reports whether two token requests were ever in flight at a time.
func (c *scriptedConfig) overlapped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.overlap
}

// busy reports whether a token request is in flight.
func (c *scriptedConfig) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight > 0
}

// gaps returns the times between one token request and the next.
func (c *scriptedConfig) gaps() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var gaps []time.Duration
	for i := 1; i < len(c.requests); i++ {
		gaps = append(gaps, c.requests[i].Sub(c.requests[i-1]))
	}
	return gaps
}

// lastReport returns the newest report.
func (c *scriptedConfig) lastReport(t *testing.T) report {
	t.Helper()
	synctest.Wait() // a report follows its token at once, but on its own goroutine
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.reports) == 0 {
		t.Fatal("nothing has been reported")
	}
	return c.reports[len(c.reports)-1]
}

// testDefaultLifetime is for tokens without a stated life.
const testDefaultLifetime = time.Minute

// stated is the life that a server states for one of the given length: the last
// second, or half of it, by which servers round it up, is not counted.
func stated(life time.Duration) time.Duration {
	return life + min(life, time.Second)
}

// twentyPercent are the default settings.
var twentyPercent = Settings{RefreshAheadPercent: 20, DefaultLifetime: stated(testDefaultLifetime), MaxWait: 15 * time.Second}

// rig is a cache under test, used by one config. It watches over what must
// hold in every test: no expired token is handed out, and one token request is
// made at a time.
type rig struct {
	t      *testing.T
	cache  *Cache
	config *scriptedConfig
}

func newRig(t *testing.T, settings Settings, script func(n int) answer) *rig {
	t.Helper()
	r := &rig{t: t, cache: New(settings), config: &scriptedConfig{script: script}}
	r.cache.Lend(r.config)
	t.Cleanup(func() {
		r.cache.TakeBack(r.config)
		r.cache.Close()
		time.Sleep(2 * closeGrace) // by then the last fetch has been ended
		if r.config.overlapped() {
			t.Error("two token requests were in flight at a time")
		}
	})
	return r
}

// taken is what came of asking for a token.
type taken struct {
	token  string // its name
	err    error
	asked  time.Time
	waited time.Duration
}

func (r *rig) take(ctx context.Context) taken {
	asked := time.Now()
	token, _, err := r.cache.Entry(nil).Token(ctx)
	got := taken{err: err, asked: asked, waited: time.Since(asked)}
	if err != nil {
		return got
	}
	got.token = token.AccessToken.Reveal()
	r.config.mu.Lock()
	defer r.config.mu.Unlock()
	if token, known := r.config.issued[got.token]; known && !time.Now().Before(token.expires) {
		r.t.Errorf("%s was handed out %v after it had expired", got.token, time.Since(token.expires))
	}
	return got
}

// warm does what every client without accounts does at start.
func (r *rig) warm() {
	go r.cache.Entry(nil).Warm()
	synctest.Wait()
}

// request takes a token, which must be the named one and come after a wait.
func (r *rig) request(token string, wait time.Duration) {
	r.t.Helper()
	got := r.take(r.t.Context())
	if got.err != nil {
		r.t.Fatalf("no token after %v: %v, want %s", got.waited, got.err, token)
	}
	if got.token != token || got.waited != wait {
		r.t.Fatalf("got %s after waiting for %v, want %s after %v", got.token, got.waited, token, wait)
	}
}

// atOnce takes a token, which must be the named one and come without a wait.
func (r *rig) atOnce(token string) {
	r.t.Helper()
	r.request(token, 0)
}

// demand asks for a token at regular intervals for some time. The requests do
// not wait for each other. It returns when all of them have an answer.
func (r *rig) demand(every, total time.Duration) []taken {
	results := make([]taken, total/every)
	var requests sync.WaitGroup
	for i := range results {
		requests.Go(func() { results[i] = r.take(r.t.Context()) })
		time.Sleep(every)
	}
	requests.Wait()
	return results
}

// wantCount fails the test unless that many token requests have gone out.
func (r *rig) wantCount(want int) {
	r.t.Helper()
	synctest.Wait()
	if got := r.config.count(); got != want {
		r.t.Fatalf("%d token requests, want %d", got, want)
	}
}

// wantBetween fails the test unless low <= got <= high.
func wantBetween(t *testing.T, what string, got, low, high time.Duration) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s is %v, want between %v and %v", what, got, low, high)
	}
}
