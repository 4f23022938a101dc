package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	soakFor  = flag.Duration("soak", 20*time.Second, "how long TestSoak keeps up its faults")
	soakSeed = flag.Uint64("seed", 1, "what TestSoak's faults are drawn from")
)

// TestSoak runs Caddy under load while everything around it breaks, in an order drawn from a seed: the
// authorization server and the API stop, stall and restart, secrets are rotated, tokens revoked, and the
// config is reloaded. What must hold all the while is in the checks of soak.judge; that nothing grows and
// nothing is stuck shows at the end. For a long run:
//
//	go test -run TestSoak -soak 10m -timeout 20m -v
func TestSoak(t *testing.T) {
	s := startSoak(t)
	flow := startTraffic(t, s.proxyURL, 8)
	<-time.After(3 * time.Second)
	before := s.resources(t)

	dice := rand.New(rand.NewPCG(*soakSeed, 0))
	t.Logf("seed %d, for %v", *soakSeed, *soakFor)
	for end := time.Now().Add(*soakFor); time.Now().Before(end); {
		fault := soakFaults[dice.IntN(len(soakFaults))]
		lasts := time.Duration(dice.Int64N(int64(4 * time.Second)))
		heal := fault.strike(t, s)
		<-time.After(min(lasts, time.Until(end)))
		heal()
		<-time.After(time.Duration(dice.Int64N(int64(time.Second))))
	}

	// All is well again: the longest pause a run of this length leads to, and every request succeeds.
	eventually(t, "it recovers", func() bool { return get(t.Context(), http.DefaultClient, s.proxyURL).status == http.StatusOK })
	answers := flow.stop()
	flow = startTraffic(t, s.proxyURL, 8)
	<-time.After(3 * time.Second)
	after := s.resources(t)
	allOK(t, flow.stop())

	s.judge(t, answers)
	t.Logf("before the faults %+v, after them %+v", before, after)
	if after.Goroutines > before.Goroutines+60 || after.Files > before.Files+60 || after.HeapMiB > 2*before.HeapMiB+32 {
		t.Errorf("it has grown: before the faults %+v, after them %+v", before, after)
	}
}

// soakFaults are the things that go wrong. Each returns what puts it right.
var soakFaults = []struct {
	name   string
	strike func(*testing.T, *soak) (heal func())
}{
	{"authorization server stops", func(t *testing.T, s *soak) func() { s.auth.stop(); return func() { s.auth.start(t) } }},
	{"authorization server stalls", func(_ *testing.T, s *soak) func() { s.auth.be(stalling); return func() { s.auth.be(healthy) } }},
	{"authorization server fails", func(_ *testing.T, s *soak) func() { s.auth.be(failing); return func() { s.auth.be(healthy) } }},
	{"authorization server hangs up", func(_ *testing.T, s *soak) func() { s.auth.be(hangingUp); return func() { s.auth.be(healthy) } }},
	{"API stops", func(t *testing.T, s *soak) func() { s.api.stop(); return func() { s.api.start(t) } }},
	{"API hangs up", func(_ *testing.T, s *soak) func() { s.api.be(hangingUp); return func() { s.api.be(healthy) } }},
	{"API fails", func(_ *testing.T, s *soak) func() { s.api.be(failing); return func() { s.api.be(healthy) } }},
	{"tokens are revoked", func(_ *testing.T, s *soak) func() { s.revokeAll(); return func() {} }},
	{"secret is rotated", func(t *testing.T, s *soak) func() { s.rotate(t); return func() {} }},
	{"secret is rotated and the config reloaded", func(t *testing.T, s *soak) func() { s.rotate(t); s.reload(t); return func() {} }},
	{"config is reloaded", func(t *testing.T, s *soak) func() { s.reload(t); return func() {} }},
}

// soak is Caddy between two stand-ins that can fail in every way and remember everything.
type soak struct {
	proxyURL, admin string
	pid             int
	config          string
	secretFile      string
	auth, api       *brittle
	started         time.Time

	mu        sync.Mutex
	secret    string
	loaded    string // the secret that the running config was loaded with
	since     time.Time
	tokens    map[string]*soakToken
	issued    []*soakToken
	expired   []string // tokens that came to the API too late
	requested int
}

