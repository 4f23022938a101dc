package authserver_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// places are where a server may repeat what it was sent: each is a whole
// answer with the echo in it.
var places = []struct {
	name   string
	answer func(echo string) string
}{
	{"error_description", func(echo string) string {
		return failure(`{"error":"invalid_client","error_description":` + quote("unknown secret "+echo+", sorry") + `}`)
	}},
	{"error", func(echo string) string { return failure(`{"error":` + quote(echo) + `}`) }},
	{"error, after a word", func(echo string) string { return failure(`{"error":` + quote("bad_"+echo) + `}`) }},
	{"an object in error", func(echo string) string {
		return failure(`{"error":{"reason":` + quote("unknown secret "+echo) + `}}`)
	}},
	{"a code in error", func(echo string) string { return failure(`{"error":{"code":` + quote(echo) + `}}`) }},
	{"a form", func(echo string) string {
		return failure(url.Values{"error": {echo}, "error_description": {echo}}.Encode())
	}},
	{"a web page", func(echo string) string { return failure("<html>" + echo + "</html>") }},
	{"Content-Type", func(echo string) string {
		return "HTTP/1.1 200 OK\r\nContent-Type: application/" + echo + "\r\nContent-Length: 1\r\n\r\n!"
	}},
	{"a parameter of Content-Type", func(echo string) string {
		return "HTTP/1.1 200 OK\r\nContent-Type: text/html; x=" + echo + "\r\nContent-Length: 1\r\n\r\n!"
	}},
	{"Location", func(echo string) string {
		return "HTTP/1.1 302 Found\r\nLocation: /?x=" + echo + "\r\nContent-Length: 0\r\n\r\n"
	}},
	{"Retry-After", func(echo string) string {
		return "HTTP/1.1 503 Busy\r\nRetry-After: " + echo + "\r\nContent-Length: 0\r\n\r\n"
	}},
	{"the reason phrase", func(echo string) string { return "HTTP/1.1 500 " + echo + "\r\nContent-Length: 0\r\n\r\n" }},
	{"the status code", func(echo string) string { return "HTTP/1.1 " + echo + "\r\nContent-Length: 0\r\n\r\n" }},
	{"the protocol", func(echo string) string { return echo + " 200 OK\r\nContent-Length: 0\r\n\r\n" }},
	{"the whole status line", func(echo string) string { return echo + "\r\n\r\n" }},
	{"a header line without a colon", func(echo string) string { return "HTTP/1.1 200 OK\r\n" + echo + "\r\n\r\n" }},
	{"a header field's name", func(echo string) string { return "HTTP/1.1 200 OK\r\n" + echo + ": x\r\n\r\n" }},
	{"Content-Length", func(echo string) string { return "HTTP/1.1 200 OK\r\nContent-Length: " + echo + "\r\n\r\n" }},
	{"two values of Content-Length", func(echo string) string {
		return "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: " + echo + "\r\n\r\n"
	}},
	{"Transfer-Encoding", func(echo string) string { return "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + echo + "\r\n\r\n" }},
	{"a chunk's size", func(echo string) string {
		return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + echo + "\r\n"
	}},
	{"Trailer", func(echo string) string {
		return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: " + echo + "\r\n\r\n0\r\n" + echo + ": x\r\n\r\n"
	}},
}

func failure(body string) string {
	return fmt.Sprintf("HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// checkRedacted reports what text holds of an echo: a piece of eight
// characters is enough to be one, in whatever case.
func checkRedacted(t *testing.T, text, echo string) {
	t.Helper()
	text, echo = strings.ToLower(text), strings.ToLower(echo)
	n := min(8, len(echo))
	for i := range len(echo) - n + 1 {
		if piece := echo[i : i+n]; strings.Contains(text, piece) {
			t.Errorf("%q is left in %s", piece, text)
			return
		}
	}
}

// letters leaves out all but ASCII letters and digits: what stood between them
// is no riddle.
func letters(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return -1
	}, s)
}

// A server that repeats what it was sent does not get it into an error,
// however it encodes it and wherever it puts it.
func TestEchoIsRedacted(t *testing.T) {
	const (
		plain  = "kQ3vYxT8mB5nWc2RzJ7h"
		base   = "aB/cD+eF/gH=iJ+kL/mN" // short runs between what is encoded
		spaced = "aB cD+eF gH+iJ kL+mN"
		quoted = `a"bc\de"fg\hi"jk\lm"no`
		short  = "hunter2"

		umlauts = "Ä1bü2cö3dß4eä5fÜ6gÖ7h"
		encoded = "aB%2FcD%2BeF%2FgH%3DiJ" // copied from a URL
	)
	basic := func(secret string) authserver.ClientAuth {
		return authserver.ClientSecretBasic{ID: clientID, Secret: authserver.NewSecret(secret)}
	}
	post := func(secret string) authserver.ClientAuth {
		return authserver.ClientSecretPost{ID: clientID, Secret: authserver.NewSecret(secret)}
	}
	pair := func(secret string) string {
		return base64.StdEncoding.EncodeToString([]byte(clientID + ":" + secret))
	}
	// What JavaScript's encodeURIComponent and PHP's rawurlencode make of it.
	component := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	// What .NET's HttpUtility.UrlEncode makes of it.
	lowerHex := func(s string) string {
		for _, c := range "/+= &!" {
			s = strings.ReplaceAll(s, string(c), strings.ToLower(fmt.Sprintf("%%%02x", c)))
		}
		return s
	}

	echoes := []struct {
		name   string
		auth   func(secret string) authserver.ClientAuth
		secret string
		echo   string
	}{
		{"as it is", post, plain, plain},
		{"as it is, with signs", post, base, base},
		{"as it is, with spaces", post, spaced, spaced},
		{"as it is, with quotes", post, quoted, quoted},
		{"as it is, short", post, short, short},
		{"first half", post, plain, plain[:len(plain)/2]},
		{"second half", post, plain, plain[len(plain)/2:]},
		{"middle", basic, plain, plain[4:16]},
		{"all but the last character", post, plain, plain[:len(plain)-1]},
		{"twice", post, plain, plain + plain},
		{"in words", post, plain, "the" + plain + "key"},
		{"form-encoded", post, spaced, url.QueryEscape(spaced)},
		{"form-encoded half", basic, base, url.QueryEscape(base)[:15]},
		{"path-encoded", post, spaced, url.PathEscape(spaced)},
		{"percent-encoded with capitals", post, base, url.QueryEscape(base)},
		{"percent-encoded without capitals", post, base, lowerHex(base)},
		{"percent-encoded, spaces as well", post, spaced, component(spaced)},
		{"percent-encoded, with umlauts", post, umlauts, url.QueryEscape(umlauts)},
		{"percent-encoded, though it looks so already", post, encoded, url.QueryEscape(encoded)},
		{"as it is, though it looks encoded", post, encoded, encoded},
		{"base64", post, plain, base64.StdEncoding.EncodeToString([]byte(plain))},
		{"base64 without padding", post, base, base64.RawStdEncoding.EncodeToString([]byte(base))},
		{"base64 for URLs", post, base, base64.RawURLEncoding.EncodeToString([]byte(base))},
		{"Basic pair", basic, plain, pair(plain)},
		{"Basic pair, cut", basic, plain, pair(plain)[:20]},
		{"Authorization field", basic, plain, "Basic " + pair(plain)},
	}
	for _, echo := range echoes {
		for _, place := range places {
			t.Run(echo.name+" in "+place.name, func(t *testing.T) {
				server := newRawServer(t, func(_ int, c *rawConn) {
					if c.readRequest() {
						c.write(place.answer(echo.echo))
					}
				})
				r := request(server.url)
				r.Auth = echo.auth(echo.secret)
				token, err := do(t, r, newTransport(t))
				failed := mustFail(t, token, err)
				text := fmt.Sprintf("%v %#v", failed, *failed)
				checkRedacted(t, text, echo.echo)
				checkRedacted(t, letters(text), letters(echo.secret))
			})
		}
	}
}

// Every credential that a request can carry is redacted, and each that is held.
func TestEverySecretIsRedacted(t *testing.T) {
	const secret = "kQ3vYxT8mB5nWc2RzJ7h"
	s := authserver.NewSecret(secret)
	tests := []struct {
		name   string
		change func(*authserver.Request)
	}{
		{"client_secret_basic", func(r *authserver.Request) { r.Auth = authserver.ClientSecretBasic{ID: clientID, Secret: s} }},
		{"client_secret_basic_raw", func(r *authserver.Request) {
			r.Auth = authserver.ClientSecretBasic{ID: clientID, Secret: s, Raw: true}
		}},
		{"client_secret_post", func(r *authserver.Request) { r.Auth = authserver.ClientSecretPost{ID: clientID, Secret: s} }},
		{"client_secret_jwt, which does not send it", func(r *authserver.Request) {
			long := authserver.NewSecret(secret + strings.Repeat("-", 20))
			r.Auth = authserver.ClientSecretJWT{ID: clientID, Secret: long, Audience: issuer}
		}},
		{"assertion_file", func(r *authserver.Request) {
			r.Auth = authserver.ClientAssertion{ID: clientID, Assertion: authserver.NewSecret("e30." + secret + ".c2ln")}
		}},
		{"the endpoint's query", func(r *authserver.Request) { r.Endpoint += "?v=2&api_key=" + secret }},
		{"the endpoint's query, after what is broken in it", func(r *authserver.Request) { r.Endpoint += "?x=%zz&api_key=" + secret }},
		{"refresh_token", func(r *authserver.Request) { r.Form.Set("refresh_token", secret) }},
		{"assertion", func(r *authserver.Request) { r.Form.Set("assertion", secret) }},
		{"client_assertion", func(r *authserver.Request) { r.Form.Set("client_assertion", secret) }},
		{"subject_token", func(r *authserver.Request) { r.Form.Set("subject_token", secret) }},
		{"another field", func(r *authserver.Request) { r.Form.Set("password", secret) }},
		{"a header field", func(r *authserver.Request) { r.Header = http.Header{"X-Api-Key": {secret}} }},
		{"a header field with a scheme", func(r *authserver.Request) { r.Header = http.Header{"Authorization": {"Bearer " + secret}} }},
		{"a token of before", func(r *authserver.Request) { r.Held = []authserver.Secret{authserver.NewSecret("other"), s} }},
	}
	body := `{"error":"invalid_client","error_description":` + quote("never heard of "+secret) + `}`
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := request(endpoint)
			test.change(&r)
			token, err := do(t, r, answering(http.StatusBadRequest, http.Header{}, body))
			failed := mustFail(t, token, err)
			checkRedacted(t, failed.Error(), secret)
			if !strings.Contains(failed.Error(), "never heard of") || !strings.Contains(failed.Error(), "[redacted]") {
				t.Errorf("the rest is not quoted: %v", failed)
			}
		})
	}
}

