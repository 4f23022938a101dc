package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// answer is what came of one request.
type answer struct {
	url        string
	at         time.Time // when it was sent
	took       time.Duration
	status     int // 0: no answer, see err
	retryAfter string
	body       string
	err        error
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%d in %v: %q", a.status, a.took, a.body)
}

func get(ctx context.Context, client *http.Client, url string) answer {
	// What callers send in the token's place never reaches the API, which would refuse it.
	return getAs(ctx, client, url, "Bearer the-callers-own")
}

// getAs is get by a caller with this Authorization field; none if it is empty.
func getAs(ctx context.Context, client *http.Client, url, authorization string) answer {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{err: err}
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	return send(client, request)
}

func send(client *http.Client, request *http.Request) answer {
	a := answer{url: request.URL.String(), at: time.Now()}
	response, err := client.Do(request)
	if err == nil {
		var body []byte
		body, err = io.ReadAll(response.Body)
		response.Body.Close()
		a.status, a.retryAfter, a.body = response.StatusCode, response.Header.Get("Retry-After"), string(body)
	}
	a.took, a.err = time.Since(a.at), err
	return a
}

// traffic is a steady flow of requests.
type traffic struct {
	once    func() []answer
	mu      sync.Mutex
	answers []answer
	counts  []int // by caller
}

// startTraffic sends requests from a number of callers, each 50 times a second at most, until stop. Each
// request has a URL of its own.
func startTraffic(t *testing.T, url string, callers int) *traffic {
	t.Helper()
	tr := &traffic{counts: make([]int, callers)}
	stopped := make(chan struct{})
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			client := &http.Client{Transport: new(http.Transport)}
			defer client.CloseIdleConnections()
			for pace := time.NewTicker(20 * time.Millisecond); ; {
				a := get(t.Context(), client, url+"/?request="+rand.Text())
				tr.mu.Lock()
				tr.answers = append(tr.answers, a)
				tr.counts[i]++
				tr.mu.Unlock()
				select {
				case <-stopped:
					return
				case <-pace.C:
				}
			}
		})
	}
	tr.once = sync.OnceValue(func() []answer {
		close(stopped)
		group.Wait()
		return tr.answers
	})
	t.Cleanup(func() { tr.stop() })
	return tr
}

// awaitMore waits until every caller has had n more answers.
func (tr *traffic) awaitMore(t *testing.T, n int) {
	t.Helper()
	counts := func() []int {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return slices.Clone(tr.counts)
	}
	before := counts()
	eventually(t, "every caller has more answers", func() bool {
		for i, count := range counts() {
			if count < before[i]+n {
				return false
			}
		}
		return true
	})
}

// stop ends the flow and returns all answers.
func (tr *traffic) stop() []answer { return tr.once() }

// burst sends n requests over a number of connections as fast as they go. It calls allSent when every
// connection has its first request on the way.
func burst(url string, n, connections int, allSent func()) []answer {
	answers := make([]answer, n)
	var next, sent atomic.Int64
	first := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) {
			if sent.Add(1) == int64(connections) {
				allSent()
			}
		},
	})
	var group sync.WaitGroup
	for range connections {
		group.Go(func() {
			client := &http.Client{Transport: new(http.Transport)}
			defer client.CloseIdleConnections()
			ctx := first
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				answers[i] = get(ctx, client, url)
				ctx = context.Background()
			}
		})
	}
	group.Wait()
	return answers
}

// allOK fails the test unless every request was answered with 200, and says how the others fared.
func allOK(t *testing.T, answers []answer) {
	t.Helper()
	if len(answers) == 0 {
		t.Fatal("no request was sent")
	}
	bad := slices.DeleteFunc(slices.Clone(answers), func(a answer) bool { return a.status == http.StatusOK && a.err == nil })
	if len(bad) > 0 {
		var examples []string
		for _, a := range bad[:min(5, len(bad))] {
			examples = append(examples, fmt.Sprintf("after %v: %v", a.at.Sub(answers[0].at), a))
		}
		t.Errorf("%d of %d requests failed:\n%s", len(bad), len(answers), strings.Join(examples, "\n"))
	}
}