type soakToken struct {
	issued, expires time.Time
	revoked         time.Time // zero if it was not
}

// soakLife is the life of a token. With the default timeouts of the directive a stall is noticed within it.
const soakLife = 6 * time.Second

func startSoak(t *testing.T) *soak {
	t.Helper()
	home := t.TempDir()
	s := &soak{secret: "first secret", secretFile: filepath.Join(home, "secret"), tokens: make(map[string]*soakToken), started: time.Now()}
	s.since = s.started
	s.auth = &brittle{addr: loopback(freePort(t)), serve: s.issue}
	s.api = &brittle{addr: loopback(freePort(t)), serve: s.admit}
	s.auth.start(t)
	s.api.start(t)
	t.Cleanup(func() { s.auth.stop(); s.api.stop() })
	s.writeSecret(t)

	proxyAddr := loopback(freePort(t))
	s.admin, s.proxyURL = "http://"+loopback(freePort(t)), "http://"+proxyAddr
	s.config = fmt.Sprintf(`{
	admin %s
	auto_https off
	persist_config off
}
%s {
	bind 127.0.0.1
	upstream_oauth2 {
		token_endpoint http://%s/token
		client_id soak
		client_secret {file.%s}
		client_auth client_secret_post
		timeout 1s
	}
	reverse_proxy %s
	handle_errors {
		respond "{err.message}"
	}
}
`, strings.TrimPrefix(s.admin, "http://"), s.proxyURL, s.auth.addr, s.secretFile, s.api.addr)
	file := filepath.Join(home, "Caddyfile")
	if err := os.WriteFile(file, []byte(s.config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(built("caddy"), "run", "--config", file)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home)
	process := startProcess(t, "caddy", cmd)
	s.pid = process.cmd.Process.Pid
	s.loaded = s.secret
	eventually(t, "caddy serves", func() bool {
		return get(t.Context(), http.DefaultClient, s.proxyURL).status == http.StatusOK
	})
	return s
}

// issue is the token endpoint.
func (s *soak) issue(w http.ResponseWriter, r *http.Request) {
	form, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.requested++
	right := strings.Contains(string(form), "client_secret="+url.QueryEscape(s.secret))
	name := "soak-" + strconv.Itoa(len(s.issued)+1)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if !right {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client"}`)
		return
	}
	token := &soakToken{expires: time.Now().Add(soakLife)}
	s.mu.Lock()
	s.tokens[name] = token
	s.mu.Unlock()
	fmt.Fprintf(w, `{"access_token":%q,"expires_in":%d}`, name, int(soakLife.Seconds()))
	s.mu.Lock()
	token.issued = time.Now()
	s.issued = append(s.issued, token)
	s.mu.Unlock()
}

// admit is the API.
func (s *soak) admit(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	token := s.tokens[name]
	now := time.Now()
	expired := token != nil && now.After(token.expires)
	if expired {
		s.expired = append(s.expired, fmt.Sprintf("%s came %v after its expiry", name, now.Sub(token.expires)))
	}
	good := token != nil && !expired && token.revoked.IsZero()
	s.mu.Unlock()
	if !good {
		http.Error(w, "no good token", http.StatusUnauthorized)
		return
	}
	fmt.Fprint(w, "welcome")
}

func (s *soak) revokeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, token := range s.tokens {
		if token.revoked.IsZero() {
			token.revoked = time.Now()
		}
	}
}

// rotate gives the client a new secret, at the server and in the file.
func (s *soak) rotate(t *testing.T) {
	s.mu.Lock()
	s.secret = fmt.Sprint("secret of ", time.Now().UnixNano())
	s.mu.Unlock()
	s.writeSecret(t)
}

func (s *soak) writeSecret(t *testing.T) {
	t.Helper()
	fresh := s.secretFile + ".new"
	if err := os.WriteFile(fresh, []byte(s.secret), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, s.secretFile); err != nil {
		t.Fatal(err)
	}
}

