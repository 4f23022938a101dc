package upstreamoauth2

import (
	"fmt"
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

// ahead is how long before its expiry a token is renewed: a part of its life,
// or a duration. The zero value is the default, 20%.
type ahead struct {
	percent int
	fixed   time.Duration
}

// defaultAheadPercent is a fifth of the life.
const defaultAheadPercent = 20

// parseAhead reads "20%" or a duration.
func parseAhead(s string) (ahead, error) {
	if s == "" {
		return ahead{percent: defaultAheadPercent}, nil
	}
	if digits, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 || n > 90 {
			return ahead{}, fmt.Errorf("%q must be a whole number between 1%% and 90%%, such as 20%%", s)
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
