package unruly

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

const (
	// How long a token request may take in the rows that stall.
	stall = 500 * time.Millisecond

	// The default_lifetime of every row; no answer states this one.
	defaultLifetime = 30 * time.Minute
)

// lab is a Caddy with one route for each row, the rows' servers, the API
// behind the proxy, and a host where nothing may arrive.
type lab struct {
	rows      []row
	endpoints []*endpoint
	log       *caddyLog
	caddyfile string
	caller    *http.Client
	started   time.Time
	elsewhere atomic.Int32
}

func newLab(t *testing.T, rows []row) *lab {
	// Not t.TempDir: the path of a socket must be short.
	dir, err := os.MkdirTemp("", "unruly")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "caddy.sock")
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pki().ca, 0o600); err != nil {
		t.Fatal(err)
	}

	l := &lab{rows: rows, log: newCaddyLog(t)}
	dialer := new(net.Dialer)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	l.caller = &http.Client{Transport: transport, Timeout: caddytest.Patience}

	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header["Authorization"], ", "))
	}))
	t.Cleanup(api.Close)
	other := newEndpoint(t, as.does(func(*conn) { l.elsewhere.Add(1) }), "")

	// A socket instead of a port, so that no other process can take it first.
	var b strings.Builder
	fmt.Fprintf(&b, `{
	admin off
	persist_config off
	auto_https off
	storage file_system %s
	log {
		output net %s
		format json
		level DEBUG
	}
}
http://proxy.test {
	bind unix/%s
	handle_errors {
		respond "{err.message}"
	}
`, dir, l.log.address, socket)
	names := make(map[string]bool)
	for i, row := range rows {
		if names[row.name] {
			t.Fatalf("two rows are called %q, and the log could not tell them apart", row.name)
		}
		names[row.name] = true
		endpoint := newEndpoint(t, row.server, other.address)
		l.endpoints = append(l.endpoints, endpoint)
		lines := append([]string{
			"token_endpoint " + row.server.endpoint,
			"client_id " + clientID,
			"client_secret " + clientSecret,
			"default_lifetime " + defaultLifetime.String(),
		}, row.server.config...)
		if row.want.timeout > 0 {
			lines = append(lines, "timeout "+row.want.timeout.String())
		}
		if len(row.server.transport) > 0 {
			lines = append(lines, "transport http {", strings.Join(row.server.transport, "\n"), "}")
		}
		place := strings.NewReplacer("DNSPORT", endpoint.dnsPort, "PORT", endpoint.port, " CA", " "+ca)
		fmt.Fprintf(&b, "handle /%d {\nupstream_oauth2 %q {\n%s\n}\nreverse_proxy %s\n}\n",
			i, row.name, place.Replace(strings.Join(lines, "\n")), api.Listener.Addr())
	}
	b.WriteString("}\n")
	l.caddyfile = b.String()
	return l
}

// load starts Caddy, which fetches the first token of every row.
func (l *lab) load(t *testing.T) {
	t.Helper()
	config, warnings, err := caddytest.Adapt(l.caddyfile)
	if err != nil {
		t.Fatalf("%v in\n%s", err, l.caddyfile)
	}
	for _, w := range warnings {
		if !strings.Contains(w.Message, "formatted") {
			t.Error(w)
		}
	}
	l.started = time.Now()
	if err := caddy.Load(l.withSink(t, config), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
}

// withSink sends to the log, too, what net/http and others write with package
// log: a Caddyfile has no line for it.
func (l *lab) withSink(t *testing.T, config []byte) []byte {
	t.Helper()
	var whole, logging map[string]json.RawMessage
	if err := json.Unmarshal(config, &whole); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(whole["logging"], &logging); err != nil {
		t.Fatal(err)
	}
	logging["sink"] = json.RawMessage(`{"writer":{"output":"net","address":"` + l.log.address + `"},"encoder":{"format":"json"}}`)
	whole["logging"] = caddyconfig.JSON(logging, nil)
	return caddyconfig.JSON(whole, nil)
}

// stop ends Caddy and waits for the last line of its log: that it will go
// elsewhere from then on.
func (l *lab) stop(t *testing.T) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
	elsewhere := `{"admin":{"disabled":true,"config":{"persist":false}},"logging":{"logs":{"default":{"level":"ERROR"}}}}`
	if err := caddy.Load([]byte(elsewhere), true); err != nil {
		t.Error(err)
	}
	select {
	case <-l.log.redirected:
	case <-time.After(caddytest.Patience):
		t.Error("the log has no end")
	}
}

