package authserver

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// jwtBearerAssertion is the client_assertion_type of RFC 7523 section 2.2.
const jwtBearerAssertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// clientAuthenticationType is the typ of a JWT that authenticates a client
// (RFC 10070 section 4). With it, no other JWT signed with the same key can be
// taken for one.
const clientAuthenticationType = "client-authentication+jwt"

const (
	defaultAssertionLifetime = time.Minute

	// clockSkew is how far the server's clock may be behind ours.
	clockSkew = 10 * time.Second
)

// AssertionClaims are the claims of an assertion (RFC 7523 section 3).
type AssertionClaims struct {
	// Issuer is iss, and Audience the sole aud; both are needed. Subject is
	// sub; it may be empty, as some servers want it for the jwt-bearer grant.
	Issuer, Subject, Audience string

	// Lifetime is the span from iat to exp, which is what servers limit; a
	// minute if it is 0. As iat lies a little in the past, an assertion expires
	// that much before now + Lifetime.
	Lifetime time.Duration

	// More are further claims. Those that are set here already (iss, sub, aud,
	// jti, iat, nbf, exp) are not taken from it.
	More map[string]any

	// Type is the typ of the header; "JWT" if empty.
	Type string
}

// SignAssertion returns a new assertion, with a jti of its own: the one to be
// exchanged for a token (RFC 7523 section 2.1), or to authenticate a client.
func SignAssertion(key *SigningKey, a AssertionClaims) (Secret, error) {
	claims, err := a.claims(time.Now())
	if err != nil {
		return Secret{}, err
	}
	return key.Sign(a.typ(), claims)
}

// typ returns the typ of the header.
func (a AssertionClaims) typ() string {
	if a.Type == "" {
		return "JWT"
	}
	return a.Type
}

// claims returns the claims of an assertion that is made now.
func (a AssertionClaims) claims(now time.Time) (map[string]any, error) {
	if a.Issuer == "" || a.Audience == "" {
		return nil, errors.New("an assertion needs an issuer and an audience (RFC 7523 section 3)")
	}
	lifetime := a.Lifetime
	if lifetime <= 0 {
		lifetime = defaultAssertionLifetime
	}
	// A short-lived assertion keeps most of its life.
	issued := now.Add(-min(clockSkew, lifetime/4))

	claims := make(map[string]any, len(a.More)+7)
	maps.Copy(claims, a.More)
	claims["iss"] = a.Issuer
	claims["sub"] = a.Subject
	claims["aud"] = a.Audience
	claims["jti"] = rand.Text()
	claims["iat"] = issued.Unix()
	claims["nbf"] = issued.Unix()
	claims["exp"] = issued.Add(lifetime).Unix()
	if a.Subject == "" {
		delete(claims, "sub")
	}
	return claims, nil
}

// GrantAssertion is what the assertion of the jwt-bearer grant is made of
// (RFC 7523 section 2.1).
type GrantAssertion struct {
	Key    *SigningKey
	Claims AssertionClaims
}

// advice tells the operator what to check when the server answers invalid_grant.
func (a *GrantAssertion) advice() string {
	return fmt.Sprintf("the assertion of %s was signed with %s, for the audience %s: check that the server trusts this issuer and key, takes the subject, and wants this 'audience'",
		quoted(a.Claims.Issuer), a.Key, quoted(withoutQuery(a.Claims.Audience)))
}

// PrivateKeyJWT authenticates the client by a JWT signed with its private key
// (private_key_jwt; RFC 7523 section 2.2, OpenID Connect Core section 9).
type PrivateKeyJWT struct {
	ID  string
	Key *SigningKey

	// Audience is the aud: the issuer (RFC 10070 section 4), or what the server
	// wants in its place, such as the token endpoint.
	Audience string

	// Lifetime is as in AssertionClaims.
	Lifetime time.Duration

	// Type is the typ of the header; "client-authentication+jwt" if empty.
	// Some older servers want "JWT".
	Type string

	// More are further claims, as in AssertionClaims.
	More map[string]any
}

// Authenticate implements ClientAuth.
func (a PrivateKeyJWT) Authenticate(form url.Values, _ http.Header) error {
	assertion, err := SignAssertion(a.Key, clientClaims(a.ID, a.Audience, a.Lifetime, a.Type, a.More))
	if err != nil {
		return err
	}
	setClientAssertion(form, a.ID, assertion)
	return nil
}

// Advice implements ClientAuth.
func (a PrivateKeyJWT) Advice() string {
	return fmt.Sprintf("the assertion was signed with %s, for the audience %s: check that the server knows this key for this 'client_id', and which 'audience' it wants",
		a.Key, quoted(withoutQuery(a.Audience)))
}

// Secrets implements ClientAuth. The key does not leave the process, and an assertion
// is made anew for each request.
func (PrivateKeyJWT) Secrets() []Secret { return nil }

// For implements Addressed.
func (a PrivateKeyJWT) For(audience, typ string) ClientAuth {
	a.Audience, a.Type = audience, typ
	return a
}

// Addressed is a way for a client to prove itself by an assertion that is signed
// here, whom it is for.
type Addressed interface {
	ClientAuth

	// For returns the same with that audience and that typ, "" for the default one.
	For(audience, typ string) ClientAuth
}

