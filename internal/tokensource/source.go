// Package tokensource makes one request for a token: it resolves the client's
// settings, finds the endpoint, takes the newest refresh token, sends the request
// over the client's transport, and says whether the answer is fit for use.
//
// It keeps what a client learns of its servers (Server); grants are kept in
// internal/vault. Whether a token is fresh, who waits for it and
// when the next one is due, is none of its business.
package tokensource

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// Source makes the token requests of one client in one config.
type Source struct {
	client    config.Client
	inputs    config.Inputs
	resolver  *config.Resolver
	transport *Transport
	server    *Server
	proofKey  *authserver.ProofKey // nil without dpop
	grants    Grants
	name      string // of the client
	logger    *zap.Logger
	requested func(time.Duration, error)
	anyType   bool // the config says how to send the token, whatever its type
}

// Options are what a Source works with.
type Options struct {
	Name      string // of the client
	Client    config.Client
	Resolver  *config.Resolver
	Transport *Transport
	Server    *Server              // shared by all configs with the same settings
	ProofKey  *authserver.ProofKey // nil without dpop
	Grants    Grants
	Logger    *zap.Logger

	// Requested is told how long each token request took and what came of it, nil
	// if nobody wants to know. Where the server's metadata cannot be had, and so no
	// token request be made, it is told of that.
	Requested func(took time.Duration, err error)
}

// New returns a source.
func New(o Options) *Source {
	if o.Requested == nil {
		o.Requested = func(time.Duration, error) {}
	}
	return &Source{
		client: o.Client, inputs: o.Client.Inputs(), resolver: o.Resolver, transport: o.Transport,
		server: o.Server, proofKey: o.ProofKey, grants: o.Grants, name: o.Name, logger: o.Logger,
		requested: o.Requested,
		anyType:   o.Client.TakesAnyTokenType(),
	}
}

// userAgent names the module and its version to the authorization server.
var userAgent = func() string {
	const path = "github.com/upstream-oauth2/caddy-upstream-oauth2"
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range append(info.Deps, &info.Main) {
			if module.Path == path && module.Version != "" {
				version = strings.Trim(module.Version, "()")
			}
		}
	}
	return "caddy-upstream-oauth2/" + version
}()

// Fetch makes one token request. inputs are what a request contributes to it, nil
// without accounts; held is the token in hand, nil if there is none.
func (s *Source) Fetch(ctx context.Context, inputs []string, held *authserver.Token) (*authserver.Token, error) {
	prepared, cancel := context.WithTimeout(ctx, s.client.RequestTimeout()) // files, metadata and token together
	defer cancel()
	began := time.Now()
	request, settings, metadata, err := s.Request(prepared, inputs)
	if err != nil {
		s.requested(time.Since(began), err)
		return nil, err
	}
	end, err := s.endOfExchanged(settings, time.Now())
	if err != nil {
		return nil, err
	}
	request.Held = secretsOf(held)

	var token *authserver.Token
	switch {
	case s.client.KeepsGrant(): // which takes the time that it needs to be safe
		token, err = s.fetchKept(ctx, request, settings, inputs, held)
	case s.client.Share:
		token, err = s.fetchShared(ctx, request, settings, inputs, held)
	default:
		token, err = s.sendAddressed(prepared, request, settings)
	}
	if err != nil {
		if metadata != nil && mayHaveMoved(err) {
			s.server.renewSoon(metadata)
		}
		return nil, err
	}
	if err := s.CheckType(token); err != nil {
		return nil, err
	}
	s.limitLife(token, end)
	token.Members = s.exposed(token.Members, nil)
	return token, nil
}

// Request returns what all requests to the token endpoint for these values of the
// client's Inputs have in common, with the settings that it is made of and the
// server's metadata; nil if the endpoint is known without. What is specific to a
// grant that signs in is for the caller to add.
func (s *Source) Request(ctx context.Context, values []string) (authserver.Request, *config.Settings, *authserver.Metadata, error) {
	settings, err := s.resolver.Resolve(ctx, values)
	if err != nil {
		return authserver.Request{}, nil, nil, err
	}
	s.transport.Present(settings.Certificate)
	metadata, err := s.discover(ctx, settings)
	if err == nil {
		err = s.checkAssertion(metadata, settings.ClientAuth)
	}
	if err != nil {
		return authserver.Request{}, nil, nil, err
	}
	return authserver.Request{
		Endpoint:  settings.TokenEndpoint,
		Form:      settings.Form,
		Auth:      s.addressed(settings),
		Assertion: settings.Assertion,
		Header:    settings.Header,
		UserAgent: userAgent,
		Timeout:   s.client.RequestTimeout(),
		Proof:     s.proofKey,
		Nonces:    &s.server.nonces,
	}, settings, metadata, nil
}

