package tokensource

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/vault"
)

// Grants are where a client's grants are kept.
type Grants struct {
	// Vault keeps what a client of the authorization_code or refresh_token grant, or
	// with share, lives on. Nil for any other client.
	Vault *vault.Vault

	// Other is where the grant may be if the config had a key before, or had none: the
	// vault in the storage for a client without a key, and that in memory for one with
	// a key.
	Other *vault.Vault
}

// GrantError is a grant that is not there, or dead: somebody has to sign in, or to
// configure another refresh token.
type GrantError struct {
	Err error
}

func (e *GrantError) Error() string { return e.Err.Error() }

// Unwrap returns why.
func (e *GrantError) Unwrap() error { return e.Err }

// RetryDelay has somebody look again soon: who signs in waits for it, and looking
// costs the authorization server nothing.
func (e *GrantError) RetryDelay() time.Duration { return 5 * time.Second }

// keptError is a storage or a key that keeps us from what is kept, before the
// authorization server was asked for anything.
type keptError struct{ error }

// Unwrap returns what it is.
func (e keptError) Unwrap() error { return e.error }

// RetryDelay is that of a GrantError, for the same reasons.
func (keptError) RetryDelay() time.Duration { return (*GrantError)(nil).RetryDelay() }

// Grant says which grant requests with these values of the client's Inputs live on.
func (s *Source) Grant(settings *config.Settings, values []string) vault.Grant {
	g := vault.Grant{
		Label:   vault.Label{Client: s.name},
		Timeout: s.client.RequestTimeout(),
	}
	parts := []string{s.client.GrantType(), cmp.Or(settings.Issuer, settings.TokenEndpoint), settings.ClientID}
	if s.client.NeedsSignIn() {
		if len(values) > 0 { // of account, the only one there is
			g.Label.Account = values[0]
		}
		asked, _ := json.Marshal([]any{settings.Form["scope"], settings.Form["resource"], settings.Form["audience"]})
		parts = append(parts, g.Label.Account, string(asked))
	} else {
		g.Configured = vault.Digest(settings.FirstRefreshToken)
		parts = append(parts, g.Configured)
	}
	g.Name = vault.NewName(parts...)
	return g
}

// askedFor identifies what an access token is asked for with, as one answers no other
// question: the config may come to ask for another scope of the same grant, or to
// expose more of the answer.
func (s *Source) askedFor(request authserver.Request) string {
	binding := ""
	if s.proofKey != nil {
		binding = s.proofKey.Thumbprint()
	}
	asked, _ := json.Marshal([]any{request.Form, request.Header, s.client.Expose, binding})
	return vault.Digest(authserver.NewSecret(string(asked)))
}

// fetchKept gets a token by the refresh token that is kept.
func (s *Source) fetchKept(ctx context.Context, request authserver.Request, settings *config.Settings, values []string, held *authserver.Token) (*authserver.Token, error) {
	grant := s.Grant(settings, values)
	grant.AskedFor = s.askedFor(request)
	known := knownOf(held, grant.Name)
	var kept vault.Held
	if known.Generation == 0 {
		var err error
		if kept, err = s.firstOf(ctx, grant, settings); err != nil {
			return nil, err
		}
		if !kept.Doubtful && serves(kept.Record, grant) {
			return tokenOf(kept, grant.Name), nil
		}
		known = kept.Record
	}
	next, err := s.grants.Vault.Update(ctx, grant, known, func(ctx context.Context, held vault.Record) (vault.Record, error) {
		return s.spend(ctx, request, held)
	})
	if err == nil && next.Expired() { // another process has got it long ago
		next, err = s.grants.Vault.Update(ctx, grant, next.Record, func(ctx context.Context, held vault.Record) (vault.Record, error) {
			return s.spend(ctx, request, held)
		})
	}
	switch {
	case err == nil:
		return tokenOf(next, grant.Name), nil
	case serves(kept.Record, grant): // as it did before this process began
		return tokenOf(kept, grant.Name), nil
	}
	return nil, grantError(err)
}

