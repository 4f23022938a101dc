package config

import "fmt"

// Credential is a config value that may hold a secret. Best it is a
// placeholder, {env.NAME} or {file./absolute/path}, which stays in the config
// as it is and is resolved at each token request. Where it is printed, only
// such a placeholder shows.
type Credential string

// IsLiteral reports whether the value itself stands in the config.
func (c Credential) IsLiteral() bool {
	return c != "" && !wholePlaceholder.MatchString(string(c))
}

// Format implements fmt.Formatter.
func (c Credential) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }

// String returns the placeholder, or "[redacted]" for anything else.
func (c Credential) String() string {
	if c.IsLiteral() {
		return "[redacted]"
	}
	return string(c)
}

// Interface guards
var (
	_ fmt.Formatter = Credential("")
	_ fmt.Stringer  = Credential("")
)
