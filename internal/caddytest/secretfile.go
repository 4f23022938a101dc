package caddytest

import (
	"os"
	"path/filepath"
	"testing"
)

// SecretFile writes a file with a secret in it, and returns its path.
func SecretFile(t testing.TB, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	WriteSecret(t, path, secret)
	return path
}

// WriteSecret puts a file in place in one step, as a secret store does: nobody
// reads half of it.
func WriteSecret(t testing.TB, path, secret string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
