package config

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// Settings are a client's settings for one token request: every placeholder is
// resolved and every file read.
type Settings struct {
	Issuer        string
	TokenEndpoint string // empty if metadata tells it
	ClientID      string
	ClientSecret  authserver.Secret

	// Further endpoints that are written in the config; empty if metadata tells them.
	AuthorizationEndpoint       string
	DeviceAuthorizationEndpoint string
	RevocationEndpoint          string

	// AuthorizationParams are further parameters of the authorization request.
	AuthorizationParams url.Values

	// Form has the grant_type and its parameters, but for those that are made or
	// kept elsewhere: an assertion that is signed anew, and the newest refresh
	// token.
	Form   url.Values
	Header http.Header

	ClientAuth  authserver.ClientAuth
	Audience    Audience         // whom its assertion is for, if it signs one
	Certificate *tls.Certificate // what tls_client_auth presents, else nil

	// Assertion is what the jwt_bearer grant signs; nil if it is ready-made.
	Assertion *authserver.GrantAssertion

	// FirstRefreshToken is the one in the config, for the refresh_token grant.
	FirstRefreshToken authserver.Secret
}

// Audience says where the audience of the client's assertion comes from.
type Audience int

const (
	// DefaultAudience is the issuer, or without one the token endpoint. A server that
	// refuses it may want the other.
	DefaultAudience Audience = iota

	// EndpointAudience is the URL that the token request goes to, which metadata may
	// tell.
	EndpointAudience

	// GivenAudience is written in the config.
	GivenAudience
)

// TryOut makes what proves the client and the grant, as a token request would, so
// that a mistake shows when the config is loaded.
func (s *Settings) TryOut() error {
	if err := s.ClientAuth.Authenticate(make(url.Values), make(http.Header)); err != nil {
		return &OptionError{Option: "client_auth", Err: err}
	}
	if s.Assertion == nil {
		return nil
	}
	if _, err := authserver.SignAssertion(s.Assertion.Key, s.Assertion.Claims); err != nil {
		return &OptionError{Option: "grant", Err: err}
	}
	return nil
}

// Resolver makes Settings of a client. It remembers what was read of each file,
// through reloads too, for the time while one cannot be used.
type Resolver struct {
	client Client
	inputs Inputs
	last   *lastGood
	files  *files
}

// NewResolver returns a resolver for a client that was checked. The caller closes
// it.
func NewResolver(client Client, logger *zap.Logger) *Resolver {
	return &Resolver{client: client, inputs: client.Inputs(), last: newLastGood(logger), files: newFiles()}
}

// Close lets go of what was read.
func (r *Resolver) Close() { r.last.leave() }

// Resolve returns the settings as they are now, for a request with these values of
// the client's Inputs. Without values, when the config is loaded, what comes from
// a request stays as it is written.
//
// What goes wrong is the operator's to mend: the error is an *OptionError. The
// settings have what could be resolved all the same.
//
// Files may take half of the time that ctx leaves: the other half is for what is done
// with what was read before, if one of them hangs.
func (r *Resolver) Resolve(ctx context.Context, values []string) (*Settings, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	l := &lookup{Resolver: r, ctx: ctx, values: make(map[Input]string, len(values))}
	for i, value := range values {
		l.values[r.inputs[i]] = value
	}
	s := new(Settings)
	l.endpoints(s)
	l.tokenRequest(s)
	audience := cmp.Or(s.Issuer, s.TokenEndpoint) // of assertions, by default
	l.clientAuth(s, audience)
	l.grant(s, audience)
	return s, l.err
}

// Upstream returns what a request to the API is bound to with dpop: the URL it is
// known by, and the configured key, nil if there is none. Both are read when the
// config is loaded.
func (r *Resolver) Upstream(ctx context.Context) (base string, key *authserver.ProofKey, err error) {
	l := &lookup{Resolver: r, ctx: ctx}
	if base = l.text("upstream_base", r.client.UpstreamBase); base != "" && l.err == nil {
		l.note("upstream_base", checkUpstreamBase(base))
	}
	if d := r.client.DPoP; d != nil && d.Key != "" {
		content, err := l.content(d.Key)
		if err == nil {
			key, err = authserver.ParseProofKey(content)
		}
		l.note("dpop", err)
	}
	return base, key, l.err
}

// lookup resolves a client's options once, and keeps the error to report.
type lookup struct {
	*Resolver
	ctx    context.Context
	values map[Input]string // of what a request contributes
	err    error
}

// note keeps the first error, but rather one that only a change of the config can
// mend.
func (l *lookup) note(option string, err error) {
	if err != nil && (l.err == nil || Temporary(l.err) && !Temporary(err)) {
		if _, ok := errors.AsType[*OptionError](err); !ok {
			err = &OptionError{Option: option, Err: err}
		}
		l.err = err
	}
}

