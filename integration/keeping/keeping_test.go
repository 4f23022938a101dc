package keeping

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// Keys as "openssl rand -base64 32" makes them.
const (
	oneKey     = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	anotherKey = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
)

// keepingSite has a client that lives on a refresh token, with these lines in the
// global option, and on {$OTHER_SITE} one that does not.
func keepingSite(lines ...string) string {
	return `{
	upstream_oauth2 {
		` + strings.Join(lines, "\n\t\t") + `
		client partner {
			token_endpoint {$TOKEN_ENDPOINT}
			client_id      partner-id
			client_secret  partner-secret
			grant refresh_token {
				refresh_token {$REFRESH_TOKEN}
			}
			timeout 1s
		}
	}
}
http://{$SITE} {
	upstream_oauth2 partner
	reverse_proxy {$API}
	handle_errors {
		respond "{err.message}"
	}
}
http://{$OTHER_SITE} {
	upstream_oauth2 machine {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      machine-id
		client_secret  machine-secret
	}
	reverse_proxy {$API}
}`
}

// keptIn has everything kept in the brittle storage of that name.
func keptIn(storage string) string {
	return keepingSite("encryption_key "+oneKey, "storage brittle "+storage)
}

// strictServer rotates refresh tokens and takes each of them once.
type strictServer struct {
	*caddytest.AuthServer

	mu     sync.Mutex
	life   time.Duration
	good   map[string]bool // refresh tokens
	spent  []string        // in order, those that were not good included
	broken string          // the members of an answer whose access token is of no use
	delay  func()          // before an answer
}

// newStrictServer starts one that knows the refresh tokens, and puts the first of them
// into the config.
func newStrictServer(t *testing.T, life time.Duration, refreshTokens ...string) *strictServer {
	t.Helper()
	t.Setenv("REFRESH_TOKEN", refreshTokens[0])
	s := &strictServer{AuthServer: caddytest.NewAuthServer(t), life: life, good: make(map[string]bool)}
	for _, token := range refreshTokens {
		s.good[token] = true
	}
	s.Answers(s.answer)
	return s
}

// answer answers the n-th token request with access-token-n, and the n-th refresh with
// refresh-token-n beside it.
func (s *strictServer) answer(w http.ResponseWriter, r caddytest.TokenRequest) {
	if r.PostForm.Get("grant_type") != "refresh_token" {
		caddytest.Issue(w, fmt.Sprintf("access-token-%d", r.Number), time.Hour)
		return
	}
	s.mu.Lock()
	token := r.PostForm.Get("refresh_token")
	s.spent = append(s.spent, token)
	good, next := s.good[token], fmt.Sprintf("refresh-token-%d", len(s.spent))
	if good {
		delete(s.good, token)
		s.good[next] = true
	}
	life, broken, delay := s.life, s.broken, s.delay
	s.broken = ""
	s.mu.Unlock()
	if delay != nil {
		delay()
	}
	switch {
	case !good:
		caddytest.Say(w, http.StatusBadRequest, `{"error":"invalid_grant"}`)
	case broken != "":
		caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{%s,"refresh_token":%q}`, broken, next))
	default:
		caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":"access-token-%d","token_type":"Bearer","expires_in":%v,"refresh_token":%q}`,
			r.Number, life.Seconds(), next))
	}
}

// wantSpent fails the test unless exactly these refresh tokens have come to the server.
func (s *strictServer) wantSpent(t *testing.T, want ...string) {
	t.Helper()
	if got := s.refreshTokens(); !slices.Equal(got, want) {
		t.Errorf("the server saw %q, want %q", got, want)
	}
}

// wantChain fails the test unless each refresh token after the first is the one that
// came for the one before.
func (s *strictServer) wantChain(t *testing.T, first string) {
	t.Helper()
	for i, token := range s.refreshTokens() {
		want := first
		if i > 0 {
			want = fmt.Sprintf("refresh-token-%d", i)
		}
		if token != want {
			t.Errorf("refresh %d was made with %q, want %q", i+1, token, want)
		}
	}
}

func (s *strictServer) refreshTokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.spent)
}

// restart stops Caddy and starts it with this Caddyfile, on the same storage.
func restart(t *testing.T, c *caddytest.Caddy, caddyfile string) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	c.Reload(caddyfile)
}

// stored returns all files with what is kept, by name.
func stored(t *testing.T) map[string]string {
	t.Helper()
	root := filepath.Join(os.Getenv("STORAGE"), "upstream_oauth2")
	files := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files[path] = string(content)
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing is kept: %v", err)
	}
	return files
}

