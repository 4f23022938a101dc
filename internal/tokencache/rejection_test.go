package tokencache

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// What becomes of a token that the API rejects.

// inHand returns the token in hand.
func (r *rig) inHand() *authserver.Token {
	r.t.Helper()
	token, _, err := r.cache.Entry(nil).Token(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// replace has a token replaced; the newer one must be the named one, "" for none,
// and come after a wait.
func (r *rig) replace(t *authserver.Token, want string, wait time.Duration) {
	r.t.Helper()
	asked, got := time.Now(), ""
	if newer := r.cache.Entry(nil).Replace(r.t.Context(), t); newer != nil {
		got = newer.AccessToken.Reveal()
	}
	if waited := time.Since(asked); got != want || waited != wait {
		r.t.Errorf("the token was replaced by %q after %v, want %q after %v", got, waited, want, wait)
	}
}

func TestRejectedTokenIsReplaced(t *testing.T) {
	const latency = 300 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twentyPercent, always(answer{after: latency, lifetime: time.Hour}))
		first := r.inHand()
		r.replace(first, "token-2", latency)
		r.atOnce("token-2")
		r.replace(first, "token-2", 0) // has been replaced already
		r.wantCount(2)

		// The newer one is rejected as well: not so soon again.
		second := r.inHand()
		r.replace(second, "", 0)
		time.Sleep(rejectionPause - latency - 1)
		r.replace(second, "", 0)
		r.wantCount(2)
		r.atOnce("token-2")
		time.Sleep(time.Nanosecond)
		r.replace(second, "token-3", latency)
		r.wantCount(3)
	})
}

// TestRejectedTokenIsInItsMargin until there is a newer one.
func TestRejectedTokenIsInItsMargin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twentyPercent, inTurn(answer{lifetime: time.Hour}, answer{after: 5 * time.Second, lifetime: time.Hour}))
		rejected := r.inHand()
		r.cache.Entry(nil).Reject(rejected)
		r.request("token-1", time.Second)
		r.atOnce("token-1")
		r.cache.Entry(nil).Reject(rejected) // as it is being replaced
		time.Sleep(time.Second)
		r.replace(rejected, "token-2", 3*time.Second) // joins
		r.atOnce("token-2")
		r.wantCount(2)
	})
}

func TestRejectedTokenWithoutAReplacement(t *testing.T) {
	t.Run("the server is down", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, inTurn(answer{lifetime: time.Hour}, answer{after: time.Second, err: errDown}))
			rejected := r.inHand()
			r.replace(rejected, "", time.Second)
			r.replace(rejected, "", 0) // known to be down
			r.atOnce("token-1")        // the API's own answer is better than ours
			r.wantCount(2)
		})
	})
	t.Run("the caller goes away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, inTurn(answer{lifetime: time.Hour}, answer{after: 5 * time.Second, lifetime: time.Hour}))
			rejected := r.inHand()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if got := r.cache.Entry(nil).Replace(ctx, rejected); got != nil {
				t.Errorf("got %v", got)
			}
			time.Sleep(4*time.Second + 1)
			r.atOnce("token-2")
		})
	})
	t.Run("the newer one has expired as well", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, always(answer{lifetime: time.Minute}))
			rejected := r.inHand()
			r.replace(rejected, "token-2", 0)
			r.cache.Close() // no renewal
			time.Sleep(time.Minute)
			r.replace(rejected, "", 0)
		})
	})
	t.Run("it was forgotten", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, twentyPercent, always(answer{lifetime: time.Minute}))
			rejected := r.inHand()
			r.cache.Forget()
			r.replace(rejected, "", 0)
			r.wantCount(1)
		})
	})
}
