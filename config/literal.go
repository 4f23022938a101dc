package config

import (
	"fmt"
	"regexp"
)

var (
	// otherPlaceholder matches a value that is a variable as shells, the Caddyfile
	// or nobody writes it, or a placeholder whose end is missing.
	otherPlaceholder = regexp.MustCompile(`^(?:\$([A-Z_][A-Z0-9_]*)|\$?\{\$?(?:env\.)?(\w+)\}?|\{(file\.[^{}]+))$`)

	// bareName finds a placeholder without the part that says where its value is.
	bareName = regexp.MustCompile(`\{([A-Za-z_]\w*)\}`)
)

// checkLiteral refuses text that would be taken as it is written and is surely meant
// as a placeholder. Of what may be a secret, the error shows nothing.
func (t text) checkLiteral() error {
	const meant = "is taken as it is written, and looks as if it were meant as a placeholder: write "
	found := otherPlaceholder.FindStringSubmatch(t.value)
	if found == nil && !t.isSecret() {
		if bare := bareName.FindStringSubmatch(t.value); bare != nil {
			found = []string{bare[0], bare[1], "", ""}
		}
	}
	switch {
	case found == nil || wholePlaceholder.MatchString(t.value):
		return nil
	case t.isSecret():
		return fmt.Errorf("the value %s{env.NAME} or {file./absolute/path}", meant)
	case found[3] != "":
		return fmt.Errorf("%s %s{%s}", found[0], meant, found[3])
	}
	return fmt.Errorf("%s %s{env.%s}", found[0], meant, found[1]+found[2])
}
