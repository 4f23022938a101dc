package connect

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// plainly says what went wrong to somebody who did not write the config. What a server
// said is for the log; of it, a code is shown at most.
func plainly(err error) string {
	if failed, ok := errors.AsType[*authserver.Error](err); ok {
		return plainFailure(failed)
	}
	if _, ok := errors.AsType[*vault.KeyError](err); ok {
		return "The encryption key is missing, or not the one that was used before. Nothing was overwritten."
	}
	if _, ok := errors.AsType[*vault.StorageError](err); ok {
		return "The storage that keeps connections does not work at the moment."
	}
	if _, ok := errors.AsType[*vault.VersionError](err); ok {
		return "What is kept was written by a newer version of this software."
	}
	if dead, ok := errors.AsType[*vault.SignInError](err); ok {
		return sentence(dead.Error())
	}
	if errors.Is(err, signin.ErrExpired) || errors.Is(err, signin.ErrChanged) {
		return sentence(err.Error())
	}
	return "The log says why."
}

// plainSignIn is plainly about a sign-in, whose code is what may not be valid.
func plainSignIn(err error) string {
	if failed, ok := errors.AsType[*authserver.Error](err); ok && failed.Code == "invalid_grant" {
		return "It took too long, or the code was used before."
	}
	return plainly(err)
}

// codes are the OAuth error codes that people meet.
var codes = map[string]string{
	"access_denied":           "Consent was denied.",
	"invalid_client":          "The authorization server does not know this client, or not with this secret.",
	"unauthorized_client":     "The authorization server does not allow this client to do that.",
	"invalid_scope":           "The authorization server does not grant this scope.",
	"invalid_grant":           "The authorization server no longer accepts what was granted.",
	"server_error":            "The authorization server has a problem of its own.",
	"temporarily_unavailable": "The authorization server is not available at the moment.",
}

func plainFailure(failed *authserver.Error) string {
	if text, ok := codes[failed.Code]; ok {
		return text
	}
	text := "The request could not be made."
	switch failed.Kind {
	case authserver.Unavailable:
		text = "The authorization server cannot be reached, or asks for time."
	case authserver.Unreadable:
		text = "The authorization server's answer cannot be used."
	case authserver.Refused:
		text = "The authorization server refused."
	}
	if failed.Code != "" {
		text = strings.TrimSuffix(text, ".") + " (" + failed.Code + ")."
	}
	return text
}

// sentence makes one of an error's text.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + strings.TrimSuffix(text[size:], ".") + "."
}

// moment is a time as it is shown.
type moment struct {
	Machine string // RFC 3339
	Words   string // 3 hours ago
	Exact   string
	Short   string // the exact time, without the day if that was in the last 24 hours
	Past    bool
}

// momentOf returns nil for the zero time.
func momentOf(t, now time.Time) *moment {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	m := &moment{Machine: t.Format(time.RFC3339), Exact: t.Format("2 Jan 2006, 15:04 UTC"), Past: t.Before(now)}
	m.Short = m.Exact
	if now.Sub(t) < 24*time.Hour {
		m.Short = t.Format("15:04 UTC")
	}
	length := span(t.Sub(now).Abs())
	switch {
	case length == "":
		m.Words = "just now"
		if !m.Past {
			m.Words = "in a moment"
		}
	case m.Past:
		m.Words = length + " ago"
	default:
		m.Words = "in " + length
	}
	return m
}

// span is a length of time in words; none for less than a minute.
func span(d time.Duration) string {
	units := []struct {
		name   string
		length time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}}
	for _, unit := range units {
		if n := int(math.Round(float64(d) / float64(unit.length))); d >= unit.length && n == 1 {
			return "1 " + unit.name
		} else if d >= unit.length {
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return ""
}
