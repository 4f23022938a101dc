package config

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
)

// grantClaims and clientClaims are the claims that options of their own set.
var (
	grantClaims  = map[string]string{"iss": "issuer", "sub": "subject", "aud": "audience", "exp": "lifetime"}
	clientClaims = map[string]string{"iss": "client_id", "sub": "client_id", "aud": "audience", "exp": "lifetime"}
)

// checkClaims refuses claims that something else sets.
func checkClaims(line string, claims, own map[string]string) error {
	for _, name := range sortedKeys(claims) {
		switch option, taken := own[name]; {
		case name == "":
			return OptionErrorf(line, "a claim has no name: write 'claim <name> <value>'")
		case taken:
			return OptionErrorf(line, "the claim %s is set by '%s': use that instead", name, option)
		case slices.Contains([]string{"iat", "nbf", "jti"}, name):
			return OptionErrorf(line, "the claim %s is set anew in each assertion: remove it", name)
		}
	}
	return nil
}

// claimOf returns what the text of a claim says: a number, a boolean, text, a list or
// an object in JSON, or else the text itself. It is read before placeholders are
// resolved: what they stand for is text, and cannot turn into anything else.
func claimOf(written string) any {
	decoder := json.NewDecoder(strings.NewReader(written))
	decoder.UseNumber() // an id may have more digits than a float
	var value any
	if err := decoder.Decode(&value); err != nil || value == nil {
		return written
	}
	if _, err := decoder.Token(); err != io.EOF {
		return written // such as "5 apples"
	}
	return value
}

// claimTexts lists the texts in a claim, which may hold placeholders.
func claimTexts(written string) []string {
	var texts []string
	withTexts(claimOf(written), func(text string) string {
		texts = append(texts, text)
		return text
	})
	return texts
}

// withTexts returns a claim's value with each text in it replaced, always in the same
// order.
func withTexts(value any, replace func(string) string) any {
	switch value := value.(type) {
	case string:
		return replace(value)
	case []any:
		list := make([]any, len(value))
		for i, item := range value {
			list[i] = withTexts(item, replace)
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(value))
		for _, name := range sortedKeys(value) {
			object[name] = withTexts(value[name], replace)
		}
		return object
	}
	return value
}
