package authserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Metadata is what an authorization server publishes about itself (RFC 8414
// section 2, OpenID Connect Discovery section 3), as far as it has a use here.
// It is read-only once it is made.
type Metadata struct {
	Issuer string

	// TokenEndpoint is always there; the others may be empty. All pass
	// CheckEndpoint: one that does not is left out, except that without a
	// token endpoint there is no Metadata.
	TokenEndpoint               string
	AuthorizationEndpoint       string
	DeviceAuthorizationEndpoint string
	RevocationEndpoint          string

	// MTLSEndpointAliases are the endpoints for clients with a certificate, by
	// the name that the endpoint has in the metadata (RFC 8705 section 5).
	MTLSEndpointAliases map[string]string

	// What the server supports; nil where it does not say. No grant types means
	// authorization_code and implicit by RFC 8414 section 2, but servers leave the
	// list out whatever they support. No challenge methods means no PKCE; such
	// servers ignore its parameters (RFC 7636 section 5).
	GrantTypesSupported               []string
	ResponseTypesSupported            []string
	CodeChallengeMethodsSupported     []string
	TokenEndpointAuthMethodsSupported []string
	DPoPSigningAlgValuesSupported     []string // RFC 9449 section 5.1

	// TokenEndpointAuthSigningAlgValuesSupported are the algorithms that may sign
	// an assertion of the client's.
	TokenEndpointAuthSigningAlgValuesSupported []string

	// AuthorizationResponseIssParameterSupported says that every authorization
	// response names its issuer (RFC 9207 section 3).
	AuthorizationResponseIssParameterSupported bool
}

// endpointNames are the endpoints that an alias is kept of: those at which clients
// authenticate. To the authorization endpoint goes a browser.
var endpointNames = []string{"token_endpoint", "device_authorization_endpoint", "revocation_endpoint"}

// byHand is the way out of whatever is wrong with metadata.
const byHand = "write 'token_endpoint' by hand"

// MetadataRequest asks an authorization server for its metadata.
type MetadataRequest struct {
	// Issuer is the server's issuer identifier, to the letter.
	Issuer string

	// UserAgent is the User-Agent.
	UserAgent string

	// AllowHTTP permits plain http; see CheckEndpoint.
	AllowHTTP bool

	// Timeout bounds the whole exchange; the first place has half of it.
	Timeout time.Duration
}

// Do looks at the place of RFC 8414 first and at that of OpenID Connect
// Discovery next, and returns the metadata or an *Error. It follows no
// redirect. Metadata of another issuer than the one asked for is refused
// (RFC 8414 section 3.3).
func (r MetadataRequest) Do(ctx context.Context, transport http.RoundTripper) (*Metadata, error) {
	first, second, err := r.places()
	if err != nil {
		return nil, unprepared(err)
	}
	metadata, failed := r.find(ctx, transport, first, second)
	if failed != nil {
		failed.what = fmt.Sprintf("no metadata of issuer %s: %s; check 'issuer', or %s", redact(r.Issuer, nil), failed.what, byHand)
		return nil, failed
	}
	return metadata, nil
}

// find fetches the metadata from the one place or the other. Of two failures it
// returns the one that says more.
func (r MetadataRequest) find(ctx context.Context, transport http.RoundTripper, first, second string) (*Metadata, *Error) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	// What hangs at the first place, such as a firewall in front of a path that
	// it does not know, must leave time for the second.
	deadline, _ := ctx.Deadline()
	half, cancelHalf := context.WithTimeout(ctx, time.Until(deadline)/2)
	defer cancelHalf()

	metadata, failed := r.get(half, transport, first)
	if failed == nil || failed.Status == http.StatusTooManyRequests {
		return metadata, failed // throttling: the server wants to be asked less
	}
	metadata, other := r.get(ctx, transport, second)
	if other == nil {
		return metadata, nil
	}
	if weight(other) > weight(failed) {
		return nil, other
	}
	if failed.Status == http.StatusNotFound { // at both
		failed.what = fmt.Sprintf("%s and %s answered with status 404", redact(first, nil), redact(second, nil))
	}
	return nil, failed
}

