package upstreamoauth2

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Credential is a config value that may hold a secret. Best it is a
// placeholder, {env.NAME} or {file./absolute/path}, which stays in the config
// as it is and is resolved at each token request. Where it is printed, only
// such a placeholder shows.
type Credential string

// wholePlaceholder matches a value that is one placeholder and nothing else.
var wholePlaceholder = regexp.MustCompile(`^\{[a-z][a-z0-9_]*\.[^{}]+\}$`)

// isLiteral reports whether the value itself stands in the config.
func (c Credential) isLiteral() bool {
	return c != "" && !wholePlaceholder.MatchString(string(c))
}

// Format implements fmt.Formatter.
func (c Credential) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }

// String returns the placeholder, or "[redacted]" for anything else.
func (c Credential) String() string {
	if c.isLiteral() {
		return "[redacted]"
	}
	return string(c)
}

// filePlaceholder finds what {file.*} placeholders name.
var filePlaceholder = regexp.MustCompile(`\{file\.([^{}]+)\}`)

// expand resolves the placeholders in value. An unset or empty one is an error
// that names it, as an empty credential is never meant. Braces that are no
// placeholder are kept: they may belong to a secret.
func expand(repl *caddy.Replacer, value string) (string, error) {
	if !strings.Contains(value, "{") {
		return value, nil
	}
	if strings.Contains(value, "{http.request.uri.path.file.") {
		return "", errors.New("a {file.*} placeholder without a slash is short for a part of the request path: write an absolute path, such as {file./run/secrets/partner}")
	}
	if strings.Contains(value, "{http.") {
		return "", errors.New("it holds a placeholder that differs from request to request, but the token is one for all of them: use {env.*} or {file.*}")
	}
	for _, match := range filePlaceholder.FindAllStringSubmatch(value, -1) {
		f, err := os.Open(match[1])
		if err != nil {
			return "", fmt.Errorf("cannot read the secret file: %w", err)
		}
		_ = f.Close()
	}
	if wholePlaceholder.MatchString(value) {
		if _, known := repl.Get(strings.Trim(value, "{}")); !known {
			return "", fmt.Errorf("%s is not a placeholder that is known here: use {env.*} or {file.*}", value)
		}
	}
	out, err := repl.ReplaceOrErr(value, true, false)
	if err != nil {
		return "", emptyPlaceholder(value)
	}
	return out, nil
}

// errNotSet marks a placeholder for an environment variable that does not
// exist, and so will not while the process runs.
var errNotSet = errors.New("set it for the Caddy process")

// emptyPlaceholder says which placeholder in value came out empty, and why.
func emptyPlaceholder(value string) error {
	if _, name, ok := strings.Cut(value, "{env."); ok {
		name, _, _ = strings.Cut(name, "}")
		if _, set := os.LookupEnv(name); !set {
			return fmt.Errorf("the environment variable %s is not set: %w", name, errNotSet)
		}
		return fmt.Errorf("the environment variable %s is empty", name)
	}
	return fmt.Errorf("%s is empty", Credential(value))
}

// ahead is how long before its expiry a token is renewed: a part of its life,
// or a duration. The zero value is the default, 20%.
type ahead struct {
	percent int
	fixed   time.Duration
}

// defaultAhead is a fifth of the life.
const defaultAheadPercent = 20

// parseAhead reads "20%" or a duration.
func parseAhead(s string) (ahead, error) {
	if s == "" {
		return ahead{percent: defaultAheadPercent}, nil
	}
	if digits, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 || n > 90 {
			return ahead{}, fmt.Errorf("%q must be between 1%% and 90%%", s)
		}
		return ahead{percent: n}, nil
	}
	d, err := caddy.ParseDuration(s)
	if err != nil || d <= 0 {
		return ahead{}, fmt.Errorf("%q must be a percentage of the token's life, such as 20%%, or a duration, such as 5m", s)
	}
	return ahead{fixed: d}, nil
}

// of returns the time for a token with the given life: a duration counts at
// most half of it, so that short tokens are not renewed without end.
func (a ahead) of(life time.Duration) time.Duration {
	if a.fixed > 0 {
		return min(a.fixed, life/2)
	}
	return life * time.Duration(a.percent) / 100
}

// Interface guards
var (
	_ fmt.Formatter = Credential("")
	_ fmt.Stringer  = Credential("")
)
