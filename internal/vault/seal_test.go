package vault

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

var (
	oneKey     = newKey([keySize]byte{1})
	anotherKey = newKey([keySize]byte{2})
)

func TestParseKey(t *testing.T) {
	secret := make([]byte, keySize)
	for i := range secret {
		secret[i] = byte(255 - i)
	}
	for name, text := range map[string]string{
		"base64":                 base64.StdEncoding.EncodeToString(secret),
		"base64, unpadded":       base64.RawStdEncoding.EncodeToString(secret),
		"base64url":              base64.URLEncoding.EncodeToString(secret),
		"base64url, unpadded":    base64.RawURLEncoding.EncodeToString(secret),
		"hex":                    hex.EncodeToString(secret),
		"hex in capitals":        strings.ToUpper(hex.EncodeToString(secret)),
		"with a newline, a file": base64.StdEncoding.EncodeToString(secret) + "\n",
	} {
		key, err := ParseKey(text)
		if err != nil || string(key.secret[:]) != string(secret) {
			t.Errorf("%s: got %v, %v", name, key, err)
		}
	}
	for name, text := range map[string]string{
		"empty":             "",
		"a passphrase":      "correct horse battery staple",
		"32 characters":     "thirtytwo-characters-of-a-phrase",
		"16 bytes":          hex.EncodeToString(secret[:16]),
		"33 bytes":          base64.StdEncoding.EncodeToString(append(secret, 1)),
		"an unset variable": "{env.UPSTREAM_OAUTH2_KEY}",
	} {
		key, err := ParseKey(text)
		if err == nil || !key.IsZero() {
			t.Errorf("%s: taken for a key", name)
		} else if !strings.Contains(err.Error(), "openssl rand -base64 32") || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%s: the error says %q", name, err)
		}
	}
}

func TestKeyIDTellsKeysApart(t *testing.T) {
	if oneKey.ID() == anotherKey.ID() || len(oneKey.ID()) != 16 {
		t.Errorf("the keys' ids are %s and %s", oneKey.ID(), anotherKey.ID())
	}
}

// What is sealed opens in its own place only, and as a whole.
func TestSealIsBoundToItsPlace(t *testing.T) {
	name := NewName("a")
	sealed, err := seal(oneKey, name, slotA, "content")
	if err != nil {
		t.Fatal(err)
	}
	change := func(field string, value any) []byte {
		var fields map[string]any
		_ = json.Unmarshal(sealed, &fields)
		fields[field] = value
		changed, _ := json.Marshal(fields)
		return changed
	}
	one := Config{Key: oneKey}
	for _, row := range []struct {
		what    string
		config  Config
		name    Name
		object  string
		sealed  []byte
		problem any // nil if it opens
	}{
		{"as it is", one, name, slotA, sealed, nil},
		{"as the previous key", Config{Key: anotherKey, PreviousKey: oneKey}, name, slotA, sealed, nil},
		{"in another slot", one, name, slotB, sealed, errDamaged},
		{"in another grant", one, NewName("b"), slotA, sealed, errDamaged},
		{"with another key", Config{Key: anotherKey}, name, slotA, sealed, &KeyError{}},
		{"without a key", Config{}, name, slotA, sealed, &KeyError{}},
		{"with another key's id", Config{Key: oneKey, PreviousKey: anotherKey}, name, slotA, change("kid", anotherKey.id), errDamaged},
		{"with another salt", one, name, slotA, change("salt", make([]byte, 32)), errDamaged},
		{"of another version", one, name, slotA, change("v", 2), &VersionError{}},
		{"of no version", one, name, slotA, change("v", 0), errDamaged},
		{"torn", one, name, slotA, sealed[:len(sealed)/2], errDamaged},
		{"empty", one, name, slotA, nil, errDamaged},
	} {
		var content string
		_, err := open(row.config, row.name, row.object, row.sealed, &content)
		same := err == row.problem
		if want, ok := row.problem.(error); ok {
			same = fmt.Sprintf("%T", err) == fmt.Sprintf("%T", want)
		}
		if !same || (err == nil) != (content == "content") {
			t.Errorf("%s: got %v and %v", row.what, content, err)
		}
	}
}

func TestNames(t *testing.T) {
	if NewName("ab", "c") == NewName("a", "bc") || NewName("a") == NewName("a", "") {
		t.Error("different parts make the same name")
	}
	if name := NewName("a", "b"); name != NewName("a", "b") || !isName(string(name)) {
		t.Errorf("%q is not a name", name)
	}
}
