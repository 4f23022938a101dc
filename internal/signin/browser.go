package signin

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

var (
	// ErrExpired is for a browser that comes back too late.
	ErrExpired = errors.New("the sign-in took too long: begin anew")

	// ErrChanged is for a browser that comes back when its sign-in is no longer
	// about the same grant, as the config has changed meanwhile.
	ErrChanged = errors.New("the client's settings have changed since this sign-in began: begin anew")
)

// Begin begins a sign-in that ends at the redirect URI, and returns the address to
// open in the browser.
func (c *Client) Begin(ctx context.Context, account, redirectURI string) (*Pending, string, error) {
	if !c.Definition.NeedsSignIn() {
		return nil, "", useErrorf("client %q has the grant %s, for which nobody signs in with a browser", c.Name, c.Definition.GrantType())
	}
	values, err := c.values(account)
	if err != nil {
		return nil, "", err
	}
	p, err := c.Source.SignIn(ctx, values)
	if err != nil {
		return nil, "", err
	}
	if p.Settings.AuthorizationEndpoint == "" {
		return nil, "", useErrorf("the metadata of issuer %s has no authorization endpoint: write 'authorization_endpoint'", p.Settings.Issuer)
	}
	pending := &Pending{
		Client: c.Name, Account: account, RedirectURI: redirectURI, Expires: time.Now().Add(flowTime),
		state: authserver.NewState(), verifier: authserver.NewVerifier(),
		issuer: p.Settings.Issuer, grant: p.Grant.Name,
	}
	if m := p.Metadata; m != nil {
		pending.namesIssuer = m.AuthorizationResponseIssParameterSupported
		if err := errors.Join(m.Check("", authserver.AuthorizationCodeGrant), m.CheckAuthorization()); err != nil {
			return nil, "", err
		}
	}
	address, err := authserver.AuthorizationRequest{
		Endpoint:    p.Settings.AuthorizationEndpoint,
		ClientID:    p.Settings.ClientID,
		RedirectURI: redirectURI,
		Scope:       p.Settings.Form.Get("scope"),
		Resource:    p.Settings.Form["resource"],
		Audience:    p.Settings.Form["audience"],
		Params:      p.Settings.AuthorizationParams,
		State:       pending.state,
		Verifier:    pending.verifier,
		Proof:       p.Request.Proof,
	}.URL()
	return pending, address, err
}

// Finish takes the query with which the browser came back, and keeps the grant. One
// that is alive is replaced only if the caller says so.
func (c *Client) Finish(ctx context.Context, pending *Pending, rawQuery string, replace bool) (*Result, error) {
	code, err := pending.Code(rawQuery)
	if err != nil {
		return nil, err
	}
	if !time.Now().Before(pending.Expires) {
		return nil, ErrExpired
	}
	values, err := c.values(pending.Account)
	if err != nil {
		return nil, err
	}
	p, err := c.Source.SignIn(ctx, values)
	if err != nil {
		return nil, err
	}
	if p.Grant.Name != pending.grant {
		return nil, ErrChanged
	}
	request := p.Request
	request.Form = maps.Clone(request.Form)
	request.Form.Del("scope") // the code stands for it (RFC 6749 section 4.1.3)
	maps.Copy(request.Form, authserver.CodeExchange(code, pending.RedirectURI, pending.verifier))
	request.Held = append(request.Held, code, pending.verifier)
	token, err := request.Do(ctx, p.Transport)
	if err != nil {
		return nil, err
	}
	// Whoever waits may go away; what is granted is kept all the same.
	return c.keep(context.WithoutCancel(ctx), p, values, token, replace)
}

// withoutGrantType is a form for requests that are no token requests.
func withoutGrantType(form url.Values) url.Values {
	form = maps.Clone(form)
	form.Del("grant_type")
	return form
}
