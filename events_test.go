package upstreamoauth2

import (
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// TestNewsOfGrants: each thing that happens is told once, and only where it happened.
func TestNewsOfGrants(t *testing.T) {
	const grant = "grant"
	n := grantNews{spent: make(map[vault.Name]string), unstored: make(map[vault.Name]string)}
	for i, step := range []struct {
		what    string
		outcome vault.Outcome
		want    string
	}{
		{"a shared access token is stored", vault.Outcome{Event: vault.Stored, Digest: "none"}, ""},
		{"a refresh token is sent", vault.Outcome{Event: vault.Spent, Digest: "a"}, ""},
		{"another one is stored", vault.Outcome{Event: vault.Stored, Digest: "b"}, eventGrantRotated},
		{"that one is sent", vault.Outcome{Event: vault.Spent, Digest: "b"}, ""},
		{"the server has not rotated it", vault.Outcome{Event: vault.Stored, Digest: "b"}, ""},
		{"it is sent again", vault.Outcome{Event: vault.Spent, Digest: "b"}, ""},
		{"the next one cannot be stored", vault.Outcome{Event: vault.StoreFailing, Digest: "c", Attempt: "1"}, eventGrantUnstored},
		{"and again", vault.Outcome{Event: vault.StoreFailing, Digest: "c", Attempt: "1"}, ""},
		{"it is stored at last", vault.Outcome{Event: vault.Stored, Digest: "c"}, eventGrantRotated},
		{"the storage fails anew", vault.Outcome{Event: vault.StoreFailing, Digest: "d", Attempt: "2"}, eventGrantUnstored},
		{"the grant dies", vault.Outcome{Event: vault.SignInNeeded}, eventSignInNeeded},
		{"an operation", vault.Outcome{Event: vault.Operated}, ""},
	} {
		step.outcome.Grant = grant
		if got := n.of(step.outcome); got != step.want {
			t.Errorf("%d, %s: the event is %q, want %q", i, step.what, got, step.want)
		}
	}
}
