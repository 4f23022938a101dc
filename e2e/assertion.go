package e2e

import (
	"crypto/rand"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// audience is who assertions for the server must be for.
func (s *authServer) audience() string {
	if s.kind.forTokenEndpoint {
		return s.metadata.TokenEndpoint
	}
	return s.config.Issuer
}

// newAssertion makes an assertion of a client about itself (RFC 7523 section 3), as somebody else than the
// plugin does. Each of change changes its claims.
func (s *authServer) newAssertion(c client, key jose.JSONWebKey, change ...func(*jwt.Claims)) string {
	s.t.Helper()
	claims := jwt.Claims{
		Issuer: c.ID, Subject: c.ID, Audience: jwt.Audience{s.audience()}, ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(time.Now()), Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour)),
	}
	for _, c := range change {
		c(&claims)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	assertion, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		s.t.Fatal(err)
	}
	return assertion
}

// expired is a change that makes an assertion too old.
func expired(claims *jwt.Claims) { claims.Expiry = jwt.NewNumericDate(time.Now().Add(-time.Minute)) }
