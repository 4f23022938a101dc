package authserver_test

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// deviceAnswer is the example of RFC 8628 section 3.2.
const deviceAnswer = `{
	"device_code": "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS",
	"user_code": "WDJB-MJHT",
	"verification_uri": "https://example.com/device",
	"verification_uri_complete": "https://example.com/device?user_code=WDJB-MJHT",
	"expires_in": 1800,
	"interval": 5
}`

// device makes a device authorization request.
func device(t *testing.T, endpoint string, transport http.RoundTripper) (*authserver.DeviceAuthorization, error) {
	t.Helper()
	r := request(endpoint)
	r.Form = url.Values{"scope": {"read write"}, "resource": {"https://api.example.com"}, "audience": {""}}
	return r.AuthorizeDevice(t.Context(), transport)
}

func TestDeviceAuthorizationAsSent(t *testing.T) {
	var body string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, _ := io.ReadAll(r.Body)
		body = string(sent)
		if r.Header.Get("DPoP") != "" {
			t.Error("a proof came along")
		}
		_, _ = io.WriteString(w, deviceAnswer)
	}))
	defer server.Close()
	r := request(server.URL)
	r.Form = url.Values{"scope": {"read write"}, "resource": {"https://api.example.com"}, "audience": {""}}
	r.Auth = authserver.PublicClient{ID: "app"}
	r.Proof, r.Nonces = mustProofKey(t, edJWK), &authserver.Nonces{}
	if _, err := r.AuthorizeDevice(t.Context(), server.Client().Transport); err != nil {
		t.Fatal(err)
	}
	if want := "client_id=app&resource=https%3A%2F%2Fapi.example.com&scope=read+write"; body != want {
		t.Errorf("body %q, want %q", body, want)
	}
}

