package vault

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// Record is one generation of a grant. The vault reads no more of it than the
// generation, the digest of the refresh token and, for shared access tokens, when it
// expires. The zero generation is a refresh token that was given and not spent yet.
//
// Printed or marshaled, a record tells nothing that is secret.
type Record struct {
	// Generation is set by the vault, one higher each time.
	Generation uint64 `json:"generation"`

	// RefreshToken is spent to get the next generation. A next one without it
	// keeps that of the one before.
	RefreshToken authserver.Secret `json:"-"`

	// AccessToken is what all this is for; empty if none came that can be used.
	AccessToken authserver.Secret `json:"-"`

	// TokenType is the access token's, as the server spelled it.
	TokenType string `json:"token_type,omitempty"`

	// Scope is what was granted.
	Scope string `json:"scope,omitempty"`

	// ExpiresAt is when the access token expires.
	ExpiresAt time.Time `json:"expires_at,omitzero"`

	// ObtainedAt is when the token request of this generation went out.
	ObtainedAt time.Time `json:"obtained_at,omitzero"`

	// SignedInAt is when the grant was given; it passes from one generation to
	// the next.
	SignedInAt time.Time `json:"signed_in_at,omitzero"`

	// Issuer, ClientID and Account say whose grant it is.
	Issuer   string `json:"issuer,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	Account  string `json:"account,omitempty"`

	// Configured is the digest of the refresh token in the config which the grant
	// began with. Process and Attempt say who stored this generation, and Previous
	// is the digest of the refresh token it was had for. The vault sets them.
	Configured string `json:"configured,omitempty"`
	Process    string `json:"process,omitempty"`
	Attempt    string `json:"attempt,omitempty"`
	Previous   string `json:"previous,omitempty"`

	// AskedFor is the digest of what the access token was asked for with: it is no
	// answer to another question. The vault sets it.
	AskedFor string `json:"asked_for,omitempty"`

	// Answer holds members of the server's answer that are kept for other
	// handlers.
	Answer map[string]string `json:"-"`
}

// openRecord is a record on its way into a seal or out of it, the one place where
// its secrets are text.
type openRecord struct {
	Record
	RefreshToken string            `json:"refresh_token,omitempty"`
	AccessToken  string            `json:"access_token,omitempty"`
	Answer       map[string]string `json:"answer,omitempty"`
}

func (r Record) unsealed() openRecord {
	return openRecord{r, r.RefreshToken.Reveal(), r.AccessToken.Reveal(), r.Answer}
}

func (o openRecord) record() Record {
	r := o.Record
	r.RefreshToken = authserver.NewSecret(o.RefreshToken)
	r.AccessToken = authserver.NewSecret(o.AccessToken)
	r.Answer = o.Answer
	return r
}

// Format writes the generation and the short digest for every verb and flag.
func (r Record) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "generation %d (%s)", r.Generation, short(r.digest()))
}

// Expired reports whether the access token is not to be used any more. Its last second
// does not count, or half of a shorter life: servers round the expiry down to a second.
func (r Record) Expired() bool {
	rest := min(time.Second, r.ExpiresAt.Sub(r.ObtainedAt)/2)
	return !time.Now().Before(r.ExpiresAt.Add(-rest))
}

// digest identifies the refresh token.
func (r Record) digest() string { return Digest(r.RefreshToken) }

// Digest returns what identifies a token without telling it.
func Digest(token authserver.Secret) string {
	sum := sha256.Sum256([]byte(token.Reveal()))
	return hex.EncodeToString(sum[:])
}

// short is as much of a digest as a log needs to tell generations apart.
func short(digest string) string { return digest[:8] }

// follows reports whether r is what a process that knows the other one should go on
// with: a later generation, or what another process came by in its place.
func (r Record) follows(known Record) bool {
	return r.Generation > known.Generation ||
		r.Generation == known.Generation && r.Generation > 0 && r.Attempt != known.Attempt
}

// Label is what a grant is called by people.
type Label struct {
	Client  string `json:"client,omitempty"`
	Account string `json:"account,omitempty"`
}
