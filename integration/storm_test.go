package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// TestCallersWhoHangUp in the middle of a replay leave nothing behind: the
// request goes no further, and the token is replaced for the others.
func TestCallersWhoHangUp(t *testing.T) {
	// leave sends a request and hangs up once the channel is closed.
	leave := func(t *testing.T, proxy *caddytest.Caddy, body io.Reader, when <-chan bool) {
		t.Helper()
		ctx, hangUp := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "POST", "http://"+os.Getenv("SITE"), body)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-when
			hangUp()
		}()
		if answer, err := caddytest.Do(proxy.Client, r); err == nil {
			t.Errorf("the caller got %d %q before it hung up", answer.Status, answer.Body)
		}
	}

	t.Run("while the token is replaced", func(t *testing.T) {
		auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
		api.Answers(revokedFirst(refuse, repeat))
		replacing, done := make(chan bool), make(chan bool)
		auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
			if r.Number == 2 {
				close(replacing)
				<-done
			}
			caddytest.Issuing(time.Hour)(w, r)
		})
		proxy := caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "upstream_oauth2", "log\nupstream_oauth2", 1))

		leave(t, proxy, strings.NewReader("body"), replacing)
		proxy.AwaitLog("handled request")
		close(done)

		wantReplaced(t, proxy, auth, api)
		for _, r := range api.Seen()[1:] {
			if r.Method == "POST" {
				t.Error("the request went out again though nobody waits for it")
			}
		}
	})

	t.Run("while the API works on the replay", func(t *testing.T) {
		auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
		working, gone := make(chan bool), make(chan bool)
		var once sync.Once
		api.Answers(revokedFirst(refuse, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != "POST" {
				repeat(w, r)
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			once.Do(func() { close(working) })
			<-r.Context().Done()
			close(gone)
		}))
		proxy := caddytest.Run(t, caddytest.PartnerSite)

		leave(t, proxy, strings.NewReader("body"), working)

		<-gone // the API learns of it
		wantReplaced(t, proxy, auth, api)
	})

	t.Run("while it sends the body, after the rejection", func(t *testing.T) {
		auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
		replayed := make(chan bool)
		broken := make(chan error, 1)
		api.Answers(revokedFirst(refuseEarly, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != "POST" {
				repeat(w, r)
				return
			}
			close(replayed)
			_, err := io.ReadAll(r.Body)
			broken <- err
		}))
		proxy := caddytest.Run(t, caddytest.PartnerSite)
		body, send := io.Pipe()
		go func() {
			_, _ = io.WriteString(send, "half of it")
			<-replayed
			_ = send.CloseWithError(errors.New("the caller hangs up"))
		}()

		leave(t, proxy, body, replayed)

		if err := <-broken; err == nil {
			t.Error("the API took half a body for a whole one")
		}
		wantReplaced(t, proxy, auth, api)
	})
}

// TestRefreshThatKillsTheOldToken: with servers such as Ory Hydra, requests in
// flight are rejected when the token is renewed. They go out again with the new
// one, which is there already.
func TestRefreshThatKillsTheOldToken(t *testing.T) {
	const callers = 50
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	var current atomic.Value // the only token that is valid
	current.Store("none")
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		token, life := fmt.Sprintf("access-token-%d", r.Number), time.Hour
		if r.Number == 1 {
			life = 20 * time.Second // renewed after a tenth of it
		}
		current.Store(token)
		caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":%q,"refresh_token":"r","expires_in":%v}`, token, life.Seconds()))
	})
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer access-token-1" { // in flight until it is renewed
			for current.Load() == "access-token-1" && r.Context().Err() == nil {
				time.Sleep(time.Millisecond)
			}
		}
		if r.Header.Get("Authorization") != "Bearer "+current.Load().(string) {
			refuse(w, r)
			return
		}
		repeat(w, r)
	})
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("refresh_ahead 90%\ngrant refresh_token {\nrefresh_token first\n}"))

	statuses := together(callers, func(int) int {
		r, _ := http.NewRequest("POST", "http://"+os.Getenv("SITE"), strings.NewReader("body"))
		answer, err := caddytest.Do(proxy.Client, r)
		if err != nil || answer.Body != "POST / body" {
			return 0
		}
		return answer.Status
	})

	if want := map[int]int{http.StatusOK: callers}; !maps.Equal(statuses, want) {
		t.Errorf("callers by status: %v, want %v", statuses, want)
	}
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2: the first and its renewal", n)
	}
}

