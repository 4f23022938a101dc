package authserver

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what a Secret shows of itself, whoever asks and however.
const redacted = "[redacted]"

// Secret holds a credential: a client secret, a token, an assertion. It shows
// itself as "[redacted]" to fmt, encoding/json, log/slog and zap, so that it
// cannot be printed by accident; Reveal is the one way to its value, and a
// search for it finds every place that uses one.
//
// The zero value is the empty secret.
type Secret struct {
	// A pointer, because fmt calls no methods on unexported fields: of a
	// struct that holds a Secret it prints the inside, which is an address.
	value *string
}

// NewSecret returns a Secret that holds value.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{value: &value}
}

// Reveal returns the value.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.value == nil }

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// Format writes "[redacted]" for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText returns "[redacted]"; encoding/json and zap use it.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns "[redacted]" to log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Interface guards
var (
	_ fmt.Formatter  = Secret{}
	_ fmt.Stringer   = Secret{}
	_ slog.LogValuer = Secret{}
)
