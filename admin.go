package upstreamoauth2

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
)

func init() {
	caddy.RegisterModule(AdminAPI{})
}

// AdminAPI shows the clients of the running config at Caddy's admin endpoint, and
// has their tokens renewed and forgotten. It never shows a token.
//
//	GET  /upstream_oauth2/clients                   all clients
//	GET  /upstream_oauth2/clients/<name>            one of them, or its ?account=
//	POST /upstream_oauth2/clients/<name>/renew      makes a token request
//	POST /upstream_oauth2/clients/<name>/forget     drops the access token
//	GET  /upstream_oauth2/health                    200 if every client without accounts has a token, else 503
//
// The body of a POST may name an account: {"account": "…"}.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.upstream_oauth2",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// Provision registers the metrics before anything of the config can fail: the admin
// endpoint of a config that is refused stays, and serves /metrics from that config's
// registry.
func (AdminAPI) Provision(ctx caddy.Context) error {
	return registerMetrics(ctx.GetMetricsRegistry())
}

const (
	adminClients = "/upstream_oauth2/clients"
	adminHealth  = "/upstream_oauth2/health"
)

// Routes implements caddy.AdminRouter.
func (AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: adminClients, Handler: caddy.AdminHandlerFunc(serveClients)},
		{Pattern: adminClients + "/", Handler: caddy.AdminHandlerFunc(serveClient)},
		{Pattern: adminHealth, Handler: caddy.AdminHandlerFunc(serveHealth)},
	}
}

// clientStatus is what the admin API says of a client.
type clientStatus struct {
	Name        string           `json:"name"`
	Grant       string           `json:"grant"`
	State       tokencache.State `json:"state"`
	ExpiresAt   time.Time        `json:"expires_at,omitzero"`
	RenewAt     time.Time        `json:"renew_at,omitzero"`
	LastSuccess time.Time        `json:"last_success,omitzero"`
	LastFailure *lastFailure     `json:"last_failure,omitempty"`
	NextAttempt time.Time        `json:"next_attempt,omitzero"`
	Failures    int              `json:"failures"`
	Accounts    int              `json:"accounts"`
}

type lastFailure struct {
	At         time.Time `json:"at"`
	Error      string    `json:"error"`
	OAuthError string    `json:"oauth_error,omitempty"`
}

// stateSignInNeeded is for a client, or account, that has no grant to get tokens by,
// whether or not the last one can still be used.
const stateSignInNeeded tokencache.State = "sign_in_needed"

// statusOf is what there is to say of a client, or one of its accounts.
func (c *client) statusOf(s tokencache.Status) clientStatus {
	status := clientStatus{
		Name: c.name, Grant: c.definition.GrantType(), State: s.State,
		ExpiresAt: s.ExpiresAt, RenewAt: s.RenewAt, LastSuccess: s.LastSuccess, NextAttempt: s.NextAttempt,
		Failures: s.Failures, Accounts: c.shared.cache.Accounts(),
	}
	if needsSignIn(s) {
		status.State = stateSignInNeeded
	}
	if s.LastError != nil {
		status.LastFailure = &lastFailure{At: s.LastFailure, Error: s.LastError.Error()}
		if failed, ok := errors.AsType[*authserver.Error](s.LastError); ok {
			status.LastFailure.OAuthError = failed.Code
		}
	}
	return status
}

// worst returns the status of a client without accounts, or of the account that has
// failed most often in a row, and of several such the one that expires first.
func (c *client) worst() tokencache.Status {
	worst, any := tokencache.Status{State: tokencache.StateAbsent}, false
	for s := range c.shared.cache.Statuses() {
		if !any || cmp.Or(s.Failures-worst.Failures, worst.ExpiresAt.Compare(s.ExpiresAt)) > 0 {
			worst, any = s, true
		}
	}
	return worst
}

func serveClients(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet); err != nil {
		return err
	}
	statuses := []clientStatus{}
	for _, c := range loaded.running().clients() {
		statuses = append(statuses, c.statusOf(c.worst()))
	}
	return writeJSON(w, http.StatusOK, statuses)
}