// together runs n callers at once and counts what they return.
func together[T comparable](n int, call func(int) T) map[T]int {
	results := make(chan T)
	for i := range n {
		go func() { results <- call(i) }()
	}
	counts := make(map[T]int)
	for range n {
		counts[<-results]++
	}
	return counts
}

// TestRevokedTokenUnderLoad: no caller sees a 401, and the token is replaced
// once.
func TestRevokedTokenUnderLoad(t *testing.T) {
	const callers, requests = 40, 20
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	var revoked atomic.Bool
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		if revoked.Load() && r.Header.Get("Authorization") == "Bearer access-token-1" {
			refuse(w, r)
			return
		}
		repeat(w, r)
	})
	proxy := caddytest.Run(t, caddytest.PartnerSite)
	proxy.Want(http.StatusOK)

	var sent atomic.Int64
	failures := together(callers, func(caller int) string {
		for i := range requests {
			if sent.Add(1) == callers*requests/2 {
				revoked.Store(true)
			}
			method, body := "GET", ""
			if (caller+i)%2 == 0 {
				method, body = "POST", fmt.Sprintf("body %d of %d", i, caller)
			}
			r, _ := http.NewRequest(method, "http://"+os.Getenv("SITE"), strings.NewReader(body))
			answer, err := caddytest.Do(proxy.Client, r)
			if want := method + " / " + body; err != nil || answer.Status != http.StatusOK || answer.Body != want {
				return fmt.Sprintf("%d %q %v, want %q", answer.Status, answer.Body, err, want)
			}
		}
		return ""
	})

	delete(failures, "")
	for failure, n := range failures {
		t.Errorf("%d callers got %s", n, failure)
	}
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
	if !slices.Contains(api.Attempts(), "access-token-2") {
		t.Error("no request had the new token: it was never revoked")
	}
}

// TestNoStorm: an API that rejects everything costs a handful of token
// requests, however many callers there are, and each of them gets the API's own
// answer.
func TestNoStorm(t *testing.T) {
	const callers, requests = 1000, 10
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	var reached atomic.Int64
	rejects := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "rejected "+r.URL.Path)
	})
	api.Config.Handler = rejects // 10,000 requests need not be remembered
	caddytest.Run(t, strings.Replace(caddytest.PartnerSite, "reverse_proxy {$API}", "reverse_proxy {$API} {\ntransport http {\nkeepalive_idle_conns_per_host 1000\n}\n}", 1))
	transport := &http.Transport{MaxIdleConnsPerHost: callers}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: caddytest.Patience}

	failures := together(callers, func(caller int) string {
		for i := range requests {
			path := fmt.Sprintf("/%d/%d", caller, i)
			r, _ := http.NewRequest("GET", "http://"+os.Getenv("SITE")+path, nil)
			answer, err := caddytest.Do(client, r)
			if err != nil || answer.Status != http.StatusUnauthorized || answer.Body != "rejected "+path {
				return fmt.Sprintf("%d %q, %v", answer.Status, answer.Body, err)
			}
		}
		return ""
	})

	delete(failures, "")
	for failure, n := range failures {
		t.Errorf("%d callers got %s", n, failure)
	}
	// One at start, one for the rejection, and another for each 30 seconds that
	// a slow machine takes.
	if n := auth.Count(); n > 5 {
		t.Errorf("%d token requests", n)
	}
	// No request is sent more than twice, and only those in flight at the one
	// replacement are sent twice at all.
	if n := reached.Load(); n > callers*requests+5*callers {
		t.Errorf("the API got %d requests from %d callers with %d each", n, callers, requests)
	}
}

