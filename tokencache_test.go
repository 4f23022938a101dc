package upstreamoauth2

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
)

// Configs that come and go share what is in the pool. The clock is synctest's.

// errDown is what an unreachable server gives.
var errDown error = &authserver.Error{Kind: authserver.Unavailable}

// stubSource is a config's source of tokens. Its n-th one is called "token-n",
// after the source's name.
type stubSource struct {
	name     string
	lifetime time.Duration
	takes    time.Duration // to answer
	err      error         // instead of a token

	mu       sync.Mutex
	requests int
	reports  []tokencache.Outcome
}

// Fetch implements tokencache.Source.
func (s *stubSource) Fetch(context.Context, []string, *authserver.Token) (*authserver.Token, error) {
	s.mu.Lock()
	s.requests++
	n, now := s.requests, time.Now()
	s.mu.Unlock()
	time.Sleep(s.takes)
	if s.err != nil {
		return nil, s.err
	}
	token := authserver.NewToken(fmt.Sprintf("%s token-%d", s.name, n), "Bearer")
	token.Lifetime, token.RequestedAt = s.lifetime+time.Second, now // the last second is not counted
	return token, nil
}

// Report implements tokencache.Source.
func (s *stubSource) Report(o tokencache.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, o)
}

// count returns how many token requests the source has made.
func (s *stubSource) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// told returns what the source was told of fetches.
func (s *stubSource) told() []tokencache.Outcome {
	synctest.Wait() // a report follows its token at once, but on its own goroutine
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reports
}

// pooled is a source in the pool.
type pooled struct {
	t      *testing.T
	key    sharingKey
	source *stubSource
	shared *shared
}

// join has one more source use what is shared under the test's name.
func join(t *testing.T, source *stubSource) *pooled {
	t.Helper()
	p := &pooled{t: t, key: sharingKey{settings: t.Name()}, source: source}
	var err error
	if p.shared, err = openShared(p.key, tokencache.Settings{RefreshAheadPercent: 20}); err != nil {
		t.Fatal(err)
	}
	p.shared.cache.Lend(source)
	return p
}

func (p *pooled) leave() {
	p.t.Helper()
	p.shared.cache.TakeBack(p.source)
	if err := closeShared(p.key, p.shared); err != nil {
		p.t.Error(err)
	}
}

// users returns how many configs use what is shared.
func (p *pooled) users() int {
	n, _ := caches.References(p.key.settings)
	return n
}

// take asks for a token, and returns its name and how long that took.
func (p *pooled) take() (name string, waited time.Duration, err error) {
	asked := time.Now()
	token, _, err := p.shared.cache.Entry(nil).Token(p.t.Context())
	if err == nil {
		name = token.AccessToken.Reveal()
	}
	return name, time.Since(asked), err
}

// want takes a token, which must be the named one and come after a wait.
func (p *pooled) want(name string, wait time.Duration) {
	p.t.Helper()
	if got, waited, err := p.take(); got != name || waited != wait {
		p.t.Fatalf("got %q, %v after %v, want %q after %v", got, err, waited, name, wait)
	}
}

func TestCacheOutlivesTheConfigsThatUseIt(t *testing.T) {
	const hour = time.Hour

	t.Run("a reload keeps the token", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			before := join(t, &stubSource{name: "old", lifetime: hour})
			before.want("old token-1", 0)

			after := join(t, &stubSource{name: "new", lifetime: hour})
			if after.shared != before.shared {
				t.Error("the second config got a cache of its own")
			}
			if n := after.users(); n != 2 {
				t.Errorf("%d configs are counted, want 2", n)
			}
			before.leave()
			after.want("old token-1", 0)
			if after.source.count() != 0 {
				t.Error("the reload cost a token request")
			}
			if n := after.users(); n != 1 {
				t.Errorf("%d configs are counted, want 1", n)
			}
			after.leave()
			if n := after.users(); n != 0 {
				t.Errorf("%d configs are counted, want 0", n)
			}

			// Nobody kept it: the token is gone with the cache.
			late := join(t, &stubSource{name: "late", lifetime: hour})
			defer late.leave()
			late.want("late token-1", 0)
		})
	})

	t.Run("the newest config makes the requests", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			before := join(t, &stubSource{name: "old", lifetime: time.Minute})
			defer before.leave()
			after := join(t, &stubSource{name: "new", lifetime: time.Minute})
			after.want("new token-1", 0)
			if told := after.source.told(); len(told) != 1 || told[0].Err != nil {
				t.Errorf("the newest config was told of %+v", told)
			}
			if told := before.source.told(); len(told) > 0 {
				t.Error("the old config was told of a request that was not its own")
			}

			// The new config turns out wrong and is dropped: the old one goes on.
			after.leave()
			time.Sleep(hour)
			before.want(fmt.Sprintf("old token-%d", before.source.count()+1), 0)
			if after.source.count() != 1 {
				t.Errorf("the dropped config made %d token requests, want 1", after.source.count())
			}
		})
	})

	t.Run("a request in flight survives its config", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			before := join(t, &stubSource{name: "old", lifetime: hour, takes: 5 * time.Second})
			var waiting sync.WaitGroup
			waiting.Go(func() { before.want("old token-1", 5*time.Second) })
			time.Sleep(time.Second)

			after := join(t, &stubSource{name: "new", lifetime: hour})
			defer after.leave()
			before.leave()
			waiting.Wait()
			after.want("old token-1", 0)
			if after.source.count() != 0 {
				t.Error("the reload cost a token request")
			}
		})
	})

	t.Run("a failing server is remembered, too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			before := join(t, &stubSource{err: errDown})
			_, _, _ = before.take()
			after := join(t, &stubSource{err: errDown})
			defer after.leave()
			before.leave()
			after.shared.cache.Entry(nil).Warm()
			if _, _, err := after.take(); !errors.Is(err, errDown) || after.source.count() != 0 {
				t.Errorf("got %v after %d token requests, want the known failure", err, after.source.count())
			}
		})
	})
}

func TestRequestAfterTheLastConfigFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		only := join(t, &stubSource{name: "only", lifetime: time.Minute})
		only.want("only token-1", 0)
		only.leave()

		// Requests that still drain use the token while it lasts.
		only.want("only token-1", 0)
		time.Sleep(time.Minute)
		if got, waited, err := only.take(); !errors.Is(err, context.Canceled) || waited > 0 {
			t.Errorf("got %q, %v after %v, want an error at once", got, err, waited)
		}
		if n := only.source.count(); n != 1 {
			t.Errorf("the config made %d token requests, one of them after it had left", n)
		}
	})
}

// TestHashesTellListsApart: joining the parts would make one of two.
func TestHashesTellListsApart(t *testing.T) {
	lists := [][]string{
		{"ab", "c"}, {"a", "bc"}, {"a", ""}, {"", "a"}, {"a"}, {"a b"}, {"a", "b"}, {`a" "b`},
		{"\xff"}, {"\xfe"}, {"\ufffd"}, {`\xff`},
	}
	seen := make(map[string][]string)
	for _, list := range lists {
		hash := hashOf(list)
		if other, ok := seen[hash]; ok {
			t.Errorf("%q and %q have the same hash", list, other)
		}
		seen[hash] = list
		if hashOf(list) != hash {
			t.Errorf("%q has two hashes", list)
		}
	}
}