func serveClient(w http.ResponseWriter, r *http.Request) error {
	path := strings.TrimPrefix(r.URL.Path, adminClients+"/")
	name, renews := strings.CutSuffix(path, "/renew")
	name, forgets := strings.CutSuffix(name, "/forget")
	if renews || forgets {
		if err := allow(w, r, http.MethodPost); err != nil {
			return err
		}
	} else if err := allow(w, r, http.MethodGet); err != nil {
		return err
	}
	c := loaded.running().find(name)
	if c == nil {
		return adminError(http.StatusNotFound, fmt.Errorf("there is no client %q: GET %s lists them", name, adminClients))
	}
	switch {
	case renews:
		return c.serveRenew(w, r)
	case forgets:
		return c.serveForget(w, r)
	}
	account := r.URL.Query().Get("account")
	if account == "" {
		return writeJSON(w, http.StatusOK, c.statusOf(c.worst()))
	}
	entry, err := c.entryOf(account)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, c.statusOf(entry.Status()))
}

// serveRenew has one token request made, past our own backoff.
func (c *client) serveRenew(w http.ResponseWriter, r *http.Request) error {
	account, err := accountIn(w, r)
	if err != nil {
		return err
	}
	entry, err := c.entryOf(account)
	if err != nil {
		return err
	}
	if err := entry.Renew(r.Context()); err != nil {
		return adminError(http.StatusBadGateway, err)
	}
	return writeJSON(w, http.StatusOK, c.statusOf(entry.Status()))
}

// serveForget drops access tokens: all that the client has, unless an account is
// named. What grants are made of stays.
func (c *client) serveForget(w http.ResponseWriter, r *http.Request) error {
	account, err := accountIn(w, r)
	if err != nil {
		return err
	}
	if account == "" {
		c.shared.cache.Forget()
	} else {
		entry, err := c.entryOf(account)
		if err != nil {
			return err
		}
		entry.Forget()
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// entryOf returns the entry of an account that is held; that of the client if account
// is empty.
func (c *client) entryOf(account string) (*tokencache.Entry, error) {
	var values []string
	switch {
	case account == "" && len(c.inputs) == 0:
	case account == "":
		return nil, adminError(http.StatusBadRequest, fmt.Errorf("client %q has accounts: name one", c.name))
	case len(c.inputs) == 0:
		return nil, adminError(http.StatusBadRequest, fmt.Errorf("client %q has no accounts", c.name))
	case len(c.inputs) > 1 || c.inputs[0].Option != "account":
		return nil, adminError(http.StatusBadRequest, fmt.Errorf("the tokens of client %q depend on more than an account, and cannot be told apart by it", c.name))
	default:
		values = []string{account}
	}
	entry := c.shared.cache.Known(values)
	if entry == nil {
		return nil, adminError(http.StatusNotFound, fmt.Errorf("client %q holds nothing for that account", c.name))
	}
	return entry, nil
}

// maxAdminBody is far more than an account may take.
const maxAdminBody = 64 << 10

// accountIn returns the account that the body of a POST names; "" if none does.
func accountIn(w http.ResponseWriter, r *http.Request) (string, error) {
	var body struct {
		Account string `json:"account"`
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdminBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil && !errors.Is(err, io.EOF) {
		return "", adminError(http.StatusBadRequest, errors.New(`the body is not understood: write nothing, or {"account": "…"}`))
	}
	return body.Account, nil
}

// serveHealth is for load balancers.
func serveHealth(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	health := struct {
		Ready    bool     `json:"ready"`
		NotReady []string `json:"not_ready,omitempty"`
	}{}
	status := http.StatusServiceUnavailable
	if app := loaded.running(); app != nil {
		health.NotReady = app.notReady(nil)
		health.Ready = len(health.NotReady) == 0
	}
	if health.Ready {
		status = http.StatusOK
	}
	return writeJSON(w, status, health)
}

// allow returns an error for a method that is not among those.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) error {
	if slices.Contains(methods, r.Method) {
		return nil
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return adminError(http.StatusMethodNotAllowed, errors.New("method not allowed"))
}

func adminError(status int, err error) error { return caddy.APIError{HTTPStatus: status, Err: err} }

func writeJSON(w http.ResponseWriter, status int, body any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(body)
}

// Interface guards
var (
	_ caddy.Provisioner = AdminAPI{}
	_ caddy.AdminRouter = AdminAPI{}
)