// ask is one caller's request.
func (l *lab) ask(i int) result {
	resp, err := l.caller.Get(fmt.Sprintf("http://proxy.test/%d", i))
	if err != nil {
		return result{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return result{err: err, status: resp.StatusCode, retryAfter: resp.Header.Get("Retry-After"), body: string(body)}
}

// call is one caller's request together with what it left behind.
func (l *lab) call(i int) result {
	got := l.ask(i)
	got.requests, got.elapsed = l.endpoints[i].count()
	if got.err == nil {
		got.report = l.log.report(l.rows[i].name)
	}
	got.lasted = time.Since(l.started)
	return got
}

// callAgain calls, waits for the token's renewal to be reported either way,
// and asks once more.
func (l *lab) callAgain(i int) result {
	first := l.call(i)
	if first.err != nil || first.report == nil {
		return first
	}
	report := l.log.report(l.rows[i].name)
	requests, _ := l.endpoints[i].count()
	lasted := time.Since(l.started)
	logged, _ := report["ts"].(float64)
	elapsed := time.Since(time.UnixMicro(int64(logged * 1e6)))

	got := l.ask(i)
	got.report, got.requests, got.elapsed, got.lasted = report, requests, elapsed, lasted
	return got
}

// each does something for every row, all at once: the first tokens are on
// their way since Caddy has started.
func (l *lab) each(do func(int) result) []result {
	results := make([]result, len(l.rows))
	var callers sync.WaitGroup
	for i := range l.rows {
		callers.Go(func() { results[i] = do(i) })
	}
	callers.Wait()
	return results
}

// checkLog looks for secrets in the lines about a client, or about none.
func (l *lab) checkLog(t *testing.T, client string) {
	t.Helper()
	for _, line := range l.log.about(client) {
		checkSecrets(t, "the log", line)
	}
}

// checkElsewhere makes sure that no credential left the endpoints.
func (l *lab) checkElsewhere(t *testing.T) {
	t.Helper()
	if n := l.elsewhere.Load(); n != 0 {
		t.Errorf("another host was asked %d times", n)
	}
}

// caddyLog receives Caddy's log over a socket and hands out the reports on
// token requests, by the client's name.
type caddyLog struct {
	address    string
	redirected chan struct{} // closed by its last line

	mu      sync.Mutex
	lines   map[string][]string            // by client; "" for none
	reports map[string]chan map[string]any // on token requests, by client
}

func newCaddyLog(t *testing.T) *caddyLog {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	collected := &caddyLog{
		address:    l.Addr().String(),
		redirected: make(chan struct{}),
		lines:      make(map[string][]string),
		reports:    make(map[string]chan map[string]any),
	}
	// Caddy sets package log's output, and does not put it back.
	output, flags, prefix := log.Writer(), log.Flags(), log.Prefix()
	t.Cleanup(func() {
		_ = l.Close()
		log.SetOutput(output)
		log.SetFlags(flags)
		log.SetPrefix(prefix)
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go collected.read(conn)
		}
	}()
	return collected
}

func (l *caddyLog) read(conn net.Conn) {
	defer conn.Close()
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		var fields map[string]any
		_ = json.Unmarshal([]byte(line), &fields)
		client, _ := fields["client"].(string)
		message, _ := fields["msg"].(string)

		l.mu.Lock()
		l.lines[client] = append(l.lines[client], line)
		l.mu.Unlock()
		switch {
		case message == "redirected default logger":
			close(l.redirected)
		case slices.Contains(reportMessages, message):
			select {
			case l.reportsOf(client) <- fields:
			default: // nobody wants so many
			}
		}
	}
}

// reportMessages are the messages on how a token request went.
var reportMessages = []string{
	caddytest.LogObtained,
	caddytest.LogRenewed,
	caddytest.LogObtainedAgain,
	caddytest.LogFailedEarly,
	caddytest.LogFailed,
}

func (l *caddyLog) reportsOf(client string) chan map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reports[client] == nil {
		l.reports[client] = make(chan map[string]any, 16)
	}
	return l.reports[client]
}

// report waits for the client's next report; nil if there is none for long.
func (l *caddyLog) report(client string) map[string]any {
	select {
	case fields := <-l.reportsOf(client):
		return fields
	case <-time.After(caddytest.Patience):
		return nil
	}
}

// about returns the lines that name the client; those that name none for "".
func (l *caddyLog) about(client string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines[client])
}