// firstOf returns what a client goes on with that has no token in hand: what is kept,
// or the refresh token of the config.
func (s *Source) firstOf(ctx context.Context, grant vault.Grant, settings *config.Settings) (vault.Held, error) {
	kept, err := load(ctx, s.grants.Vault, grant)
	switch {
	case errors.Is(err, vault.ErrAbsent) && settings.FirstRefreshToken.IsZero():
		return kept, &GrantError{fmt.Errorf("%w: sign in with 'caddy upstream-oauth2 login %s'", err, s.name)}
	case errors.Is(err, vault.ErrAbsent):
		return s.elsewhere(ctx, grant, settings)
	case err != nil:
		return kept, keptError{err}
	case kept.SignIn != nil && kept.SignIn.Disconnected:
		return kept, &GrantError{kept.SignIn}
	}
	return kept, nil
}

// elsewhere returns what begins a grant that is not kept yet. If the config has had no
// key until now, it is the newest refresh token in memory; and if it has none any more,
// the storage may hold the grant, and then the token of the config must not be spent.
func (s *Source) elsewhere(ctx context.Context, grant vault.Grant, settings *config.Settings) (vault.Held, error) {
	first := vault.Held{Record: vault.Record{RefreshToken: settings.FirstRefreshToken}}
	if s.grants.Other == nil {
		return first, nil
	}
	other, err := load(ctx, s.grants.Other, grant)
	switch {
	case errors.Is(err, vault.ErrAbsent):
		return first, nil
	case err != nil:
		return first, keptError{err}
	case other.SignIn != nil:
		return first, &GrantError{other.SignIn}
	}
	first.RefreshToken = other.RefreshToken
	return first, nil
}

// load loads a grant, and does not wait for a storage that hangs.
func load(ctx context.Context, v *vault.Vault, grant vault.Grant) (vault.Held, error) {
	ctx, cancel := context.WithTimeout(ctx, grant.Timeout)
	defer cancel()
	return v.Load(ctx, grant.Name)
}

// serves reports whether a record's access token is the one that is asked for.
func serves(r vault.Record, grant vault.Grant) bool {
	return !r.AccessToken.IsZero() && r.AskedFor == grant.AskedFor && !r.Expired()
}

// spend gets the next generation of a grant for its refresh token.
func (s *Source) spend(ctx context.Context, request authserver.Request, held vault.Record) (vault.Record, error) {
	if held.RefreshToken.IsZero() {
		return held, &vault.SpendError{Verdict: vault.Rejected, Err: errNoRefreshToken}
	}
	request.Form = maps.Clone(request.Form)
	request.Form["refresh_token"] = []string{held.RefreshToken.Reveal()}
	request.Held = append(request.Held, held.RefreshToken, held.AccessToken)
	token, err := s.send(ctx, request)
	if err != nil {
		next := held
		next.AccessToken, next.RefreshToken = authserver.Secret{}, authserver.Secret{}
		failed, ok := errors.AsType[*authserver.Error](err)
		if ok {
			next.RefreshToken = failed.RefreshToken // beside an access token of no use
		}
		return next, &vault.SpendError{Verdict: verdictOf(failed), Err: err}
	}
	next := s.Record(token, held)
	if err := s.CheckType(token); err != nil {
		next.AccessToken = authserver.Secret{}
		return next, err
	}
	return next, nil
}

// errNoRefreshToken is for a grant whose server gave an access token alone.
var errNoRefreshToken = errors.New("the server gave no refresh token when somebody signed in, and the access token has expired")

// verdictOf says what a failed request tells about the refresh token in it.
func verdictOf(failed *authserver.Error) vault.Verdict {
	switch {
	case failed == nil:
		return vault.Failed
	case failed.Kind == authserver.Unprepared, failed.Unsent:
		return vault.NotSent
	case failed.Code == "invalid_grant":
		return vault.Rejected
	case failed.Kind == authserver.Unavailable && failed.Status == 0:
		return vault.Unanswered
	}
	return vault.Failed
}

