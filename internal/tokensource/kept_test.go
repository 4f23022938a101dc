package tokensource

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// sourceWith returns a source whose grants are kept there.
func sourceWith(t *testing.T, client config.Client, transport http.RoundTripper, g Grants) *Source {
	resolver := config.NewResolver(client, zap.NewNop())
	t.Cleanup(resolver.Close)
	return New(Options{Name: "partner", Client: client, Resolver: resolver, Transport: NewTransport(transport), Server: new(Server), Grants: g, Logger: zap.NewNop()})
}

// refreshClient returns a client that lives on a refresh token.
func refreshClient(scope string) config.Client {
	return config.Client{
		TokenEndpoint: "https://auth.example/token", ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret")),
		Scope: []string{scope},
		Grant: &config.Grant{Type: "refresh_token", RefreshToken: "first"},
	}
}

// TestOneGrantForManyScopes: each who asks gets the token that was asked for, one after
// the other by the newest refresh token.
func TestOneGrantForManyScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keeping := vault.InMemory()
		v := vault.New(func() vault.Config { return keeping })
		var mu sync.Mutex
		n := 0
		var forms []url.Values
		rt := answering(t, &forms, func(form url.Values) (int, string) {
			n++
			return 200, fmt.Sprintf(`{"access_token":"T-%s","expires_in":3600,"refresh_token":"r%d"}`, form.Get("scope"), n)
		})
		slow := roundTripper(func(r *http.Request) (*http.Response, error) {
			time.Sleep(20 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			return rt(r)
		})
		var wg sync.WaitGroup
		for i := range 8 {
			s := sourceWith(t, refreshClient(fmt.Sprintf("s%d", i)), slow, Grants{Vault: v})
			wg.Go(func() {
				token, err := s.Fetch(t.Context(), nil, nil)
				if err != nil {
					t.Errorf("s%d: %v", i, err)
				} else if token.AccessToken.Reveal() != fmt.Sprintf("T-s%d", i) {
					t.Errorf("s%d gets %q", i, token.AccessToken.Reveal())
				}
			})
		}
		wg.Wait()
	})
}

