package authserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// deviceCode is what the device authorizations here poll with.
const deviceCode = "dev-Kq8vT2mXw5Zr9Lb3"

// A poll's answer, or what is in place of one.
type pollAnswer struct {
	status int // 0 for no answer
	header http.Header
	body   string
}

var (
	pending  = pollAnswer{status: 400, body: `{"error":"authorization_pending"}`}
	slowDown = pollAnswer{status: 400, body: `{"error":"slow_down"}`}
	issued   = pollAnswer{status: 200, body: goodBody}
	lost     = pollAnswer{}
)

// polled is what polling came to.
type polled struct {
	token *authserver.Token
	err   error
	asked []time.Duration // when the server was asked
	told  []string        // what the caller was told
}

// poll polls a server that gives these answers in turn, the last one for ever.
func poll(ctx context.Context, t *testing.T, expiresIn time.Duration, answers ...pollAnswer) (p polled) {
	t.Helper()
	began := time.Now()
	transport := roundTrip(func(r *http.Request) (*http.Response, error) {
		if got := r.FormValue("grant_type") + " " + r.FormValue("device_code") + " " + r.FormValue("resource"); got != authserver.DeviceCodeGrant+" "+deviceCode+" urn:api" {
			t.Errorf("it sent %q", got)
		}
		a := answers[min(len(p.asked), len(answers)-1)]
		p.asked = append(p.asked, time.Since(began))
		if a.status == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		return answering(a.status, a.header, a.body)(r)
	})
	r := request(endpoint)
	r.Form = map[string][]string{"resource": {"urn:api"}}
	device := &authserver.DeviceAuthorization{
		DeviceCode: authserver.NewSecret(deviceCode),
		ExpiresAt:  began.Add(expiresIn),
		Interval:   5 * time.Second,
	}
	p.token, p.err = r.Poll(ctx, transport, device, func(wait time.Duration, last *authserver.Error) {
		why := "began"
		if last != nil {
			why = fmt.Sprint(kindNames[last.Kind], " ", last.Code)
		}
		p.told = append(p.told, fmt.Sprint(wait, " ", why))
	})
	if len(r.Form) != 1 {
		t.Errorf("the caller's form is now %v", r.Form)
	}
	return p
}

func TestPoll(t *testing.T) {
	seconds := func(at ...int) []time.Duration {
		var times []time.Duration
		for _, s := range at {
			times = append(times, time.Duration(s)*time.Second)
		}
		return times
	}
	later := func(status int, seconds string) pollAnswer {
		return pollAnswer{status: status, header: http.Header{"Retry-After": {seconds}}}
	}
	tests := []struct {
		name    string
		answers []pollAnswer
		asked   []time.Duration
		code    string // of the error; "" for a token
		says    string
	}{
		{"confirmed at once", []pollAnswer{issued}, seconds(5), "", ""},
		{"confirmed after a while", []pollAnswer{pending, pending, issued}, seconds(5, 10, 15), "", ""},
		{"pending, as Google says it", []pollAnswer{{status: 428, body: pending.body}, issued}, seconds(5, 10), "", ""},
		{"slow_down adds five seconds for good", []pollAnswer{slowDown, pending, slowDown, pending, issued}, seconds(5, 15, 25, 40, 55), "", ""},
		{"slow_down with status 429", []pollAnswer{{status: 429, body: slowDown.body}, pending, issued}, seconds(5, 15, 25), "", ""},
		{"slow_down and Retry-After", []pollAnswer{{status: 429, header: http.Header{"Retry-After": {"30"}}, body: slowDown.body}, pending, issued}, seconds(5, 35, 45), "", ""},
		{"no answer: less and less often", []pollAnswer{lost, lost, lost, lost, lost, pending, issued}, seconds(5, 15, 35, 75, 135, 195, 200), "", ""},
		{"failed", []pollAnswer{{status: 502}, {status: 503, body: "<html>"}, issued}, seconds(5, 15, 35), "", ""},
		{"throttled", []pollAnswer{later(429, "90"), pending, issued}, seconds(5, 95, 100), "", ""},
		{"server_error", []pollAnswer{{status: 400, body: `{"error":"server_error"}`}, issued}, seconds(5, 15), "", ""},

		{"declined", []pollAnswer{pending, {status: 400, body: `{"error":"access_denied"}`}}, seconds(5, 10), "access_denied", "sign in anew and confirm the code"},
		{"declined, as Google says it", []pollAnswer{{status: 403, body: `{"error":"access_denied"}`}}, seconds(5), "access_denied", ""},
		{"expired at the server", []pollAnswer{{status: 400, body: `{"error":"expired_token"}`}}, seconds(5), "expired_token", "in time"},
		{"no longer known", []pollAnswer{lost, {status: 400, body: `{"error":"invalid_grant"}`}}, seconds(5, 15), "invalid_grant", "sign in anew"},
		{"refused client", []pollAnswer{{status: 401, body: `{"error":"invalid_client"}`}}, seconds(5), "invalid_client", "'client_secret'"},
		{"no such grant", []pollAnswer{{status: 400, body: `{"error":"unsupported_grant_type"}`}}, seconds(5), "unsupported_grant_type", "sign in with a browser"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := poll(t.Context(), t, time.Hour, test.answers...)
				checkSame(t, "the times", got.asked, test.asked)
				if test.code == "" {
					mustSucceed(t, got.token, got.err)
					return
				}
				failed := mustFail(t, got.token, got.err)
				checkKind(t, failed, authserver.Refused)
				if failed.Code != test.code || !strings.Contains(failed.Error(), test.says) {
					t.Errorf("%q is not %s with %q", failed, test.code, test.says)
				}
			})
		})
	}
}

