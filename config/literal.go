package config

import (
	"errors"
	"fmt"
	"regexp"
)

var (
	// otherPlaceholder matches a value that is a variable as shells, the Caddyfile
	// or nobody writes it, or a placeholder whose end is missing.
	otherPlaceholder = regexp.MustCompile(`^(?:\$([A-Z_][A-Z0-9_]*)|\$?\{(?:\$|env\.)?(\w+)\}|\{(?:\$|env\.)(\w+)|\{(file\.[^{}]+))$`)

	// bareName finds a placeholder without the part that says where its value is.
	bareName = regexp.MustCompile(`\{([A-Z_][A-Z0-9_]*)\}`)

	// mapName matches what a map directive may set, for requests.
	mapName = regexp.MustCompile(`^\{[a-z]\w*\}$`)
)

// checkLiteral refuses text that would be taken as it is written and is surely meant
// as a placeholder. Of what may be a secret, the error shows nothing.
func (t text) checkLiteral() error {
	found := otherPlaceholder.FindStringSubmatch(t.value)
	if found == nil && !t.isSecret() {
		if bare := bareName.FindStringSubmatch(t.value); bare != nil {
			found = []string{bare[0], bare[1], "", "", ""}
		}
	}
	switch {
	case found == nil || wholePlaceholder.MatchString(t.value):
		return nil
	case t.isSecret():
		return errors.New("the value looks like a placeholder and is none: write {env.NAME} or {file./absolute/path}")
	case mapName.MatchString(t.value):
		return nil // it is refused for another reason
	case found[4] != "":
		return fmt.Errorf("%s is not a placeholder: write {%s}", found[0], found[4])
	}
	return fmt.Errorf("%s is not a placeholder: write {env.%s}", found[0], found[1]+found[2]+found[3])
}
