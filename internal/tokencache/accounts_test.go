package tokencache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// accountServer issues tokens that say whom they are for, and refuses whom the
// test wants refused.
type accountServer struct {
	refuse   func(account string) bool
	fails    func() error               // nil for never
	failsFor func(account string) error // likewise
	lifetime time.Duration
	takes    func(account string) time.Duration // to answer; nil for no time
	padding  string                             // makes tokens as long as real ones

	requests atomic.Int64
}

var errRefused = &authserver.Error{Kind: authserver.Refused, Code: "invalid_grant"}

func (s *accountServer) Fetch(_ context.Context, inputs []string, _ *authserver.Token) (*authserver.Token, error) {
	s.requests.Add(1)
	account := "" // of a client without accounts
	if len(inputs) > 0 {
		account = inputs[0]
	}
	if s.takes != nil {
		time.Sleep(s.takes(account))
	}
	if s.refuse != nil && s.refuse(account) {
		return nil, errRefused
	}
	if s.fails != nil {
		if err := s.fails(); err != nil {
			return nil, err
		}
	}
	if s.failsFor != nil {
		if err := s.failsFor(account); err != nil {
			return nil, err
		}
	}
	token := authserver.NewToken("for "+account+s.padding, "Bearer")
	token.Lifetime, token.RequestedAt = s.lifetime, time.Now()
	return token, nil
}

func (s *accountServer) Report(Outcome) {}

// open returns a cache with a source, until the test ends.
func open(t testing.TB, settings Settings, source Source) *Cache {
	t.Helper()
	cache := New(settings)
	cache.Lend(source)
	t.Cleanup(func() {
		cache.TakeBack(source)
		cache.Close()
	})
	return cache
}

// openAccounts is open for a client with that many accounts.
func openAccounts(t testing.TB, limit int, source Source) *Cache {
	t.Helper()
	settings := twentyPercent
	settings.MaxAccounts = limit
	return open(t, settings, source)
}

// size counts the accounts that are held, those with a token and the others.
func (a *accounts) size() (withToken, others int) {
	for i := range a.shards {
		shard := &a.shards[i]
		shard.mu.Lock()
		withToken += shard.lists[good].Len()
		others += shard.lists[failed].Len() + shard.lists[pending].Len()
		shard.mu.Unlock()
	}
	return withToken, others
}