// TestHostileCallerCostsOthersNothing: somebody provokes rejections, for which
// there is no other token while the authorization server is out of order. The
// others keep theirs.
func TestHostileCallerCostsOthersNothing(t *testing.T) {
	servers := map[string]func(http.ResponseWriter, caddytest.TokenRequest){
		"that issues new ones":           caddytest.Issuing(time.Hour),
		"that issues the same one again": func(w http.ResponseWriter, _ caddytest.TokenRequest) { caddytest.Issue(w, "access-token-1", time.Hour) },
		"that is down":                   func(w http.ResponseWriter, _ caddytest.TokenRequest) { caddytest.Say(w, 503, "") },
		"that refuses": func(w http.ResponseWriter, _ caddytest.TokenRequest) {
			caddytest.Say(w, 400, `{"error":"invalid_client"}`)
		},
		"that breaks the connection off": func(http.ResponseWriter, caddytest.TokenRequest) { panic(http.ErrAbortHandler) },
		"whose tokens are no longer good": func(w http.ResponseWriter, _ caddytest.TokenRequest) {
			caddytest.Say(w, 200, `{"access_token":"T","token_type":"mac"}`)
		},
	}
	for name, later := range servers {
		t.Run("with a server "+name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
				if r.Number == 1 {
					caddytest.Issuing(time.Hour)(w, r)
					return
				}
				later(w, r)
			})
			api.Answers(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/forbidden" {
					refuse(w, r)
					return
				}
				repeat(w, r)
			})
			proxy := caddytest.Run(t, caddytest.PartnerSite)
			proxy.Want(http.StatusOK)

			statuses := together(20, func(caller int) string {
				path, want := "/", http.StatusOK
				if caller%2 == 0 {
					path, want = "/forbidden", http.StatusUnauthorized
				}
				for range 10 {
					answer, err := proxy.Try("GET", os.Getenv("SITE"), path, nil)
					if err != nil || answer.Status != want {
						return fmt.Sprintf("%s: %d, %v", path, answer.Status, err)
					}
				}
				return ""
			})

			delete(statuses, "")
			for failure, n := range statuses {
				t.Errorf("%d callers got %s", n, failure)
			}
			if n := auth.Count(); n > 5 {
				t.Errorf("%d token requests", n)
			}
		})
	}
}

// TestHostileCallerWhileTheServerHangs: a fetch that never ends, started by a
// rejection, leaves the others their token.
func TestHostileCallerWhileTheServerHangs(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	hanging := make(chan bool)
	release := make(chan bool)
	t.Cleanup(func() { close(release) })
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		if r.Number == 1 {
			caddytest.Issuing(time.Hour)(w, r)
			return
		}
		close(hanging)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	api.Answers(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/forbidden" {
			refuse(w, r)
			return
		}
		repeat(w, r)
	})
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith("timeout 1m"))
	proxy.Want(http.StatusOK)

	hostile := make(chan caddytest.Answer, 1)
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	go func() {
		r, _ := http.NewRequestWithContext(ctx, "GET", "http://"+os.Getenv("SITE")+"/forbidden", nil)
		answer, _ := caddytest.Do(proxy.Client, r)
		hostile <- answer
	}()
	<-hanging

	proxy.Want(http.StatusOK)
	api.WantAttempts(t, "access-token-1", "access-token-1", "access-token-1")
	hangUp()
	<-hostile
	if n := auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// TestRejectedWhileTheServerIsDown: the API's own answer is better than ours.
func TestRejectedWhileTheServerIsDown(t *testing.T) {
	for name, outage := range map[string]func(*caddytest.AuthServer){
		"answers 503":      func(a *caddytest.AuthServer) { a.Says(503, "") },
		"refuses":          func(a *caddytest.AuthServer) { a.Says(401, `{"error":"invalid_client"}`) },
		"answers nonsense": func(a *caddytest.AuthServer) { a.Says(200, "<html>") },
		"breaks off": func(a *caddytest.AuthServer) {
			a.Answers(func(http.ResponseWriter, caddytest.TokenRequest) { panic(http.ErrAbortHandler) })
		},
		"is gone": func(a *caddytest.AuthServer) { a.CloseClientConnections(); a.Listener.Close() },
		"takes its time": func(a *caddytest.AuthServer) {
			a.Answers(func(_ http.ResponseWriter, r caddytest.TokenRequest) { <-r.Context().Done() })
		},
		"throttles for now": func(a *caddytest.AuthServer) { a.Says(429, "") },
	} {
		t.Run(name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			proxy := caddytest.Run(t, caddytest.PartnerSiteWith("timeout 200ms"))
			proxy.Want(http.StatusOK)
			api.Answers(refuse)
			outage(auth)

			statuses := together(50, func(int) string {
				r, _ := http.NewRequest("POST", "http://"+os.Getenv("SITE"), strings.NewReader("body"))
				answer, err := caddytest.Do(proxy.Client, r)
				return fmt.Sprint(answer.Status, answer.Body, answer.Header.Values("Www-Authenticate"), err)
			})

			if want := fmt.Sprint(401, refusal, []string{`Bearer error="invalid_token"`}, error(nil)); statuses[want] != 50 {
				t.Errorf("callers got %v, want %s", statuses, want)
			}
			if n := auth.Count(); n > 4 {
				t.Errorf("%d token requests", n)
			}
		})
	}
}
