package unruly

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// outcome is what comes of a row.
type outcome struct {
	status   int           // what the caller gets
	requests int           // how many token requests arrive until then
	lifetime time.Duration // which the token gets
	token    string        // which reaches the API; "" for none
	code     string        // the OAuth error code that the caller is told
	wait     time.Duration // for which the server asks to be left alone
	timeout  time.Duration // of the token request, if it runs into it
}

type outcomes struct{}

// token: the request goes upstream with it.
func (outcomes) token(lifetime time.Duration) outcome {
	return outcome{status: 200, requests: 1, lifetime: lifetime, token: accessToken}
}

// refused: the server said no.
func (outcomes) refused(code string) outcome {
	return outcome{status: 502, requests: 1, code: code}
}

// unusable: the server answered nonsense.
func (outcomes) unusable() outcome { return outcome{status: 502, requests: 1} }

// unavailable: the server cannot be reached, is throttling or in trouble.
func (outcomes) unavailable(code string) outcome {
	return outcome{status: 503, requests: 1, code: code}
}

func (w outcome) after(requests int) outcome { w.requests = requests; return w }

func (w outcome) called(token string) outcome { w.token = token; return w }

func (w outcome) waiting(d time.Duration) outcome { w.wait = d; return w }

func (w outcome) in(timeout time.Duration) outcome { w.timeout = timeout; return w }

// again is the soonest that another fetch can begin after the first: a
// renewal behind the traffic, or a retry after the shortest backoff.
func (w outcome) again() time.Duration {
	if w.token != "" {
		return w.usable() * 7 / 10
	}
	return w.timeout + max(w.wait, 250*time.Millisecond)
}

// checkSecrets reports what text gives away.
func checkSecrets(t *testing.T, where, text string) {
	t.Helper()
	for name, value := range map[string]string{"secret": clientSecret, "token": accessToken, "Basic pair": basicPair} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(value)) {
			t.Errorf("%s shows the %s: %s", where, name, text)
		}
	}
}

// result is what came of a row.
type result struct {
	err        error // of the caller
	status     int
	retryAfter string
	body       string
	requests   int            // that had arrived at the endpoint
	elapsed    time.Duration  // by then, since the first of them or since the report
	report     map[string]any // the first report in the log
	lasted     time.Duration  // from before Caddy started until that report
}

// seconds reads a duration in the report.
func (r result) seconds(field string) time.Duration {
	n, _ := r.report[field].(float64)
	return time.Duration(n * float64(time.Second))
}

// usable is what is made of a token's lifetime at least: its last second may
// be left out, as servers round.
func (w outcome) usable() time.Duration { return w.lifetime - min(time.Second, w.lifetime/2) }

// checkLifetime compares what the log says is left of a token's life.
func (w outcome) checkLifetime(t *testing.T, got result) {
	t.Helper()
	if left := got.seconds("expires_in"); left > w.lifetime || left < w.usable()-got.lasted-time.Millisecond {
		t.Errorf("the token has %s to live, want %s less at most %s: %v", left, w.lifetime, got.lasted, got.report)
	}
}

// checkRenewal is about the first renewal's report, and the caller who comes
// after it.
func (w outcome) checkRenewal(t *testing.T, got result) {
	if got.err != nil || got.report == nil {
		t.Fatalf("no answer (%v), or no report on the renewal", got.err)
	}
	if want := "Bearer " + w.token; got.status != 200 || got.body != want {
		t.Errorf("the caller got status %d and the API %q, want 200 and %q", got.status, got.body, want)
	}
	message := caddytest.LogFailedEarly
	if w.token != accessToken {
		message = caddytest.LogRenewed
	}
	if got.report["msg"] != message {
		t.Errorf("the log says %v, want %s", got.report, message)
	}
	w.checkLifetime(t, got)

	// A retry may have come by then only if the shortest backoff had gone by.
	retries := int(got.elapsed / (250 * time.Millisecond))
	if got.requests < w.requests || got.requests > w.requests+retries*w.requests {
		t.Errorf("%d token requests arrived, want %d", got.requests, w.requests)
	}
}

func (w outcome) check(t *testing.T, got result) {
	if got.err != nil {
		t.Fatalf("the caller got no answer: %v", got.err)
	}
	if got.status != w.status {
		t.Errorf("the caller got status %d, want %d: %s", got.status, w.status, got.body)
	}

	// Exactly so many requests, for each fetch that can have begun by then: on
	// a machine that stalls, a retry may have come before the caller's turn.
	fetches := 1 + int(got.elapsed/w.again())
	if got.requests < w.requests || got.requests > w.requests*fetches {
		t.Errorf("%d token requests arrived within %s, want %d", got.requests, got.elapsed, w.requests)
	}

	if got.report == nil {
		t.Fatal("the log says nothing of how the token request went")
	}
	if w.token != "" {
		if want := "Bearer " + w.token; got.body != want {
			t.Errorf("the API got %.100q, want %.100q", got.body, want)
		}
		w.checkLifetime(t, got)
		return
	}

	checkSecrets(t, "the caller's answer", got.body)
	want := "no access token for the upstream: "
	if !strings.HasPrefix(got.body, want) || w.code != "" && !strings.HasSuffix(got.body, " ("+w.code+")") || w.code == "" && strings.Contains(got.body, "(") {
		t.Errorf("the caller is told %q, want a text of ours and the code %q", got.body, w.code)
	}
	if code, there := got.report["oauth_error"]; there != (w.code != "") || there && code != w.code {
		t.Errorf("the log has the OAuth error %v, want %q", code, w.code)
	}
	switch text, _ := got.report["error"].(string); {
	case text == "":
		t.Errorf("the log does not say what happened: %v", got.report)
	case w.timeout == 0 && strings.Contains(text, "in time"):
		t.Errorf("it took the whole timeout: %s", text)
	case w.timeout > 0 && w.requests > 0 && !strings.Contains(text, "'timeout' is "+w.timeout.String()):
		t.Errorf("it was not the timeout that ended it: %s", text)
	}
	shortest, longest := 250*time.Millisecond, time.Second
	if w.wait > 0 {
		shortest, longest = w.wait, w.wait*11/10
	}
	next := got.seconds("next_attempt_in")
	if next < shortest-time.Millisecond || next > longest+time.Millisecond {
		t.Errorf("the next attempt comes in %s, want between %s and %s", next, shortest, longest)
	}
	switch after, err := strconv.Atoi(got.retryAfter); {
	case w.status != 503 && got.retryAfter != "":
		t.Errorf("the caller is asked to come back after %s, want never", got.retryAfter)
	case w.status == 503 && (err != nil || after < 1 || time.Duration(after-1)*time.Second > max(longest, 2*time.Second)):
		t.Errorf("the caller is asked to come back after %q, want about %s", got.retryAfter, next)
	}
}