func (s *soak) reload(t *testing.T) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, s.admin+"/load", strings.NewReader(s.config))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "text/caddyfile")
	request.Header.Set("Cache-Control", "must-revalidate")
	s.mu.Lock()
	if s.loaded != s.secret { // another client to Caddy, which starts without a token
		s.loaded, s.since = s.secret, time.Now()
	}
	s.mu.Unlock()
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(answer.Body)
		t.Fatalf("reload: %s: %s", answer.Status, body)
	}
}

// usableWhile reports whether Caddy had a token, good for a while, from when a request was sent until it was
// answered: past the token's margin, or near it, requests may wait for the next.
func (s *soak) usableWhile(a answer) bool {
	const slack = soakLife/10 + 500*time.Millisecond
	sent, answered := a.at, a.at.Add(a.took)
	return slices.ContainsFunc(s.issued, func(token *soakToken) bool {
		return token.issued.After(s.since) && token.issued.Add(slack).Before(sent) &&
			token.expires.Add(-slack).After(answered) && (token.revoked.IsZero() || token.revoked.After(answered))
	})
}

// judge checks what must hold through all faults.
func (s *soak) judge(t *testing.T, answers []answer) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.expired) > 0 {
		t.Errorf("%d expired tokens reached the API: %s", len(s.expired), s.expired[0])
	}
	statuses := make(map[int]int)
	for _, a := range answers {
		statuses[a.status]++
		switch {
		case a.err != nil:
			t.Errorf("a request got no answer: %v", a.err)
		case !strings.Contains(a.body, "no access token"):
			// answered by the API, or for it by reverse_proxy
		case a.at.After(s.since) && s.usableWhile(a):
			t.Errorf("a request failed at %v although there was a usable token: %v", a.at, a)
		}
	}
	t.Logf("%d requests: %v; %d token requests, %d tokens", len(answers), statuses, s.requested, len(s.issued))
	// Tokens of six seconds are renewed every five under load; faults add retries with growing pauses.
	if most := 20 + 2*int(time.Since(s.started)/time.Second); s.requested > most {
		t.Errorf("%d token requests, want %d at most", s.requested, most)
	}
}

// resources is what must not grow.
type resources struct {
	Goroutines, Files, HeapMiB int
}

var goroutineTotal = regexp.MustCompile(`total (\d+)`)

func (s *soak) resources(t *testing.T) resources {
	t.Helper()
	fetch := func(path string) string {
		answer, err := http.Get(s.admin + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	var r resources
	if m := goroutineTotal.FindStringSubmatch(fetch("/debug/pprof/goroutine?debug=1")); m != nil {
		r.Goroutines, _ = strconv.Atoi(m[1])
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid))
	if err != nil {
		t.Fatal(err)
	}
	r.Files = len(files)
	fetch("/debug/pprof/heap?gc=1")
	var vars struct {
		Memstats struct{ HeapAlloc int }
	}
	if err := json.Unmarshal([]byte(fetch("/debug/vars")), &vars); err != nil {
		t.Fatal(err)
	}
	r.HeapMiB = vars.Memstats.HeapAlloc >> 20
	return r
}

// brittle is a server that can fail.
type brittle struct {
	addr  string
	serve http.HandlerFunc

	mu     sync.Mutex
	server *http.Server
	health health
}

// health is how a server that runs behaves.
type health int

const (
	healthy health = iota
	failing
	stalling
	hangingUp
)

func (b *brittle) be(h health) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.health = h
}

func (b *brittle) start(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server = &http.Server{Handler: b, ErrorLog: log.New(io.Discard, "", 0)}
	go b.server.Serve(listener)
}

func (b *brittle) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server.Close()
}

func (b *brittle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	h := b.health
	b.mu.Unlock()
	switch h {
	case failing:
		http.Error(w, "out of order", http.StatusServiceUnavailable)
	case stalling:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case hangingUp:
		panic(http.ErrAbortHandler)
	default:
		b.serve(w, r)
	}
}