// weight tells which of two failures says more: one that may pass is to be
// tried again, and nothing at one place is to be expected.
func weight(e *Error) int {
	if e.Kind == Unavailable {
		return 2
	}
	if e.Status == http.StatusNotFound {
		return 0
	}
	return 1
}

// places returns where the metadata may be. The well-known part goes between
// host and path in RFC 8414 (section 3.1) and to the end in OpenID Connect
// Discovery (section 4); both take a slash off the end of the issuer.
func (r MetadataRequest) places() (rfc8414, openID string, _ error) {
	if err := CheckEndpoint(r.Issuer, r.AllowHTTP); err != nil {
		return "", "", fmt.Errorf("'issuer' %w", err)
	}
	if strings.Contains(r.Issuer, "?") {
		return "", "", errors.New("'issuer' must not have a query (RFC 8414 section 2)")
	}
	issuer := strings.TrimSuffix(r.Issuer, "/")
	scheme, rest, _ := strings.Cut(issuer, "://")
	host, path, nested := strings.Cut(rest, "/")
	if nested {
		path = "/" + path
	}
	rfc8414 = scheme + "://" + host + "/.well-known/oauth-authorization-server" + path
	return rfc8414, issuer + "/.well-known/openid-configuration", nil
}

// get fetches the metadata from one place.
func (r MetadataRequest) get(ctx context.Context, transport http.RoundTripper, place string) (*Metadata, *Error) {
	metadata, failed := r.ask(ctx, transport, place)
	if failed != nil {
		failed.URL = redact(publicURL(place), nil)
	}
	return metadata, failed
}

func (r MetadataRequest) ask(ctx context.Context, transport http.RoundTripper, place string) (*Metadata, *Error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, unprepared(errors.New("'issuer' is not a URL"))
	}
	req.Header = http.Header{"Accept": {"application/json"}, "User-Agent": {r.UserAgent}}
	ownConnection(req)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, unreachable(err, r.Timeout, nil)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, notThere(place, resp)
	}
	body, err := readAnswer(resp)
	if err != nil && !errors.Is(err, errTooLarge) {
		return nil, unreachable(fmt.Errorf("its answer broke off: %w", err), r.Timeout, nil)
	}
	metadata, err := r.read(body)
	if err != nil {
		return nil, &Error{Kind: Unreadable, Status: resp.StatusCode, what: fmt.Sprintf("the answer of %s cannot be used: %v", redact(place, nil), err)}
	}
	return metadata, nil
}

// notThere is the error for an answer with another status than 200.
func notThere(place string, resp *http.Response) *Error {
	failed := &Error{
		Kind:       Unreadable,
		Status:     resp.StatusCode,
		RetryAfter: retryAfter(resp.StatusCode, resp.Header, time.Now()),
		what:       fmt.Sprintf("%s answered with status %d", redact(place, nil), resp.StatusCode),
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		failed.what += ", and redirects are not followed"
	}
	if resp.StatusCode == http.StatusTooManyRequests || isTransient(resp.StatusCode) {
		failed.Kind = Unavailable
	}
	return failed
}

