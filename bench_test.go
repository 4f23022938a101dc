package upstreamoauth2

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
)

// The goal for a request that finds a fresh token: one allocation and 150 ns
// more than calling the next handler directly.
//
//	go test -run '^$' -bench ServeHTTP -benchmem
//
// Compare the rows of one header with its row "next", which calls the next
// handler directly.

// provisionBench loads a config with the app's clients as Caddy does, without
// starting it. It logs next to nothing.
func provisionBench(tb testing.TB, clients map[string]*config.Client) caddy.Context {
	tb.Helper()
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{
			"default": {BaseLog: caddy.BaseLog{Level: "FATAL"}},
		}},
		AppsRaw: caddy.ModuleMap{"upstream_oauth2": caddyJSON(tb, App{Clients: clients})},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return ctx
}

func caddyJSON(tb testing.TB, v any) json.RawMessage {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// benchApp returns the app of a config that provisionBench loaded.
func benchApp(tb testing.TB, ctx caddy.Context) *App {
	tb.Helper()
	app, err := ctx.App("upstream_oauth2")
	if err != nil {
		tb.Fatal(err)
	}
	return app.(*App)
}

// benchEndpoint is a token endpoint that answers at once.
func benchEndpoint(tb testing.TB) string {
	tb.Helper()
	answer := fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, strings.Repeat("t", 800)) // as long as a JWT
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // idle connections would count as memory
		_, _ = io.WriteString(w, answer)
	}))
	tb.Cleanup(server.Close)
	return server.URL
}

// freshHandler returns a handler that has a fresh token.
func freshHandler(tb testing.TB, inject *config.Inject) *Handler {
	tb.Helper()
	ctx := provisionBench(tb, map[string]*config.Client{"bench": {
		TokenEndpoint: benchEndpoint(tb),
		ClientID:      "bench",
		ClientSecret:  new(config.Credential("secret")),
		Inject:        inject,
	}})
	tb.Cleanup(func() { cleanUp(tb, benchApp(tb, ctx)) })
	module, err := ctx.LoadModuleByID("http.handlers.upstream_oauth2", json.RawMessage(`{"client":"bench"}`))
	if err != nil {
		tb.Fatal(err)
	}
	h := module.(*Handler)
	w, r := caddyRequest(nil)
	if err := h.ServeHTTP(w, r, noop); err != nil { // fetches the token
		tb.Fatal(err)
	}
	return h
}

// noop is a next handler that does nothing. It is a variable, so that the
// compiler does not see through it.
var noop caddyhttp.Handler = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// caddyRequest makes a request as Caddy's server hands it to a handler, and the
// writer that goes with it.
func caddyRequest(header http.Header) (http.ResponseWriter, *http.Request) {
	r := httptest.NewRequest(http.MethodGet, "https://api.internal.example.com/v1/orders?page=2", nil)
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	w.Header()["Server"] = []string{"Caddy"}
	w.Header()["Alt-Svc"] = []string{`h3=":443"; ma=2592000`}
	return w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, &caddyhttp.Server{})
}

// browserHeader is what a browser sends with a request over HTTP/2.
var browserHeader = http.Header{
	"Accept":             {"application/json, text/plain, */*"},
	"Accept-Encoding":    {"gzip, deflate, br, zstd"},
	"Accept-Language":    {"en-GB,en;q=0.9,de;q=0.8"},
	"Authorization":      {"Basic dXNlcjpwYXNzd29yZA=="},
	"Cache-Control":      {"no-cache"},
	"Cookie":             {"session=8f14e45fceea167a5a36dedd4bea2543; theme=dark"},
	"Referer":            {"https://app.example.com/orders"},
	"Sec-Ch-Ua-Platform": {`"Linux"`},
	"Sec-Fetch-Mode":     {"cors"},
	"Sec-Fetch-Site":     {"same-site"},
	"User-Agent":         {"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"},
	"X-Request-Id":       {"7b2f0c8e-6f0a-4f56-9d6b-0c1b8d9a1f11"},
}

// keepAliveHeader is the same over HTTP/1.1.
var keepAliveHeader = func() http.Header {
	h := browserHeader.Clone()
	h["Connection"] = []string{"keep-alive"}
	return h
}()

// benchInjections are places for the token that take different ways.
var benchInjections = []struct {
	name   string
	inject *config.Inject
}{
	{"Authorization", nil},
	{"X-Api-Token", &config.Inject{Name: "X-Api-Token"}}, // has aliases with "_" and "."
}

var benchRequests = []struct {
	name   string
	header http.Header
	ahead  func(http.ResponseWriter, *http.Request) // what other handlers did before
}{
	{"no header", nil, nil},
	{"12 fields", browserHeader, nil},
	{"12 fields and Connection", keepAliveHeader, nil},
	{"12 fields behind others", browserHeader, handleAndHeader},
}

// handleAndHeader is what is left by a "handle" block and by the "header"
// directives of a careful site.
func handleAndHeader(w http.ResponseWriter, r *http.Request) {
	for _, name := range []string{"Strict-Transport-Security", "X-Frame-Options", "X-Content-Type-Options", "Referrer-Policy"} {
		w.Header().Set(name, "set")
	}
	r.Context().Value(caddy.CtxKey("route_group")).(map[string]struct{})["group1"] = struct{}{}
}