// Polling ends when the code expires, and not later.
func TestPollExpires(t *testing.T) {
	tests := []struct {
		name      string
		expiresIn time.Duration
		answers   []pollAnswer
		polls     int
	}{
		{"pending to the end", 32 * time.Second, []pollAnswer{pending}, 6},
		{"no answer to the end", 32 * time.Second, []pollAnswer{lost}, 2},
		{"told to stay away for longer", 32 * time.Second, []pollAnswer{{status: 503, header: http.Header{"Retry-After": {"600"}}}}, 1},
		{"before the first poll", 4 * time.Second, []pollAnswer{issued}, 0},
		{"long ago", -time.Hour, []pollAnswer{issued}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				got := poll(t.Context(), t, test.expiresIn, test.answers...)
				failed := mustFail(t, got.token, got.err)
				checkKind(t, failed, authserver.Refused)
				if failed.Code != "expired_token" || !strings.Contains(failed.Error(), "in time") {
					t.Errorf("got %q, want one for expired_token", failed)
				}
				if took := time.Since(began); took != max(test.expiresIn, 0) || len(got.asked) != test.polls {
					t.Errorf("it took %s and %d polls, want %s and %d", took, len(got.asked), test.expiresIn, test.polls)
				}
			})
		})
	}
}

// Whoever waits can be shown for how long, and why.
func TestPollTellsWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := poll(t.Context(), t, 41*time.Second, pending, slowDown, lost, pending)
		mustFail(t, got.token, got.err)
		checkSame(t, "what was told", got.told, []string{
			"5s began", "5s Refused authorization_pending", "10s Unavailable slow_down", "20s Unavailable ", "1s Refused authorization_pending",
		})
	})
}

// Polling ends with its context, while it waits and while it asks.
func TestPollIsCancelled(t *testing.T) {
	t.Run("while it waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
			defer cancel()
			began := time.Now()
			got := poll(ctx, t, time.Hour, pending)
			if got.token != nil || !errors.Is(got.err, context.DeadlineExceeded) || time.Since(began) != 7*time.Second || len(got.asked) != 1 {
				t.Errorf("got token %v and error %v after %s and %d polls", got.token, got.err, time.Since(began), len(got.asked))
			}
		})
	})
	t.Run("while it asks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := request(endpoint)
			device := &authserver.DeviceAuthorization{DeviceCode: authserver.NewSecret(deviceCode), ExpiresAt: time.Now().Add(time.Hour), Interval: time.Second}
			waits := 0
			token, err := r.Poll(ctx, roundTrip(func(r *http.Request) (*http.Response, error) {
				cancel()
				<-r.Context().Done()
				return nil, r.Context().Err()
			}), device, func(time.Duration, *authserver.Error) { waits++ })
			if token != nil || !errors.Is(err, context.Canceled) || waits != 1 {
				t.Errorf("got token %v and error %v after %d waits", token, err, waits)
			}
		})
	})
}
