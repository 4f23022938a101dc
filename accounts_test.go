package upstreamoauth2

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/tokenendpoint"
)

// accountServer issues tokens that say whom they are for, and refuses whom the
// test wants refused.
type accountServer struct {
	refuse   func(account string) bool
	lifetime time.Duration
	padding  string // makes tokens as long as real ones

	requests atomic.Int64
}

var errRefused = &tokenendpoint.Error{Kind: tokenendpoint.Refused, Code: "invalid_grant"}

func (s *accountServer) fetch(_ context.Context, job job) (*tokenendpoint.Token, error) {
	s.requests.Add(1)
	account := job.inputs[0]
	if s.refuse != nil && s.refuse(account) {
		return nil, errRefused
	}
	return &tokenendpoint.Token{
		AccessToken: tokenendpoint.NewSecret("for " + account + s.padding),
		Lifetime:    s.lifetime,
		RequestedAt: time.Now(),
	}, nil
}

func (s *accountServer) report(outcome) {}

func openAccounts(t testing.TB, limit int, s *accountServer) *tokenCache {
	t.Helper()
	key := t.Name()
	cache, err := openCache(key, twentyPercent, limit, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closeCache(key, cache, s) })
	return cache
}

// size counts the accounts that are held.
func (a *accounts) size() (proven, unproven int) {
	for i := range a.shards {
		shard := &a.shards[i]
		shard.mu.Lock()
		proven += shard.proven.Len()
		unproven += shard.unproven.Len()
		shard.mu.Unlock()
	}
	return proven, unproven
}

// TestAccountsNeverGetEachOthersTokens runs callers of many accounts at random
// through a cache that is too small for them, so that slots come and go.
func TestAccountsNeverGetEachOthersTokens(t *testing.T) {
	server := &accountServer{lifetime: time.Hour}
	cache := openAccounts(t, 50, server)
	var callers sync.WaitGroup
	for seed := range uint64(16) {
		callers.Go(func() {
			dice := rand.New(rand.NewPCG(seed, 1))
			for range 2000 {
				account := fmt.Sprint("account ", dice.IntN(200))
				token, err := cache.accounts.slot([]string{account}).token(t.Context())
				if err != nil {
					t.Errorf("%s: %v", account, err)
					return
				}
				if got := token.AccessToken.Reveal(); got != "for "+account {
					t.Errorf("%s got the token %q", account, got)
					return
				}
			}
		})
	}
	callers.Wait()
	if proven, _ := cache.accounts.size(); proven > 50 {
		t.Errorf("%d accounts are held, the limit is 50", proven)
	}
}

// TestValuesThatReadAlikeAreApart guards the key: joining the values without
// their lengths would make one account of two.
func TestValuesThatReadAlikeAreApart(t *testing.T) {
	for _, pair := range [][2][]string{
		{{"ab", "c"}, {"a", "bc"}},
		{{"a", ""}, {"", "a"}},
		{{"a"}, {"a", ""}},
		{{"a\x00b"}, {"a", "b"}},
	} {
		if keyOf(pair[0]) == keyOf(pair[1]) {
			t.Errorf("%q and %q share a token", pair[0], pair[1])
		}
	}
	if values := []string{"a", "b"}; keyOf(values) != keyOf(slices.Clone(values)) {
		t.Error("equal values do not share a token")
	}
}