// read resolves one value of an option.
func (l *lookup) read(option, text string) (string, error) {
	if value, ok := l.values[Input{option, text}]; ok {
		return value, nil
	}
	for _, in := range l.inputs {
		if in.Option == option && in.Text == text {
			return text, nil // no request is at hand
		}
	}
	if !filePlaceholder.MatchString(text) {
		return expand(l.ctx, l.files.read, text)
	}
	return orRemembered(l.last, place{option: option, source: text}, func() (string, error) { return expand(l.ctx, l.files.read, text) })
}

// text is read for options whose error is noted at once.
func (l *lookup) text(option, text string) string {
	value, err := l.read(option, text)
	l.note(option, err)
	return value
}

// texts resolves all values of an option.
func (l *lookup) texts(option string, texts []string) []string {
	values := make([]string, 0, len(texts))
	for _, text := range texts {
		values = append(values, l.text(option, text))
	}
	return values
}

// claims resolves the further claims of an assertion.
func (l *lookup) claims(option string, written map[string]string) map[string]any {
	claims := make(map[string]any, len(written))
	for name, value := range written {
		claims[name] = withTexts(claimOf(value), func(text string) string { return l.text(option, text) })
	}
	return claims
}

func (l *lookup) secret(option string, text Credential) authserver.Secret {
	return authserver.NewSecret(l.text(option, string(text)))
}

// content reads what names a file, or holds what would be in one. It remembers
// nothing: of two files that belong together, both count or none.
func (l *lookup) content(text Credential) ([]byte, error) {
	value, err := expand(l.ctx, l.files.read, string(text))
	if err != nil {
		return nil, err
	}
	return readContent(l.ctx, l.files.read, value, text)
}

// endpoints resolves who the server and the client are.
func (l *lookup) endpoints(s *Settings) {
	c := l.client
	s.Issuer = l.text("issuer", c.Issuer)
	s.TokenEndpoint = l.text("token_endpoint", c.TokenEndpoint)
	s.AuthorizationEndpoint = l.text("authorization_endpoint", c.AuthorizationEndpoint)
	s.DeviceAuthorizationEndpoint = l.text("device_authorization_endpoint", c.DeviceAuthorizationEndpoint)
	s.RevocationEndpoint = l.text("revocation_endpoint", c.RevocationEndpoint)
	s.ClientID = l.text("client_id", c.ClientID)
	s.ClientSecret = l.secret("client_secret", c.clientSecret())
	if s.TokenEndpoint == "" && c.grant().ServiceAccount != "" {
		if account := l.serviceAccount(); account != nil {
			s.TokenEndpoint = account.TokenURI
		}
	}
	if l.err != nil {
		return
	}
	for _, e := range []struct{ option, url string }{
		{"token_endpoint", s.TokenEndpoint},
		{"authorization_endpoint", s.AuthorizationEndpoint},
		{"device_authorization_endpoint", s.DeviceAuthorizationEndpoint},
		{"revocation_endpoint", s.RevocationEndpoint},
	} {
		if e.url != "" {
			l.note(e.option, authserver.CheckEndpoint(e.url, c.AllowHTTP))
		}
	}
	if s.Issuer != "" {
		l.note("issuer", checkIssuer(s.Issuer, c.AllowHTTP))
	}
}

// tokenRequest resolves the form fields and header fields that every grant has.
func (l *lookup) tokenRequest(s *Settings) {
	c := l.client
	s.Form, s.Header = make(url.Values), make(http.Header)
	s.Form.Set("scope", strings.Join(l.texts("scope", c.Scope), " "))
	s.Form["audience"] = l.texts("audience", c.Audience)
	s.Form["resource"] = l.texts("resource", c.Resource)
	for _, resource := range s.Form["resource"] {
		if l.err == nil && !fromRequest(resource) {
			l.note("resource", checkResource(resource))
		}
	}
	for name, value := range c.TokenParam {
		s.Form.Set(name, l.text("token_param", string(value)))
	}
	for name, value := range c.TokenHeader {
		v := l.text("token_header", string(value))
		if !httpguts.ValidHeaderFieldValue(v) {
			l.note("token_header", fmt.Errorf("the value for %s does not fit a header field", name))
		}
		s.Header.Set(name, v)
	}
}

