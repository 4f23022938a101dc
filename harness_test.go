package upstreamoauth2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// The whole-Caddy tests put a real Caddy, in this process, between a stand-in
// authorization server and a stand-in API, all on loopback:
//
//	test ───► runningCaddy ───► apiServer
//	               └──────────► authServer
//
// Their Caddyfiles are written as a user writes them, and name their
// surroundings by Caddy's own variables:
//
//	{$SITE}, {$OTHER_SITE}   free addresses to listen on
//	{$ADMIN}                 the address of the admin API
//	{$TOKEN_ENDPOINT}        the URL of the authServer's token endpoint
//	{$API}                   the address of the apiServer
//
// A process has one Caddy and one environment, so none of these tests runs in
// parallel.

// surroundings is what every test's Caddyfile begins with: no trace of the
// tests is left on the machine, and every log line can be read.
const surroundings = `
	admin {$ADMIN}
	persist_config off
	auto_https off
	default_bind 127.0.0.1
	grace_period 5s
	storage file_system {$STORAGE}
	storage_clean_interval off
	log {
		output file {$LOG_FILE} {
			roll_disabled
		}
		format json
		level DEBUG
	}
`

// partnerSite is the Caddyfile of tests that are not about Caddyfiles.
const partnerSite = `
http://{$SITE} {
	upstream_oauth2 partner {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      partner-id
		client_secret  partner-secret
	}
	reverse_proxy {$API}
}`

// refusedClient is a directive that adapts and does not load.
const refusedClient = `upstream_oauth2 refused {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      refused-id
		client_secret  {env.NOT_SET}
	}
`

// partnerSiteWith is partnerSite with further lines in the directive's block.
func partnerSiteWith(lines string) string {
	return strings.Replace(partnerSite, "partner-secret\n", "partner-secret\n"+lines+"\n", 1)
}

// runningCaddy is the Caddy under test.
type runningCaddy struct {
	t       testing.TB
	client  *http.Client
	logFile string
	loads   int // of a config
}

