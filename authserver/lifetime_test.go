package authserver_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

const year = 365 * 24 * time.Hour

// expires_in as it comes. Zero means that the server stated none.
func TestAnswerLifetime(t *testing.T) {
	tests := []struct {
		name string
		json string // the value, as it stands in the answer; "" for no member
		want time.Duration
	}{
		{"number", `3600`, time.Hour},
		{"string", `"3600"`, time.Hour},
		{"string in spaces", `" 3600 "`, time.Hour},
		{"string with a sign", `"+3600"`, time.Hour},
		{"float", `3599.5`, 3599*time.Second + 500*time.Millisecond},
		{"float in a string", `"3599.5"`, 3599*time.Second + 500*time.Millisecond},
		{"exponent", `3.6e3`, time.Hour},
		{"exponent in a string", `"3.6E3"`, time.Hour},

		{"missing", ``, 0},
		{"null", `null`, 0},
		{"empty string", `""`, 0},
		{"blank string", `"  "`, 0},
		{"zero", `0`, 0},
		{"zero in a string", `"0"`, 0},
		{"zero as a float", `0.0`, 0},
		{"negative zero", `-0`, 0},
		{"negative", `-1`, 0},
		{"negative in a string", `"-3600"`, 0},
		{"far below zero", `-1e400`, 0},

		{"a word", `"soon"`, 0},
		{"a unit", `"3600s"`, 0},
		{"a Go duration", `"1h"`, 0},
		{"a thousands separator", `"3,600"`, 0},
		{"a date", `"2030-01-01T00:00:00Z"`, 0},
		{"not a number", `"NaN"`, 0},
		{"other digits", `"٣٦٠٠"`, 0},
		{"true", `true`, 0},
		{"a list", `[3600]`, 0},
		{"an object", `{"seconds":3600}`, 0},

		{"shortest", `1`, time.Second},
		{"under a second", `0.5`, time.Second},
		{"next to nothing", `1e-300`, time.Second},
		{"a year", `31536000`, year},
		{"over a year", `31536001`, year},
		{"ten years", `"315360000"`, year},
		{"milliseconds of 1970", `1893456000000`, year},
		{"beyond int64", `9223372036854775808`, year},
		{"beyond time.Duration", `9223372037`, year},
		{"beyond float64", `1e400`, year},
		{"beyond float64 in a string", `"1e999"`, year},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			body := `{"access_token":"a"}`
			if test.json != "" {
				body = `{"access_token":"a","expires_in":` + test.json + `}`
			}
			token, err := do(t, request(endpoint), answering(http.StatusOK, contentType(jsonType), body))
			if got := mustSucceed(t, token, err).Lifetime; got != test.want {
				t.Errorf("lifetime %s, want %s", got, test.want)
			}
		})
	}
}