func TestDeviceAuthorization(t *testing.T) {
	const (
		least  = `"device_code":"d-1","user_code":"u-1","verification_uri":"https://example.com/device"`
		anHour = `,"expires_in":3600`
	)
	tests := []struct {
		name, answer string
		userCode     string // u-1 if empty
		uri          string // https://example.com/device if empty
		complete     string
		lifetime     time.Duration
		interval     time.Duration // 5s if zero
	}{
		{name: "the example of RFC 8628", answer: deviceAnswer, userCode: "WDJB-MJHT", complete: "https://example.com/device?user_code=WDJB-MJHT", lifetime: 30 * time.Minute},
		{name: "as little as can be", answer: `{` + least + `}`, lifetime: 15 * time.Minute},
		{name: "text for numbers", answer: `{` + least + `,"expires_in":"600","interval":"7"}`, lifetime: 10 * time.Minute, interval: 7 * time.Second},
		{name: "floats", answer: `{` + least + `,"expires_in":599.5,"interval":1.5}`, lifetime: 599*time.Second + 500*time.Millisecond, interval: 1500 * time.Millisecond},
		{name: "zero", answer: `{` + least + `,"expires_in":0,"interval":0}`, lifetime: 15 * time.Minute},
		{name: "negative", answer: `{` + least + `,"expires_in":-1,"interval":-5}`, lifetime: 15 * time.Minute},
		{name: "null", answer: `{` + least + `,"expires_in":null,"interval":null}`, lifetime: 15 * time.Minute},
		{name: "words", answer: `{` + least + `,"expires_in":"soon","interval":true}`, lifetime: 15 * time.Minute},
		{name: "milliseconds", answer: `{` + least + anHour + `,"interval":5000}`, lifetime: time.Hour, interval: time.Minute},
		{name: "for ever", answer: `{` + least + `,"expires_in":1e400}`, lifetime: 365 * 24 * time.Hour},
		{
			name:     "as Google spells it",
			answer:   `{"device_code":"d-1","user_code":"u-1","verification_url":"https://www.google.com/device","expires_in":3600}`,
			uri:      "https://www.google.com/device",
			lifetime: time.Hour,
		},
		{
			name:     "as Google spells it, complete",
			answer:   `{"device_code":"d-1","user_code":"u-1","verification_url":"https://a.example.com","verification_url_complete":"https://a.example.com/u-1","expires_in":3600}`,
			uri:      "https://a.example.com",
			complete: "https://a.example.com/u-1",
			lifetime: time.Hour,
		},
		{
			name:     "as a form",
			answer:   "device_code=d-1&user_code=u-1&verification_uri=https%3A%2F%2Fexample.com%2Fdevice&expires_in=3600&interval=6",
			lifetime: time.Hour, interval: 6 * time.Second,
		},
		{name: "a code of digits", answer: `{"device_code":"d-1","user_code":123456,"verification_uri":"https://example.com/device"}`, userCode: "123456", lifetime: 15 * time.Minute},
		{name: "an address with a fragment", answer: `{"device_code":"d-1","user_code":"u-1","verification_uri":"https://example.com/#/device"}`, uri: "https://example.com/#/device", lifetime: 15 * time.Minute},
		{name: "a complete address of no use", answer: `{` + least + `,"verification_uri_complete":"javascript:alert(1)"}`, lifetime: 15 * time.Minute},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := time.Now()
				got, err := device(t, endpoint, roundTrip(func(r *http.Request) (*http.Response, error) {
					time.Sleep(3 * time.Second) // the code may be as old as the request
					return answering(http.StatusOK, http.Header{}, test.answer)(r)
				}))
				if err != nil {
					t.Fatal(err)
				}
				if life := got.ExpiresAt.Sub(asked); life != test.lifetime {
					t.Errorf("lifetime %s, want %s", life, test.lifetime)
				}
				if want := cmp.Or(test.interval, 5*time.Second); got.Interval != want {
					t.Errorf("interval %s, want %s", got.Interval, want)
				}
				if want := cmp.Or(test.userCode, "u-1"); got.UserCode != want {
					t.Errorf("user code %q, want %q", got.UserCode, want)
				}
				if want := cmp.Or(test.uri, "https://example.com/device"); got.VerificationURI != want {
					t.Errorf("verification URI %q, want %q", got.VerificationURI, want)
				}
				if got.VerificationURIComplete != test.complete {
					t.Errorf("complete verification URI %q, want %q", got.VerificationURIComplete, test.complete)
				}
				if got.DeviceCode.IsZero() {
					t.Error("no device code")
				}
			})
		})
	}
}