// TestRestartInAnOutage: the access token that is kept is good for its hour, although
// the last renewal failed.
func TestRestartInAnOutage(t *testing.T) {
	keeping := vault.InMemory()
	down := false
	var forms []url.Values
	rt := answering(t, &forms, func(url.Values) (int, string) {
		if down {
			return 503, ``
		}
		return 200, `{"access_token":"T","expires_in":3600,"refresh_token":"r2"}`
	})
	v1 := vault.New(func() vault.Config { return keeping })
	s1 := sourceWith(t, refreshClient("x"), rt, Grants{Vault: v1})
	held, err := s1.Fetch(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	down = true
	if _, err := s1.Fetch(t.Context(), nil, held); err == nil {
		t.Fatal("renewed")
	}
	v2 := vault.New(func() vault.Config { return keeping }) // a restart: the kept access token is good for an hour
	s2 := sourceWith(t, refreshClient("x"), rt, Grants{Vault: v2})
	if _, err := s2.Fetch(t.Context(), nil, nil); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

// TestKeyAddedAtAReload: the grant goes on where it was in memory.
func TestKeyAddedAtAReload(t *testing.T) {
	memory, sealed := vault.InMemory(), vault.InMemory()
	mv, sv := vault.New(func() vault.Config { return memory }), vault.New(func() vault.Config { return sealed })
	n := 0
	var forms []url.Values
	rt := answering(t, &forms, func(form url.Values) (int, string) {
		n++
		return 200, fmt.Sprintf(`{"access_token":"T","expires_in":3600,"refresh_token":"r%d"}`, n)
	})
	before := sourceWith(t, refreshClient("x"), rt, Grants{Vault: mv, Other: sv})
	if _, err := before.Fetch(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	after := sourceWith(t, refreshClient("y"), rt, Grants{Vault: sv, Other: mv}) // another scope, so another cache: no token in hand
	if _, err := after.Fetch(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := forms[1].Get("refresh_token"); got != "r1" {
		t.Errorf("the second request spends %q again", got)
	}
}

// TestSharedTokenIsWhatWasAskedFor: two processes whose environments differ share
// nothing.
func TestSharedTokenIsWhatWasAskedFor(t *testing.T) {
	keeping := vault.InMemory()
	var forms []url.Values
	rt := answering(t, &forms, func(form url.Values) (int, string) {
		return 200, fmt.Sprintf(`{"access_token":"T-%s","expires_in":3600}`, form.Get("tenant"))
	})
	client := config.Client{
		TokenEndpoint: "https://auth.example/token", ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret")),
		TokenParam: map[string]config.Credential{"tenant": "{env.TENANT}"}, Share: true,
	}
	for _, tenant := range []string{"blue", "red"} { // two processes with environments of their own
		t.Setenv("TENANT", tenant)
		s := sourceWith(t, client, rt, Grants{Vault: vault.New(func() vault.Config { return keeping })})
		token, err := s.Fetch(t.Context(), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := token.AccessToken.Reveal(); got != "T-"+tenant {
			t.Errorf("the %s tenant's request gets %s", tenant, got)
		}
	}
}

// hung is a folder on a dead network share.
type hung struct {
	certmagic.Storage
	end chan struct{}
}

func (h hung) Load(context.Context, string) ([]byte, error) { <-h.end; return nil, fs.ErrNotExist }

// newer is a storage that a later release has written to.
type newer struct{ certmagic.Storage }

func (newer) Load(context.Context, string) ([]byte, error) { return []byte(`{"v":2}`), nil }

// TestStorageThatHangsEndsTheFetch of a client that does not even use it.
func TestStorageThatHangsEndsTheFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		var forms []url.Values
		rt := answering(t, &forms, func(url.Values) (int, string) { return 200, `{"access_token":"T","expires_in":3600}` })
		memory := vault.InMemory()
		mv := vault.New(func() vault.Config { return memory })
		sv := vault.New(func() vault.Config { return vault.Config{Storage: hung{end: end}} })
		s := sourceWith(t, refreshClient("x"), rt, Grants{Vault: mv, Other: sv}) // a client without a key
		done := make(chan error, 1)
		go func() { _, err := s.Fetch(context.Background(), nil, nil); done <- err }()
		select {
		case err := <-done:
			t.Log(err)
		case <-time.After(time.Hour):
			t.Error("the fetch of a client that does not use the storage hangs for an hour")
		}
		close(end)
		synctest.Wait()
	})
}

// TestGrantOfANewerVersionIsLeftAlone: the token of the config is not spent beside it.
func TestGrantOfANewerVersionIsLeftAlone(t *testing.T) {
	var forms []url.Values
	rt := answering(t, &forms, func(url.Values) (int, string) { return 200, `{"access_token":"T","expires_in":3600}` })
	memory := vault.InMemory()
	s := sourceWith(t, refreshClient("x"), rt, Grants{
		Vault: vault.New(func() vault.Config { return memory }), Other: vault.New(func() vault.Config { return vault.Config{Storage: newer{}} }),
	})
	if _, err := s.Fetch(t.Context(), nil, nil); err == nil {
		t.Error("the config's token is spent beside a kept grant of a newer version")
	}
}

// TestRefusalIsForWhoAsked, and not for others who live on the same grant.
func TestRefusalIsForWhoAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keeping := vault.InMemory()
		v := vault.New(func() vault.Config { return keeping })
		var forms []url.Values
		rt := answering(t, &forms, func(form url.Values) (int, string) {
			time.Sleep(100 * time.Millisecond)
			if form.Get("scope") == "bad" {
				return 400, `{"error":"invalid_scope"}`
			}
			return 200, `{"access_token":"T","expires_in":3600}`
		})
		bad, good := sourceWith(t, refreshClient("bad"), rt, Grants{Vault: v}), sourceWith(t, refreshClient("good"), rt, Grants{Vault: v})
		done := make(chan error)
		go func() { _, err := bad.Fetch(t.Context(), nil, nil); done <- err }()
		time.Sleep(30 * time.Millisecond)
		if _, err := good.Fetch(t.Context(), nil, nil); err != nil {
			t.Errorf("who asks for good gets %v", err)
		}
		<-done
	})
}

// TestKeptTokenInItsLastSecond counts as expired, as in the cache.
func TestKeptTokenInItsLastSecond(t *testing.T) {
	var forms []url.Values
	rt := answering(t, &forms, func(form url.Values) (int, string) { return 200, `{"access_token":"T","expires_in":3600}` })
	keeping := vault.InMemory()
	s := sourceWith(t, refreshClient("x"), rt, Grants{Vault: vault.New(func() vault.Config { return keeping })})
	synctest.Test(t, func(t *testing.T) {
		if _, err := s.Fetch(t.Context(), nil, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour - 500*time.Millisecond)
		token, err := s.Fetch(t.Context(), nil, nil) // after a restart
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(token.RequestedAt.Add(token.Lifetime)); left < time.Second {
			t.Errorf("a token with %v left, which the cache takes for expired", left)
		}
	})
}