func TestRestartWithAGoodToken(t *testing.T) {
	auth, api := newStrictServer(t, time.Hour, "configured"), caddytest.NewAPIServer(t)
	site := keepingSite("encryption_key " + oneKey)
	caddy := caddytest.Run(t, site)
	caddy.Want(http.StatusOK)

	restart(t, caddy, site)
	caddy.Want(http.StatusOK)

	auth.wantSpent(t, "configured")
	if got := api.LastAuthorization(t); got != "Bearer "+api.Attempts()[0] {
		t.Errorf("the API got %q after the restart", got)
	}
}

func TestRestartWithAnExpiredToken(t *testing.T) {
	auth := newStrictServer(t, time.Second, "configured")
	caddytest.NewAPIServer(t)
	site := keepingSite("encryption_key " + oneKey)
	caddy := caddytest.Run(t, site)
	for n := range 4 {
		caddytest.Eventually(t, "the token was renewed after a restart", func() bool {
			caddy.Want(http.StatusOK)
			return len(auth.refreshTokens()) > n
		})
		restart(t, caddy, site)
	}
	auth.wantChain(t, "configured")
}

func TestConfiguredRefreshToken(t *testing.T) {
	auth := newStrictServer(t, time.Hour, "configured", "another")
	caddytest.NewAPIServer(t)
	site := keepingSite("encryption_key " + oneKey)
	caddy := caddytest.Run(t, site)
	caddy.Want(http.StatusOK)

	t.Setenv("REFRESH_TOKEN", "another")
	caddy.Reload(site)
	caddy.Want(http.StatusOK)
	auth.wantSpent(t, "configured", "another") // another one starts a grant of its own

	t.Setenv("REFRESH_TOKEN", "configured")
	restart(t, caddy, site)
	caddy.Want(http.StatusOK)
	auth.wantSpent(t, "configured", "another") // the same one goes on with what is kept
}

func TestWrongKey(t *testing.T) {
	auth := newStrictServer(t, time.Hour, "configured")
	caddytest.NewAPIServer(t)
	caddy := caddytest.Run(t, keepingSite("encryption_key "+oneKey))
	caddy.Want(http.StatusOK)
	before := stored(t)

	for name, lines := range map[string][]string{
		"wrong":                    {"encryption_key " + anotherKey},
		"missing":                  {},
		"wrong, and a wrong older": {"encryption_key " + anotherKey, "previous_encryption_key " + anotherKey},
	} {
		restart(t, caddy, keepingSite(lines...))
		if answer := caddy.Get("/", nil); answer.Status != http.StatusServiceUnavailable || !strings.Contains(answer.Body, `"partner"`) {
			t.Errorf("%s: %d %s", name, answer.Status, answer.Body)
		}
		if answer := caddy.Send(http.MethodGet, os.Getenv("OTHER_SITE"), "/", nil); answer.Status != http.StatusOK {
			t.Errorf("%s: another client's request is answered with %d %s", name, answer.Status, answer.Body)
		}
		if !maps.Equal(stored(t), before) {
			t.Errorf("%s: what is kept has changed", name)
		}
	}
	for _, line := range caddy.Logged(caddytest.LogFailed) {
		if text := fmt.Sprint(line["error"]); !strings.Contains(text, "encryption_key") {
			t.Errorf("the log says %s", text)
		}
	}
	auth.wantSpent(t, "configured")

	restart(t, caddy, keepingSite("encryption_key "+anotherKey, "previous_encryption_key "+oneKey))
	caddy.Want(http.StatusOK) // by the older key
	auth.wantSpent(t, "configured")
}

// TestRightKeyIsTakenUpSoon: a reload with the key put right does not wait for a
// failure's pause to end.
func TestRightKeyIsTakenUpSoon(t *testing.T) {
	auth := newStrictServer(t, time.Hour, "configured")
	caddytest.NewAPIServer(t)
	caddy := caddytest.Run(t, keepingSite("encryption_key "+oneKey))
	caddy.Want(http.StatusOK)
	restart(t, caddy, keepingSite("encryption_key "+anotherKey))
	if retry := caddy.Get("/", nil).Header.Get("Retry-After"); retry > "5" {
		t.Errorf("Retry-After: %s", retry)
	}

	caddy.Reload(keepingSite("encryption_key " + oneKey))

	caddytest.Eventually(t, "requests are served again", func() bool { return caddy.Get("/", nil).Status == http.StatusOK })
	auth.wantSpent(t, "configured")
}

