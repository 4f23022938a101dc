package authserver

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
)

// Limits of what is kept of a text that a server sent.
const (
	maxQuotedSource = 4 << 10 // how much is looked at
	maxQuoted       = 512     // how much is shown: Ory Hydra begins with 200 characters that it always says
	minPiece        = 8       // shorter pieces of a longer secret stay
	minSent         = 4       // shorter values that are sent are words such as "v=2"; a credential counts at any length
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
	"redirect_uri":          true,
	"token_type_hint":       true,
}

// secretsOf lists every value of a request that must not come back in a text
// that we write: what the client proves itself with, whether it is sent or not, and
// what stands in the form, the header fields and the endpoint's query.
func secretsOf(auth ClientAuth, endpoint string, form url.Values, header, added http.Header) []string {
	var values []string
	for _, held := range auth.Secrets() {
		values = append(values, held.Reveal())
	}
	send := func(sent ...string) {
		for _, v := range sent {
			if len(v) >= minSent {
				values = append(values, v)
			}
		}
	}
	for name, vs := range form {
		if !publicFields[name] {
			send(vs...)
		}
	}
	for _, vs := range added {
		send(vs...)
	}
	for _, v := range header["Authorization"] {
		send(v)
		if _, pair, basic := strings.Cut(v, "Basic "); basic {
			decoded, _ := base64.StdEncoding.DecodeString(pair)
			_, password, _ := strings.Cut(string(decoded), ":")
			send(pair, password)
		}
	}
	send(header.Get("DPoP"))
	// A query that is partly broken has values all the same.
	_, query, _ := strings.Cut(endpoint, "?")
	pairs, _ := url.ParseQuery(query)
	for _, vs := range pairs {
		send(vs...)
	}
	return values
}

// redact returns text fit for a log line or an error: printable, capped, and with
// every piece of the given values replaced. A piece counts from eight characters
// on (or the whole value, if shorter), so that a server that echoes half a secret
// does not give away that half. Values are found in whatever encoding, one in the
// other, and in whatever case.
//
// The time it takes is in proportion to the length of the values, whatever they and
// the text repeat, as no more than a bounded part of the text is looked at.
func redact(text string, values []string) string {
	text = text[:min(len(text), maxQuotedSource)]
	hidden, ok := findSecrets(text, values)
	if !ok {
		return redacted
	}
	var out strings.Builder
	for i, r := range text {
		switch {
		case !hidden[i]:
			out.WriteRune(printableRune(r))
		case i == 0 || !hidden[i-1]:
			out.WriteString(redacted)
		}
	}
	return out.String()[:min(out.Len(), maxQuoted)]
}

// findSecrets tells of each byte of the text whether it belongs to one of the values.
// It returns false if the text is encoded so often that this cannot be told.
func findSecrets(text string, values []string) (hidden []bool, ok bool) {
	hidden = make([]bool, len(text))
	if text == "" || len(values) == 0 {
		return hidden, true
	}
	decoded, ok := readings(text)
	if !ok {
		return nil, false
	}
	e := newEchoes(decoded, len(text))
	for _, value := range values {
		for _, form := range spellings(value) {
			e.find(form)
		}
	}
	depth := 0
	for i := range hidden {
		depth += e.edges[i]
		hidden[i] = depth > 0
	}
	return hidden, true
}

// echoes finds values in the readings of a text. Finding one takes time in proportion
// to its length.
type echoes struct {
	readings []reading
	pieces   map[string][]span // where each piece of minPiece characters stands
	edges    []int             // of what was found: 1 where it begins, -1 behind its end
}

func newEchoes(readings []reading, length int) *echoes {
	e := &echoes{readings: readings, pieces: make(map[string][]span), edges: make([]int, length+1)}
	for _, r := range readings {
		for i := 0; i+minPiece <= len(r.text); i++ {
			piece := r.text[i : i+minPiece]
			e.pieces[piece] = append(e.pieces[piece], r.span(i, i+minPiece))
		}
	}
	return e
}

// find marks where the text repeats value, or a piece of it.
func (e *echoes) find(value string) {
	if len(value) < minPiece {
		e.findShort(value)
		return
	}
	for i := 0; i+minPiece <= len(value); i++ {
		piece := value[i : i+minPiece]
		if found, ok := e.pieces[piece]; ok {
			for _, part := range found {
				e.mark(part)
			}
			delete(e.pieces, piece) // marked for good
		}
	}
}

// findShort marks where the text repeats the whole of value.
func (e *echoes) findShort(value string) {
	for _, r := range e.readings {
		if value == "" || r.unpacked && len(value) < minSent {
			continue // it is everywhere by chance
		}
		for i := range len(r.text) {
			if strings.HasPrefix(r.text[i:], value) {
				e.mark(r.span(i, i+len(value)))
			}
		}
	}
}

func (e *echoes) mark(part span) {
	e.edges[part.from]++
	e.edges[part.to]--
}

// printable keeps the visible ASCII characters and the space; anything else
// becomes a question mark (RFC 6749 section 5.2 allows nothing else, and a log
// line needs nothing else).
func printable(text string) string { return strings.Map(printableRune, text) }

func printableRune(r rune) rune {
	if r < 0x20 || r > 0x7e {
		return '?'
	}
	return r
}
