package vault_test

import (
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// TestSealedForElsewhere: what is kept elsewhere shows nothing, and opens with the key,
// or the one that came after it, at its own place.
func TestSealedForElsewhere(t *testing.T) {
	key := func(digit string) vault.Key {
		k, err := vault.ParseKey(strings.Repeat(digit, 64))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	with := func(c vault.Config) *vault.Vault { return vault.New(func() vault.Config { return c }) }
	sealed, err := with(vault.Config{Key: key("1")}).Seal("a verifier", "cookie", "host")
	if err != nil || strings.Contains(sealed, "verifier") {
		t.Fatalf("sealed as %q, %v", sealed, err)
	}
	tests := []struct {
		name   string
		config vault.Config
		text   string
		place  []string
		opens  bool
	}{
		{"in another process", vault.Config{Key: key("1")}, sealed, []string{"cookie", "host"}, true},
		{"after the key was changed", vault.Config{Key: key("2"), PreviousKey: key("1")}, sealed, []string{"cookie", "host"}, true},
		{"at another host", vault.Config{Key: key("1")}, sealed, []string{"cookie", "other"}, false},
		{"by another name", vault.Config{Key: key("1")}, sealed, []string{"page", "host"}, false},
		{"with another key", vault.Config{Key: key("2")}, sealed, []string{"cookie", "host"}, false},
		{"without a key", vault.Config{}, sealed, []string{"cookie", "host"}, false},
		{"cut short", vault.Config{Key: key("1")}, sealed[:len(sealed)-8], []string{"cookie", "host"}, false},
		{"not sealed at all", vault.Config{Key: key("1")}, "a verifier", []string{"cookie", "host"}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var content string
			err := with(test.config).Open(test.text, &content, test.place...)
			if opened := err == nil && content == "a verifier"; opened != test.opens {
				t.Errorf("it opens as %q, %v", content, err)
			}
		})
	}
	if _, err := with(vault.Config{}).Seal("a verifier"); err == nil {
		t.Error("it is sealed without a key")
	}
}
