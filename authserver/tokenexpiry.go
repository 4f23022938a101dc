package authserver

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// maxJWT is how large a JWT may be to be read here; access tokens are no larger.
const maxJWT = maxAccessToken

// ExpiryOf returns the exp of a token that has the shape of a JWT (RFC 7519
// section 4.1.4); ok is false if it is of another shape or says nothing that makes
// sense. The signature is not checked: what is exchanged for the token is worth no
// more than its exp says, and a forged one is for the server to refuse.
func ExpiryOf(token Secret) (exp time.Time, ok bool) {
	var claims members
	if json.Unmarshal(unverifiedPayload(token), &claims) != nil {
		return time.Time{}, false
	}
	const year9999 = 253402300799
	seconds, ok := numberOf(claims["exp"])
	if !ok || seconds > year9999 || seconds < -year9999 {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

// unverifiedPayload returns the payload of a signed JWT in the compact form
// (RFC 7515 section 3.1), nil if the token is none.
func unverifiedPayload(token Secret) []byte {
	text := strings.TrimSpace(token.Reveal())
	if len(text) > maxJWT || strings.Count(text, ".") != 2 {
		return nil
	}
	_, rest, _ := strings.Cut(text, ".")
	encoded, _, _ := strings.Cut(rest, ".")
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(encoded, "="))
	if err != nil {
		return nil
	}
	return payload
}
