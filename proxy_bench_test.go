//go:build unix

package upstreamoauth2_test

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "github.com/upstream-oauth2/caddy-upstream-oauth2"
)

// besideHeaderUp is a Caddy with three sites in front of one API: with a token,
// with one for each account, and with a static header_up for comparison.
const besideHeaderUp = `{
	admin off
	persist_config off
	log {
		level ERROR
	}
}
http://:%[1]s {
	upstream_oauth2 {
		token_endpoint %[4]s
		client_id      id
		client_secret  secret
	}
	reverse_proxy %[5]s
}
http://:%[2]s {
	upstream_oauth2 {
		token_endpoint %[4]s
		client_id      id
		client_secret  secret
		account        {header.x-account}
	}
	reverse_proxy %[5]s
}
http://:%[3]s {
	reverse_proxy %[5]s {
		header_up Authorization "Bearer static"
	}
}`

// BenchmarkBesideHeaderUp compares the requests per second of the directive with
// those of a static header_up, which is as good as it gets, in one process: each
// iteration is a round of both. ratio is the median of the rounds; cpu-ratio is
// the same of the processor time for each request, which other processes disturb
// less. Both include what the callers and the API cost.
//
//	go test -run '^$' -bench BesideHeaderUp -benchtime 10x
func BenchmarkBesideHeaderUp(b *testing.B) {
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":"`+strings.Repeat("t", 800)+`","token_type":"Bearer","expires_in":36000}`)
	}))
	b.Cleanup(auth.Close)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"ok":true}`)
	}))
	b.Cleanup(api.Close)
	one, accounts, static := freePort(b), freePort(b), freePort(b)
	load(b, fmt.Sprintf(besideHeaderUp, one, accounts, static, auth.URL, api.URL))

	for _, size := range []int{0, 1 << 10, 8 << 10, 32 << 10, 60 << 10, 1 << 20} {
		for _, framing := range []string{"sized", "chunked"} {
			if size == 0 && framing == "chunked" {
				continue
			}
			b.Run(fmt.Sprintf("POST %d KiB, %s", size>>10, framing), func(b *testing.B) {
				request := post(size, framing == "chunked")
				compare(b, one, static, func(int) []byte { return request })
			})
		}
	}
	b.Run("1000 accounts", func(b *testing.B) {
		requests := make([][]byte, 1000)
		for i := range requests {
			requests[i] = fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: x\r\nX-Account: account-%d\r\n\r\n", i)
		}
		sendAll(b, accounts, len(requests), func(i int) []byte { return requests[i] })
		compare(b, accounts, static, func(i int) []byte { return requests[i*7919%len(requests)] })
	})
}

// compare runs rounds against both ports.
func compare(b *testing.B, port, static string, request func(int) []byte) {
	const round = 300 * time.Millisecond
	measure := func(port string) (rate, cpu float64) {
		var done atomic.Int64
		before := cpuTime()
		deadline := time.Now().Add(round)
		each(16, func(worker int) {
			c := dial(b, port)
			defer c.Close()
			for i := worker; time.Now().Before(deadline); i += 16 {
				c.send(b, request(i))
				done.Add(1)
			}
		})
		n := float64(done.Load())
		return n / round.Seconds(), (cpuTime() - before).Seconds() / n
	}
	measure(port)
	measure(static)
	var rates, cpus []float64
	for b.Loop() {
		var rate, cpu, staticRate, staticCPU float64
		if len(rates)%2 == 0 { // neither always comes first
			rate, cpu = measure(port)
			staticRate, staticCPU = measure(static)
		} else {
			staticRate, staticCPU = measure(static)
			rate, cpu = measure(port)
		}
		rates, cpus = append(rates, rate/staticRate), append(cpus, cpu/staticCPU)
	}
	slices.Sort(rates)
	slices.Sort(cpus)
	b.ReportMetric(rates[len(rates)/2], "ratio")
	b.ReportMetric(cpus[len(cpus)/2], "cpu-ratio")
	b.ReportMetric(0, "ns/op")
}

// cpuTime returns the processor time that this process has used.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// sendAll sends n requests once.
func sendAll(tb testing.TB, port string, n int, request func(int) []byte) {
	each(16, func(worker int) {
		c := dial(tb, port)
		defer c.Close()
		for i := worker; i < n; i += 16 {
			c.send(tb, request(i))
		}
	})
}

func each(n int, do func(int)) {
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { do(i) })
	}
	group.Wait()
}

// connection costs less than net/http's client does.
type connection struct {
	net.Conn
	r *bufio.Reader
}

func dial(tb testing.TB, port string) connection {
	c, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		tb.Error(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return connection{c, bufio.NewReader(c)}
}

// send sends a request and reads its answer.
func (c connection) send(tb testing.TB, request []byte) {
	_, err := c.Write(request)
	status, err2 := c.r.ReadString('\n')
	if err := cmp.Or(err, err2); err != nil || !strings.HasPrefix(status, "HTTP/1.1 200") {
		tb.Errorf("the answer is %q, %v", status, err)
		return
	}
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			tb.Error(err)
			return
		}
		if len(line) == 2 {
			break
		}
	}
	if _, err := c.r.Discard(len(`{"ok":true}`)); err != nil {
		tb.Error(err)
	}
}

// post returns a request with a body of that size.
func post(size int, chunked bool) []byte {
	body := bytes.Repeat([]byte("x"), size)
	var request bytes.Buffer
	request.WriteString("POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n")
	if !chunked {
		fmt.Fprintf(&request, "Content-Length: %d\r\n\r\n%s", size, body)
		return request.Bytes()
	}
	request.WriteString("Transfer-Encoding: chunked\r\n\r\n")
	w := httputil.NewChunkedWriter(&request)
	for piece := range slices.Chunk(body, 8<<10) {
		_, _ = w.Write(piece)
	}
	_ = w.Close()
	request.WriteString("\r\n")
	return request.Bytes()
}

func freePort(tb testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func load(tb testing.TB, caddyfile string) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		tb.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			tb.Error(err)
		}
	})
}