// send sends a token request, and tells what came of it.
func (s *Source) send(ctx context.Context, request authserver.Request) (*authserver.Token, error) {
	began := time.Now()
	token, err := request.Do(ctx, s.transport)
	s.requested(time.Since(began), err)
	return token, s.withBetterHint(err)
}

// secretsOf returns what no error text may show of the token in hand.
func secretsOf(held *authserver.Token) []authserver.Secret {
	if held == nil {
		return nil
	}
	return []authserver.Secret{held.AccessToken, held.RefreshToken}
}

// withBetterHint gives a refusal another hint where the one for its OAuth code
// would lead astray: the caller is at fault, or we sent no proof.
func (s *Source) withBetterHint(err error) error {
	failed, ok := errors.AsType[*authserver.Error](err)
	if !ok {
		return err
	}
	fault := s.FaultOf(err)
	switch {
	case fault != NotTheCallers:
		failed.Hint = callersHints[fault]
	case s.client.DPoP == nil && (failed.Code == "invalid_dpop_proof" || failed.Code == "use_dpop_nonce"):
		failed.Hint = "the server wants to bind tokens to a key: write 'dpop' and 'upstream_base'"
	}
	return err
}

// mayHaveMoved reports whether a token request failed as it does where no token
// endpoint is any more.
func mayHaveMoved(err error) bool {
	failed, ok := errors.AsType[*authserver.Error](err)
	return ok && (failed.Kind == authserver.Unavailable || failed.Kind == authserver.Unreadable)
}

// Prepare does ahead of the first token request what it can: it fetches the
// issuer's metadata, so that a mistake there shows at once.
func (s *Source) Prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.client.RequestTimeout())
	defer cancel()
	settings, err := s.resolver.Resolve(ctx, nil)
	if err != nil {
		return nil // the first request finds out, and the log has a warning
	}
	_, err = s.discover(ctx, settings)
	return err
}

// discover fills in the token endpoint from the issuer's metadata, which it
// returns; nil if the endpoint is known without.
func (s *Source) discover(ctx context.Context, settings *config.Settings) (*authserver.Metadata, error) {
	if settings.TokenEndpoint != "" {
		return nil, nil
	}
	metadata, err := s.metadata(ctx, settings)
	if err != nil {
		return nil, err
	}
	settings.TokenEndpoint = metadata.TokenEndpointFor(s.transport.presentsCertificate())
	return metadata, nil
}

// metadata returns the issuer's metadata, of a server that supports what the config
// asks of it.
func (s *Source) metadata(ctx context.Context, settings *config.Settings) (*authserver.Metadata, error) {
	metadata, err := s.server.discover(ctx, s.client.RequestTimeout(), func(ctx context.Context) (*authserver.Metadata, error) {
		return authserver.MetadataRequest{
			Issuer:    settings.Issuer,
			UserAgent: userAgent,
			AllowHTTP: s.client.AllowHTTP,
			Timeout:   s.client.RequestTimeout(),
		}.Do(ctx, s.transport)
	})
	if err != nil {
		return nil, err
	}
	if err := s.checkSupport(metadata, settings); err != nil {
		s.server.renewSoon(metadata)
		return nil, err
	}
	return metadata, nil
}

// checkSupport rejects a server that does not support what the config asks of it.
func (s *Source) checkSupport(metadata *authserver.Metadata, settings *config.Settings) error {
	method := s.client.AuthMethod()
	switch {
	case s.client.ClientID == "":
		method = "" // the assertion of the grant says who we are
	case method == "none" && s.transport.presentsCertificate():
		method = "tls_client_auth" // with the transport's own certificate
	}
	if err := metadata.Check(method, settings.Form.Get("grant_type")); err != nil || s.proofKey == nil {
		return err
	}
	return metadata.CheckProof(s.proofKey.Algorithm())
}

// checkAssertion rejects a server that does not take the algorithm by which auth
// signs.
func (s *Source) checkAssertion(metadata *authserver.Metadata, auth authserver.ClientAuth) error {
	if metadata == nil {
		return nil
	}
	err := metadata.CheckAssertion(auth)
	if err != nil {
		s.server.renewSoon(metadata)
	}
	return err
}

// CheckType rejects a token that the client would not know how to send. Whoever
// shares a token that another client got asks this too.
func (s *Source) CheckType(token *authserver.Token) error {
	bound := s.client.DPoP != nil
	switch {
	case s.anyType:
		return nil
	case bound && token.Scheme != "DPoP":
		return fmt.Errorf("the authorization server issued a token that is not bound to our key (token_type %.40q): it may not support DPoP, remove 'dpop'", token.Type)
	case !bound && token.Scheme == "DPoP":
		return errors.New("the authorization server issued a token that wants DPoP proofs: write 'dpop' and 'upstream_base'")
	case token.Scheme == "":
		return fmt.Errorf("the token_type %.40q is not understood: write 'inject header Authorization <scheme>' to use the token whatever its type (RFC 6749 section 7.1)", token.Type)
	}
	return nil
}
