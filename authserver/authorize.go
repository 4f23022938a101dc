package authserver

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"

	"golang.org/x/oauth2"
)

// AuthorizationRequest is what a browser takes to the authorization endpoint
// (RFC 6749 section 4.1.1), always with a state and with PKCE (RFC 9700
// section 2.1.1).
type AuthorizationRequest struct {
	// Endpoint is the authorization endpoint's URL; see CheckEndpoint.
	Endpoint string

	ClientID string

	// RedirectURI is where the response goes. The server compares it with what it
	// has registered, to the letter (RFC 9700 section 4.1.3), so it is sent as it is.
	RedirectURI string

	Scope    string
	Resource []string // RFC 8707 section 2.1
	Audience []string

	// Params are further parameters, such as access_type and prompt.
	Params url.Values

	// State ties the response to the browser in which the request was made; see
	// NewState. Verifier is what the challenge of PKCE is made of, and goes with
	// the code; see NewVerifier and CodeExchange. Neither serves a second request.
	State    Secret
	Verifier Secret

	// Proof, if set, is the key that the code is bound to as well (RFC 9449
	// section 10): the request that exchanges the code must use the same.
	Proof *ProofKey
}

// NewState returns a new state for an AuthorizationRequest.
func NewState() Secret { return NewSecret(rand.Text()) }

// NewVerifier returns a new code verifier for an AuthorizationRequest (RFC 7636
// section 4.1).
func NewVerifier() Secret { return NewSecret(oauth2.GenerateVerifier()) }

// ownAuthorizationParams are the parameters that come from elsewhere than Params,
// and those that have no place in an address (RFC 9700 section 4.3) or would
// change how the response comes.
var ownAuthorizationParams = []string{
	"response_type", "response_mode", "client_id", "client_secret", "redirect_uri", "scope", "state",
	"code_challenge", "code_challenge_method", "resource", "audience", "dpop_jkt",
}

// URL returns the address to open in the browser, or an *Error.
func (r AuthorizationRequest) URL() (string, error) {
	if err := r.check(); err != nil {
		return "", unprepared(err)
	}
	flow := oauth2.Config{
		ClientID:    r.ClientID,
		RedirectURL: r.RedirectURI,
		Endpoint:    oauth2.Endpoint{AuthURL: r.Endpoint},
	}
	if r.Scope != "" {
		flow.Scopes = []string{r.Scope}
	}
	address := flow.AuthCodeURL(r.State.Reveal(), oauth2.S256ChallengeOption(r.Verifier.Reveal()))
	if more := r.more(); len(more) > 0 {
		address += "&" + more.Encode()
	}
	return address, nil
}

// more are the parameters that AuthCodeURL does not know, or not more than once.
func (r AuthorizationRequest) more() url.Values {
	more := url.Values{"resource": r.Resource, "audience": r.Audience}
	maps.Copy(more, r.Params)
	if r.Proof != nil {
		more.Set("dpop_jkt", r.Proof.Thumbprint())
	}
	return withoutEmpty(more)
}

// check reports what is missing, or comes from two places.
func (r AuthorizationRequest) check() error {
	// Plain http was allowed or refused where the address came from.
	if err := CheckEndpoint(r.Endpoint, true); err != nil {
		return fmt.Errorf("'%s' %w", authorizationEndpoint.option, err)
	}
	redirect, err := url.Parse(r.RedirectURI)
	if err != nil || !redirect.IsAbs() || strings.Contains(r.RedirectURI, "#") {
		return errors.New("the redirect URI must be an absolute URL without a fragment (RFC 6749 section 3.1.2)")
	}
	if r.ClientID == "" {
		return errors.New("signing in needs a 'client_id'")
	}
	if r.State.IsZero() || r.Verifier.IsZero() {
		return errors.New("signing in needs a state and a verifier")
	}
	_, rawQuery, _ := strings.Cut(r.Endpoint, "?")
	query, _ := url.ParseQuery(rawQuery)
	for _, name := range ownAuthorizationParams {
		if r.Params.Has(name) {
			return fmt.Errorf("'authorization_param' must not set %s: that is up to the client's other options and to sign-in itself", name)
		}
		if query.Has(name) { // it must not come twice (RFC 6749 section 3.1)
			return fmt.Errorf("'%s' must not have %s in its query", authorizationEndpoint.option, name)
		}
	}
	return nil
}