// ClientSecretJWT authenticates the client by a JWT whose MAC is keyed with
// the client secret (client_secret_jwt; OpenID Connect Core section 9).
type ClientSecretJWT struct {
	ID     string
	Secret Secret

	// Algorithm is HS256, HS384 or HS512; HS256 if empty.
	Algorithm string

	// Audience, Lifetime, Type and More are as in PrivateKeyJWT.
	Audience string
	Lifetime time.Duration
	Type     string
	More     map[string]any
}

// Authenticate implements ClientAuth.
func (a ClientSecretJWT) Authenticate(form url.Values, _ http.Header) error {
	key, err := a.key()
	if err != nil {
		return err
	}
	wanted := clientClaims(a.ID, a.Audience, a.Lifetime, a.Type, a.More)
	claims, err := wanted.claims(time.Now())
	if err != nil {
		return err
	}
	assertion, err := signJWT(key, new(jose.SignerOptions).WithType(jose.ContentType(wanted.typ())), claims)
	if err != nil {
		return err
	}
	setClientAssertion(form, a.ID, assertion)
	return nil
}

// Advice implements ClientAuth.
func (a ClientSecretJWT) Advice() string {
	return fmt.Sprintf("the assertion was signed with 'client_secret' and %s, for the audience %s: check the secret, and which 'algorithm' and 'audience' the server wants",
		a.algorithm(), quoted(withoutQuery(a.Audience)))
}

// Secrets implements ClientAuth. The secret is not sent, but the server has it, too.
func (a ClientSecretJWT) Secrets() []Secret { return []Secret{a.Secret} }

// For implements Addressed.
func (a ClientSecretJWT) For(audience, typ string) ClientAuth {
	a.Audience, a.Type = audience, typ
	return a
}

// withoutQuery returns an audience that may be a token endpoint, whose query may
// hold a key.
func withoutQuery(audience string) string {
	before, _, _ := strings.Cut(audience, "?")
	return before
}

func (a ClientSecretJWT) algorithm() string { return cmp.Or(a.Algorithm, "HS256") }

// hashBytes are the algorithms and the length of their hash, which a key must
// have at least.
var hashBytes = map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}

// key returns the client secret's octets as key (OpenID Connect Core
// section 10.1).
func (a ClientSecretJWT) key() (jose.SigningKey, error) {
	algorithm := a.algorithm()
	least, ok := hashBytes[algorithm]
	if !ok {
		return jose.SigningKey{}, fmt.Errorf("the algorithm %q is none for a client secret: write 'algorithm' as HS256, HS384 or HS512", redact(algorithm, nil))
	}
	secret := []byte(a.Secret.Reveal())
	if len(secret) < least {
		return jose.SigningKey{}, fmt.Errorf("'client_secret' is too short for %s, which needs at least %d bytes (RFC 7518 section 3.2): have the server issue a longer one, or use another 'client_auth'", algorithm, least)
	}
	return jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: secret}, nil
}

// ClientAssertion authenticates the client by an assertion that someone else
// made: a platform's workload identity, such as a Kubernetes service account
// token or a SPIFFE JWT-SVID (RFC 7521 section 4.2).
type ClientAssertion struct {
	// ID is sent as client_id unless it is empty; the assertion's subject then
	// tells who the client is.
	ID        string
	Assertion Secret
}

// Authenticate implements ClientAuth.
func (a ClientAssertion) Authenticate(form url.Values, _ http.Header) error {
	// Files end with a line break.
	assertion := strings.TrimSpace(a.Assertion.Reveal())
	switch {
	case assertion == "":
		return errors.New("the client assertion is empty: check what 'client_auth assertion_file' names")
	case strings.Count(assertion, ".") != 2 || !visible(assertion):
		return errors.New("the client assertion is not a signed JWT: check what 'client_auth assertion_file' names")
	}
	setClientAssertion(form, a.ID, NewSecret(assertion))
	return nil
}

// Advice implements ClientAuth.
func (a ClientAssertion) Advice() string {
	const check = "check that the server trusts it for this client, and that it is renewed in time"
	claims, ok := a.claims()
	if !ok {
		return "the assertion in the file is of no form that can be read here: " + check
	}
	return fmt.Sprintf("the assertion in the file is of %s, for the audience %s, and %s: %s",
		quoted(claims.Issuer), quoted(strings.Join(claims.Audience, " ")), expiry(claims.Expiry.Time()), check)
}

// Secrets implements ClientAuth.
func (a ClientAssertion) Secrets() []Secret { return []Secret{a.Assertion} }

// claims reads what the assertion says. Nothing relies on that but advice, so the
// signature is not checked: it is for the server.
func (a ClientAssertion) claims() (claims jwt.Claims, ok bool) {
	payload := unverifiedPayload(a.Assertion)
	return claims, json.Unmarshal(payload, &claims) == nil && claims.Expiry != nil
}

// clientClaims are the claims by which a client proves itself: it is issuer
// and subject (RFC 7523 section 3).
func clientClaims(id, audience string, lifetime time.Duration, typ string, more map[string]any) AssertionClaims {
	return AssertionClaims{
		Issuer: id, Subject: id, Audience: audience, Lifetime: lifetime,
		Type: cmp.Or(typ, clientAuthenticationType), More: more,
	}
}

func setClientAssertion(form url.Values, id string, assertion Secret) {
	setClientID(form, id)
	form.Set("client_assertion_type", jwtBearerAssertion)
	form.Set("client_assertion", assertion.Reveal())
}

// Interface guards
var (
	_ Addressed  = PrivateKeyJWT{}
	_ Addressed  = ClientSecretJWT{}
	_ ClientAuth = ClientAssertion{}
)
