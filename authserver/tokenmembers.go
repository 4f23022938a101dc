package authserver

import (
	"maps"
	"slices"
	"strings"
)

// Bounds of what is kept of an answer besides its token, as it is kept as long.
const (
	maxMembers     = 64
	maxMemberValue = 4 << 10
)

// Member returns what the answer said beside the token: a member that is a
// string, a number or true or false, as text. Tokens and other credentials are
// never among them, nor is what holds control characters.
func (t *Token) Member(name string) (value string, ok bool) {
	held, ok := t.Members[name]
	return held.Reveal(), ok
}

// others returns the members for Token.Members. Texts do not show them either, as
// nobody knows what servers send there.
func (m members) others() map[string]Secret {
	issued := m.issued()
	others := make(map[string]Secret)
	for _, name := range slices.Sorted(maps.Keys(m)) {
		value, ok := m.scalar(name)
		if !ok || len(others) == maxMembers || len(value) > maxMemberValue || isCredential(name, value, issued) || hasControls(value) {
			continue
		}
		others[name] = NewSecret(value)
	}
	return others
}

// isCredential reports whether a member is a token or another credential, by its
// name or because it repeats one.
func isCredential(name, value string, issued []string) bool {
	name = strings.ToLower(name)
	for _, kind := range []string{"token", "secret", "assertion", "password"} {
		if strings.HasSuffix(name, kind) {
			return true
		}
	}
	for _, token := range issued {
		if strings.Contains(value, token) {
			return true
		}
	}
	return false
}

func hasControls(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}

// scalar returns a member that is a string, a number or a bool, as text.
func (m members) scalar(name string) (value string, ok bool) {
	raw := string(m[name])
	if raw == "" || raw == "null" {
		return "", false
	}
	switch raw[0] {
	case '"':
		return m.text(name)
	case '{', '[':
		return "", false
	}
	return raw, true
}

// scope reads the granted scope, which Twitch sends as an array.
func (m members) scope() string {
	scope, ok := m.text("scope")
	if !ok {
		scope = strings.Join(m.list("scope"), " ")
	}
	if hasControls(scope) {
		return ""
	}
	return scope
}
