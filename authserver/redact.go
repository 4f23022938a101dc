package authserver

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Limits of what is kept of a text that a server sent.
const (
	maxQuotedSource = 4 << 10 // how much is looked at
	maxQuoted       = 512     // how much is shown: Ory Hydra begins with 200 characters that it always says
	minPiece        = 8       // shorter pieces of a longer secret stay
)

// publicFields are the form fields whose values are no secret and help an
// operator when a server quotes them. All others are redacted.
var publicFields = map[string]bool{
	"grant_type":            true,
	"client_id":             true,
	"client_assertion_type": true,
	"scope":                 true,
	"audience":              true,
	"resource":              true,
	"subject_token_type":    true,
	"actor_token_type":      true,
	"requested_token_type":  true,
	"requested_token_use":   true,
}

// sentSecrets lists every value of a token request that must not come back in
// a text that we write.
func sentSecrets(form url.Values, header http.Header, sentFields http.Header) []string {
	var values []string
	for name, vs := range form {
		if !publicFields[name] {
			values = append(values, vs...)
		}
	}
	for _, v := range header["Authorization"] {
		values = append(values, v)
		_, encoded, ok := strings.Cut(v, "Basic ")
		if !ok {
			continue
		}
		pair, _ := base64.StdEncoding.DecodeString(encoded)
		_, secret, _ := strings.Cut(string(pair), ":")
		values = append(values, encoded, secret)
		if raw, err := url.QueryUnescape(secret); err == nil {
			values = append(values, raw)
		}
	}
	for _, vs := range sentFields {
		values = append(values, vs...)
	}
	return values
}

// redact returns text fit for a log line or an error: plain, capped, and with
// every piece of the given values replaced. A piece counts from eight characters
// on (or the whole value, if shorter), so that a server that echoes half a secret
// does not give away that half. Values are found as they are, percent-encoded,
// form-encoded, quoted, in base64, and in whatever case.
func redact(text string, values []string) string {
	text = plain(text[:min(len(text), maxQuotedSource)])
	secret := newEchoes(text)
	for _, v := range values {
		secret.find(printable(v))
		secret.find(plain(v))
		secret.find(plain(strings.ReplaceAll(v, " ", "+")))
		secret.find(base64.StdEncoding.EncodeToString([]byte(v)))
		secret.find(base64.RawURLEncoding.EncodeToString([]byte(v)))
	}
	var out strings.Builder
	for i := 0; i < len(text) && out.Len() < maxQuoted; i++ {
		switch {
		case !secret.at[i]:
			out.WriteByte(text[i])
		case i == 0 || !secret.at[i-1]:
			out.WriteString(redacted)
		}
	}
	return out.String()[:min(out.Len(), maxQuoted)]
}

// echoes tells which characters of a text belong to a secret. Finding a value
// takes time in proportion to its length, whatever it and the text repeat.
type echoes struct {
	text   string
	pieces map[string][]int // where each piece of minPiece characters stands
	at     []bool
}

func newEchoes(text string) *echoes {
	e := &echoes{text: strings.ToLower(text), pieces: make(map[string][]int), at: make([]bool, len(text))}
	for i := 0; i+minPiece <= len(e.text); i++ {
		piece := e.text[i : i+minPiece]
		e.pieces[piece] = append(e.pieces[piece], i)
	}
	return e
}

// find marks where the text repeats value, or a piece of it.
func (e *echoes) find(value string) {
	value = strings.ToLower(value)
	if value == "" {
		return
	}
	if len(value) < minPiece {
		for i := range e.text {
			if strings.HasPrefix(e.text[i:], value) {
				e.mark(i, len(value))
			}
		}
		return
	}
	for i := 0; i+minPiece <= len(value); i++ {
		piece := value[i : i+minPiece]
		for _, at := range e.pieces[piece] {
			e.mark(at, minPiece)
		}
		delete(e.pieces, piece) // marked for good
	}
}

func (e *echoes) mark(at, n int) {
	for i := at; i < at+n; i++ {
		e.at[i] = true
	}
}

// escapes are the ways in which quoting hides a character from a comparison.
var escapes = regexp.MustCompile(`%[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\["\\/]`)

// plain undoes percent-encoding and quoting, and makes the result printable.
func plain(text string) string {
	return printable(escapes.ReplaceAllStringFunc(text, func(escape string) string {
		code, err := strconv.ParseUint(strings.TrimLeft(escape, `%\u`), 16, 32)
		switch {
		case err != nil:
			return escape[1:] // a quoted quote, backslash or slash
		case escape[0] == '%':
			return string([]byte{byte(code)})
		}
		return string(rune(code))
	}))
}

// printable keeps the visible ASCII characters and the space; anything else
// becomes a question mark (RFC 6749 section 5.2 allows nothing else, and a log
// line needs nothing else).
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, text)
}