// JSON and net/http spell some characters in another way when they quote; a
// secret full of them is redacted all the same.
func TestQuotedEchoIsRedacted(t *testing.T) {
	inJSON := func(echo string) string { return failure(`{"error":{"reason":"` + echo + `"}}`) }
	inStatusLine := func(echo string) string { return echo + "\r\n\r\n" }

	tests := []struct {
		name   string
		secret string
		echo   string // as it stands in the answer
		answer func(echo string) string
	}{
		{"slashes, as PHP writes them", `aB/cD/eF/gH/iJ/kL/mN`, `aB\/cD\/eF\/gH\/iJ\/kL\/mN`, inJSON},
		{"signs, as Go writes them", `aB<cD>eF&gH<iJ>kL&mN`, `aB\u003ccD\u003eeF\u0026gH\u003ciJ\u003ekL\u0026mN`, inJSON},
		{"quotes in an object", `aB"cD\eF"gH\iJ"kL\mN`, `aB\"cD\\eF\"gH\\iJ\"kL\\mN`, inJSON},
		{"what looks quoted already", `aB\\cD\"eF\/gH\\iJ\"kL\/mN`, `aB\\\\cD\\\"eF\\/gH\\\\iJ\\\"kL\\/mN`, inJSON},
		{"quotes in a status line", `aB"cD\eF"gH\iJ"kL\mN`, `aB"cD\eF"gH\iJ"kL\mN`, inStatusLine},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := newRawServer(t, func(_ int, c *rawConn) {
				if c.readRequest() {
					c.write(test.answer(test.echo))
				}
			})
			r := request(server.url)
			r.Auth = authserver.ClientSecretPost{ID: clientID, Secret: authserver.NewSecret(test.secret)}
			token, err := do(t, r, newTransport(t))
			text := letters(mustFail(t, token, err).Error())
			checkRedacted(t, text, letters(test.echo))
			checkRedacted(t, text, letters(test.secret))
		})
	}
}

