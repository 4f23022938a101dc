package authserver

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// maxLifetime bounds a lifetime from above, so that no answer keeps a token for
// ever.
const maxLifetime = 365 * 24 * time.Hour

// expiryDates are the forms in which servers write the time at which a token
// expires: RFC 3339, and the two of Azure's managed identities.
var expiryDates = []string{time.RFC3339, "1/2/2006 15:04:05 PM -07:00", "1/2/2006 15:04:05 -07:00"}

// lifetime reads expires_in, or else the point in time that some servers state
// in its place, as seconds since 1970 or as a date. Missing, unreadable, past,
// zero or negative is 0; the rest is kept between a second and a year.
func (m members) lifetime(now time.Time) time.Duration {
	if life := m.seconds("expires_in"); life > 0 {
		return life
	}
	for _, name := range []string{"expires_on", "expires_at"} {
		if at, ok := m.date(name); ok {
			return boundLifetime(at.Sub(now).Seconds())
		}
	}
	return 0
}

// renewIn reads refresh_in, which Microsoft's servers send: when to renew a token,
// in seconds. One that is not before the end of the token's life is none.
func (m members) renewIn(lifetime time.Duration) time.Duration {
	in := m.seconds("refresh_in")
	if lifetime > 0 && in >= lifetime {
		return 0
	}
	return in
}

// seconds returns a member that is a number of seconds as JSON number, string or
// float; 0 if it is none.
func (m members) seconds(name string) time.Duration {
	return secondsOf(m[name])
}

func secondsOf(raw json.RawMessage) time.Duration {
	n, ok := numberOf(raw)
	if !ok {
		return 0
	}
	return boundLifetime(n)
}

// boundLifetime keeps seconds between one and a year; 0 if there are none left.
func boundLifetime(seconds float64) time.Duration {
	if seconds <= 0 {
		return 0
	}
	if seconds >= maxLifetime.Seconds() {
		return maxLifetime
	}
	return max(time.Second, time.Duration(seconds*float64(time.Second)))
}

// date returns a member that is a point in time.
func (m members) date(name string) (time.Time, bool) {
	if n, ok := numberOf(m[name]); ok && n > 0 {
		const milliseconds = 1e11 // in seconds, the year 5138
		if n >= milliseconds {
			n /= 1000
		}
		return time.Unix(int64(min(n, milliseconds)), 0), true
	}
	s, _ := m.text(name)
	for _, form := range expiryDates {
		if at, err := time.Parse(form, strings.TrimSpace(s)); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

// numberOf reads a JSON number, or a string that holds one. A number beyond
// float64 is infinite.
func numberOf(raw json.RawMessage) (float64, bool) {
	s := string(raw)
	var text string
	if json.Unmarshal(raw, &text) == nil {
		s = text
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || math.IsNaN(n) {
		return 0, false
	}
	return n, true
}