// Record is what is kept of a token, for the generation after held.
func (s *Source) Record(token *authserver.Token, held vault.Record) vault.Record {
	life := token.Lifetime
	if life == 0 {
		l, _ := s.client.Life() // checked before
		life = l.Default
	}
	next := held
	next.Answer = maps.Clone(held.Answer)
	next.AccessToken, next.TokenType = token.AccessToken, token.Type
	next.RefreshToken = token.RefreshToken
	next.ObtainedAt, next.ExpiresAt = token.RequestedAt, token.RequestedAt.Add(life)
	if token.Scope != "" {
		next.Scope = token.Scope
	}
	next.Answer = textOf(s.exposed(token.Members, held.Answer))
	return next
}

// beside is what is kept beside a token.
type beside struct {
	name   vault.Name
	record vault.Record
}

// knownOf returns the record of that name which a token was made of; the zero record
// if it was not.
func knownOf(held *authserver.Token, name vault.Name) vault.Record {
	if held == nil {
		return vault.Record{}
	}
	if kept, ok := held.Kept.(beside); ok && kept.name == name {
		return kept.record
	}
	return vault.Record{}
}

// tokenOf makes a token of what is kept.
func tokenOf(kept vault.Held, name vault.Name) *authserver.Token {
	token := authserver.NewToken(kept.AccessToken.Reveal(), kept.TokenType)
	token.RefreshToken, token.Scope = kept.RefreshToken, kept.Scope
	token.RequestedAt, token.Lifetime = kept.ObtainedAt, kept.ExpiresAt.Sub(kept.ObtainedAt)
	token.Kept, token.Provisional = beside{name, kept.Record}, kept.Unstored
	for name, value := range kept.Answer {
		if token.Members == nil {
			token.Members = make(map[string]authserver.Secret)
		}
		token.Members[name] = authserver.NewSecret(value)
	}
	return token
}

// grantError marks the errors that mean that the grant is dead, or out of reach.
func grantError(err error) error {
	if dead, ok := errors.AsType[*vault.SignInError](err); ok {
		return &GrantError{dead}
	}
	_, storage := errors.AsType[*vault.StorageError](err)
	_, key := errors.AsType[*vault.KeyError](err)
	_, version := errors.AsType[*vault.VersionError](err)
	if storage || key || version {
		return keptError{err}
	}
	return err
}

// fetchShared gets a token that all processes use.
func (s *Source) fetchShared(ctx context.Context, request authserver.Request, settings *config.Settings, values []string, held *authserver.Token) (*authserver.Token, error) {
	grant := vault.Grant{
		Name:     s.sharedName(settings, values),
		Label:    vault.Label{Client: s.name},
		Timeout:  s.client.RequestTimeout(),
		AskedFor: s.askedFor(request),
	}
	shared, err := s.grants.Vault.Share(ctx, grant, knownOf(held, grant.Name), func(ctx context.Context) (vault.Record, error) {
		token, err := s.sendAddressed(ctx, request, settings)
		if err == nil {
			err = s.CheckType(token)
		}
		if err != nil {
			return vault.Record{}, err
		}
		token.RefreshToken = authserver.Secret{} // of no use but to the refresh_token grant
		return s.Record(token, vault.Record{}), nil
	})
	if err != nil {
		return nil, grantError(err)
	}
	shared.Unstored = false // nothing was spent
	return tokenOf(shared, grant.Name), nil
}

// sharedName identifies a token request by what does not differ between processes,
// and not by the secret, which changes.
func (s *Source) sharedName(settings *config.Settings, values []string) vault.Name {
	written := s.client
	written.TransportRaw, written.Inject, written.Replay = nil, nil, nil
	text, _ := json.Marshal(written)
	form := url.Values{"scope": settings.Form["scope"], "audience": settings.Form["audience"], "resource": settings.Form["resource"]}
	parts := []string{"share", settings.Issuer, settings.TokenEndpoint, settings.ClientID, form.Encode(), string(text)}
	return vault.NewName(append(parts, values...)...)
}
