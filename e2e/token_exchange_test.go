package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const tokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange"

// newTokens returns access tokens that the server has given to a client.
func (s *authServer) newTokens(c client, n int) []string {
	s.t.Helper()
	config := clientcredentials.Config{
		ClientID:     c.ID,
		ClientSecret: c.Secret,
		TokenURL:     s.metadata.TokenEndpoint,
		AuthStyle:    oauth2.AuthStyleInHeader,
	}
	tokens := make([]string, n)
	inParallel(n, 8, func(i int) {
		token, err := config.Token(context.Background())
		if err != nil {
			s.t.Error(err)
			return
		}
		tokens[i] = token.AccessToken
	})
	if s.t.Failed() {
		s.t.FailNow()
	}
	return tokens
}

// inParallel does n things, some of them at a time.
func inParallel(n, workers int, do func(i int)) {
	next := make(chan int)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
}

// exchanges counts the token requests that exchange a token, by the token.
func (s *authServer) exchanges() map[string]int {
	counts := make(map[string]int)
	for _, r := range s.tokenRequests() {
		if r.grant == tokenExchange {
			counts[r.subjectToken]++
		}
	}
	return counts
}

// Each caller's token is exchanged once, and each request reaches the API with its own caller's.
func TestTokenExchange(t *testing.T) {
	const callers, rounds = 1000, 3
	key := newKey(t, "ES256")
	client := newClient("partner", time.Hour).withKeys(t, key)
	client.Grants = []string{tokenExchange}
	others := newClient("the-callers", time.Hour)
	server := startAuthServer(t, oidcProvider, client, others)
	api := startResource(t, server)
	tokens := server.newTokens(others, callers)
	proxy := startProxy(t, server, client, api,
		server.byIssuer(client, newFile(t, asJWK(t, key))), "grant token_exchange", "scope read:data")

	start := time.Now()
	http1 := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer http1.CloseIdleConnections()
	var mu sync.Mutex
	var answers []answer
	inParallel(callers*rounds, 64, func(i int) {
		// Two requests of a caller are often under way at the same time.
		token := tokens[i/2%callers]
		a := getAs(t.Context(), http1, proxy.URL, "Bearer "+token)
		mu.Lock()
		defer mu.Unlock()
		answers = append(answers, a)
		if want := fmt.Sprintf("welcome, partner, with your opaque token\nfor %s\n", hashOf(token)); a.status == http.StatusOK && a.body != want {
			t.Errorf("a caller was answered %q, want %q", a.body, want)
		}
	})
	took := time.Since(start)
	allOK(t, answers)
	exchanges := server.exchanges()
	t.Logf("%d requests by %d callers in %v, %d tokens exchanged", len(answers), callers, took.Round(time.Millisecond), len(exchanges))
	if len(exchanges) != callers {
		t.Errorf("the tokens of %d callers were exchanged, want %d", len(exchanges), callers)
	}
	maps.DeleteFunc(exchanges, func(_ string, n int) bool { return n == 1 })
	if len(exchanges) > 0 {
		t.Errorf("%d tokens were exchanged more than once", len(exchanges))
	}
	if got := len(api.accepted()); got != callers {
		t.Errorf("the API got %d tokens, want %d", got, callers)
	}
}

// A caller whose token is no good hears so, and costs the others nothing.
func TestTokenExchangeRefusals(t *testing.T) {
	client := newClient("partner", time.Hour)
	client.Grants = []string{tokenExchange}
	others := newClient("the-callers", time.Hour)
	server := startAuthServer(t, oidcProvider, client, others)
	api := startResource(t, server)
	good := server.newTokens(others, 1)[0]
	proxy := startProxy(t, server, client, api, "issuer "+server.config.Issuer,
		fmt.Sprintf("client_id %q\nclient_secret {env.CLIENT_SECRET}", client.ID), "grant token_exchange")

	for range 2 {
		for _, row := range []struct {
			name, authorization string
			status              int
		}{
			{"a good token", "Bearer " + good, http.StatusOK},
			{"no token", "", http.StatusUnauthorized},
			{"another scheme", "Basic " + good, http.StatusUnauthorized},
			{"an unknown token", "Bearer " + strings.Repeat("x", len(good)), http.StatusUnauthorized},
			{"the good token after bad ones", "Bearer " + good, http.StatusOK},
		} {
			if got := getAs(t.Context(), http.DefaultClient, proxy.URL, row.authorization); got.status != row.status {
				t.Errorf("%s: %v, want %d", row.name, got, row.status)
			}
		}
	}
	if n := server.exchanges()[good]; n != 1 {
		t.Errorf("the good token was exchanged %d times, want once", n)
	}
	if got := len(api.seen()); got != 1 {
		t.Errorf("the API got %d tokens, want 1", got)
	}
}