func BenchmarkServeHTTP(b *testing.B) {
	for _, request := range benchRequests {
		b.Run(request.name, func(b *testing.B) {
			prepare := func() (http.ResponseWriter, *http.Request) {
				w, r := caddyRequest(request.header)
				if request.ahead != nil {
					request.ahead(w, r)
				}
				return w, r
			}
			b.Run("next", func(b *testing.B) {
				benchServe(b, prepare, func(w http.ResponseWriter, r *http.Request) error {
					return noop.ServeHTTP(w, r)
				})
			})
			for _, injection := range benchInjections {
				b.Run(injection.name, func(b *testing.B) {
					h := freshHandler(b, injection.inject)
					benchServe(b, prepare, func(w http.ResponseWriter, r *http.Request) error {
						return h.ServeHTTP(w, r, noop)
					})
				})
			}
		})
	}
}

// benchServe measures serve on one goroutine, then on all processors, each with
// a request of its own that it sends again and again.
func benchServe(b *testing.B, prepare func() (http.ResponseWriter, *http.Request), serve func(http.ResponseWriter, *http.Request) error) {
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		w, r := prepare()
		for b.Loop() {
			if err := serve(w, r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			w, r := prepare()
			for pb.Next() {
				if err := serve(w, r); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

func TestFreshTokenCostsOneAllocation(t *testing.T) {
	requests := map[string]http.Header{
		"no header":                nil,
		"12 fields":                browserHeader,
		"12 fields and Connection": keepAliveHeader,
		"fields of the same name":  {"Authorization": {"Bearer own"}, "X-Api-Token": {"own"}},
	}
	for _, injection := range benchInjections {
		for name, header := range requests {
			t.Run(injection.name+", "+name, func(t *testing.T) {
				h := freshHandler(t, injection.inject)
				w, r := caddyRequest(header)
				allocations := testing.AllocsPerRun(1000, func() {
					if err := h.ServeHTTP(w, r, noop); err != nil {
						t.Fatal(err)
					}
				})
				if allocations > 1 {
					t.Errorf("a request costs %v allocations, want 1", allocations)
				}
			})
		}
	}
}

const manyClients = 10_000

// BenchmarkTenThousandClients measures one process with 10,000 clients: how
// long the config takes to load, how long all first tokens take to come from an
// endpoint in the same process, and the memory that each client holds.
//
//	go test -run '^$' -bench TenThousandClients -benchtime 3x
func BenchmarkTenThousandClients(b *testing.B) {
	b.Run("provision", func(b *testing.B) {
		config := benchClients("https://auth.partner.example/oauth/token")
		var held uint64
		for b.Loop() {
			b.StopTimer()
			before := heapInUse()
			b.StartTimer()
			ctx := provisionBench(b, config)
			b.StopTimer()
			held += heapInUse() - before
			cleanUp(b, benchApp(b, ctx))
			b.StartTimer()
		}
		reportPerClient(b, float64(held), "bytes/client")
	})

	b.Run("first tokens", func(b *testing.B) {
		config := benchClients(benchEndpoint(b))
		var held uint64
		var failures int
		for b.Loop() {
			b.StopTimer()
			before := heapInUse()
			app := benchApp(b, provisionBench(b, config))
			b.StartTimer()
			if err := app.Handle(b.Context(), caddy.Event{}); err != nil { // every app has started
				b.Fatal(err)
			}
			for _, client := range app.live {
				failures += untilToken(b, client)
			}
			b.StopTimer()
			held += heapInUse() - before
			cleanUp(b, app)
			b.StartTimer()
		}
		reportPerClient(b, float64(held), "bytes/client")
		reportPerClient(b, float64(failures), "failures/client")
	})
}

// benchClients makes clients of one endpoint that differ in their id.
func benchClients(endpoint string) map[string]*config.Client {
	clients := make(map[string]*config.Client, manyClients)
	for i := range manyClients {
		name := fmt.Sprintf("client-%05d", i)
		clients[name] = &config.Client{TokenEndpoint: endpoint, ClientID: name, ClientSecret: new(config.Credential("{env.PATH}")), Scope: []string{"read:data"}}
	}
	return clients
}

func cleanUp(tb testing.TB, app *App) {
	tb.Helper()
	if err := app.Cleanup(); err != nil {
		tb.Fatal(err)
	}
}

// untilToken asks for the client's token until there is one, and returns how
// often there was none.
func untilToken(b *testing.B, client *client) (failures int) {
	for {
		_, _, err := client.shared.cache.Entry(nil).Token(b.Context())
		if err == nil {
			return failures
		}
		waiting, ok := errors.AsType[*tokencache.Failure](err)
		if !ok {
			b.Fatal(err)
		}
		failures++
		<-time.After(waiting.RetryIn + time.Millisecond)
	}
}

func reportPerClient(b *testing.B, total float64, unit string) {
	b.ReportMetric(total/float64(b.N)/manyClients, unit)
}

// heapInUse returns the size of what is reachable.
func heapInUse() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC() // the first one only fills the victim caches of sync.Pool
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
