package tokensource

import (
	"errors"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// exchanged are the form fields whose JWT a token is exchanged for.
var exchanged = []string{"subject_token", "actor_token", "assertion"}

// errExpired is for a JWT that no server could accept any more.
var errExpired = errors.New("has expired: supply one that has not")

// endOfExchanged returns when the first of the JWTs expires that a token is
// exchanged for, zero if none says so. A token that came of one does not outlive it;
// one that has expired is not worth a request.
func (s *Source) endOfExchanged(settings *config.Settings, now time.Time) (end time.Time, _ error) {
	for _, option := range exchanged {
		expires, ok := authserver.ExpiryOf(authserver.NewSecret(settings.Form.Get(option)))
		switch {
		case !ok:
			continue
		case !now.Before(expires):
			return end, s.expired(option)
		case end.IsZero() || expires.Before(end):
			end = expires
		}
	}
	return end, nil
}

// expired is the caller's mistake if the JWT is the caller's, else the operator's.
func (s *Source) expired(option string) error {
	for _, in := range s.inputs {
		if in.Option == option {
			return &config.CallerError{Input: in, Flaw: "has expired"}
		}
	}
	return &config.OptionError{Option: option, Err: errExpired}
}

// limitLife ends a token's life with what it was exchanged for.
func (s *Source) limitLife(token *authserver.Token, end time.Time) {
	if end.IsZero() {
		return
	}
	if token.Lifetime == 0 {
		life, _ := s.client.Life() // checked before
		token.Lifetime = life.Default
	}
	// It counts from the request, and 0 would stand for a life that is not known.
	token.Lifetime = max(min(token.Lifetime, end.Sub(token.RequestedAt)), 1)
}
