package e2e

import (
	"crypto/rand"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// signAssertion signs what someone says about themselves (RFC 7523 section 3).
func signAssertion(key jose.JSONWebKey, issuer, audience string, expires time.Time) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, nil)
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(jwt.Claims{
		Issuer:   issuer,
		Subject:  issuer,
		Audience: jwt.Audience{audience},
		Expiry:   jwt.NewNumericDate(expires),
		IssuedAt: jwt.NewNumericDate(time.Now()),
		ID:       rand.Text(),
	}).Serialize()
}

// audience is who assertions must be for.
func (s *authServer) audience() string {
	if s.kind.forTokenEndpoint {
		return s.metadata.TokenEndpoint
	}
	return s.config.Issuer
}