// What is no secret stays, or the quotation would be of no use.
func TestPublicValuesStay(t *testing.T) {
	r := request(endpoint)
	r.Form.Set("scope", "read:everything")
	r.Form.Set("audience", "https://api.example.com")
	body := `{"error":"invalid_scope","error_description":"app-7 may not use client_credentials for read:everything at https://api.example.com"}`
	token, err := do(t, r, answering(http.StatusBadRequest, http.Header{}, body))
	text := mustFail(t, token, err).Error()
	for _, want := range []string{clientID, "client_credentials", "read:everything", "https://api.example.com"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %s", want, text)
		}
	}
}

// The codes of the standards are no secrets, even where a parameter's value
// happens to be a piece of one: they decide what is done and what is shown.
func TestStandardCodeStays(t *testing.T) {
	for _, code := range []string{"invalid_client", "invalid_grant", "invalid_scope", "unauthorized_client", "temporarily_unavailable"} {
		for _, value := range []string{"client", "grant", "scope", "a"} {
			t.Run(code+" with "+value, func(t *testing.T) {
				r := request(endpoint)
				r.Form.Set("mode", value)
				token, err := do(t, r, answering(http.StatusBadRequest, http.Header{}, `{"error":"`+code+`"}`))
				if got := mustFail(t, token, err).Code; got != code {
					t.Errorf("code %q, want %q", got, code)
				}
			})
		}
	}
}

