package authserver_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"mime/quotedprintable"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// each returns an encoder that writes every byte in that format.
func each(format string) func(string) string {
	return func(s string) string {
		var out strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&out, format, s[i])
		}
		return out.String()
	}
}

// encoders are ways in which a server, a proxy or a log library writes a text.
var encoders = map[string]func(string) string{
	"percent":                 url.QueryEscape,
	"percent, all of it":      each("%%%02X"),
	"percent, small letters":  each("%%%02x"),
	"percent of Latin-1":      latin1,
	"small letters":           strings.ToLower,
	"capitals":                strings.ToUpper,
	"percent and u":           each("%%u%04X"),
	"HTML":                    html.EscapeString,
	"HTML, decimal":           each("&#%d;"),
	"HTML, decimal, open":     each("&#%02d"),
	"HTML, hexadecimal":       each("&#x%x;"),
	"HTML, hexadecimal, X":    each("&#X%04X;"),
	"backslash x":             each(`\x%02x`),
	"backslash X, capitals":   each(`\x%02X`),
	"backslash u":             each(`\u%04x`),
	"backslash U":             each(`\U%08x`),
	"octal":                   each(`\%03o`),
	"Go's quotes":             func(s string) string { return strings.Trim(fmt.Sprintf("%q", s), `"`) },
	"shell's quotes":          func(s string) string { return notWords.ReplaceAllString(s, `\$0`) },
	"quoted-printable":        each("=%02X"),
	"quoted-printable, lines": func(s string) string { return inLines(each("=%02X")(s), 15, "=\r\n") },
	"hex":                     func(s string) string { return hex.EncodeToString([]byte(s)) },
	"hex in capitals":         func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) },
	"hex with colons":         func(s string) string { return strings.TrimSuffix(each("%02x:")(s), ":") },
	"hex with spaces":         each("%02x "),
	"hex behind a digit":      func(s string) string { return "7" + hex.EncodeToString([]byte(s)) },
	"base64":                  func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64 for URLs":         func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"base64 of a pair":        func(s string) string { return base64.StdEncoding.EncodeToString([]byte("client_secret=" + s)) },
	"base64 of another pair":  func(s string) string { return base64.StdEncoding.EncodeToString([]byte("clientsecret=" + s + "&x=y")) },
	"base64 of a third pair":  func(s string) string { return base64.StdEncoding.EncodeToString([]byte("secret=" + s)) },
	"base64 in lines":         func(s string) string { return inLines(base64.StdEncoding.EncodeToString([]byte(s)), 10, "\r\n") },
	"base64 behind a word":    func(s string) string { return "key-" + base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"a mail":                  func(s string) string { return mail(s) },
}

var notWords = regexp.MustCompile(`[^A-Za-z0-9]`)

// inLines breaks s after every n characters.
func inLines(s string, n int, end string) string {
	var out strings.Builder
	for len(s) > n {
		out.WriteString(s[:n] + end)
		s = s[n:]
	}
	return out.String() + s
}

func mail(s string) string {
	var out bytes.Buffer
	w := quotedprintable.NewWriter(&out)
	_, _ = w.Write([]byte(s))
	_ = w.Close()
	return out.String()
}

// latin1 percent-encodes each character as the one byte that it is in ISO 8859-1.
func latin1(s string) string {
	var out strings.Builder
	for _, r := range s {
		fmt.Fprintf(&out, "%%%02X", r)
	}
	return out.String()
}

// described returns the error for an answer with that description.
func described(t *testing.T, r authserver.Request, description string) string {
	t.Helper()
	body := `{"error":"invalid_client","error_description":` + quote(description) + `}`
	token, err := do(t, r, answering(http.StatusUnauthorized, http.Header{}, body))
	return mustFail(t, token, err).Error()
}

// However a secret is encoded, and how often, neither it nor its encoded form shows
// up, while what stands around it does.
func TestEncodedEchoIsRedacted(t *testing.T) {
	secrets := map[string]string{
		"letters and digits": "kQ3vYAT8mZ5nWc2RzJ7h",
		"control characters": "aB\acD\beF\fgH\niJ\rkL\tmN\v",
		"umlauts in front":   "ÄÖÜ1bcd5",
		"signs":              `aB/cD+eF/gH=iJ&kL<m"N\o`,
		"looks encoded":      `aB%2FcD%3DeF\x41gH&amp;iJ=4BkL`,
		"begins as hex":      "ab12cd34ef56ab78",
		"short":              "hunt/r2",
	}
	check := func(t *testing.T, secret, echo string) {
		t.Helper()
		r := request(endpoint)
		r.Auth = authserver.ClientSecretPost{ID: clientID, Secret: authserver.NewSecret(secret)}
		text := described(t, r, "what came: ("+echo+") is not it")
		if !strings.Contains(text, "[redacted]") || !strings.Contains(text, "what came: (") || !strings.Contains(text, ") is not it") {
			t.Errorf("%s is not redacted, or more than it: %s", echo, text)
		}
		_, text, _ = strings.Cut(text, "what came: (")
		text, _, _ = strings.Cut(text, ") is not it")
		if text = strings.ReplaceAll(text, "[redacted]", ""); len(text) > 30 {
			t.Errorf("%q is left of %s", text, echo)
		}
		checkRedacted(t, text, secret)
	}
	for secretName, secret := range secrets {
		for outer, encodeOuter := range encoders {
			t.Run(secretName+" as "+outer, func(t *testing.T) { check(t, secret, encodeOuter(secret)) })
			t.Run(secretName+" as JSON of "+outer, func(t *testing.T) {
				check(t, secret, strings.Trim(quote(encodeOuter(secret)), `"`))
			})
			if secretName != "signs" || outer == "small letters" || outer == "capitals" {
				continue // for letters that were changed cannot be decoded
			}
			for _, inner := range []string{"percent", "HTML, decimal", "backslash u", "quoted-printable", "hex", "base64 of a pair"} {
				t.Run(secretName+" as "+outer+" of "+inner, func(t *testing.T) { check(t, secret, encodeOuter(encoders[inner](secret))) })
			}
		}
	}
}