func TestDeviceAuthorizationRefused(t *testing.T) {
	without := func(name string) string { return strings.Replace(deviceAnswer, `"`+name+`"`, `"x"`, 1) }
	with := func(old, changed string) string { return strings.Replace(deviceAnswer, old, changed, 1) }
	tests := []struct {
		name   string
		status int
		answer string
		kind   authserver.Kind
		says   string
	}{
		{"no device code", 200, without("device_code"), authserver.Unreadable, "device_code"},
		{"no user code", 200, without("user_code"), authserver.Unreadable, "user_code"},
		{"user code that controls the terminal", 200, with("WDJB-MJHT", `\u001b[2J`), authserver.Unreadable, "user_code"},
		{"user code that nobody types", 200, with("WDJB-MJHT", strings.Repeat("x", 65)), authserver.Unreadable, "user_code"},
		{"no address", 200, without("verification_uri"), authserver.Unreadable, "verification_uri"},
		{"relative address", 200, with("https://example.com/device", "/device"), authserver.Unreadable, "verification_uri is not an absolute URL"},
		{"address that controls the terminal", 200, with("https://example.com/device", `https://example.com/\u001b[2J`), authserver.Unreadable, "verification_uri is not an absolute URL"},
		{"address that reads backwards", 200, with("https://example.com/device", `https://example.com/\u202e`), authserver.Unreadable, "verification_uri is not an absolute URL"},
		{"address that looks like another", 200, with("https://example.com/device", "https://example.com@evil.example.com"), authserver.Unreadable, "verification_uri is not an absolute URL"},
		{"address without TLS", 200, with("https://example.com/device", "http://example.com/device"), authserver.Unreadable, "verification_uri must use https"},
		{"program", 200, with("https://example.com/device", "ssh://example.com/device"), authserver.Unreadable, "verification_uri must use https"},
		{"web page", 200, "<html>", authserver.Unreadable, "it is a web page: check 'device_authorization_endpoint'"},
		{"nothing", 200, "", authserver.Unreadable, "is not a device code"},
		{"form of something else", 200, "a=b", authserver.Unreadable, "a form with device_code"},
		{"redirect", 302, "", authserver.Unreadable, "write the final address as 'device_authorization_endpoint'"},
		{"refused client", 401, `{"error":"invalid_client"}`, authserver.Refused, "'client_secret'"},
		{"no such grant", 400, `{"error":"unauthorized_client"}`, authserver.Refused, "the device authorization request (unauthorized_client); allow this client the device code grant"},
		{"throttled", 429, "", authserver.Unavailable, "throttling"},
		{"failed", 503, "", authserver.Unavailable, "status 503"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := device(t, endpoint, answering(test.status, http.Header{}, test.answer))
			failed, ok := errors.AsType[*authserver.Error](err)
			if !ok || got != nil {
				t.Fatalf("got %v and error %v, want an *Error", got, err)
			}
			checkKind(t, failed, test.kind)
			if !strings.Contains(failed.Error(), test.says) {
				t.Errorf("%q does not say %q", failed, test.says)
			}
			if strings.Contains(failed.Error(), "GmRhmhcx") {
				t.Errorf("%q shows the device code", failed)
			}
		})
	}
}

// FuzzDeviceAuthorization feeds any answer to a device authorization request. What
// comes of it can be shown in a terminal and polled for, or is an error that can
// be.
//
//	go test -fuzz FuzzDeviceAuthorization ./authserver
func FuzzDeviceAuthorization(f *testing.F) {
	for _, body := range []string{
		"", "{}", "[]", "null", "<html>", deviceAnswer, bom + deviceAnswer,
		`{"device_code":"d","user_code":"\u001b[2J","verification_uri":"https://a"}`,
		`{"device_code":"d","user_code":1e3,"verification_url":"https://a/","interval":-1e999}`,
		`{"device_code":["d"],"user_code":{},"verification_uri":0,"expires_in":[]}`,
		`{"error":"invalid_client","error_description":"\u0000"}`,
		"device_code=d&user_code=u&verification_uri=https%3A%2F%2Fa&interval=x",
	} {
		f.Add(http.StatusOK, []byte(body))
		f.Add(http.StatusBadRequest, []byte(body))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		before := time.Now()
		got, err := device(t, endpoint, answering(status, http.Header{}, string(body)))
		if err != nil {
			failed, ok := errors.AsType[*authserver.Error](err)
			if !ok || got != nil {
				t.Fatalf("got %v and error %v (%[2]T), want an *Error", got, err)
			}
			if text := failed.Error(); !printable(text) || len(text) > 1536 {
				t.Errorf("%q is not fit for a log line", text)
			}
			return
		}
		if got.DeviceCode.IsZero() || got.UserCode == "" || !printable(got.UserCode) {
			t.Errorf("user code %q", got.UserCode)
		}
		for _, address := range []string{got.VerificationURI, got.VerificationURIComplete} {
			u, err := url.Parse(address)
			if err != nil || !visible(address) || address != "" && u.Scheme != "https" {
				t.Errorf("verification URI %q", address)
			}
		}
		if got.Interval < time.Second || got.Interval > time.Minute {
			t.Errorf("interval %s", got.Interval)
		}
		if !got.ExpiresAt.After(before) {
			t.Errorf("it expired at %s", got.ExpiresAt)
		}
	})
}
