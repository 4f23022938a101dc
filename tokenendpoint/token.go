package tokenendpoint

import "time"

// Token is what a token endpoint issued: the members of RFC 6749 section 5.1
// that this project uses, read and checked.
type Token struct {
	// AccessToken is never empty and holds visible ASCII characters only
	// (%x21-7E), so that it fits a header field as it is.
	AccessToken Secret

	// Type is the token_type as the server spelled it; empty if it named none.
	Type string

	// Lifetime is expires_in. Zero if the server stated none, or none that
	// makes sense.
	Lifetime time.Duration

	// RefreshToken is empty if the server sent none, an empty one or null: the
	// one that was used stays valid (RFC 6749 section 6).
	RefreshToken Secret

	// RequestedAt is when the token request went out. The lifetime counts from
	// here, as the server may have issued the token at any time since.
	RequestedAt time.Time
}
