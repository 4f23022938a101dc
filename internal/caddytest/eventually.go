package caddytest

import (
	"testing"
	"time"
)

// Eventually waits for what happens behind the requests. What it waits for
// happens at once, or never.
func Eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !happened() {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened that %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