// runCaddy loads a Caddyfile and stops Caddy at the end of the test.
func runCaddy(t testing.TB, caddyfile string) *runningCaddy {
	t.Helper()
	c := &runningCaddy{
		t:       t,
		client:  &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
		logFile: filepath.Join(t.TempDir(), "log"),
	}
	for _, name := range []string{"SITE", "OTHER_SITE", "ADMIN"} {
		t.Setenv(name, freeAddress(t))
	}
	t.Setenv("STORAGE", t.TempDir())
	t.Setenv("LOG_FILE", c.logFile)

	t.Cleanup(func() {
		c.client.CloseIdleConnections()
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	c.reload(caddyfile)
	return c
}

// reload loads a Caddyfile in place of the one that is running. It is forced,
// as Caddy skips a config that has not changed.
func (c *runningCaddy) reload(caddyfile string) {
	c.t.Helper()
	config, _, err := adaptCaddyfile(inSurroundings(caddyfile))
	if err != nil {
		c.t.Fatalf("the Caddyfile is refused: %v", err)
	}
	if err := caddy.Load(config, true); err != nil {
		c.t.Fatalf("the config does not load: %v", err)
	}
	c.loads++
}

// inSurroundings adds to the global options.
func inSurroundings(caddyfile string) string {
	if options, ok := strings.CutPrefix(strings.TrimLeft(caddyfile, "\n"), "{\n"); ok {
		return "{" + surroundings + options
	}
	return "{" + surroundings + "}\n" + caddyfile
}

// adaptCaddyfile is "caddy adapt".
func adaptCaddyfile(text string) ([]byte, []caddyconfig.Warning, error) {
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	return adapter.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
}

// validateCaddyfile is "caddy validate".
func validateCaddyfile(text string) error {
	config, _, err := adaptCaddyfile(text)
	if err != nil {
		return err
	}
	var c *caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &c); err != nil {
		return err
	}
	return caddy.Validate(c)
}

// httpAnswer is an answer, read whole.
type httpAnswer struct {
	status int
	header http.Header
	body   string
}

// get sends a request to {$SITE}. The header may be nil; its names are sent as
// they are spelled.
func (c *runningCaddy) get(path string, header http.Header) httpAnswer {
	c.t.Helper()
	return c.send(http.MethodGet, os.Getenv("SITE"), path, header)
}

// send is get with a method, to any address.
func (c *runningCaddy) send(method, address, path string, header http.Header) httpAnswer {
	c.t.Helper()
	answer, err := c.try(method, address, path, header)
	for retries := 1; err != nil && retries < c.loads; retries++ {
		// Caddy closes its old port behind the reload, with what waits there.
		answer, err = c.try(method, address, path, header)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

// try is send for goroutines, and for requests that may fail.
func (c *runningCaddy) try(method, address, path string, header http.Header) (httpAnswer, error) {
	r, err := http.NewRequest(method, "http://"+address+path, nil)
	if err != nil {
		return httpAnswer{}, err
	}
	if header != nil {
		r.Header = header
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return httpAnswer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return httpAnswer{resp.StatusCode, resp.Header, string(body)}, err
}

// want fails the test unless a request to {$SITE} is answered with status.
func (c *runningCaddy) want(status int) {
	c.t.Helper()
	if answer := c.get("/", nil); answer.status != status {
		c.t.Fatalf("status %d, want %d: %s", answer.status, status, answer.body)
	}
}

// log is all that Caddy has logged so far, one JSON object a line.
func (c *runningCaddy) log() string {
	c.t.Helper()
	log, err := os.ReadFile(c.logFile)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(log)
}

// What the module logs about its token requests.
const (
	logObtained      = "first token obtained"
	logRenewed       = "token renewed"
	logObtainedAgain = "token obtained again"
	logFailed        = "token request failed; requests are answered without going upstream"
	logFailedEarly   = "token request failed; the token in hand is still served"
)

// logged returns the log lines with that message.
func (c *runningCaddy) logged(message string) []map[string]any {
	c.t.Helper()
	var lines []map[string]any
	for text := range strings.Lines(c.log()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == message {
			lines = append(lines, line)
		}
	}
	return lines
}

// awaitLog waits for the first log line with that message. What a token request
// came to is logged when the requests that waited for it have been let go.
func (c *runningCaddy) awaitLog(message string) map[string]any {
	c.t.Helper()
	eventually(c.t, "the log said "+message, func() bool { return len(c.logged(message)) > 0 })
	return c.logged(message)[0]
}

// tracing makes Caddy log each handler that a request enters; see entered.
const tracing = `{
	servers {
		trace
	}
}
`

// entered is how many requests have come to our handler, with tracing.
func (c *runningCaddy) entered() int {
	c.t.Helper()
	return strings.Count(c.log(), `"logger":"http.log.trace","msg":"upstream_oauth2"`)
}

// authServer stands in for the authorization server. Unless told otherwise it
// issues access-token-1, access-token-2 and so on, for an hour each.
type authServer struct {
	*httptest.Server

	mu       sync.Mutex
	requests []tokenRequest
	answer   func(http.ResponseWriter, tokenRequest)
}

// tokenRequest is what reached the token endpoint.
type tokenRequest struct {
	*http.Request // its body is read

	number int // 1 for the first
	form   url.Values
}

// newAuthServer starts one, with TLS if it is given a config for it.
func newAuthServer(t testing.TB, configure ...func(*httptest.Server)) *authServer {
	t.Helper()
	a := new(authServer)
	a.answers(issuing(time.Hour))
	a.Server = httptest.NewUnstartedServer(a)
	for _, f := range configure {
		f(a.Server)
	}
	if a.TLS == nil {
		a.Start()
	} else {
		a.StartTLS()
	}
	t.Cleanup(a.Close)
	t.Setenv("TOKEN_ENDPOINT", a.URL+"/token")
	return a
}

func (a *authServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(body))

	a.mu.Lock()
	request := tokenRequest{Request: r, number: len(a.requests) + 1, form: form}
	a.requests = append(a.requests, request)
	answer := a.answer
	a.mu.Unlock()

	answer(w, request)
}

// answers tells the server how to answer from now on.
func (a *authServer) answers(f func(http.ResponseWriter, tokenRequest)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

// says tells the server to give one answer from now on.
func (a *authServer) says(status int, body string) {
	a.answers(func(w http.ResponseWriter, _ tokenRequest) { say(w, status, body) })
}

// seen returns the token requests so far.
func (a *authServer) seen() []tokenRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.requests)
}

func (a *authServer) count() int { return len(a.seen()) }

// issuing is an answer for authServer.answers: a new token for each request.
func issuing(life time.Duration) func(http.ResponseWriter, tokenRequest) {
	return func(w http.ResponseWriter, r tokenRequest) {
		issue(w, fmt.Sprintf("access-token-%d", r.number), life)
	}
}

// issue answers a token request with a token.
func issue(w http.ResponseWriter, token string, life time.Duration) {
	say(w, http.StatusOK, fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":%v}`, token, life.Seconds()))
}

func say(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// apiServer stands in for the API behind Caddy. Unless told otherwise it
// answers every request with "fine".
type apiServer struct {
	*httptest.Server

	mu       sync.Mutex
	requests []apiRequest
	answer   http.HandlerFunc
}

// apiRequest is what reached the API.
type apiRequest struct {
	method, uri string
	header      http.Header
}

func newAPIServer(t testing.TB) *apiServer {
	t.Helper()
	a := new(apiServer)
	a.answers(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") })
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	t.Setenv("API", a.Listener.Addr().String())
	return a
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.requests = append(a.requests, apiRequest{r.Method, r.RequestURI, r.Header.Clone()})
	answer := a.answer
	a.mu.Unlock()

	answer(w, r)
}

// answers tells the API how to answer from now on.
func (a *apiServer) answers(f http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

// seen returns the requests that have reached the API so far.
func (a *apiServer) seen() []apiRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.requests)
}

// last returns the newest request.
func (a *apiServer) last(t testing.TB) apiRequest {
	t.Helper()
	seen := a.seen()
	if len(seen) == 0 {
		t.Fatal("no request has reached the API")
	}
	return seen[len(seen)-1]
}

// lastAuthorization returns the Authorization field of the newest request.
func (a *apiServer) lastAuthorization(t testing.TB) string {
	t.Helper()
	return a.last(t).header.Get("Authorization")
}

// lastPort is the port that freeAddress tried last. It begins anywhere, as other
// test processes take ports too.
var lastPort = 10000 + rand.IntN(15000)

// freeAddress returns a loopback address that nobody listens on, and another
// one each time. It keeps below the ports that the system gives to whoever asks
// for any: one of those could be somebody else's before Caddy opens it.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		if lastPort++; lastPort > 32000 {
			lastPort = 10000
		}
		address := fmt.Sprintf("127.0.0.1:%d", lastPort)
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	t.Fatal("there is no free port")
	return ""
}

// secretFile writes a file with a secret in it, and returns its path.
func secretFile(t testing.TB, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	writeSecret(t, path, secret)
	return path
}

// writeSecret puts a file in place in one step, as a secret store does: nobody
// reads half of it.
func writeSecret(t testing.TB, path, secret string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what happens behind the requests. What it waits for
// happens at once, or never.
func eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !happened() {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened that %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// indented is JSON as a person reads it.
func indented(t testing.TB, raw []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
