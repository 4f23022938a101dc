package tokensource

import (
	"cmp"
	"context"
	"net/http"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// SignIn is what it takes to get a grant, or to end one.
type SignIn struct {
	// Request is what all requests at which the client authenticates have in
	// common. Its endpoint is the token endpoint.
	Request   authserver.Request
	Transport http.RoundTripper

	// Settings have the endpoints to use: those of the config, else those of the
	// metadata; empty where there is none.
	Settings *config.Settings

	// Metadata are the issuer's; nil if the config says all that they would.
	Metadata *authserver.Metadata

	// Grant is the one that it is about.
	Grant vault.Grant
}

// SignIn prepares requests about the grant for these values of the client's Inputs.
func (s *Source) SignIn(ctx context.Context, values []string) (*SignIn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.client.RequestTimeout())
	defer cancel()
	request, settings, metadata, err := s.Request(ctx, values)
	if err != nil {
		return nil, err
	}
	complete := settings.AuthorizationEndpoint != "" && settings.DeviceAuthorizationEndpoint != "" && settings.RevocationEndpoint != ""
	if metadata == nil && settings.Issuer != "" && !complete {
		metadata, err = s.metadata(ctx, settings)
		if err != nil && settings.AuthorizationEndpoint == "" {
			return nil, err
		}
	}
	if metadata != nil {
		mtls := s.transport.presentsCertificate()
		settings.AuthorizationEndpoint = cmp.Or(settings.AuthorizationEndpoint, metadata.AuthorizationEndpoint)
		settings.DeviceAuthorizationEndpoint = cmp.Or(settings.DeviceAuthorizationEndpoint, metadata.DeviceAuthorizationEndpointFor(mtls))
		settings.RevocationEndpoint = cmp.Or(settings.RevocationEndpoint, metadata.RevocationEndpointFor(mtls))
	}
	grant := s.Grant(settings, values)
	grant.AskedFor = s.askedFor(request)
	return &SignIn{Request: request, Transport: s.transport, Settings: settings, Metadata: metadata, Grant: grant}, nil
}

// ResolveGrant says which grant requests with these values of the client's Inputs live
// on, and with which settings. It makes no request.
func (s *Source) ResolveGrant(ctx context.Context, values []string) (vault.Grant, *config.Settings, error) {
	settings, err := s.resolver.Resolve(ctx, values)
	if err != nil {
		return vault.Grant{}, nil, err
	}
	return s.Grant(settings, values), settings, nil
}

// FirstRecord is what is kept of the token with which a grant begins.
func (s *Source) FirstRecord(p *SignIn, token *authserver.Token) vault.Record {
	return s.Record(token, vault.Record{
		Scope:    p.Settings.Form.Get("scope"), // where the answer says nothing (RFC 6749 section 5.1)
		Issuer:   p.Settings.Issuer,
		ClientID: p.Settings.ClientID,
		Account:  p.Grant.Label.Account,
	})
}
