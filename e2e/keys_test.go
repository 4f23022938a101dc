package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// newKey makes a key pair for a signature algorithm, with an id of its own.
func newKey(t *testing.T, algorithm string) jose.JSONWebKey {
	t.Helper()
	key := jose.JSONWebKey{KeyID: rand.Text(), Algorithm: algorithm, Use: "sig"}
	var err error
	switch algorithm {
	case "RS256", "PS256":
		key.Key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		key.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, key.Key, err = ed25519.GenerateKey(rand.Reader)
	default:
		t.Fatalf("no key for %s", algorithm)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// withKeys makes the client prove itself with any of these keys.
func (c client) withKeys(t *testing.T, keys ...jose.JSONWebKey) client {
	t.Helper()
	c.AuthMethod, c.keys = "private_key_jwt", keys
	c.JWKS = new(jose.JSONWebKeySet)
	for _, key := range keys {
		c.JWKS.Keys = append(c.JWKS.Keys, key.Public())
		c.private = append(c.private, tellTales(t, key)...)
	}
	return c
}

// tellTales are the parts of a key's files that nobody else may know.
func tellTales(t *testing.T, key jose.JSONWebKey) []string {
	t.Helper()
	var members struct{ D string }
	if err := json.Unmarshal([]byte(asJWK(t, key)), &members); err != nil {
		t.Fatal(err)
	}
	return []string{strings.Split(asPEM(t, key), "\n")[1], members.D}
}

// asJWK writes a private key with its id.
func asJWK(t *testing.T, key jose.JSONWebKey) string {
	t.Helper()
	text, err := key.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// asPEM writes a private key, which has no id there.
func asPEM(t *testing.T, key jose.JSONWebKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key.Key.(crypto.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// newFile returns a file with this content.
func newFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	replaceFile(t, file, content)
	return file
}

// replaceFile gives a file another content, all at once.
func replaceFile(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}
