package upstreamoauth2

import (
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokensource"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// The events that handlers of Caddy's events app may subscribe to. Their data goes to
// commands and logs: no token is in it, and of a server's words its OAuth error code
// alone.
const (
	eventTokenObtained = "token_obtained"
	eventTokenFailed   = "token_failed"
	eventGrantRotated  = "grant_rotated"
	eventSignInNeeded  = "sign_in_needed"
	eventGrantUnstored = "grant_unstored"
)

// event is one that waits to be emitted.
type event struct {
	name string
	data map[string]any
}

// maxEvents is how many events may wait, as handlers are run one after the other and
// may take their time. Those of accounts, which callers can cause, may take half.
const maxEvents = 128

// emit has an event emitted behind whatever caused it, by the newest config that has
// started. Nothing waits for its handlers.
func emit(name string, ofAccount bool, data map[string]any) {
	a := loaded.running()
	if a == nil || !a.events.ShouldEmit(name) {
		return
	}
	if !ofAccount || len(a.queue) < maxEvents/2 {
		select {
		case a.queue <- event{name, data}:
			return
		default:
		}
	}
	a.logs.sample().Warn("an event is left out, as the handlers of those before it take too long", zap.String("event", name))
}

// emitEvents emits what is queued, until the config is replaced.
func (a *App) emitEvents() {
	for {
		select {
		case e := <-a.queue:
			a.events.Emit(a.ctx, e.name, e.data)
		case <-a.ctx.Done():
			return
		}
	}
}

// emitOutcome emits what came of a token request. Failures for which callers are to
// blame are none of an operator's business.
func (c *client) emitOutcome(o tokencache.Outcome) {
	data := map[string]any{"client": c.name}
	if o.Account != "" {
		data["account"] = o.Account
	}
	if o.LifeLeft > 0 {
		data["expires_at"] = time.Now().Add(o.LifeLeft).Format(time.RFC3339)
	}
	if o.Err == nil {
		emit(eventTokenObtained, o.Account != "", data)
		return
	}
	if c.FaultOf(o.Err) != tokensource.NotTheCallers {
		return
	}
	data["failures"] = o.Failures
	data["next_attempt"] = time.Now().Add(o.RetryIn).Format(time.RFC3339)
	if failed, ok := errors.AsType[*authserver.Error](o.Err); ok && failed.Code != "" {
		data["oauth_error"] = failed.Code
	}
	emit(eventTokenFailed, o.Account != "", data)
	if errors.Is(o.Err, vault.ErrAbsent) && o.Failures == 1 {
		emit(eventSignInNeeded, o.Account != "", map[string]any{"client": c.name})
	}
}

// emitGrant emits what is news about a grant.
func emitGrant(o vault.Outcome) {
	if name := news.of(o); name != "" {
		emit(name, o.Label.Account != "" && name == eventGrantRotated, map[string]any{"client": o.Label.Client, "generation": o.Generation})
	}
}

// news knows what has been told of grants.
var news = grantNews{spent: make(map[vault.Name]string), unstored: make(map[vault.Name]string)}

// grantNews tells what of a vault's outcomes is news.
type grantNews struct {
	mu       sync.Mutex
	spent    map[vault.Name]string // the digests of refresh tokens that have been sent
	unstored map[vault.Name]string // the attempts by which the grants came that cannot be stored
}

// of returns the event for an outcome; "" if it is none.
func (n *grantNews) of(o vault.Outcome) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch o.Event {
	case vault.Spent:
		n.spent[o.Grant] = o.Digest
	case vault.Stored:
		sent, ok := n.spent[o.Grant]
		delete(n.spent, o.Grant)
		delete(n.unstored, o.Grant)
		if ok && sent != o.Digest {
			return eventGrantRotated
		}
	case vault.StoreFailing:
		if n.unstored[o.Grant] != o.Attempt {
			n.unstored[o.Grant] = o.Attempt
			return eventGrantUnstored
		}
	case vault.SignInNeeded:
		delete(n.spent, o.Grant)
		return eventSignInNeeded
	}
	return ""
}