// read makes metadata of the answer. Members that are not understood, or not
// of their type, count as absent where something can be done without them.
func (r MetadataRequest) read(body []byte) (*Metadata, error) {
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("it is %w", errTooLarge)
	}
	body = bytes.TrimSpace(bytes.TrimPrefix(body, byteOrderMark))
	if len(body) == 0 || body[0] != '{' {
		return nil, errors.New("it is not a JSON object")
	}
	m, err := readJSON(body)
	if err != nil {
		return nil, err
	}
	if issuer, _ := m.text("issuer"); issuer != r.Issuer {
		return nil, fmt.Errorf("it is of the issuer %q and not of %q: write 'issuer' as the server does, if it is the one you mean",
			redact(issuer, nil), redact(r.Issuer, nil))
	}
	address, err := r.endpoint(m, "token_endpoint")
	if err != nil {
		return nil, err
	}
	return &Metadata{
		Issuer:                                     r.Issuer,
		TokenEndpoint:                              address,
		AuthorizationEndpoint:                      r.optional(m, "authorization_endpoint"),
		DeviceAuthorizationEndpoint:                r.optional(m, "device_authorization_endpoint"),
		RevocationEndpoint:                         r.optional(m, "revocation_endpoint"),
		MTLSEndpointAliases:                        r.aliases(m),
		GrantTypesSupported:                        m.list("grant_types_supported"),
		ResponseTypesSupported:                     m.list("response_types_supported"),
		CodeChallengeMethodsSupported:              m.list("code_challenge_methods_supported"),
		TokenEndpointAuthMethodsSupported:          m.list("token_endpoint_auth_methods_supported"),
		DPoPSigningAlgValuesSupported:              m.list("dpop_signing_alg_values_supported"),
		TokenEndpointAuthSigningAlgValuesSupported: m.list("token_endpoint_auth_signing_alg_values_supported"),
		AuthorizationResponseIssParameterSupported: string(m["authorization_response_iss_parameter_supported"]) == "true",
	}, nil
}

// endpoint returns an endpoint that can be used.
func (r MetadataRequest) endpoint(m members, name string) (string, error) {
	address, ok := m.text(name)
	if !ok || address == "" {
		return "", fmt.Errorf("it names no %s", name)
	}
	if err := CheckEndpoint(address, r.AllowHTTP); err != nil {
		return "", fmt.Errorf("its %s %w", name, err)
	}
	// CheckEndpoint lets plain http to this machine pass. A server elsewhere
	// has no say in what is sent there.
	if isHTTPS(r.Issuer) && !isHTTPS(address) && !r.AllowHTTP {
		return "", fmt.Errorf("its %s must use https, as the issuer does", name)
	}
	return address, nil
}

func isHTTPS(rawURL string) bool {
	scheme, _, _ := strings.Cut(rawURL, ":")
	return strings.EqualFold(scheme, "https")
}

// optional returns an endpoint, or "" if there is none that can be used.
func (r MetadataRequest) optional(m members, name string) string {
	address, err := r.endpoint(m, name)
	if err != nil {
		return ""
	}
	return address
}

// aliases reads mtls_endpoint_aliases. If that is no object, it holds none.
func (r MetadataRequest) aliases(m members) map[string]string {
	var named members
	_ = json.Unmarshal(m["mtls_endpoint_aliases"], &named)
	aliases := make(map[string]string)
	for _, name := range endpointNames {
		if address := r.optional(named, name); address != "" {
			aliases[name] = address
		}
	}
	return aliases
}

// list returns the strings of a member that is an array, and nil for any other.
func (m members) list(name string) []string {
	var values []any
	if json.Unmarshal(m[name], &values) != nil {
		return nil
	}
	var list []string
	for _, v := range values {
		if s, ok := v.(string); ok {
			list = append(list, s)
		}
	}
	return list
}

// TokenEndpointFor returns the token endpoint for a client with or without a
// certificate (RFC 8705 section 5).
func (m *Metadata) TokenEndpointFor(mtls bool) string {
	return m.aliasOf(tokenEndpoint, mtls, m.TokenEndpoint)
}

// DeviceAuthorizationEndpointFor is TokenEndpointFor for the device authorization
// endpoint; empty if the server has none.
func (m *Metadata) DeviceAuthorizationEndpointFor(mtls bool) string {
	return m.aliasOf(deviceAuthorizationEndpoint, mtls, m.DeviceAuthorizationEndpoint)
}

// RevocationEndpointFor is TokenEndpointFor for the revocation endpoint; empty if
// the server has none.
func (m *Metadata) RevocationEndpointFor(mtls bool) string {
	return m.aliasOf(revocationEndpoint, mtls, m.RevocationEndpoint)
}