// TestAccountsNeverGetEachOthersTokens runs callers of many accounts at random
// through a cache that is too small for them, so that entries come and go.
func TestAccountsNeverGetEachOthersTokens(t *testing.T) {
	server := &accountServer{lifetime: time.Hour}
	cache := openAccounts(t, 50, server)
	var callers sync.WaitGroup
	for seed := range uint64(16) {
		callers.Go(func() {
			dice := rand.New(rand.NewPCG(seed, 1))
			for range 2000 {
				account := fmt.Sprint("account ", dice.IntN(200))
				token, _, err := cache.Entry([]string{account}).Token(t.Context())
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
	if held, _ := cache.accounts.size(); held > 50 {
		t.Errorf("%d accounts are held, the limit is 50", held)
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
		if _, _, err := cache.Entry([]string{fmt.Sprint("good ", i)}).Token(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10_000 {
		if _, _, err := cache.Entry([]string{fmt.Sprint("bad ", i)}).Token(t.Context()); !errors.Is(err, errRefused) {
			t.Fatalf("bad %d: %v", i, err)
		}
	}
	held, bad := cache.accounts.size()
	if held != 100 {
		t.Errorf("%d of 100 good accounts are left", held)
	}
	if bad > 25 {
		t.Errorf("%d bad accounts are held", bad)
	}
}

// TestManyNewcomersAtATime, as after a start: however slow the server is, each of
// them costs one token request, and then has a token.
func TestManyNewcomersAtATime(t *testing.T) {
	const accounts = 1000
	synctest.Test(t, func(t *testing.T) {
		server := &accountServer{lifetime: time.Hour, takes: func(string) time.Duration { return time.Second }}
		cache := openAccounts(t, accounts, server)

		var asking sync.WaitGroup
		for i := range accounts {
			asking.Go(func() {
				for range 20 {
					if _, _, err := cache.Entry([]string{fmt.Sprint("account ", i)}).Token(t.Context()); err != nil {
						t.Errorf("account %d: %v", i, err)
						return
					}
					time.Sleep(time.Second)
				}
			})
		}
		asking.Wait()

		if n := server.requests.Load(); n != accounts {
			t.Errorf("%d token requests for %d accounts", n, accounts)
		}
	})
}

// TestFloodOfNewcomersIsBounded, and keeps nobody from being renewed.
func TestFloodOfNewcomersIsBounded(t *testing.T) {
	const flood = 3 * minPending
	synctest.Test(t, func(t *testing.T) {
		server := &accountServer{lifetime: 10 * time.Minute, takes: func(account string) time.Duration {
			if account == "good" {
				return time.Second
			}
			return time.Minute
		}}
		cache := openAccounts(t, 100, server)
		if _, _, err := cache.Entry([]string{"good"}).Token(t.Context()); err != nil {
			t.Fatal(err)
		}

		var flooding sync.WaitGroup
		var full atomic.Int64
		for i := range flood {
			flooding.Go(func() {
				if _, _, err := cache.Entry([]string{fmt.Sprint("newcomer ", i)}).Token(t.Context()); errors.Is(err, ErrTooManyWaiting) {
					full.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		// Those who come at the very same time are counted before one is let in.
		if n := full.Load(); n < flood-minPending-100 || n > flood-minPending+100 {
			t.Errorf("%d of %d newcomers are told that too many wait, want about %d", n, flood, flood-minPending)
		}
		for range 660 { // a request every second, while the flood has its token requests made
			time.Sleep(time.Second)
			if token, _, err := cache.Entry([]string{"good"}).Token(t.Context()); err != nil || token.RequestedAt.Add(token.Lifetime).Before(time.Now()) {
				t.Errorf("the good account has %v and %v", token, err)
				break
			}
		}
		flooding.Wait()
	})
}

// failingServer fails with the error that an account names.
type failingServer struct {
	accountServer
	errs map[string]error
}

func (s *failingServer) Fetch(ctx context.Context, inputs []string, held *authserver.Token) (*authserver.Token, error) {
	if err := s.errs[inputs[0]]; err != nil {
		s.requests.Add(1)
		return nil, err
	}
	return s.accountServer.Fetch(ctx, inputs, held)
}

// TestWhatWasNotAskedSaysNothing: a token request that could not be made does not
// make an unavailable server available again.
func TestWhatWasNotAskedSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := &authserver.Error{Kind: authserver.Unavailable, RetryAfter: time.Minute}
		unread := errors.New("the key cannot be read")
		server := &failingServer{errs: map[string]error{"probe": unread}}
		for i := range newcomersInARow {
			server.errs[fmt.Sprint("first ", i)] = down
		}
		cache := openAccounts(t, 100, server)
		// ask checks what an account is told.
		ask := func(account string, want error) {
			t.Helper()
			if _, _, err := cache.Entry([]string{account}).Token(t.Context()); !errors.Is(err, want) {
				t.Errorf("%s is told %v, want %v", account, err, want)
			}
		}

		for i := range newcomersInARow {
			ask(fmt.Sprint("first ", i), down)
		}
		ask("second", down)
		time.Sleep(2 * time.Minute) // the next one may try
		ask("probe", unread)
		ask("third", down)

		if n := server.requests.Load(); n != newcomersInARow+1 {
			t.Errorf("%d token requests, want those of the first ones and the probe", n)
		}
	})
}

func TestRefusedAccountBacksOffByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &accountServer{lifetime: time.Hour, refuse: func(account string) bool { return account == "bad" }}
		cache := openAccounts(t, 100, server)

		for range 600 { // a request every second for ten minutes
			if _, _, err := cache.Entry([]string{"bad"}).Token(t.Context()); err == nil {
				t.Fatal("a refused account got a token")
			}
			if _, _, err := cache.Entry([]string{"good"}).Token(t.Context()); err != nil {
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
		cache := openAccounts(t, 100, server)

		if _, _, err := cache.Entry([]string{"alice"}).Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if held, bad := cache.accounts.size(); held+bad != 0 {
			t.Errorf("%d accounts are held after five minutes without a request", held+bad)
		}
		if n := server.requests.Load(); n != 1 { // one use alone is no reason to renew
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

func TestConcurrentCallersOfAnAccountShareOneFetch(t *testing.T) {
	server := &accountServer{lifetime: time.Hour}
	cache := openAccounts(t, 100, server)
	var callers sync.WaitGroup
	for range 500 {
		callers.Go(func() {
			if _, _, err := cache.Entry([]string{"alice"}).Token(t.Context()); err != nil {
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
		if _, _, err := cache.Entry(values[i]).Token(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	for _, parallel := range []bool{false, true} {
		b.Run(map[bool]string{false: "serial", true: "parallel"}[parallel], func(b *testing.B) {
			b.ReportAllocs()
			var n atomic.Uint64
			work := func(next func() bool) {
				for i := n.Add(1) * 997; next(); i++ {
					if _, _, err := cache.Entry(values[i%uint64(len(values))]).Token(b.Context()); err != nil {
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
		cache := openAccounts(b, limit, server)
		before := heapInUse()
		for i := range 10 * limit {
			server.padding = strings.Repeat("x", 1024-len("for ")-len("user-000000@example.com"))
			if _, _, err := cache.Entry([]string{fmt.Sprintf("user-%06d@example.com", i)}).Token(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		held, _ := cache.accounts.size()
		b.ReportMetric(float64(heapInUse()-before)/float64(held), "bytes/account")
		b.ReportMetric(float64(held), "accounts")
		cache.Close()
	}
}

// TestOutageCostsFewRequests, however many accounts want a token, or have one that
// grows old.
func TestOutageCostsFewRequests(t *testing.T) {
	unreachable := &authserver.Error{Kind: authserver.Unavailable}
	throttled := &authserver.Error{Kind: authserver.Unavailable, Status: 429, RetryAfter: 10 * time.Minute}
	tests := []struct {
		name  string
		known bool // the accounts have had a token
		err   error
		most  int64
	}{
		{"renewals, unreachable", true, unreachable, 100},
		{"renewals, throttled", true, throttled, 32},
		{"newcomers, unreachable", false, unreachable, 300},
		{"newcomers, throttled", false, throttled, 96},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var down atomic.Bool
				server := &accountServer{lifetime: time.Minute, fails: func() error {
					if down.Load() {
						return test.err
					}
					return nil
				}}
				cache := openAccounts(t, 1000, server)
				down.Store(!test.known)
				var callers sync.WaitGroup
				for i := range 500 {
					callers.Go(func() {
						for range 300 { // five minutes
							_, _, _ = cache.Entry([]string{fmt.Sprint(i)}).Token(t.Context())
							time.Sleep(time.Second)
						}
					})
				}
				time.Sleep(10 * time.Second)
				down.Store(true)
				before := server.requests.Load()
				callers.Wait()
				if n := server.requests.Load() - before; n > test.most {
					t.Errorf("%d token requests in five minutes of outage, want %d at most", n, test.most)
				}
			})
		})
	}
}

// TestOneFetchAtATimeForAnAccount, also when others push it out of the cache.
func TestOneFetchAtATimeForAnAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := make(map[string]int), 0
		server := &accountServer{lifetime: time.Hour, takes: func(account string) time.Duration {
			mu.Lock()
			defer mu.Unlock()
			now[account]++
			most = max(most, now[account])
			time.AfterFunc(2*time.Second, func() {
				mu.Lock()
				defer mu.Unlock()
				now[account]--
			})
			return 2 * time.Second
		}}
		cache := openAccounts(t, 1, server)
		ask := func(account string) *authserver.Token {
			held, _, err := cache.Entry([]string{account}).Token(t.Context())
			if err != nil {
				t.Errorf("%s: %v", account, err)
			}
			return held
		}
		old := ask("alice")
		go ask("bob") // has a token in two seconds
		time.Sleep(time.Second)
		cache.Entry([]string{"alice"}).Reject(old) // hers is replaced from now on
		time.Sleep(1100 * time.Millisecond)
		ask("alice")
		time.Sleep(time.Minute)

		mu.Lock()
		defer mu.Unlock()
		if most != 1 {
			t.Errorf("%d fetches at a time for one account", most)
		}
	})
}

// heapInUse returns the size of what is reachable.
func heapInUse() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC() // the first one only fills the victim caches of sync.Pool
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
