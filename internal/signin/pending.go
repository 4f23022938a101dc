package signin

import (
	"encoding/json"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// flowTime is how long somebody may take in the browser.
const flowTime = 10 * time.Minute

// Pending is a sign-in that has begun in a browser: what has to be known when the
// browser comes back. It belongs to that browser alone.
type Pending struct {
	Client, Account string

	// RedirectURI is where the browser comes back to.
	RedirectURI string

	// Expires is when it is too late to come back.
	Expires time.Time

	state, verifier authserver.Secret
	issuer          string // empty if it is not known
	namesIssuer     bool
	grant           vault.Name
}

// openPending is a pending sign-in with its secrets as text.
type openPending struct {
	Client      string     `json:"client"`
	Account     string     `json:"account,omitempty"`
	RedirectURI string     `json:"redirect_uri"`
	Expires     time.Time  `json:"expires"`
	State       string     `json:"state"`
	Verifier    string     `json:"verifier"`
	Issuer      string     `json:"issuer,omitempty"`
	NamesIssuer bool       `json:"names_issuer,omitempty"`
	Grant       vault.Name `json:"grant"`
}

// Reveal returns all of it as text, secrets included, for whoever seals it.
func (p *Pending) Reveal() []byte {
	text, _ := json.Marshal(openPending{ // never fails
		Client: p.Client, Account: p.Account, RedirectURI: p.RedirectURI, Expires: p.Expires,
		State: p.state.Reveal(), Verifier: p.verifier.Reveal(),
		Issuer: p.issuer, NamesIssuer: p.namesIssuer, Grant: p.grant,
	})
	return text
}

// ParsePending reads what Reveal returned.
func ParsePending(text []byte) (*Pending, error) {
	var o openPending
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, err
	}
	return &Pending{
		Client: o.Client, Account: o.Account, RedirectURI: o.RedirectURI, Expires: o.Expires,
		state: authserver.NewSecret(o.State), verifier: authserver.NewSecret(o.Verifier),
		issuer: o.Issuer, namesIssuer: o.NamesIssuer, grant: o.Grant,
	}, nil
}

// State identifies the sign-in in the address of the response.
func (p *Pending) State() authserver.Secret { return p.state }

// Code returns the authorization code of the query with which a browser came back. As
// for authserver.ExpectedResponse.Code, an error of the Kind Unreadable is about a
// query that belongs to another sign-in or to none: the right one may still come.
func (p *Pending) Code(rawQuery string) (authserver.Secret, error) {
	return authserver.ExpectedResponse{State: p.state, Issuer: p.issuer, NamesIssuer: p.namesIssuer}.Code(rawQuery)
}
