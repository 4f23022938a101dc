package config

import (
	"fmt"
	"net/textproto"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
)

// Input is an option whose value comes from the request.
type Input struct {
	Option string
	Text   string // with its placeholders
}

// Inputs are what a request contributes to the client's token request. All of it
// tells tokens apart, so that none is ever used for a request that would not have
// asked for the very same one.
type Inputs []Input

// Inputs lists what a request contributes.
func (c *Client) Inputs() Inputs {
	var inputs Inputs
	for _, t := range c.texts() {
		if t.perRequest && fromRequest(t.value) {
			inputs = append(inputs, Input{t.option, t.value})
		}
	}
	return inputs
}

// IsCredential reports whether the value says who the caller is, rather than what
// the caller wants.
func (in Input) IsCredential() bool {
	switch in.Option {
	case "subject_token", "actor_token", "assertion":
		return true
	}
	return false
}

// isCallersToken reports whether it is what callers prove themselves with by
// default.
func (in Input) isCallersToken() bool {
	return in.IsCredential() && strings.EqualFold(in.Text, string(callersToken))
}

// CallerError is a mistake of the caller: the request lacks what its token
// would be for, or has something there that cannot be.
type CallerError struct {
	Input
	Flaw string // completes a sentence; empty if there is nothing at all
}

// Error names the placeholders alone: what stands beside them may be a secret.
func (e *CallerError) Error() string {
	from := strings.Join(placeholder.FindAllString(e.Text, -1), ", ")
	if e.Flaw == "" {
		return fmt.Sprintf("the request has nothing for %s (%s)", e.Option, from)
	}
	return fmt.Sprintf("the request's value for %s (%s) %s", e.Option, from, e.Flaw)
}

// maxInputs bounds what one request may contribute, and so what an account can
// cost. Header fields are not longer by default.
const maxInputs = 16 << 10

// Values returns the inputs' values for the request that repl belongs to. None may
// be empty or unknown: all requests without one would share a token that is meant
// for nobody. The error is a *CallerError.
func (inputs Inputs) Values(repl *caddy.Replacer) ([]string, error) {
	values, size := make([]string, len(inputs)), 0
	for i, in := range inputs {
		value, err := repl.ReplaceOrErr(in.Text, true, true)
		if in.IsCredential() {
			value = bareToken(value, in.isCallersToken())
		}
		if err != nil || strings.TrimSpace(value) == "" {
			return nil, &CallerError{in, ""}
		}
		flaw := in.flawOf(value)
		if size += len(value); size > maxInputs {
			flaw = "is too long"
		}
		if flaw != "" {
			return nil, &CallerError{in, flaw}
		}
		values[i] = value
	}
	return values, nil
}

// flawOf tells what is wrong with a value, "" if nothing is. What no server could
// accept is not worth a token request, and its refusal would be taken for ours.
func (in Input) flawOf(value string) string {
	switch {
	case in.IsCredential():
		if !isPlain(value, "") {
			return "holds characters that do not belong in a token"
		}
	case in.Option == "scope":
		// A placeholder that is part of a scope stands for no list: what comes
		// behind a space would be a scope of the caller's choice.
		list := strings.HasPrefix(in.Text, "{") && strings.IndexByte(in.Text, '}') == len(in.Text)-1
		if !isPlain(value, " ") || strings.ContainsAny(value, `"\`) || strings.Contains(value, " ") && !list {
			return "is not a scope (RFC 6749 section 3.3)"
		}
	case in.Option == "resource":
		if !isPlain(value, "") || checkResource(value) != nil {
			return "is not an absolute URI without a fragment (RFC 8707 section 2)"
		}
		// What stands for a part of it makes no other resource of it.
		if frame := placeholder.ReplaceAllString(in.Text, ""); frame != "" && delimiters(value) != delimiters(frame) {
			return "has characters that separate the parts of a URI (RFC 3986 section 2.2)"
		}
	case !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
		return "holds characters that are no text"
	}
	return ""
}

// delimiters returns the characters of a URI that separate its parts.
func delimiters(uri string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(`:/?#[]@\`, r) {
			return r
		}
		return -1
	}, uri)
}

// isPlain reports whether s consists of the characters %x21-7E and those in more.
func isPlain(s, more string) bool {
	for i := range len(s) {
		if (s[i] < 0x21 || s[i] > 0x7e) && strings.IndexByte(more, s[i]) < 0 {
			return false
		}
	}
	return true
}

// bareToken drops the scheme of an Authorization field. If the value comes from
// that field, another scheme than Bearer makes it no token: a password, say.
func bareToken(value string, authorization bool) string {
	scheme, token, _ := strings.Cut(value, " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	if authorization {
		return ""
	}
	return value
}

// CallerFields are the header fields that callers prove themselves with. They
// are for us: the upstream gets our token instead. Where a credential comes by way
// of a variable or a map, it is most likely from the Authorization field.
func (inputs Inputs) CallerFields() []string {
	var names []string
	for _, in := range inputs {
		if !in.IsCredential() {
			continue
		}
		for _, match := range placeholder.FindAllStringSubmatch(in.Text, -1) {
			name, direct := strings.CutPrefix(match[1], "http.request.header.")
			if !direct {
				name = "Authorization"
			}
			names = append(names, textproto.CanonicalMIMEHeaderKey(name))
		}
	}
	return names
}
