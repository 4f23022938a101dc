package caddytest

import (
	"testing"
	"time"
)

// Patience is how long tests wait for what must happen. It happens at once or never,
// but on a busy machine "at once" takes its time.
const Patience = time.Minute

// Eventually waits for what happens behind the requests.
func Eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for !happened() {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened that %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
