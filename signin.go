package upstreamoauth2

import "github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"

// SignIns returns what gets and ends the grants of the clients that keep some: those of
// the app, and those of handlers, as far as these have been provisioned.
func (a *App) SignIns() []*signin.Client {
	var clients []*signin.Client
	for _, c := range a.live {
		if c.definition.KeepsGrant() {
			clients = append(clients, c.signIn())
		}
	}
	return clients
}

func (c *client) signIn() *signin.Client {
	return signin.New(signin.Options{
		Name: c.name, Definition: c.definition, Source: c.Source, Vault: c.grants.Vault,
		Changed: c.grantChanged,
	})
}

// grantChanged has requests take up another grant at once.
func (c *client) grantChanged(values []string) {
	c.shared.cache.Entry(values).Forget()
	c.shared.cache.RetryNow()
}
