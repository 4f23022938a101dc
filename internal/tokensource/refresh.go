package tokensource

import (
	"cmp"
	"context"
	"crypto/sha256"
	"sync"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// families hold the newest refresh token of each grant, by what the grant is: its
// server, client and first refresh token. They last as long as the process: a
// server that rotates refresh tokens answers the use of an old one by revoking the
// grant, so no reload, whatever it changes for a while, may bring one back.
var families = struct {
	sync.Mutex
	by map[[sha256.Size]byte]*tokenFamily
}{by: make(map[[sha256.Size]byte]*tokenFamily)}

// tokenFamily is a refresh token and those that followed it. One token request
// uses it at a time, whichever config or client makes it.
type tokenFamily struct {
	turn   chan struct{} // holds one value while the family is free
	newest authserver.Secret
}

// familyOf returns the family that begins with the configured refresh token. The
// server goes by its issuer, if that is known: the endpoint may come from metadata
// and change.
func familyOf(s *config.Settings) *tokenFamily {
	server := cmp.Or(s.Issuer, s.TokenEndpoint)
	key := sha256.Sum256([]byte(server + "\x00" + s.ClientID + "\x00" + s.FirstRefreshToken.Reveal()))
	families.Lock()
	defer families.Unlock()
	family := families.by[key]
	if family == nil {
		family = &tokenFamily{turn: make(chan struct{}, 1), newest: s.FirstRefreshToken}
		family.turn <- struct{}{}
		families.by[key] = family
	}
	return family
}

// acquire waits for the family's turn and returns the newest refresh token. The
// caller releases it.
func (f *tokenFamily) acquire(ctx context.Context) (authserver.Secret, error) {
	select {
	case <-f.turn:
		return f.newest, nil
	case <-ctx.Done():
		return authserver.Secret{}, ctx.Err()
	}
}

// release ends the family's turn. An answer without a new refresh token leaves the
// old one in use (RFC 6749 section 6), and so does no answer.
func (f *tokenFamily) release(next authserver.Secret) {
	if !next.IsZero() {
		f.newest = next
	}
	f.turn <- struct{}{}
}
