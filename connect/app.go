package connect

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/signin"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/tokencache"
)

// App is what the page needs of the app upstream_oauth2. The package of that app
// imports this one, so that whoever has the one module has the other.
type App interface {
	// Mount says that there is a page. The error is about a client that cannot be
	// on it.
	Mount(Page) error

	// ClientsOf returns the clients that a page shows, by their names.
	ClientsOf(Page) []Client

	// Seal makes text of content that only a process with the same key can read, and
	// Open is the way back. What is sealed for one place opens at no other.
	Seal(content any, place ...string) (string, error)
	Open(sealed string, content any, place ...string) error
}

// Page is where a page is, and what it shows.
type Page struct {
	// Address is its base URL, without a slash at the end.
	Address string

	// Clients are the names of those that it shows; if there are none, it shows all
	// for which somebody signs in.
	Clients []string
}

// SignInURL is the page's address for somebody who lacks a connection of that client.
func (p Page) SignInURL(client string) string { return p.Address + "/?client=" + client }

// Client is a client for which somebody signs in.
type Client struct {
	*signin.Client

	// Status says how the client's token for an account is in this process. The
	// account is empty where there is one token for all.
	Status func(account string) tokencache.Status
}

// CheckName refuses the name of a client that cannot stand in the page's addresses.
func CheckName(name string) error {
	unfit := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	}
	if name == "" || strings.ContainsFunc(name, unfit) {
		return fmt.Errorf("client %q cannot be on the connect page, whose addresses have its name in them: give it one of letters, digits, - and _", name)
	}
	return nil
}

// connection is what a request is about: a client's grant, or the one that this caller
// has with it.
type connection struct {
	Client
	account string
}

// connectionOf returns the one that a request is about. The error is a
// *config.CallerError, of a request that does not say whose it is.
func connectionOf(c Client, repl *caddy.Replacer) (connection, error) {
	values, err := c.Definition.Inputs().Values(repl)
	if err != nil || len(values) == 0 {
		return connection{Client: c}, err
	}
	return connection{c, values[0]}, nil // of account, the only input of these clients
}