// What only looks like a piece of a secret stays, or nothing of a quotation would.
func TestInnocentTextStays(t *testing.T) {
	r := request(endpoint + "?v=2&api-version=1.0")
	r.Form.Set("mode", "a")
	r.Form.Set("tenant", "contoso-tenant")
	for _, text := range []string{
		"AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app 'b0a6a9c1-7a3f-4c5e-9d57-0d8f6b1f2a3c'. Trace ID: 2f1e Correlation ID: 91d5 Timestamp: 2026-01-02 03:04:05Z",
		"Client authentication failed (e.g., unknown client, no client authentication included, or unsupported authentication method). The OAuth 2.0 Client supports client authentication method 'client_secret_basic'.",
		"50% of &amp; 100%25 in C:\\temp\\x = a+b",
		"eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJodHRwczovL2F1dGguZXhhbXBsZSIsImF1ZCI6ImFwaSJ9.c2lnbmF0dXJl is no token",
		"deadbeef deadbeef 00:11:22:33:44:55:66:77:88:99",
	} {
		t.Run(text[:12], func(t *testing.T) {
			if got := described(t, r, text); !strings.Contains(got, fmt.Sprintf("says %q", text)) {
				t.Errorf("%q is shown as %s", text, got)
			}
		})
	}
}

// A text that is made to be decoded without end costs no more than others, and is
// not quoted.
func TestHostileTextIsBounded(t *testing.T) {
	deep := "secret"
	for len(deep) < 4000 {
		deep = base64.StdEncoding.EncodeToString([]byte(deep))
	}
	tests := map[string]string{
		"percent of percent":     "%" + strings.Repeat("25", 1000),
		"backslashes":            strings.Repeat(`\`, 2000),
		"entities of entities":   "&" + strings.Repeat("amp;", 1000),
		"base64 of base64":       deep[:4000],
		"a mebibyte of percents": strings.Repeat("%"+strings.Repeat("25", 15), 30_000),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			if got := described(t, request(endpoint), text); len(got) > 1024 || strings.Contains(got, text[:30]) {
				t.Errorf("it is quoted: %.2000s", got)
			}
		})
	}
}

// Eight escapes in one another are undone; a text with more is not quoted.
func TestLayersOfEscapes(t *testing.T) {
	for layers, quoted := range map[int]bool{1: true, 8: true, 9: false} {
		text := "%" + strings.Repeat("25", layers-1) + "41"
		if got := described(t, request(endpoint), text); strings.Contains(got, text) != quoted {
			t.Errorf("%d layers: %s", layers, got)
		}
	}
}

func BenchmarkRedact(b *testing.B) {
	texts := map[string]string{
		"a sentence":          "Client authentication failed (e.g., unknown client, no client authentication included, or unsupported authentication method).",
		"one letter":          strings.Repeat("a", 1<<20),
		"base64":              base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("secret"), 1<<17)))),
		"hex":                 strings.Repeat("6a", 1<<19),
		"percents of letters": strings.Repeat("%61", 1<<18),
		"all escapes":         strings.Repeat(`%5C&#37;\x41=3D\101`, 1<<16),
	}
	for name, text := range texts {
		b.Run(name, func(b *testing.B) {
			r := request(endpoint)
			transport := answering(http.StatusUnauthorized, http.Header{}, `{"error":"invalid_client","error_description":`+quote(text)+`}`)
			for b.Loop() {
				_, _ = r.Do(b.Context(), transport)
			}
		})
	}
	b.Run("a secret of a mebibyte", func(b *testing.B) {
		r := request(endpoint)
		transport := answering(http.StatusOK, http.Header{}, `{"access_token":"`+strings.Repeat("%25", 1<<20/3-100)+`","error":"x","error_description":"no"}`)
		for b.Loop() {
			_, _ = r.Do(b.Context(), transport)
		}
	})
}