// clientAuth resolves what proves the client. audience is whom assertions are for
// by default.
func (l *lookup) clientAuth(s *Settings, audience string) {
	a := l.client.clientAuth()
	switch a.Audience {
	case "":
	case audienceIssuer:
		audience, s.Audience = s.Issuer, GivenAudience
	case audienceTokenEndpoint:
		s.Audience = EndpointAudience
	default:
		audience, s.Audience = l.text("client_auth", a.Audience), GivenAudience
	}
	id, secret, lifetime := s.ClientID, s.ClientSecret, time.Duration(a.Lifetime)
	switch method := l.client.authMethod(); method {
	case clientSecretPost:
		s.ClientAuth = authserver.ClientSecretPost{ID: id, Secret: secret}
	case clientSecretJWT:
		s.ClientAuth = authserver.ClientSecretJWT{
			ID: id, Secret: secret, Algorithm: a.Algorithm,
			Audience: audience, Lifetime: lifetime, Type: assertionType(audience, s),
			More: l.claims("client_auth claim", a.Claim),
		}
	case privateKeyJWT:
		s.ClientAuth = authserver.PrivateKeyJWT{
			ID: id, Key: l.signingKey("client_auth", a.Key, a.Certificate, authserver.KeyOptions{
				Algorithm: a.Algorithm, KeyID: a.KeyID, SendCertificate: a.X5C,
			}),
			Audience: audience, Lifetime: lifetime, Type: assertionType(audience, s),
			More: l.claims("client_auth claim", a.Claim),
		}
	case assertionFile:
		s.ClientAuth = authserver.ClientAssertion{ID: id, Assertion: l.assertionFile(a.File)}
	case tlsClientAuth:
		pair := l.keyPair(a)
		s.Certificate = pair.parsed
		s.ClientAuth = authserver.TLSClientAuth{ID: id, Certificate: pair.certificate}
	case noClientAuth:
		s.ClientAuth = authserver.PublicClient{ID: id}
	default:
		s.ClientAuth = authserver.ClientSecretBasic{ID: id, Secret: secret, Raw: method == clientSecretBasicRaw}
	}
}

// assertionType is the typ of a client's assertion: RFC 10070 gives those that
// are meant for the issuer a type of their own, which is the default.
func assertionType(audience string, s *Settings) string {
	if audience == s.Issuer {
		return ""
	}
	return "JWT"
}

// grant resolves the grant and its parameters.
func (l *lookup) grant(s *Settings, audience string) {
	g := l.client.grant()
	s.Form.Set("grant_type", g.grantType())
	switch g.Type {
	case authorizationCode:
		s.Form.Set("grant_type", refreshToken) // that is what it lives on
		s.AuthorizationParams = make(url.Values)
		for name, value := range g.AuthorizationParam {
			s.AuthorizationParams.Set(name, l.text("authorization_param", value))
		}
	case refreshToken:
		s.FirstRefreshToken = l.secret("refresh_token", g.RefreshToken)
	case jwtBearer:
		if g.Assertion != "" {
			s.Form.Set("assertion", l.text("assertion", string(g.Assertion)))
			return
		}
		s.Assertion = l.assertion(s, audience)
	case tokenExchange:
		s.Form.Set("subject_token", l.text("subject_token", string(g.SubjectToken)))
		s.Form.Set("subject_token_type", tokenTypeURN(g.SubjectTokenType))
		s.Form.Set("actor_token", l.text("actor_token", string(g.ActorToken)))
		s.Form.Set("actor_token_type", tokenTypeURN(g.ActorTokenType))
		s.Form.Set("requested_token_type", tokenTypeURN(g.RequestedTokenType))
	}
}

// assertion resolves what the assertion of the jwt_bearer grant is made of; nil if
// something fails.
func (l *lookup) assertion(s *Settings, audience string) *authserver.GrantAssertion {
	g := l.client.grant()
	claims := authserver.AssertionClaims{Issuer: s.ClientID, Audience: audience, More: make(map[string]any)}
	var key *authserver.SigningKey
	if g.ServiceAccount != "" {
		account := l.serviceAccount()
		if account == nil {
			return nil
		}
		key = account.Key
		claims.Issuer, claims.Audience, claims.Lifetime = account.ClientEmail, account.TokenURI, googleLifetime
		if scope := s.Form.Get("scope"); scope != "" {
			claims.More["scope"] = scope // Google looks for it here
		}
	} else if key = l.signingKey("grant", g.Key, "", authserver.KeyOptions{Algorithm: g.Algorithm, KeyID: g.KeyID}); key == nil {
		return nil
	}
	if g.Issuer != "" {
		claims.Issuer = l.text("grant", g.Issuer)
	}
	if g.ServiceAccount == "" {
		claims.Subject = claims.Issuer
	}
	if g.Subject != "" {
		claims.Subject = l.text("subject", g.Subject)
	}
	if g.Audience != "" {
		claims.Audience = l.text("grant", g.Audience)
	}
	if g.Lifetime != 0 {
		claims.Lifetime = time.Duration(g.Lifetime)
	}
	maps.Copy(claims.More, l.claims("claim", g.Claim))
	return &authserver.GrantAssertion{Key: key, Claims: claims}
}