// TestUnusableAnswer: a refresh token that came beside something of no use is kept.
func TestUnusableAnswer(t *testing.T) {
	for _, broken := range []string{`"access_token":"T","token_type":"mac"`, `"access_token":"","token_type":"Bearer"`, `"token_type":"Bearer"`} {
		t.Run(broken, func(t *testing.T) {
			auth := newStrictServer(t, time.Hour, "configured")
			auth.broken = broken
			caddytest.NewAPIServer(t)
			site := keepingSite("encryption_key " + oneKey)
			caddy := caddytest.Run(t, site)
			caddy.AwaitLog(caddytest.LogFailed)

			restart(t, caddy, site)

			caddy.Want(http.StatusOK)
			auth.wantSpent(t, "configured", "refresh-token-1")
		})
	}
}

// TestDeadGrant: the text for callers names the client, and nobody asks the server
// again and again.
func TestDeadGrant(t *testing.T) {
	auth := newStrictServer(t, time.Hour, "good-one")
	caddytest.NewAPIServer(t)
	t.Setenv("REFRESH_TOKEN", "revoked")
	site := keepingSite("encryption_key " + oneKey)
	caddy := caddytest.Run(t, site)

	if answer := caddy.Get("/", nil); answer.Status != http.StatusServiceUnavailable || !strings.Contains(answer.Body, `client "partner" has no grant: sign in first`) {
		t.Errorf("%d %s", answer.Status, answer.Body)
	}
	caddy.AwaitLog("the grant is dead: somebody has to sign in again")
	restart(t, caddy, site)
	caddy.Want(http.StatusServiceUnavailable)
	auth.wantSpent(t, "revoked") // the mark is kept

	t.Setenv("REFRESH_TOKEN", "good-one")
	caddy.Reload(site)
	caddy.Want(http.StatusOK)
}

// TestStopWaitsForTheStore: what is spent when Caddy is told to stop is stored before
// it has stopped.
func TestStopWaitsForTheStore(t *testing.T) {
	auth, storage := newStrictServer(t, time.Hour, "configured"), newBrittleStorage(t, "one")
	caddytest.NewAPIServer(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	auth.delay = sync.OnceFunc(func() {
		close(asked)
		<-answer
	})
	c := caddytest.Run(t, keptIn("one"))
	<-asked
	stopped := make(chan error)
	go func() { stopped <- caddy.Stop() }()
	caddytest.Eventually(t, "Caddy is stopping", func() bool { return strings.Contains(c.Log(), `"name":"stopping"`) })
	close(answer)

	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if !storage.has("/a") {
		t.Errorf("when Caddy has stopped, there is %q", storage.keys())
	}
	c.Reload(keptIn("one"))
	c.Want(http.StatusOK)
	auth.wantSpent(t, "configured")
}

func TestRestartWithASharedToken(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	site := "{\n\tupstream_oauth2 {\n\t\tencryption_key " + oneKey + "\n\t}\n}\n" + caddytest.PartnerSiteWith("share")
	caddy := caddytest.Run(t, site)
	caddy.Want(http.StatusOK)

	restart(t, caddy, site)
	caddy.Want(http.StatusOK)

	api.WantAttempts(t, "access-token-1", "access-token-1")
	if n := auth.Count(); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

// TestKeyIsNeeded by what cannot do without; the error has the command that makes one.
func TestKeyIsNeeded(t *testing.T) {
	caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	caddy := caddytest.Run(t, caddytest.PartnerSite)
	for _, lines := range []string{"share", "grant authorization_code\nauthorization_endpoint http://127.0.0.1:1/authorize"} {
		err := caddy.TryReload(caddytest.PartnerSiteWith(lines))
		if err == nil || !strings.Contains(err.Error(), "openssl rand -base64 32") {
			t.Errorf("with %q: %v", lines, err)
		}
	}
	caddy.Want(http.StatusOK)
}

// TestNothingKeptIsReadable in the storage or the log.
func TestNothingKeptIsReadable(t *testing.T) {
	newStrictServer(t, time.Hour, "configured-refresh")
	caddytest.NewAPIServer(t)
	caddy := caddytest.Run(t, keepingSite("encryption_key "+oneKey))
	caddy.Want(http.StatusOK)

	everything := caddy.Log() + strings.Join(slices.Collect(maps.Values(stored(t))), "\n")
	for _, secret := range []string{"configured-refresh", "refresh-token-1", "access-token-", "partner-secret", oneKey} {
		if strings.Contains(everything, secret) {
			t.Errorf("%q can be read", secret)
		}
	}
}
