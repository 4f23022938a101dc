package connect

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

const (
	// flowLife is how long somebody may take at the authorization server.
	flowLife = 10 * time.Minute

	// maxFlows is how many sign-ins a browser may have under way: their cookies come
	// with each of its requests.
	maxFlows = 4
)

// flow is a sign-in under way, in a cookie of its own.
type flow struct {
	User    string          `json:"user"`
	Pending json.RawMessage `json:"pending"`
}

// flowCookie is the name of a flow's cookie: the state is all that the browser brings
// back to find it by.
func flowCookie(state string) string {
	sum := sha256.Sum256([]byte(state))
	return hex.EncodeToString(sum[:4])
}

// connect sends the browser to the authorization server.
func (v *visit) connect(c connection) error {
	if !v.fromThePage() {
		return v.refuse(foreignForm)
	}
	pending, address, err := v.begin(c)
	if err != nil {
		v.logger.Error("a sign-in could not begin", zap.String("client", c.Name), zap.Error(err))
		v.say(bad, "Signing in to "+c.Name+" could not begin. "+plainly(err))
		return v.goTo(v.page.SignInURL(c.Name))
	}
	v.makeRoom()
	if err := v.setCookie(flowCookie(pending.State().Reveal()), flow{v.user, pending.Reveal()}, flowLife); err != nil {
		return v.refuse(v.unsealed(err))
	}
	return v.goTo(address)
}

// begin begins a sign-in, once it is sure that what comes of it can be kept.
func (v *visit) begin(c connection) (*signin.Pending, string, error) {
	if err := c.Ready(v.r.Context(), c.account, true); err != nil {
		return nil, "", err
	}
	return c.Begin(v.r.Context(), c.account, v.base.url+"/"+c.Name+"/callback")
}

// makeRoom gives up the flows that are too many.
func (v *visit) makeRoom() {
	flows := 0
	for _, cookie := range v.r.Cookies() {
		name, ours := strings.CutPrefix(cookie.Name, v.cookieName(""))
		if !ours || name == sessionCookie {
			continue
		}
		if flows++; flows >= maxFlows {
			v.clearCookie(name)
		}
	}
}

// callback is where the browser comes back to. It ends at a clean address, with the
// flow's cookie gone whatever came of it: a code is good for one request.
func (v *visit) callback(c connection, rawQuery string) error {
	query, _ := url.ParseQuery(rawQuery) // Code refuses what is malformed
	name := flowCookie(query.Get("state"))
	var begun flow
	if !v.readCookie(name, &begun) {
		return v.refuse(foreignCallback)
	}
	pending, err := signin.ParsePending(begun.Pending)
	if err != nil || begun.User != v.user || pending.Client != c.Name || pending.Account != c.account {
		return v.refuse(otherUser)
	}
	_, err = pending.Code(rawQuery)
	if failed, ok := errors.AsType[*authserver.Error](err); ok && failed.Kind == authserver.Unreadable {
		return v.refuse(foreignCallback) // the right one may still come
	}
	v.clearCookie(name)
	if !answered.claim(pending.State().Reveal(), pending.Expires) {
		return v.goTo(v.base.path + "/")
	}
	if err == nil {
		_, err = c.Finish(v.r.Context(), pending, rawQuery, true)
	}
	if err != nil {
		v.logger.Warn("a sign-in failed", zap.String("client", c.Name), zap.Error(err))
		v.say(bad, c.Name+" was not connected. "+plainSignIn(err))
	} else {
		v.logger.Info("a client was connected", zap.String("client", c.Name))
		v.say(good, c.Name+" is connected.")
	}
	return v.goTo(v.base.path + "/")
}

// disconnect ends a connection, here and at the authorization server.
func (v *visit) disconnect(c connection) error {
	if !v.fromThePage() {
		return v.refuse(foreignForm)
	}
	ended, err := c.Disconnect(v.r.Context(), c.account)
	switch {
	case errors.Is(err, vault.ErrAbsent):
		v.say(none, c.Name+" was not connected.")
	case err != nil:
		v.logger.Error("a client could not be disconnected", zap.String("client", c.Name), zap.Error(err))
		v.say(bad, c.Name+" is still connected. "+plainly(err))
	case ended.NotRevoked != nil:
		v.logger.Warn("a client was disconnected, and its tokens could not be revoked: they are good until they expire", zap.String("client", c.Name), zap.Error(ended.NotRevoked))
		v.say(warn, c.Name+" is disconnected here, and the authorization server could not be told: revoke the access there as well.")
	default:
		v.logger.Info("a client was disconnected", zap.String("client", c.Name))
		v.say(none, c.Name+" is disconnected.")
	}
	return v.goTo(v.base.path + "/")
}

// claims are the flows that have come back to this process: one that comes twice, as
// browsers and proxies send a request again, must not present its code twice, or the
// server may take back what it gave for it (RFC 6749 section 4.1.2).
type claims struct {
	mu    sync.Mutex
	until map[string]time.Time // by state
}

var answered = claims{until: make(map[string]time.Time)}

// claim reports whether the flow has not been claimed before.
func (c *claims) claim(state string, until time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.until, func(_ string, until time.Time) bool { return time.Now().After(until) })
	if _, ok := c.until[state]; ok {
		return false
	}
	c.until[state] = until
	return true
}
