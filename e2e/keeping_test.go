package e2e

import (
	"flag"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// keepingFor is how long the tests of replicas keep up their load, and their kills. For a long run:
//
//	go test -run 'TestReplicas' -keeping 15m -timeout 90m -v
var keepingFor = flag.Duration("keeping", 15*time.Second, "how long the tests of replicas run")

// wantEachOnce fails the test unless the server took every refresh token that came, and each came once. It
// returns how many.
func wantEachOnce(t *testing.T, server *authServer) int {
	t.Helper()
	requests := server.tokenRequests()
	seen := make(map[string]bool)
	for i, r := range requests {
		if r.status != http.StatusOK {
			t.Errorf("token request %d was answered with %d", i, r.status)
		}
		if seen[r.refreshToken] {
			t.Errorf("token request %d used a refresh token again", i)
		}
		seen[r.refreshToken] = true
	}
	return len(requests)
}

// A new process goes on with what the one before has kept, however that one ended.
func TestRestartKeepsTheGrant(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*process){"SIGTERM": (*process).end, "SIGKILL": (*process).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newClient("partner", 5*time.Second)
			server := startAuthServer(t, oidcProvider, client)
			api := startResource(t, server)
			cluster := startCluster(t, 1, newFolder(t), server, client, api,
				server.directive(client), grantRefreshToken(t, server.signIn(client, "read:data")), "refresh_ahead 50%")
			caddy := cluster.replicas[0]
			for range 3 {
				// A token is used when it has been stored; the next refresh is seconds away.
				before := len(api.accepted())
				eventually(t, "a new token was used", func() bool {
					get(t.Context(), http.DefaultClient, caddy.URL)
					return len(api.accepted()) > before
				})
				requests := len(server.tokenRequests())
				end(caddy.process)
				caddy.start()
				if a := get(t.Context(), http.DefaultClient, caddy.URL); a.status != http.StatusOK {
					t.Errorf("after the restart: %v", a)
				}
				if n := len(server.tokenRequests()) - requests; n > 1 {
					t.Errorf("the restart cost %d token requests", n)
				}
			}
			wantEachOnce(t, server)
		})
	}
}

// Three processes refresh each generation once, and a server that revokes everything when it sees a refresh
// token again has no reason to.
func TestReplicasRotateAsOne(t *testing.T) {
	t.Parallel()
	for name, start := range storages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newClient("partner", 5*time.Second)
			server := startAuthServer(t, oidcProvider, client)
			api := startResource(t, server)
			cluster := startCluster(t, 3, start(t), server, client, api,
				server.directive(client), grantRefreshToken(t, server.signIn(client, "read:data")))
			flows := cluster.load(2)
			<-time.After(*keepingFor)
			requests := 0
			for _, flow := range flows {
				answers := flow.stop()
				requests += len(answers)
				allOK(t, answers)
			}
			refreshes := wantEachOnce(t, server)
			t.Logf("in %v: %d requests, %d refreshes, %d adoptions", *keepingFor, requests, refreshes,
				cluster.logged("grant adopted"))
			if least := int(*keepingFor / (5 * time.Second)); refreshes < least {
				t.Errorf("%d refreshes, want %d at least", refreshes, least)
			}
		})
	}
}

// With share three processes make one token request for each life of a token.
func TestReplicasShareAccessTokens(t *testing.T) {
	t.Parallel()
	for name, start := range storages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const life = 5 * time.Second
			client := newClient("partner", life)
			server := startAuthServer(t, oidcProvider, client)
			api := startResource(t, server)
			cluster := startCluster(t, 3, start(t), server, client, api, server.directive(client), "share")
			flows := cluster.load(2)
			<-time.After(*keepingFor)
			for _, flow := range flows {
				allOK(t, flow.stop())
			}
			requests := server.tokenRequests()
			t.Logf("in %v: %d token requests", *keepingFor, len(requests))
			for i := 1; i < len(requests); i++ {
				if gap := requests[i].at.Sub(requests[i-1].at); gap < life/2 {
					t.Errorf("token request %d came %v after the one before", i, gap)
				}
			}
		})
	}
}

