package signin

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// State is how a grant is.
type State string

// The states of a Connection.
const (
	Connected    State = "connected"
	Failing      State = "failing"        // its last refresh came to nothing
	SignInNeeded State = "sign_in_needed" // it is not there, or dead
	NotInConfig  State = "not_in_config"  // no client of the config lives on it
)

// Connection is a grant as people see it.
type Connection struct {
	Client     string    `json:"client"`
	Account    string    `json:"account,omitempty"`
	State      State     `json:"state"`
	Scope      string    `json:"scope,omitempty"`
	SignedInAt time.Time `json:"signed_in_at,omitzero"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"` // the access token
	LastError  string    `json:"last_error,omitempty"`

	// RenewedAt is when the access token was had.
	RenewedAt time.Time `json:"-"`
}

// Connection says how the grant of an account is; account is empty where there is one
// for all.
func (c *Client) Connection(ctx context.Context, account string) (Connection, error) {
	values, err := c.values(account)
	if err != nil {
		return Connection{}, err
	}
	grant, _, err := c.Source.ResolveGrant(ctx, values)
	if err != nil {
		return Connection{}, err
	}
	entry := c.Vault.Entry(ctx, grant.Name)
	entry.Label = grant.Label
	if errors.Is(entry.Err, vault.ErrAbsent) {
		return Connection{Client: c.Name, Account: account, State: SignInNeeded}, nil
	}
	return connectionOf(entry), nil
}

// connectionOf tells of a grant that is in the vault.
func connectionOf(e vault.Entry) Connection {
	conn := Connection{
		Client: e.Label.Client, Account: e.Label.Account, State: Connected,
		Scope: e.Held.Scope, SignedInAt: e.Held.SignedInAt, ExpiresAt: e.Held.ExpiresAt, RenewedAt: e.Held.ObtainedAt,
		LastError: e.LastError,
	}
	switch {
	case e.Err != nil:
		conn.State, conn.LastError = Failing, e.Err.Error()
	case e.Held.SignIn != nil:
		conn.State, conn.LastError = SignInNeeded, e.Held.SignIn.Error()
	case !isAlive(e.Held):
		conn.State = SignInNeeded
	case e.LastError != "":
		conn.State = Failing
	}
	return conn
}

// List says how all grants in the vault are, and which of the clients have none that
// somebody should sign in for.
func List(ctx context.Context, v *vault.Vault, clients []*Client) ([]Connection, error) {
	entries, err := v.List(ctx)
	if err != nil {
		return nil, err
	}
	connections, has := make([]Connection, 0, len(entries)), make(map[string]bool)
	for _, e := range entries {
		conn := connectionOf(e)
		if i := slices.IndexFunc(clients, func(c *Client) bool { return c.livesOn(ctx, e) }); i >= 0 {
			conn.Client = clients[i].Name
			has[conn.Client] = true
		} else if e.Err == nil {
			conn.State = NotInConfig
		}
		connections = append(connections, conn)
	}
	for _, c := range clients {
		if has[c.Name] || !c.Definition.NeedsSignIn() || c.HasAccounts() {
			continue
		}
		conn, err := c.Connection(ctx, "")
		if err != nil {
			conn = Connection{Client: c.Name, State: Failing, LastError: err.Error()}
		}
		connections = append(connections, conn)
	}
	slices.SortFunc(connections, func(a, b Connection) int {
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Account, b.Account))
	})
	return connections, nil
}

// livesOn reports whether the client's requests live on the grant.
func (c *Client) livesOn(ctx context.Context, e vault.Entry) bool {
	values, err := c.values(e.Label.Account)
	if err != nil {
		return false
	}
	grant, _, err := c.Source.ResolveGrant(ctx, values)
	return err == nil && grant.Name == e.Name
}