func TestFloodOfBadAccountsLeavesGoodOnesAlone(t *testing.T) {
	server := &accountServer{lifetime: time.Hour, refuse: func(account string) bool { return strings.HasPrefix(account, "bad") }}
	cache := openAccounts(t, 100, server)
	for i := range 100 {
		if _, err := cache.accounts.slot([]string{fmt.Sprint("good ", i)}).token(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10_000 {
		if _, err := cache.accounts.slot([]string{fmt.Sprint("bad ", i)}).token(t.Context()); !errors.Is(err, errRefused) {
			t.Fatalf("bad %d: %v", i, err)
		}
	}
	proven, unproven := cache.accounts.size()
	if proven != 100 {
		t.Errorf("%d of 100 good accounts are left", proven)
	}
	if unproven > 25 {
		t.Errorf("%d bad accounts are held", unproven)
	}
}

func TestRefusedAccountBacksOffByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &accountServer{lifetime: time.Hour, refuse: func(account string) bool { return account == "bad" }}
		cache := newTokenCache(twentyPercent, 100)
		cache.fetchers = []fetcher{server}
		defer func() { _ = cache.Destruct() }()

		for range 600 { // a request every second for ten minutes
			if _, err := cache.accounts.slot([]string{"bad"}).token(t.Context()); err == nil {
				t.Fatal("a refused account got a token")
			}
			if _, err := cache.accounts.slot([]string{"good"}).token(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := server.requests.Load(); n > 31 { // one of them for the good account
			t.Errorf("%d token requests", n)
		}
	})
}

func TestIdleAccountIsEvictedWhenItsTokenHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &accountServer{lifetime: time.Minute}
		cache := newTokenCache(twentyPercent, 100)
		cache.fetchers = []fetcher{server}
		defer func() { _ = cache.Destruct() }()

		if _, err := cache.accounts.slot([]string{"alice"}).token(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if proven, unproven := cache.accounts.size(); proven+unproven != 0 {
			t.Errorf("%d accounts are held after five minutes without a request", proven+unproven)
		}
		// Used once: renewed once, and then let go.
		if n := server.requests.Load(); n != 2 {
			t.Errorf("%d token requests, want 2", n)
		}
	})
}

func TestConcurrentCallersOfAnAccountShareOneFetch(t *testing.T) {
	server := &accountServer{lifetime: time.Hour}
	cache := openAccounts(t, 100, server)
	var callers sync.WaitGroup
	for range 500 {
		callers.Go(func() {
			if _, err := cache.accounts.slot([]string{"alice"}).token(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if n := server.requests.Load(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// BenchmarkAccountHit is what finding a fresh token costs once the request's
// values are known.
func BenchmarkAccountHit(b *testing.B) {
	server := &accountServer{lifetime: time.Hour}
	cache := openAccounts(b, 10_000, server)
	values := make([][]string, 5000)
	for i := range values {
		values[i] = []string{fmt.Sprintf("user-%d@example.com", i)}
		if _, err := cache.accounts.slot(values[i]).token(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	for _, parallel := range []bool{false, true} {
		b.Run(map[bool]string{false: "serial", true: "parallel"}[parallel], func(b *testing.B) {
			b.ReportAllocs()
			var n atomic.Uint64
			work := func(next func() bool) {
				for i := n.Add(1) * 997; next(); i++ {
					if _, err := cache.accounts.slot(values[i%uint64(len(values))]).token(b.Context()); err != nil {
						b.Error(err)
					}
				}
			}
			if !parallel {
				work(b.Loop)
				return
			}
			b.RunParallel(func(pb *testing.PB) { work(pb.Next) })
		})
	}
}

// BenchmarkAccountMemory sends 100,000 accounts through a cache for 10,000 and
// reports what each of those it holds costs, with tokens of 1 KiB.
func BenchmarkAccountMemory(b *testing.B) {
	const limit = 10_000
	for b.Loop() {
		server := &accountServer{lifetime: time.Hour}
		cache := newTokenCache(twentyPercent, limit)
		cache.fetchers = []fetcher{server}
		before := heapInUse()
		for i := range 10 * limit {
			server.padding = strings.Repeat("x", 1024-len("for ")-len("user-000000@example.com"))
			if _, err := cache.accounts.slot([]string{fmt.Sprintf("user-%06d@example.com", i)}).token(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		proven, _ := cache.accounts.size()
		b.ReportMetric(float64(heapInUse()-before)/float64(proven), "bytes/account")
		b.ReportMetric(float64(proven), "accounts")
		_ = cache.Destruct()
	}
}

// Interface guard
var _ fetcher = (*accountServer)(nil)
