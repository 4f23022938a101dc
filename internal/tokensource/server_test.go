package tokensource

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

const rfc8414Place = "/.well-known/oauth-authorization-server"

// newSource returns a source for a client whose requests go to transport.
func newSource(t *testing.T, client config.Client, transport http.RoundTripper) *Source {
	t.Helper()
	resolver := config.NewResolver(client, zap.NewNop())
	t.Cleanup(resolver.Close)
	keeping := vault.InMemory()
	return New(Options{
		Name: "partner", Client: client, Resolver: resolver, Transport: NewTransport(transport), Server: new(Server),
		Grants: Grants{Vault: vault.New(func() vault.Config { return keeping })}, Logger: zap.NewNop(),
	})
}

// issue answers with a token.
func issue(w http.ResponseWriter, members string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"access_token":"T","token_type":"Bearer","expires_in":60%s}`, members)
}

// movingServer is an authorization server that is moved and changed while clients
// use it. It is a transport, so that it works on a fake clock.
type movingServer struct {
	at     string // the path of its token endpoint
	grants string // what it supports, as JSON

	mu       sync.Mutex
	requests map[string]int
}

// RoundTrip implements http.RoundTripper.
func (s *movingServer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.requests[r.URL.Path]++
	s.mu.Unlock()
	answer := httptest.NewRecorder()
	switch r.URL.Path {
	case rfc8414Place:
		_, _ = fmt.Fprintf(answer, `{"issuer":"https://auth.example","token_endpoint":"https://auth.example%s","grant_types_supported":%s}`, s.at, s.grants)
	case s.at:
		issue(answer, "")
	default:
		answer.WriteHeader(http.StatusNotFound)
	}
	return answer.Result(), nil
}

// TestFailedFirstFetchOfMetadataIsSharedForAWhile: a thousand accounts do not
// ask a server in trouble one by one, and the first one after that finds it.
func TestFailedFirstFetchOfMetadataIsSharedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Server
		fetched, down := 0, errors.New("out of reach")
		fetch := func(context.Context) (*authserver.Metadata, error) {
			fetched++
			return &authserver.Metadata{TokenEndpoint: "found"}, down
		}
		for range 1000 {
			if _, err := s.discover(t.Context(), time.Second, fetch); !errors.Is(err, down) {
				t.Fatalf("the error is %v", err)
			}
		}
		if fetched != 1 {
			t.Errorf("fetched %d times, want once", fetched)
		}

		down = nil
		time.Sleep(metadataBackoff)
		if found, err := s.discover(t.Context(), time.Second, fetch); err != nil || found.TokenEndpoint != "found" {
			t.Errorf("got %v and %v after the outage", found, err)
		}
	})
}

// TestFirstMetadataRequestIsTheOnlyOne: who found nothing just before the metadata
// came does not ask for it again.
func TestFirstMetadataRequestIsTheOnlyOne(t *testing.T) {
	var s Server
	fetched := 0
	fetch := func(context.Context) (*authserver.Metadata, error) {
		fetched++
		return &authserver.Metadata{TokenEndpoint: "found"}, nil
	}
	for range 2 { // the second one has been held up between looking and asking
		if found, err := s.fetchFirst(t.Context(), time.Second, fetch); err != nil || found.TokenEndpoint != "found" {
			t.Fatalf("got %v and %v", found, err)
		}
	}
	if fetched != 1 {
		t.Errorf("fetched %d times, want once", fetched)
	}
}

// TestServerThatChangesIsFoundAgain long before its metadata would be renewed,
// and without a metadata request for each token request that fails.
func TestServerThatChangesIsFoundAgain(t *testing.T) {
	const good = `["client_credentials"]`
	tests := []struct{ name, at, grants, laterAt string }{
		{"it has moved", "/old", good, "/new"},
		{"it supports us now", "/token", `["implicit"]`, "/token"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &movingServer{at: test.at, grants: test.grants, requests: make(map[string]int)}
				source := newSource(t, config.Client{Issuer: "https://auth.example", ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret"))}, server)
				_, err := source.Fetch(t.Context(), nil, nil)
				if supported := test.grants == good; (err == nil) != supported {
					t.Fatalf("the first token request: %v", err)
				}

				server.at, server.grants = test.laterAt, good
				failing := 0
				for range 600 { // a token request every second for ten minutes
					if _, err := source.Fetch(t.Context(), nil, nil); err != nil {
						failing++
					}
					time.Sleep(time.Second)
					synctest.Wait()
				}

				if want := int(metadataPause/time.Second) + 1; failing == 0 || failing > want {
					t.Errorf("%d token requests fail, want at most %d", failing, want)
				}
				if n := server.requests[rfc8414Place]; n != 2 {
					t.Errorf("%d metadata requests, want 2", n)
				}
			})
		})
	}
}

// roundTripper is a transport made of a function.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestPanicBehindTheRequestsIsContained: nobody waits for a renewal who could
// recover from what a transport of another plugin does there.
func TestPanicBehindTheRequestsIsContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, fetched := &movingServer{at: "/token", grants: `["client_credentials"]`, requests: make(map[string]int)}, 0
		source := newSource(t, config.Client{Issuer: "https://auth.example", ClientID: "partner-id", ClientSecret: new(config.Credential("partner-secret"))},
			roundTripper(func(r *http.Request) (*http.Response, error) {
				if fetched++; fetched == 2 {
					panic("out of order")
				}
				return server.RoundTrip(r)
			}))
		for range 3 {
			if err := source.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Hour)
			synctest.Wait()
		}
		if fetched < 3 {
			t.Errorf("the metadata was fetched %d times, want a renewal after the panic", fetched)
		}
	})
}

// TestMetadataIsRenewedBehindTheRequests: each hour, and kept while that fails.
func TestMetadataIsRenewedBehindTheRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			s       Server
			fetched int
			down    bool
		)
		fetch := func(context.Context) (*authserver.Metadata, error) {
			fetched++
			if down {
				return nil, errors.New("out of reach")
			}
			time.Sleep(time.Second) // in the fake clock: whoever waits for it shows
			return &authserver.Metadata{TokenEndpoint: fmt.Sprint("version ", fetched)}, nil
		}
		// ask checks what a token request at that time gets, and how long it waits.
		start := time.Now()
		ask := func(at time.Duration, want string, waits time.Duration) {
			t.Helper()
			time.Sleep(time.Until(start.Add(at)))
			began := time.Now()
			metadata, err := s.discover(t.Context(), time.Second, fetch)
			if err != nil {
				t.Fatalf("after %v: %v", at, err)
			}
			if metadata.TokenEndpoint != want || time.Since(began) != waits {
				t.Errorf("after %v it gets %q after %v, want %q after %v", at, metadata.TokenEndpoint, time.Since(began), want, waits)
			}
			synctest.Wait()
		}
		const second, minute, hour = time.Second, time.Minute, time.Hour

		ask(0, "version 1", second)
		ask(59*minute, "version 1", 0)
		ask(hour+second, "version 1", 0) // and is renewed behind it
		ask(hour+3*second, "version 2", 0)

		down = true
		ask(2*hour+3*second, "version 2", 0)
		ask(2*hour+30*second, "version 2", 0) // left alone for a while
		ask(2*hour+2*minute, "version 2", 0)
		ask(9*hour, "version 2", 0)
		if fetched != 5 {
			t.Errorf("fetched %d times, want 5", fetched)
		}

		down = false
		ask(10*hour, "version 2", 0)
		ask(10*hour+2*second, "version 6", 0)
	})
}
