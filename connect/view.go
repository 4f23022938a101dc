package connect

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
)

// The tones of what is said: classes of the stylesheet.
const (
	good = "good"
	warn = "warn"
	bad  = "bad"
	none = "none"
)

// notice is what the page says once.
type notice struct {
	Tone string `json:"tone"`
	Text string `json:"text"`
}

// clientsView is what the page shows.
type clientsView struct {
	User    string
	Notice  *notice
	Clients []card
}

// card is a client on the page.
type card struct {
	Name    string
	Account string
	Asked   bool // somebody was sent here for it

	Tone  string
	State string // in words
	Why   string

	Scope                             []string
	ConnectedAt, RenewedAt, ExpiresAt *moment
	LastError                         string

	NeedsSignIn                 bool
	CanConnect, CanDisconnect   bool
	Verb                        string
	ConnectPath, DisconnectPath string
	Token                       string // of the form

	BasePath string
}

// HasDetails reports whether there is more to say than the state.
func (c card) HasDetails() bool {
	return c.ConnectedAt != nil || c.LastError != "" || len(c.Scope) > 0
}

// clientJSON is a client for programs; it reads as "caddy upstream-oauth2 list --json"
// does, and has more.
type clientJSON struct {
	Client     string    `json:"client"`
	Account    string    `json:"account,omitempty"`
	State      string    `json:"state"`
	Scope      string    `json:"scope,omitempty"`
	SignedInAt time.Time `json:"signed_in_at,omitzero"`
	RenewedAt  time.Time `json:"renewed_at,omitzero"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
	FailingAt  time.Time `json:"failing_since,omitzero"`
	LastError  string    `json:"last_error,omitempty"`
	SignInURL  string    `json:"sign_in_url"`
}

// status is how a connection is, from what is kept and what this process knows.
type status struct {
	signin.Connection
	renewing     bool
	failingSince time.Time
	unknown      bool // what is kept cannot be read, or it is not said whose it is
	lastError    string
	origin       string // of the authorization endpoint
}

// lookTime is how long the page waits to learn how a client is.
const lookTime = 3 * time.Second

// showClients shows all clients; asked is the one that somebody was sent here for.
func (v *visit) showClients(clients []Client, asked string) error {
	states := v.lookAt(clients)
	if v.wantsJSON() {
		return v.showClientsJSON(clients, states)
	}
	view := clientsView{User: v.user, Notice: v.takeNotice()}
	var origins []string
	now := time.Now()
	for i, c := range clients {
		card := v.card(c, states[i], now)
		card.Asked = c.Name == asked
		if card.Asked && view.Notice == nil && card.NeedsSignIn {
			view.Notice = &notice{warn, "A request needed " + c.Name + ", which is not connected: connect it, and try again."}
		}
		view.Clients = append(view.Clients, card)
		if origin := states[i].origin; origin != "" && !slices.Contains(origins, origin) {
			origins = append(origins, origin)
		}
	}
	slices.SortStableFunc(view.Clients, func(a, b card) int { return cmp.Compare(rank(a), rank(b)) })
	return v.show(http.StatusOK, clientsPage, "Connections", view, origins...)
}

// rank has the client first that somebody was sent for.
func rank(c card) int {
	if c.Asked {
		return 0
	}
	return 1
}

func (v *visit) showClientsJSON(clients []Client, states []status) error {
	answer := struct {
		User    string       `json:"user,omitempty"`
		Clients []clientJSON `json:"clients"`
	}{v.user, []clientJSON{}}
	for i, c := range clients {
		s := states[i]
		state := string(s.State)
		if s.renewing {
			state = "renewing"
		}
		answer.Clients = append(answer.Clients, clientJSON{
			Client: c.Name, Account: s.Account, State: state, Scope: s.Scope,
			SignedInAt: s.SignedInAt, RenewedAt: s.RenewedAt, ExpiresAt: s.ExpiresAt,
			FailingAt: s.failingSince, LastError: s.lastError, SignInURL: v.page.SignInURL(c.Name),
		})
	}
	return v.showJSON(http.StatusOK, answer)
}

// lookAt finds out how the clients are, all at a time.
func (v *visit) lookAt(clients []Client) []status {
	ctx, cancel := context.WithTimeout(v.r.Context(), lookTime)
	defer cancel()
	states := make([]status, len(clients))
	var wg sync.WaitGroup
	for i, c := range clients {
		conn, err := connectionOf(c, v.repl)
		if err != nil {
			states[i] = status{unknown: true, Connection: signin.Connection{State: signin.SignInNeeded}, lastError: noAccount(c.Name).Text}
			continue
		}
		wg.Go(func() { states[i] = conn.look(ctx) })
	}
	wg.Wait()
	return states
}

// look finds out how a connection is.
func (c connection) look(ctx context.Context) status {
	kept, err := c.Connection(ctx, c.account)
	if err != nil {
		kept.State, kept.LastError = signin.Failing, plainly(err)
	}
	s := status{Connection: kept, lastError: sentence(kept.LastError), origin: originOf(c.AuthorizationEndpoint(ctx, c.account))}
	live := c.Status(c.account)
	switch {
	case s.State == signin.SignInNeeded:
	case live.Failures > 0 && live.LastFailure.After(s.RenewedAt): // or it is from before somebody connected
		s.State, s.failingSince, s.lastError = signin.Failing, live.FailingSince, plainly(live.LastError)
	case live.State == tokencache.StateRenewing:
		s.renewing = true
	}
	return s
}

// card says in words how a client is.
func (v *visit) card(c Client, s status, now time.Time) card {
	base := v.base.path + "/"
	shown := card{
		Name: c.Name, Account: s.Account, Scope: strings.Fields(s.Scope),
		ConnectedAt: momentOf(s.SignedInAt, now), ExpiresAt: momentOf(s.ExpiresAt, now),
		NeedsSignIn: s.State == signin.SignInNeeded, CanConnect: !s.unknown, Verb: "Reconnect",
		ConnectPath: base + c.Name + "/connect", DisconnectPath: base + c.Name + "/disconnect",
		Token: v.session.Token, BasePath: base,
	}
	if s.RenewedAt.Sub(s.SignedInAt).Abs() > time.Minute { // or it is what connecting brought
		shown.RenewedAt = momentOf(s.RenewedAt, now)
	}
	shown.CanDisconnect = shown.ConnectedAt != nil && s.State != signin.SignInNeeded
	switch {
	case s.unknown:
		shown.Tone, shown.State, shown.Why = none, "Not for you", s.lastError
	case s.State == signin.SignInNeeded && s.SignedInAt.IsZero():
		shown.Tone, shown.State, shown.Verb = none, "Not connected", "Connect"
		shown.Why = "Nobody has signed in yet. Requests that need " + c.Name + " fail until somebody does."
	case s.State == signin.SignInNeeded:
		shown.Tone, shown.State = bad, "Sign-in needed"
		shown.Why = "Requests that need " + c.Name + " fail until somebody signs in again."
		shown.LastError = s.lastError
	case s.State == signin.Failing:
		shown.Tone, shown.State, shown.Why = warn, "Failing", "It is tried again by itself."
		if since := momentOf(s.failingSince, now); since != nil {
			shown.State = "Failing since " + since.Short
		}
		if s.ExpiresAt.After(now) {
			shown.Why = "The token in hand is still good, and renewing is tried again by itself."
		}
		shown.LastError = s.lastError
	case s.renewing:
		shown.Tone, shown.State = good, "Connected, renewing"
	default:
		shown.Tone, shown.State = good, "Connected"
	}
	return shown
}

// askToDisconnect asks first, on a page of its own.
func (v *visit) askToDisconnect(c connection) error {
	return v.show(http.StatusOK, disconnectPage, "Disconnect "+c.Name+"?", v.card(c.Client, status{Connection: signin.Connection{Account: c.account}}, time.Now()))
}