// The storage stalls, is killed and comes back while three processes share a grant: no refresh token is spent
// that could not be stored in the end, and none twice.
func TestStorageComesAndGoes(t *testing.T) {
	t.Parallel()
	client := newClient("partner", 5*time.Second)
	server := startAuthServer(t, oidcProvider, client)
	api := startResource(t, server)
	redis := startRedis(t)
	cluster := startCluster(t, 3, redis, server, client, api, server.directive(client),
		grantRefreshToken(t, server.signIn(client, "read:data")), "timeout 2s", "refresh_ahead 50%")
	flows := cluster.load(1)
	outages := 0
	for end := time.Now().Add(*keepingFor); time.Now().Before(end); outages++ {
		server.awaitTokenRequest(3 * time.Second)
		away := redis.stall
		if outages%2 == 1 {
			away = redis.kill
		}
		heal := away()
		<-time.After(rand.N(3 * time.Second))
		heal()
	}
	for _, r := range cluster.replicas {
		eventually(t, "all serve requests", func() bool { return get(t.Context(), http.DefaultClient, r.URL).status == http.StatusOK })
	}
	served, all := 0, 0
	for _, flow := range flows {
		for _, a := range flow.stop() {
			if all++; a.status == http.StatusOK {
				served++
			}
		}
	}
	t.Logf("in %v: %d outages, %d of %d requests served, %d refreshes, %d stored after all", *keepingFor,
		outages, served, all, wantEachOnce(t, server), cluster.logged("grant stored after all"))
	cluster.searchForSecrets() // while the last Redis is there
}

// Processes are killed at random while three of them share a grant. With a grace nothing is lost. Without,
// a grant is lost where a process was killed between the server's answer and the store, and only there.
func TestReplicasAreKilled(t *testing.T) {
	t.Parallel()
	for name, start := range storages {
		for grace, seconds := range map[string]int{"grace": 60, "no grace": 0} {
			t.Run(name+", "+grace, func(t *testing.T) {
				t.Parallel()
				client := newClient("partner", 5*time.Second)
				client.GraceSeconds = seconds
				server := startAuthServer(t, oidcProvider, client)
				api := startResource(t, server)
				tokenFile := filepath.Join(t.TempDir(), "refresh-token")
				signIn := func() {
					if err := os.WriteFile(tokenFile+".new", []byte(server.signIn(client, "read:data")), 0o600); err != nil {
						t.Fatal(err)
					}
					if err := os.Rename(tokenFile+".new", tokenFile); err != nil {
						t.Fatal(err)
					}
				}
				signIn()
				lost := 0
				signInAgain := func() {
					if n := len(losses(server)); n > lost {
						lost = n
						signIn()
					}
				}
				cluster := startCluster(t, 3, start(t), server, client, api, server.directive(client),
					"grant refresh_token {\nrefresh_token {file."+tokenFile+"}\n}", "timeout 2s", "refresh_ahead 50%")
				flows := cluster.load(1)

				var kills []time.Time
				for end := time.Now().Add(*keepingFor); time.Now().Before(end); {
					victims := cluster.replicas
					if rand.N(2) == 0 { // one at any time, or all as one of them refreshes
						victims = victims[rand.N(len(victims)):][:1]
						<-time.After(rand.N(4 * time.Second))
					} else {
						server.awaitTokenRequest(3 * time.Second)
						<-time.After(rand.N(30 * time.Millisecond))
					}
					for _, victim := range victims {
						victim.process.kill()
						kills = append(kills, time.Now())
					}
					<-time.After(rand.N(time.Second))
					for _, victim := range victims {
						victim.start()
					}
					signInAgain()
				}

				for _, r := range cluster.replicas {
					eventually(t, "all serve requests", func() bool {
						signInAgain()
						return get(t.Context(), http.DefaultClient, r.URL).status == http.StatusOK
					})
				}
				served := 0
				for _, flow := range flows {
					for _, a := range flow.stop() {
						if a.status == http.StatusOK {
							served++
						}
					}
				}
				all := losses(server)
				t.Logf("in %v: %d kills, %d refreshes, %d requests served, %d grants lost, %d times possibly spent", *keepingFor,
					len(kills), len(server.granted()), served, len(all), cluster.logged("may have been spent before"))
				if seconds > 0 && len(all) > 0 {
					t.Errorf("%d grants were lost", len(all))
				}
				for _, spent := range all {
					// The server answered when it was asked first, and a process that may have asked was killed soon after.
					if !slices.ContainsFunc(kills, func(k time.Time) bool { return k.After(spent) && k.Sub(spent) < time.Second }) {
						t.Errorf("a grant was lost for a refresh token that was spent %v before the end, and no process was killed then",
							time.Since(spent))
					}
				}
			})
		}
	}
}

// losses returns, for each refresh token that the server did not take, when it was sent before; zero if it was
// not.
func losses(server *authServer) []time.Time {
	spent := make(map[string]time.Time)
	var lost []time.Time
	told := make(map[string]bool)
	for _, r := range server.tokenRequests() {
		first, before := spent[r.refreshToken]
		switch {
		case r.status == http.StatusBadRequest && !told[r.refreshToken]:
			told[r.refreshToken] = true
			lost = append(lost, first)
		case r.status != http.StatusBadRequest && !before:
			spent[r.refreshToken] = r.at // no answer may have come, as the process was killed
		}
	}
	return lost
}