// aliasOf returns the endpoint's alias for clients with a certificate, or else its
// address.
func (m *Metadata) aliasOf(e endpoint, mtls bool, address string) string {
	if alias := m.MTLSEndpointAliases[e.option]; mtls && alias != "" {
		return alias
	}
	return address
}

// methodsListed are the ways to authenticate that servers list by another name
// than 'client_auth' has for them. An assertion that someone else signed goes
// by several names or none, so that nothing can be told of it.
var methodsListed = map[string][]string{
	"client_secret_basic_raw": {"client_secret_basic"},
	"tls_client_auth":         {"tls_client_auth", "self_signed_tls_client_auth"},
	"assertion_file":          nil,
}

// Check returns an *Error if the server lists its ways to authenticate, or its
// grant types, and ours is not among them. method is as in 'client_auth'; an
// empty method or grant is not checked.
func (m *Metadata) Check(method, grant string) error {
	names, other := methodsListed[method]
	if !other {
		names = []string{method}
	}
	if method != "" && len(names) > 0 && lacks(m.TokenEndpointAuthMethodsSupported, names...) {
		return notListed(method, "'client_auth'", m.TokenEndpointAuthMethodsSupported)
	}
	if grant != "" && lacks(m.GrantTypesSupported, grant) {
		return notListed(grant, "'grant'", m.GrantTypesSupported)
	}
	return nil
}

// CheckAuthorization returns an *Error if the server lists its response types, or
// its ways to use PKCE, and those of an AuthorizationRequest are not among them.
func (m *Metadata) CheckAuthorization() error {
	if lacks(m.ResponseTypesSupported, "code") {
		return cannotSignIn("the response type code", m.ResponseTypesSupported)
	}
	if lacks(m.CodeChallengeMethodsSupported, "S256") {
		return cannotSignIn("the PKCE method S256", m.CodeChallengeMethodsSupported)
	}
	return nil
}

// cannotSignIn is the error for what an AuthorizationRequest cannot do without.
func cannotSignIn(without string, listed []string) *Error {
	return unprepared(fmt.Errorf("the authorization server does not list %s but %s, so nobody can sign in there: sign in with a device code if it offers that, or write its endpoints by hand if the list is wrong",
		without, redact(strings.Join(listed, ", "), nil)))
}

// CheckAssertion returns an *Error if the server lists the algorithms that may
// sign a client's assertion, and that of auth is not among them.
func (m *Metadata) CheckAssertion(auth ClientAuth) error {
	var algorithm string
	switch a := auth.(type) {
	case PrivateKeyJWT:
		algorithm = a.Key.Algorithm()
	case ClientSecretJWT:
		algorithm = a.algorithm()
	default:
		return nil // nothing is signed here
	}
	if lacks(m.TokenEndpointAuthSigningAlgValuesSupported, algorithm) {
		return notListed(algorithm, "the 'algorithm' or key of 'client_auth'", m.TokenEndpointAuthSigningAlgValuesSupported)
	}
	return nil
}

// CheckProof returns an *Error if the server lists the algorithms that may sign
// a DPoP proof, and this one is not among them.
func (m *Metadata) CheckProof(algorithm string) error {
	if lacks(m.DPoPSigningAlgValuesSupported, algorithm) {
		return notListed(algorithm, "'dpop'", m.DPoPSigningAlgValuesSupported)
	}
	return nil
}

// lacks reports whether there is a list and none of the names is on it.
func lacks(list []string, names ...string) bool {
	return len(list) > 0 && !slices.ContainsFunc(names, func(n string) bool { return slices.Contains(list, n) })
}

// notListed is the error for a value of an option, or of a part of one, that the
// server does not list.
func notListed(value, option string, listed []string) *Error {
	return unprepared(fmt.Errorf("the authorization server does not list %q for %s; it supports %s: use one of these, or %s if the list is wrong",
		redact(value, nil), option, redact(strings.Join(listed, ", "), nil), byHand))
}
