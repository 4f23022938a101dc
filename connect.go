package upstreamoauth2

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/connect"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
)

// This file is what the app is to the pages of package connect.

// Mount implements connect.App.
func (a *App) Mount(page connect.Page) error {
	for _, name := range page.Clients {
		c, err := a.refer(name)
		if err != nil {
			return err
		}
		if !c.definition.NeedsSignIn() {
			return fmt.Errorf("client %q has 'grant %s', for which nobody signs in: take it off the connect page", name, c.definition.GrantType())
		}
	}
	if len(page.Clients) == 0 {
		for name, definition := range a.Clients {
			if definition.NeedsSignIn() {
				if err := connect.CheckName(name); err != nil {
					return err
				}
			}
		}
	}
	a.pages = append(a.pages, page)
	return nil
}

// ClientsOf implements connect.App.
func (a *App) ClientsOf(page connect.Page) []connect.Client {
	var clients []connect.Client
	for _, c := range a.live {
		if c.isOn(page) {
			clients = append(clients, connect.Client{Client: c.signIn(), Status: c.accountStatus})
		}
	}
	slices.SortFunc(clients, func(x, y connect.Client) int { return cmp.Compare(x.Name, y.Name) })
	return clients
}

// isOn reports whether the page shows the client. One of a handler may have a name
// that does not fit; then there is no page for it.
func (c *client) isOn(page connect.Page) bool {
	if !c.definition.NeedsSignIn() || connect.CheckName(c.name) != nil {
		return false
	}
	return len(page.Clients) == 0 || slices.Contains(page.Clients, c.name)
}

// accountStatus says how the token for an account is.
func (c *client) accountStatus(account string) tokencache.Status {
	var values []string
	if len(c.inputs) > 0 {
		values = []string{account}
	}
	if entry := c.shared.cache.Known(values); entry != nil {
		return entry.Status()
	}
	return tokencache.Status{}
}

// Seal implements connect.App.
func (a *App) Seal(content any, place ...string) (string, error) {
	return grants.sealed.Seal(content, place...)
}

// Open implements connect.App.
func (a *App) Open(sealed string, content any, place ...string) error {
	return grants.sealed.Open(sealed, content, place...)
}

// signInURL is where somebody signs in for the client; empty where no page has it.
func (a *App) signInURL(c *client) string {
	for _, page := range a.pages {
		if c.isOn(page) {
			return page.SignInURL(c.name)
		}
	}
	return ""
}

// Interface guards
var _ connect.App = (*App)(nil)