// The lifetime in forms, under other names, and twice. The bubble's clock stands
// at the beginning of 2000, which is 946684800.
func TestAnswerLifetimeElsewhere(t *testing.T) {
	tests := []struct {
		name string
		body string
		want time.Duration
	}{
		{"form", "access_token=a&expires_in=3600", time.Hour},
		{"form, a float", "access_token=a&expires_in=3599.5", 3599*time.Second + 500*time.Millisecond},
		{"form, empty", "access_token=a&expires_in=", 0},
		{"form, twice alike", "access_token=a&expires_in=60&expires_in=60", time.Minute},
		{"another case", `{"access_token":"a","Expires_In":3600}`, 0},
		{"another case as well", `{"access_token":"a","expires_in":60,"EXPIRES_IN":3600}`, time.Minute},
		{"that of the refresh token", `{"access_token":"a","refresh_expires_in":0}`, 0},

		// The smaller one is safe, whichever the server meant.
		{"twice alike", `{"access_token":"a","expires_in":60,"expires_in":60}`, time.Minute},
		{"twice alike, spelled in two ways", `{"access_token":"a","expires_in":60,"expires_in":"60"}`, time.Minute},
		{"twice, the smaller one first", `{"access_token":"a","expires_in":60,"expires_in":3600}`, time.Minute},
		{"twice, the smaller one last", `{"access_token":"a","expires_in":"3600","expires_in":60}`, time.Minute},
		{"three times", `{"access_token":"a","expires_in":60,"expires_in":30,"expires_in":45}`, 30 * time.Second},
		{"twice, the first one senseless", `{"access_token":"a","expires_in":"soon","expires_in":60}`, time.Minute},
		{"twice, the last one senseless", `{"access_token":"a","expires_in":60,"expires_in":0}`, time.Minute},
		{"twice in a form", "access_token=a&expires_in=3600&expires_in=60", time.Minute},

		// expires_on and expires_at are points in time.
		{"expires_on", `{"access_token":"a","expires_on":946688400}`, time.Hour},
		{"expires_on, a string", `{"access_token":"a","expires_on":"946688400"}`, time.Hour},
		{"expires_on, a float", `{"access_token":"a","expires_on":946688400.7}`, time.Hour},
		{"expires_on, a date of Azure", `{"access_token":"a","expires_on":"1/1/2000 1:00:00 PM +00:00"}`, 13 * time.Hour},
		{"expires_on, a date of Azure in the morning", `{"access_token":"a","expires_on":"1/1/2000 1:00:00 AM +00:00"}`, time.Hour},
		{"expires_on, a date of Azure in 24 hours", `{"access_token":"a","expires_on":"01/01/2000 13:00:00 +00:00"}`, 13 * time.Hour},
		{"expires_at", `{"access_token":"a","expires_at":946688400}`, time.Hour},
		{"expires_at, RFC 3339", `{"access_token":"a","expires_at":"2000-01-01T01:00:00Z"}`, time.Hour},
		{"expires_at, RFC 3339 with zone and fraction", `{"access_token":"a","expires_at":"2000-01-01T02:00:00.5+01:00"}`, time.Hour + 500*time.Millisecond},
		{"expires_at in a form", "access_token=a&expires_at=946688400", time.Hour},
		{"expires_at in milliseconds", `{"access_token":"a","expires_at":946688400000}`, time.Hour},
		{"expires_at in milliseconds of 1973, the first that are taken for such", `{"access_token":"a","expires_at":1e11}`, 0},
		{"expires_on 0, and expires_at", `{"access_token":"a","expires_on":0,"expires_at":946688400}`, time.Hour},
		{"expires_at in a year and a day", `{"access_token":"a","expires_at":"2001-01-01T00:00:00Z"}`, year},
		{"expires_at at the end of time", `{"access_token":"a","expires_at":1e300}`, year},
		{"expires_at, half a second ahead", `{"access_token":"a","expires_at":"2000-01-01T00:00:00.5Z"}`, time.Second},
		{"expires_at, now", `{"access_token":"a","expires_at":946684800}`, 0},
		{"expires_at, past", `{"access_token":"a","expires_at":946684799}`, 0},
		{"expires_at, before 1970", `{"access_token":"a","expires_at":-1}`, 0},
		{"expires_at, a word", `{"access_token":"a","expires_at":"tomorrow"}`, 0},
		{"expires_at, null", `{"access_token":"a","expires_at":null}`, 0},
		{"expires_at, an object", `{"access_token":"a","expires_at":{}}`, 0},
		{"expires_on, unreadable, and expires_at", `{"access_token":"a","expires_on":"?","expires_at":946688400}`, time.Hour},
		{"expires_in wins", `{"access_token":"a","expires_at":946688400,"expires_on":946688400,"expires_in":60}`, time.Minute},
		{"expires_in is senseless", `{"access_token":"a","expires_in":"?","expires_on":946688400}`, time.Hour},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				token, err := do(t, request(endpoint), answering(http.StatusOK, contentType(""), test.body))
				if got := mustSucceed(t, token, err).Lifetime; got != test.want {
					t.Errorf("lifetime %s, want %s", got, test.want)
				}
			})
		})
	}
}

// Microsoft's servers say when to renew a token.
func TestAnswerRenewIn(t *testing.T) {
	tests := []struct {
		name string
		body string
		want time.Duration
	}{
		{"missing", `{"access_token":"a","expires_in":86400}`, 0},
		{"number", `{"access_token":"a","expires_in":86400,"refresh_in":43200}`, 12 * time.Hour},
		{"string", `{"access_token":"a","expires_in":"86400","refresh_in":"43200"}`, 12 * time.Hour},
		{"without a lifetime", `{"access_token":"a","refresh_in":43200}`, 12 * time.Hour},
		{"just before the end", `{"access_token":"a","expires_in":60,"refresh_in":59}`, 59 * time.Second},
		{"at the end", `{"access_token":"a","expires_in":60,"refresh_in":60}`, 0},
		{"after the end", `{"access_token":"a","expires_in":60,"refresh_in":61}`, 0},
		{"zero", `{"access_token":"a","expires_in":60,"refresh_in":0}`, 0},
		{"negative", `{"access_token":"a","expires_in":60,"refresh_in":-5}`, 0},
		{"a word", `{"access_token":"a","expires_in":60,"refresh_in":"soon"}`, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			token, err := do(t, request(endpoint), answering(http.StatusOK, contentType(jsonType), test.body))
			if got := mustSucceed(t, token, err).RenewIn; got != test.want {
				t.Errorf("renew in %s, want %s", got, test.want)
			}
		})
	}
}
