package upstreamoauth2

import (
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
)

// requestInput is an option whose value comes from the request.
type requestInput struct {
	option string
	text   string // with its placeholders
}

// isProof reports whether the value says who the caller is, rather than what
// the caller wants.
func (in requestInput) isProof() bool {
	switch in.option {
	case "subject_token", "actor_token", "assertion":
		return true
	}
	return false
}

// isCallersToken reports whether it is what callers prove themselves with by
// default.
func (in requestInput) isCallersToken() bool {
	return in.isProof() && strings.EqualFold(in.text, string(callersToken))
}

// requestInputs lists what a request contributes to the client's token request.
// All of it is in the key that tells tokens apart, so that no token is ever
// used for a request that would not have asked for the very same one.
func (c *Client) requestInputs() []requestInput {
	var inputs []requestInput
	add := func(option string, texts ...string) {
		for _, text := range texts {
			if fromRequest(text) {
				inputs = append(inputs, requestInput{option, text})
			}
		}
	}
	g := c.grant()
	add("account", c.Account)
	add("subject_token", string(g.SubjectToken))
	add("actor_token", string(g.ActorToken))
	add("assertion", string(g.Assertion))
	add("subject", g.Subject)
	add("scope", c.Scope...)
	add("audience", c.Audience...)
	add("resource", c.Resource...)
	for _, name := range sortedKeys(c.TokenParam) {
		add("token_param", string(c.TokenParam[name]))
	}
	for _, name := range sortedKeys(g.Claim) {
		add("claim", g.Claim[name])
	}
	return inputs
}

// callerError is a mistake of the caller: the request lacks what its token
// would be for, or has something there that cannot be.
type callerError struct {
	requestInput
	flaw string // completes a sentence; empty if there is nothing at all
}

// Error names the placeholders alone: what stands beside them may be a secret.
func (e *callerError) Error() string {
	from := strings.Join(placeholder.FindAllString(e.text, -1), ", ")
	if e.flaw == "" {
		return fmt.Sprintf("the request has nothing for %s (%s)", e.option, from)
	}
	return fmt.Sprintf("the request's value for %s (%s) %s", e.option, from, e.flaw)
}

// maxInputs bounds what one request may contribute, and so what an account can
// cost. Header fields are not longer by default.
const maxInputs = 16 << 10

// valuesOf returns the inputs' values for one request. None may be empty or
// unknown: all requests without one would share a token that is meant for nobody.
func valuesOf(inputs []requestInput, r *http.Request) ([]string, error) {
	if len(inputs) == 0 {
		return nil, nil
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	values, size := make([]string, len(inputs)), 0
	for i, in := range inputs {
		value, err := repl.ReplaceOrErr(in.text, true, true)
		if in.isProof() {
			value = bareToken(value, in.isCallersToken())
		}
		if err != nil || strings.TrimSpace(value) == "" {
			return nil, &callerError{in, ""}
		}
		flaw := in.flawOf(value)
		if size += len(value); size > maxInputs {
			flaw = "is too long"
		}
		if flaw != "" {
			return nil, &callerError{in, flaw}
		}
		values[i] = value
	}
	return values, nil
}

// flawOf tells what is wrong with a value, "" if nothing is. What no server could
// accept is not worth a token request, and its refusal would be taken for ours.
func (in requestInput) flawOf(value string) string {
	switch {
	case in.isProof():
		if !isPlain(value, "") {
			return "holds characters that do not belong in a token"
		}
	case in.option == "scope":
		// A placeholder that is part of a scope stands for no list: what comes
		// behind a space would be a scope of the caller's choice.
		list := strings.HasPrefix(in.text, "{") && strings.IndexByte(in.text, '}') == len(in.text)-1
		if !isPlain(value, " ") || strings.ContainsAny(value, `"\`) || strings.Contains(value, " ") && !list {
			return "is not a scope (RFC 6749 section 3.3)"
		}
	case in.option == "resource":
		if !isPlain(value, "") || checkResource(value) != nil {
			return "is not an absolute URI without a fragment (RFC 8707 section 2)"
		}
		// What stands for a part of it makes no other resource of it.
		if frame := placeholder.ReplaceAllString(in.text, ""); frame != "" && delimiters(value) != delimiters(frame) {
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

// byInput makes the values found for an account available to an expander.
func byInput(inputs []requestInput, values []string) map[requestInput]string {
	m := make(map[requestInput]string, len(values))
	for i, value := range values {
		m[inputs[i]] = value
	}
	return m
}

// sourceHeaders are the header fields that callers prove themselves with. They
// are for us: the upstream gets our token instead. Where a proof comes by way of a
// variable or a map, it is most likely from the Authorization field.
func sourceHeaders(inputs []requestInput) []string {
	var names []string
	for _, in := range inputs {
		if !in.isProof() {
			continue
		}
		for _, match := range placeholder.FindAllStringSubmatch(in.text, -1) {
			name, direct := strings.CutPrefix(match[1], "http.request.header.")
			if !direct {
				name = "Authorization"
			}
			names = append(names, http.CanonicalHeaderKey(name))
		}
	}
	return names
}
