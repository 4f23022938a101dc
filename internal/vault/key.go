package vault

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

const keySize = 32

// Key is an encryption key. It shows nothing of itself but its id.
//
// The zero Key is a missing one.
type Key struct {
	// A pointer, because fmt calls no methods on unexported fields.
	secret *[keySize]byte

	id string
}

var errNotAKey = errors.New("not an encryption key, which is 32 random bytes as base64 or hex: make one with 'openssl rand -base64 32'")

// ParseKey reads a key: 32 bytes in hex or in base64, with either alphabet, padded
// or not. A passphrase is refused: the key's id is stored in the clear, and would
// let a weak one be guessed.
func ParseKey(text string) (Key, error) {
	text = strings.TrimSpace(text)
	if secret, err := hex.DecodeString(text); err == nil && len(secret) == keySize {
		return newKey([keySize]byte(secret)), nil
	}
	standard := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	secret, err := base64.RawStdEncoding.DecodeString(standard)
	if err != nil || len(secret) != keySize {
		return Key{}, errNotAKey
	}
	return newKey([keySize]byte(secret)), nil
}

func newKey(secret [keySize]byte) Key {
	key := Key{secret: &secret}
	key.id = hex.EncodeToString(key.derive(nil, "upstream_oauth2 v1 key id", 8))
	return key
}

// derive returns a key that is made of this one, for one purpose (RFC 5869).
func (k Key) derive(salt []byte, purpose string, size int) []byte {
	derived, err := hkdf.Key(sha256.New, k.secret[:], salt, purpose, size)
	if err != nil {
		panic(err) // of a size that is too large alone
	}
	return derived
}

// IsZero reports whether the key is missing.
func (k Key) IsZero() bool { return k.secret == nil }

// ID identifies the key; nothing about the key follows from it.
func (k Key) ID() string { return k.id }

// Format writes "key " and the id for every verb and flag.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "key "+k.id) }

// MarshalText returns the id; encoding/json and zap use it.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.id), nil }
