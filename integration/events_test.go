package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

func init() {
	caddy.RegisterModule(new(eventRecorder))
}

// eventRecorder is a handler of events that remembers them.
type eventRecorder struct{}

var recorded struct {
	sync.Mutex
	events []caddy.Event
	block  chan struct{} // handlers wait for it, if there is one
}

func (*eventRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.record", New: func() caddy.Module { return new(eventRecorder) }}
}

func (*eventRecorder) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (*eventRecorder) Handle(_ context.Context, e caddy.Event) error {
	recorded.Lock()
	block := recorded.block
	recorded.Unlock()
	if block != nil {
		<-block
	}
	recorded.Lock()
	defer recorded.Unlock()
	recorded.events = append(recorded.events, e)
	return nil
}

// record begins to record events. Handlers wait for block if it is not nil.
func record(block chan struct{}) {
	recorded.Lock()
	defer recorded.Unlock()
	recorded.events, recorded.block = nil, block
}

// awaitEvent waits for the first event of that name.
func awaitEvent(t *testing.T, name string) caddy.Event {
	t.Helper()
	var found caddy.Event
	caddytest.Eventually(t, name+" was emitted", func() bool {
		recorded.Lock()
		defer recorded.Unlock()
		i := slices.IndexFunc(recorded.events, func(e caddy.Event) bool { return e.Name() == name })
		if i >= 0 {
			found = recorded.events[i]
		}
		return i >= 0
	})
	return found
}

// eventNames are the names of the events so far.
func eventNames() (names []string) {
	recorded.Lock()
	defer recorded.Unlock()
	for _, e := range recorded.events {
		names = append(names, e.Name())
	}
	return names
}

const eventOptions = `{
	events {
		on token_obtained record
		on token_failed record
		on grant_rotated record
		on sign_in_needed record
		on grant_unstored record
	}
}
`

func TestEventsTellWhatBecameOfTokens(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	record(nil)
	proxy := caddytest.Run(t, eventOptions+caddytest.PartnerSite)
	obtained := awaitEvent(t, "token_obtained")
	if obtained.Data["client"] != "partner" || obtained.Data["account"] != nil {
		t.Errorf("its data are %v", obtained.Data)
	}
	if origin := obtained.Origin(); origin == nil || origin.CaddyModule().ID != "upstream_oauth2" {
		t.Errorf("its origin is %v", origin)
	}

	proxy.Reload(eventOptions + caddytest.PartnerSite) // whose app emits from now on
	auth.Says(http.StatusUnauthorized, `{"error":"invalid_client","error_description":"$(reboot)"}`)
	admin(t, http.MethodPost, adminPartner+"/renew", "", http.StatusBadGateway)
	failed := awaitEvent(t, "token_failed")
	if failed.Data["client"] != "partner" || failed.Data["oauth_error"] != "invalid_client" || failed.Data["failures"] != 1 {
		t.Errorf("of a failure the data are %v", failed.Data)
	}
	for _, e := range []caddy.Event{obtained, failed} {
		data, _ := json.Marshal(e.Data)
		for _, never := range []string{"access-token", "partner-secret", "reboot"} {
			if strings.Contains(string(data), never) {
				t.Errorf("%s has %s", e.Name(), data)
			}
		}
	}
}

func TestEventsTellThatSignInIsNeeded(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	record(nil)
	auth.Says(http.StatusBadRequest, `{"error":"invalid_grant"}`)
	caddytest.Run(t, eventOptions+caddytest.PartnerSiteWith("grant refresh_token {\nrefresh_token dead\n}"))
	if e := awaitEvent(t, "sign_in_needed"); e.Data["client"] != "partner" {
		t.Errorf("its data are %v", e.Data)
	}
}

func TestEventsTellThatAGrantIsRotated(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	caddytest.NewAPIServer(t)
	record(nil)
	auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
		caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":"T","expires_in":3600,"refresh_token":"refresh-%d"}`, r.Number))
	})
	caddytest.Run(t, eventOptions+caddytest.PartnerSiteWith("grant refresh_token {\nrefresh_token first\n}"))
	if e := awaitEvent(t, "grant_rotated"); e.Data["client"] != "partner" || e.Data["generation"] == nil {
		t.Errorf("its data are %v", e.Data)
	}
}

// TestEventsHoldNobodyUp: neither requests nor renewals wait for a handler, and what
// does not fit into the queue is left out.
func TestEventsHoldNobodyUp(t *testing.T) {
	caddytest.NewAuthServer(t).Answers(caddytest.Issuing(time.Hour))
	caddytest.NewAPIServer(t)
	block := make(chan struct{})
	record(block)
	proxy := caddytest.Run(t, eventOptions+caddytest.PartnerSiteWith("account {http.request.header.X-User}"))
	t.Cleanup(func() { close(block) })
	for i := range 100 {
		proxy.WantAs(fmt.Sprint("user-", i), http.StatusOK)
	}
	proxy.AwaitLog("an event is left out, as the handlers of those before it take too long")
	if names := eventNames(); len(names) > 0 {
		t.Errorf("%d events have been handled", len(names))
	}
}
