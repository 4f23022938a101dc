package authserver_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// How long a failed answer asks to be left alone. The bubble's clock stands
// still at midnight on 1 January 2000, UTC: 946684800 seconds since 1970.
func TestRetryAfter(t *testing.T) {
	const most = 10 * time.Minute

	field := func(name, value string) http.Header { return http.Header{name: {value}} }
	after := func(value string) http.Header { return field("Retry-After", value) }

	tests := []struct {
		name   string
		status int
		header http.Header
		want   time.Duration
	}{
		{"absent", 503, http.Header{}, 0},

		{"seconds", 503, after("120"), 2 * time.Minute},
		{"seconds in spaces", 503, after("  120 "), 2 * time.Minute},
		{"one second", 503, after("1"), time.Second},
		{"no second", 503, after("0"), 0},
		{"seconds below zero", 503, after("-120"), 0},
		{"as many as are obeyed", 503, after("600"), most},
		{"one more", 503, after("601"), most},
		{"a day", 503, after("86400"), most},
		{"the largest int64", 503, after("9223372036854775807"), most},
		{"the smallest int64", 503, after("-9223372036854775808"), 0},

		{"date", 503, after("Sat, 01 Jan 2000 00:02:00 GMT"), 2 * time.Minute},
		{"date, as RFC 850 wrote it", 503, after("Saturday, 01-Jan-00 00:02:00 GMT"), 2 * time.Minute},
		{"date, as C writes it", 503, after("Sat Jan  1 00:02:00 2000"), 2 * time.Minute},
		{"date of now", 503, after("Sat, 01 Jan 2000 00:00:00 GMT"), 0},
		{"date gone by", 503, after("Fri, 31 Dec 1999 23:59:59 GMT"), 0},
		{"date far off", 503, after("Sat, 01 Jan 2050 00:00:00 GMT"), most},
		{"date long ago", 503, after("Mon, 01 Jan 0001 00:00:00 GMT"), 0},
		{"date furthest off", 503, after("Fri, 31 Dec 9999 23:59:59 GMT"), most},

		{"empty", 503, after(""), 0},
		{"a word", 503, after("later"), 0},
		{"a float", 503, after("1.5"), 0},
		{"a unit", 503, after("120s"), 0},
		{"hexadecimal", 503, after("0x78"), 0},
		{"other digits", 503, after("١٢٠"), 0},
		{"two numbers", 503, after("120, 240"), 0},
		{"beyond int64", 503, after("92233720368547758080"), 0},
		{"date of ISO 8601", 503, after("2000-01-01T00:02:00Z"), 0},
		{"twice: the first counts", 503, http.Header{"Retry-After": {"120", "240"}}, 2 * time.Minute},

		// Retry-After means something with any failure (RFC 9110 section
		// 10.2.3), the rate limit's end only where that limit is the reason.
		{"with 429", 429, after("120"), 2 * time.Minute},
		{"with 500", 500, after("120"), 2 * time.Minute},
		{"with 400", 400, after("120"), 2 * time.Minute},
		{"with 302", 302, after("120"), 2 * time.Minute},
		{"RateLimit-Reset with 429", 429, field("Ratelimit-Reset", "120"), 2 * time.Minute},
		{"RateLimit-Reset with 503", 503, field("Ratelimit-Reset", "120"), 2 * time.Minute},
		{"RateLimit-Reset with 500", 500, field("Ratelimit-Reset", "120"), 0},
		{"RateLimit-Reset with 400", 400, field("Ratelimit-Reset", "120"), 0},

		{"X-RateLimit-Reset", 429, field("X-Ratelimit-Reset", "120"), 2 * time.Minute},
		{"X-Rate-Limit-Reset", 429, field("X-Rate-Limit-Reset", "120"), 2 * time.Minute},
		{"reset in seconds since 1970", 429, field("X-Rate-Limit-Reset", "946684920"), 2 * time.Minute},
		{"reset in seconds since 1970, gone by", 429, field("X-Rate-Limit-Reset", "946684799"), 0},
		{"reset in milliseconds since 1970", 429, field("X-Ratelimit-Reset", "946684920000"), most},
		{"reset in a year", 429, field("Ratelimit-Reset", "31536000"), most},
		{"reset below zero", 429, field("Ratelimit-Reset", "-1"), 0},
		{"reset at no time", 429, field("Ratelimit-Reset", "0"), 0},
		{"reset a word", 429, field("Ratelimit-Reset", "soon"), 0},
		{"reset empty", 429, field("Ratelimit-Reset", ""), 0},
		{"reset beyond int64", 429, field("Ratelimit-Reset", "92233720368547758080"), 0},
		{"a second field where the first is a word", 429, http.Header{"Ratelimit-Reset": {"soon"}, "X-Ratelimit-Reset": {"60"}}, time.Minute},
		{"Retry-After before the reset", 429, http.Header{"Retry-After": {"60"}, "Ratelimit-Reset": {"120"}}, time.Minute},
		{"the reset where Retry-After is a word", 429, http.Header{"Retry-After": {"later"}, "Ratelimit-Reset": {"120"}}, 2 * time.Minute},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				token, err := do(t, request(endpoint), answering(test.status, test.header, ""))
				if got := mustFail(t, token, err).RetryAfter; got != test.want {
					t.Errorf("waits %s, want %s", got, test.want)
				}
			})
		})
	}
}

// A refusal with a code, too, may say when to come back.
func TestRetryAfterWithCode(t *testing.T) {
	for _, body := range []string{`{"error":"temporarily_unavailable"}`, `{"error":"invalid_client"}`} {
		header := http.Header{"Retry-After": {"30"}}
		token, err := do(t, request(endpoint), answering(http.StatusBadRequest, header, body))
		if got := mustFail(t, token, err).RetryAfter; got != 30*time.Second {
			t.Errorf("%s: waits %s, want 30s", body, got)
		}
	}
}
