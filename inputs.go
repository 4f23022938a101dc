package upstreamoauth2

import (
	"fmt"
	"net/http"
	"strings"

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
	return in.isProof() && in.text == string(callersToken)
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
// would be for.
type callerError struct {
	option string
	text   string
}

func (e *callerError) Error() string {
	return fmt.Sprintf("the request has nothing, or too much, for %s (%s)", e.option, e.text)
}

// maxInputs bounds what one request may contribute, and so what an account can
// cost. Header fields are not longer by default.
const maxInputs = 16 << 10

// valuesOf returns the inputs' values for one request. None may be empty or
// unknown: all requests without one would share a token that is meant for nobody.
func valuesOf(inputs []requestInput, r *http.Request) ([]string, error) {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	values, size := make([]string, len(inputs)), 0
	for i, in := range inputs {
		value, err := repl.ReplaceOrErr(in.text, true, true)
		if in.isProof() {
			value = bareToken(value, in.text == string(callersToken))
		}
		size += len(value)
		if err != nil || strings.TrimSpace(value) == "" || size > maxInputs {
			return nil, &callerError{in.option, in.text}
		}
		values[i] = value
	}
	return values, nil
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

// byText makes the values found for an account available to an expander.
func byText(inputs []requestInput, values []string) map[string]string {
	m := make(map[string]string, len(values))
	for i, value := range values {
		m[inputs[i].text] = value
	}
	return m
}

// sourceHeaders are the header fields that callers prove themselves with. They
// are for us: the upstream gets our token instead.
func sourceHeaders(inputs []requestInput) []string {
	var names []string
	for _, in := range inputs {
		if !in.isProof() {
			continue
		}
		for _, part := range strings.Split(in.text, "{http.request.header.")[1:] {
			name, _, _ := strings.Cut(part, "}")
			names = append(names, http.CanonicalHeaderKey(name))
		}
	}
	return names
}
