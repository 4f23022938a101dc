package tokencache

import (
	"testing"
	"testing/synctest"
	"time"
)

// Tokens that are made of what is kept.

// TestKeepAlive renews a token that nobody uses, also after an outage at the wrong
// time.
func TestKeepAlive(t *testing.T) {
	const every = 24 * time.Hour
	for name, outageLasts := range map[string]time.Duration{
		"all is well":          0,
		"an hour of an outage": time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var down outage
				r := newRig(t, twentyPercent, down.script(answer{lifetime: time.Hour}, answer{err: errDown}))
				r.warm()
				down.on.Store(outageLasts > 0)
				time.AfterFunc(every+outageLasts, func() { down.on.Store(false) })

				for range 4 * 24 * 60 {
					time.Sleep(time.Minute)
					r.cache.KeepAlive(every)
				}

				if issued, _ := r.config.tokens(); issued != 4 {
					t.Errorf("%d tokens were issued in four days, want 4", issued)
				}
				if n := r.config.count(); n > 5+int(outageLasts/time.Minute) {
					t.Errorf("there were %d token requests", n)
				}
			})
		})
	}
}

// TestProvisionalToken is used once the one before it has reached its margin, however
// long the pause between retries has grown, and no request goes without a token.
func TestProvisionalToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, twentyPercent, func(n int) answer {
			return answer{lifetime: time.Hour, provisional: n > 1}
		})
		r.warm()
		_, first := r.config.tokens()

		for time.Now().Before(first.margin) {
			r.atOnce("token-1")
			time.Sleep(time.Second)
		}
		time.Sleep(time.Millisecond)

		if got := r.take(t.Context()); got.err != nil || got.token == "token-1" {
			t.Errorf("in the margin a request gets %q and %v", got.token, got.err)
		}
	})
}
