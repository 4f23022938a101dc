package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Life is what shapes the life of a token, with the defaults applied.
type Life struct {
	// A token is renewed that much before it expires: a percentage of its life,
	// or a duration if that is not zero.
	AheadPercent int
	Ahead        time.Duration

	// Default is the life of a token whose server states none.
	Default time.Duration
}

const (
	defaultAheadPercent = 20 // a fifth of the life
	defaultLifetime     = time.Hour
)

// Life reads refresh_ahead, which is "20%" or a duration, and default_lifetime.
func (c *Client) Life() (Life, error) {
	life := Life{AheadPercent: defaultAheadPercent, Default: time.Duration(c.DefaultLifetime)}
	if life.Default == 0 {
		life.Default = defaultLifetime
	}
	if c.RefreshAhead == "" {
		return life, nil
	}
	if digits, ok := strings.CutSuffix(c.RefreshAhead, "%"); ok {
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 || n > 90 {
			return life, fmt.Errorf("%q must be a whole number between 1%% and 90%%, such as 20%%", c.RefreshAhead)
		}
		life.AheadPercent = n
		return life, nil
	}
	d, err := caddy.ParseDuration(c.RefreshAhead)
	if err != nil || d <= 0 {
		return life, fmt.Errorf("%q must be a percentage of the token's life, such as 20%%, or a duration, such as 5m", c.RefreshAhead)
	}
	life.Ahead = d
	return life, nil
}
