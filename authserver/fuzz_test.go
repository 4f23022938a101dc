package authserver_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// FuzzAnswer feeds any answer to a token request. Whatever comes, it gives a
// token that fits a header field, or an error that gives nothing away.
//
//	go test -fuzz FuzzAnswer ./authserver
func FuzzAnswer(f *testing.F) {
	const (
		secret  = "kQ3vYxT8mB5nWc2RzJ7h"
		refresh = "0.AVQ8-refresh-9fGh"
	)
	pair := base64.StdEncoding.EncodeToString([]byte(clientID + ":" + secret))

	for _, body := range []string{
		``, `{}`, `null`, `[]`, `<html>`, bom, bom + `{"access_token":"a"}`,
		`{"access_token":"a","token_type":"Bearer","expires_in":3600,"refresh_token":"r","scope":"x y"}`,
		`{"access_token":"a","expires_in":"3600"}`,
		`{"access_token":"a","expires_in":3599.5}`,
		`{"access_token":"a","expires_in":-1e400}`,
		`{"access_token":"a","expires_in":"Infinity"}`,
		`{"access_token":"a","expires_in":"NaN"}`,
		`{"access_token":"a","expires_in":1e-300}`,
		`{"access_token":"a\r\nb"}`,
		`{"access_token":"\ud800"}`,
		`{"access_token":{"a":1},"refresh_token":12345678901234567890}`,
		`{"access_token":"a","access_token":"b"}`,
		`{"ACCESS_TOKEN":"evil","access_token":"a","error":false}`,
		`{"error":"invalid_client","error_description":"bad ` + secret + `"}`,
		`{"error":{"code":"` + secret + `","message":"` + pair + `"}}`,
		`{"error":["` + secret[:10] + `"],"error_description":{"x":"` + refresh + `"}}`,
		`{"error":"` + secret + `"}`,
		`{"error":0,"error_description":"` + secret + `"}`,
		"access_token=a%2Bb&token_type=bearer&expires_in=3600",
		"error=invalid_grant&error_description=" + refresh,
		"access_token=a&access_token=b",
		"access_token=%zz",
	} {
		for _, status := range []int{200, 302, 400, 429, 500} {
			f.Add(status, "application/json; charset=utf-8", "120", []byte(body))
		}
	}
	f.Add(200, "application/"+secret, secret, []byte(secret))
	f.Add(204, "text/html; x="+pair, "Fri, 31 Dec 9999 23:59:59 GMT", []byte("\x00\xff"))

	r := request(endpoint)
	r.Auth = authserver.ClientSecretBasic{ID: clientID, Secret: authserver.NewSecret(secret)}
	r.Form.Set("refresh_token", refresh)

	f.Fuzz(func(t *testing.T, status int, contentType, retryAfter string, body []byte) {
		header := http.Header{"Content-Type": {contentType}, "Retry-After": {retryAfter}}
		token, err := do(t, r, answering(status, header, string(body)))
		if err == nil {
			checkToken(t, token)
			return
		}
		failed := mustFail(t, token, err)
		if failed.RetryAfter < 0 || failed.RetryAfter > 10*time.Minute {
			t.Errorf("waits %s", failed.RetryAfter)
		}
		text := failed.Error() + " " + failed.Code
		for _, sent := range []string{secret, refresh, pair} {
			for i := range len(sent) - 7 {
				if strings.Contains(text, sent[i:i+8]) {
					t.Fatalf("a piece of %s is left in %s", sent, text)
				}
			}
		}
		if !printable(text) || len(text) > 1024 {
			t.Errorf("not fit for a log line: %q", text)
		}
	})
}

// checkToken checks what is true of every token that is returned.
func checkToken(t *testing.T, token *authserver.Token) {
	t.Helper()
	access := token.AccessToken.Reveal()
	if access == "" || !visible(access) {
		t.Errorf("access token %q", access)
	}
	if !printable(token.Type) || token.Type != strings.TrimSpace(token.Type) {
		t.Errorf("token type %q", token.Type)
	}
	if !printable(token.RefreshToken.Reveal()) {
		t.Errorf("refresh token %q", token.RefreshToken.Reveal())
	}
	if life := token.Lifetime; life != 0 && (life < time.Second || life > year) {
		t.Errorf("lifetime %s", life)
	}
	if in := token.RenewIn; in != 0 && (in < time.Second || token.Lifetime != 0 && in >= token.Lifetime) {
		t.Errorf("renew in %s of %s", in, token.Lifetime)
	}
	if token.RequestedAt.IsZero() {
		t.Error("no time of the request")
	}
}

// visible tells whether s consists of %x21-7E, printable of %x20-7E.
func visible(s string) bool { return printable(s) && !strings.Contains(s, " ") }

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

// FuzzRetryAfter feeds any wish to be left alone: it is obeyed within bounds.
//
//	go test -fuzz FuzzRetryAfter ./authserver
func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{
		"", "0", "1", "-1", "120", "600", "601", "1.5", "later", " 7 ", "+7", "0x10", "1e9",
		"9223372036854775807", "-9223372036854775808", "9223372036854775808",
		"31536000", "31536001", "1893456000", "1893456000000",
		"Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT",
		"Friday, 31-Dec-99 23:59:59 GMT", "Fri Dec 31 23:59:59 1999", "2030-01-01T00:00:00Z",
	} {
		for _, status := range []int{400, 429, 503} {
			f.Add(status, value, "", "", "")
			f.Add(status, "later", value, "", "")
			f.Add(status, "", "", value, "60")
			f.Add(status, "", "soon", "", value)
		}
	}
	f.Fuzz(func(t *testing.T, status int, retryAfter, reset, xReset, xRateReset string) {
		header := http.Header{
			"Retry-After":        {retryAfter},
			"Ratelimit-Reset":    {reset},
			"X-Ratelimit-Reset":  {xReset},
			"X-Rate-Limit-Reset": {xRateReset},
		}
		token, err := do(t, request(endpoint), answering(status, header, ""))
		if got := mustFail(t, token, err).RetryAfter; got < 0 || got > 10*time.Minute {
			t.Errorf("waits %s, want between 0 and 10m", got)
		}
	})
}
