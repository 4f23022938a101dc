package authserver

import (
	"strings"
	"time"
)

// Token is what a token endpoint issued: the members of RFC 6749 section 5.1
// that this project uses, read and checked. NewToken makes one.
type Token struct {
	// AccessToken is never empty and holds visible ASCII characters only
	// (%x21-7E), so that it fits a header field as it is.
	AccessToken Secret

	// Type is the token_type as the server spelled it, without white space around
	// it; empty if it named none. It may have several words.
	Type string

	// Scheme is the authentication scheme that goes with the type: Bearer, DPoP,
	// or "" if the type is not understood.
	Scheme string

	// Lifetime is expires_in, or what is left until expires_on or expires_at. Zero
	// if the server stated none, or none that makes sense.
	Lifetime time.Duration

	// RenewIn is refresh_in, after which the server wants the token renewed; zero if
	// it does not say, or if the token would have expired by then. It counts from
	// RequestedAt.
	RenewIn time.Duration

	// RefreshToken is empty if the server sent none, an empty one or null: the
	// one that was used stays valid (RFC 6749 section 6).
	RefreshToken Secret

	// Scope is what was granted, as the server writes it; empty if it says nothing,
	// which means all that was asked for (RFC 6749 section 5.1).
	Scope string

	// Members are the answer's other members, such as Salesforce's instance_url;
	// see Member.
	Members map[string]Secret

	// Kept is what whoever got the token keeps beside it, to get the next one; nil if
	// there is nothing.
	Kept any

	// Provisional says that what came with the token is not safe yet: the one before
	// is to be used as long as it is good.
	Provisional bool

	// RequestedAt is when the token request went out. The lifetime counts from
	// here, as the server may have issued the token at any time since.
	RequestedAt time.Time

	field Secret // Scheme and access token, which is the end of this very string
}

// NewToken returns an access token of that token_type.
func NewToken(accessToken, tokenType string) *Token {
	scheme := schemeOf(tokenType)
	field := scheme + " " + accessToken
	return &Token{
		AccessToken: NewSecret(field[len(scheme)+1:]),
		Type:        tokenType,
		Scheme:      scheme,
		field:       NewSecret(field),
	}
}

// schemeOf returns the authentication scheme for a token_type; "" if it is not
// understood. Types compare without case (RFC 6749 section 5.1), an absent one
// means Bearer, and Apigee says BearerToken.
func schemeOf(tokenType string) string {
	switch strings.ToLower(tokenType) {
	case "", "bearer", "bearertoken":
		return "Bearer"
	case "dpop":
		return "DPoP"
	}
	return ""
}

// Field returns the access token as it stands in an Authorization field (RFC 9110
// section 11.6.2). With the token's own scheme, it has been put together before.
func (t *Token) Field(scheme string) string {
	if scheme == t.Scheme && !t.field.IsZero() {
		return t.field.Reveal()
	}
	return scheme + " " + t.AccessToken.Reveal()
}
