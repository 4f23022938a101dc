package upstream

import "strings"

// challenge is one challenge of a WWW-Authenticate field (RFC 9110 section
// 11.6.1), as far as it matters here.
type challenge struct {
	scheme string
	err    string // the error parameter (RFC 6750 section 3)
}

// maxChallenges is how many bytes of a WWW-Authenticate field are read. The
// longest that are meant seriously hold a Kerberos token.
const maxChallenges = 16 << 10

// parseChallenges reads the values of a WWW-Authenticate field. APIs write it
// carelessly, so nothing is refused: what cannot be read is passed over, and so
// is what comes behind the first maxChallenges bytes.
//
// Commas separate both challenges and a challenge's parameters. An element that
// begins with "name =" is a parameter of the challenge before it, and any other
// begins a new one.
func parseChallenges(values []string) []challenge {
	var found []challenge
	left := maxChallenges
	for _, value := range values {
		value = value[:min(len(value), left)]
		left -= len(value)
		for element := range splitUnquoted(value) {
			name, rest := cutToken(element)
			if name == "" {
				continue
			}
			if !strings.HasPrefix(strings.TrimLeft(rest, " \t"), "=") {
				found = append(found, challenge{scheme: name})
				name, rest = cutToken(strings.TrimLeft(rest, " \t"))
			}
			if len(found) > 0 && strings.EqualFold(name, "error") {
				found[len(found)-1].err = paramValue(rest)
			}
		}
	}
	return found
}

// splitUnquoted yields the parts of s between commas that are not within a
// quoted string, without the white space around them.
func splitUnquoted(s string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i < len(s); i++ {
			switch {
			case s[i] == '"':
				quoted = !quoted
			case quoted && s[i] == '\\':
				i++
			case !quoted && s[i] == ',':
				if !yield(strings.Trim(s[start:i], " \t")) {
					return
				}
				start = i + 1
			}
		}
		yield(strings.Trim(s[start:], " \t"))
	}
}

// paramValue reads what follows a parameter's name: "=" and a token or a quoted
// string.
func paramValue(s string) string {
	s = strings.TrimLeft(s, " \t")
	s = strings.TrimLeft(strings.TrimPrefix(s, "="), " \t")
	if quoted, ok := strings.CutPrefix(s, `"`); ok {
		s, _, _ = strings.Cut(quoted, `"`)
		return strings.ReplaceAll(s, `\`, "")
	}
	value, _ := cutToken(s)
	return value
}

// cutToken splits off an RFC 9110 token.
func cutToken(s string) (token, rest string) {
	end := strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
	if end < 0 {
		return s, ""
	}
	return s[:end], s[end:]
}
