package tokensource

import (
	"context"
	"errors"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// Whom a client's assertion is for is a question that servers answer in two ways:
// RFC 10070 wants the issuer, while Okta, Microsoft, Hydra and others want the token
// endpoint, and typ JWT. Where the config does not say, the server is asked.

// addressed returns the client's authentication for the endpoint, with the audience
// that the server is known to take.
func (s *Source) addressed(settings *config.Settings) authserver.ClientAuth {
	auth, ok := settings.ClientAuth.(authserver.Addressed)
	if !ok || settings.Audience == config.GivenAudience {
		return settings.ClientAuth
	}
	if settings.Audience == config.EndpointAudience || s.server.takesEndpointAudience() {
		return auth.For(settings.TokenEndpoint, "JWT")
	}
	return auth
}

// sendAddressed sends the request, and once more for the other audience if the
// server does not accept the client by the default one. The endpoint is a safe
// audience, as it is the very URL that the assertion goes to.
func (s *Source) sendAddressed(ctx context.Context, request authserver.Request, settings *config.Settings) (*authserver.Token, error) {
	token, err := s.send(ctx, request)
	auth, ok := request.Auth.(authserver.Addressed)
	if !ok || settings.Issuer == "" || settings.Audience != config.DefaultAudience || s.server.audienceKnown() {
		return token, err
	}
	if err == nil {
		s.server.learnAudience(issuerAudience)
		return token, nil
	}
	refused, ok := errors.AsType[*authserver.Error](err)
	if !ok || refused.Code != "invalid_client" || request.Form.Has("assertion") { // which may be good for one use
		return token, err
	}
	request.Auth = auth.For(settings.TokenEndpoint, "JWT")
	if token, err = s.send(ctx, request); err == nil {
		s.server.learnAudience(endpointAudience)
		s.logger.Info("the server takes the client's assertion for its token endpoint, and not for its issuer; 'audience token_endpoint' in the block of 'client_auth' saves a request at each start")
	}
	return token, err
}