// What the very answer issues is a secret as well, unless it is too short to be one.
func TestIssuedIsRedacted(t *testing.T) {
	for _, member := range []string{"access_token", "refresh_token", "id_token"} {
		for token, shown := range map[string]string{"aB3dE6gH": "[redacted]", "aB3dE6g": "aB3dE6g"} {
			t.Run(member+" "+token, func(t *testing.T) {
				body := `{"error":"x","error_description":"issued ` + token + `.","` + member + `":"` + token + `"}`
				got, err := do(t, request(endpoint), answering(http.StatusOK, http.Header{}, body))
				if text := mustFail(t, got, err).Error(); !strings.Contains(text, "issued "+shown+".") {
					t.Errorf("%s is not shown as %s: %s", token, shown, text)
				}
			})
		}
	}
}

// A credential is hidden at any length. Of what else is sent, the shortest values are
// words that occur everywhere, and so are short ones in what base64 and hex decode to.
func TestShortValues(t *testing.T) {
	tests := []struct{ name, secret, param, text, want string }{
		{"a credential of three characters", "q7Z", "-", "is q7Z it?", "is [redacted] it?"},
		{"a credential of three characters, packed", "q7Z", "-", "is 71375a71375a it?", "is 71375a71375a it?"},
		{"a credential of four characters, packed", "q7Zx", "-", "is 71375a78 it?", "is [redacted] it?"},
		{"a parameter of three characters", "-", "q7Z", "is q7Z it?", "is q7Z it?"},
		{"a parameter of four characters", "-", "q7Zx", "is q7Zx it?", "is [redacted] it?"},
		{"nothing but eight characters", "kQ3vYxT8", "-", "kQ3vYxT8", "[redacted]"},
		{"eight characters at the end", "kQ3vYxT8", "-", "not kQ3vYxT8", "not [redacted]"},
		{"eight characters with a bell", "a\aB3d6gH", "-", `is a\aB3d6gH it?`, "is [redacted] it?"},
		{"seven of eight characters", "kQ3vYxT8", "-", "not kQ3vYxT", "not kQ3vYxT"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := request(endpoint)
			r.Auth = authserver.ClientSecretPost{ID: clientID, Secret: authserver.NewSecret(strings.Trim(test.secret, "-"))}
			r.Form.Set("param", strings.Trim(test.param, "-"))
			if got := described(t, r, test.text); !strings.Contains(got, fmt.Sprintf("the server says %q", test.want)) {
				t.Errorf("got %s, want %q", got, test.want)
			}
		})
	}
}
