package tokenendpoint

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
	maxQuoted       = 256     // how much is shown
	minBlanked      = 8       // shorter pieces of a longer secret stay
)

// publicFields are the form fields whose values are no secret and help an
// operator when a server quotes them. All others are blanked out.
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

// blank returns text fit for a log line or an error: plain, capped, and with
// every piece of the given values replaced. A piece counts from eight characters
// on (or the whole value, if shorter), so that a server that echoes half a secret
// does not give away that half. Values are found as they are, percent-encoded,
// form-encoded, in base64, and in whatever case.
func blank(text string, values []string) string {
	text = plain(text[:min(len(text), maxQuotedSource)])
	folded := foldCase(text)
	var forms []string
	for _, v := range values {
		for _, form := range []string{
			v,
			strings.ReplaceAll(v, " ", "+"),
			base64.StdEncoding.EncodeToString([]byte(v)),
			base64.RawURLEncoding.EncodeToString([]byte(v)),
		} {
			if form = foldCase(plain(form)); form != "" {
				forms = append(forms, form)
			}
		}
	}
	var out strings.Builder
	for i := 0; i < len(text) && out.Len() < maxQuoted; {
		n := 0
		for _, form := range forms {
			n = max(n, sharedPiece(folded[i:], form))
		}
		if n == 0 {
			out.WriteByte(text[i])
			i++
			continue
		}
		out.WriteString(redacted)
		i += n
	}
	return out.String()[:min(out.Len(), maxQuoted)]
}

// sharedPiece returns the length of the longest beginning of text that is a
// piece of secret, or 0 if it is too short to count.
func sharedPiece(text, secret string) int {
	least := min(minBlanked, len(secret))
	if len(text) < least {
		return 0
	}
	longest := 0
	for at := 0; ; at++ {
		i := strings.Index(secret[at:], text[:least])
		if i < 0 {
			return longest
		}
		at += i
		n := least
		for n < len(text) && at+n < len(secret) && text[n] == secret[at+n] {
			n++
		}
		longest = max(longest, n)
	}
}

// escapes are the ways in which quoting hides a character from a comparison.
var escapes = regexp.MustCompile(`%[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\["\\/]`)

// plain undoes percent-encoding and quoting, and keeps the visible ASCII
// characters and the space; anything else becomes a question mark (RFC 6749
// section 5.2 allows nothing else, and a log line needs nothing else).
func plain(text string) string {
	text = escapes.ReplaceAllStringFunc(text, func(escape string) string {
		code, err := strconv.ParseUint(strings.TrimLeft(escape, `%\u`), 16, 32)
		if err != nil {
			return escape[1:] // a quoted quote, backslash or slash
		}
		return string(rune(code))
	})
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, text)
}

// foldCase makes ASCII letters lower case, byte for byte.
func foldCase(text string) string { return strings.ToLower(text) }
