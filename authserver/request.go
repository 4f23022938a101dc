// Package authserver is the client's side of an OAuth 2.0 authorization server:
// it makes token requests (RFC 6749 section 3.2), proves who the client is, and
// reads the answers as servers really send them. For a grant that somebody has to
// consent to, it makes the authorization request and reads the response, or asks
// for a device code and polls. It revokes tokens, too. It keeps no state: what it
// returns is cached, renewed and used elsewhere.
//
// It exists beside golang.org/x/oauth2, whose names it keeps to, because a
// proxy that runs for months needs more: a context for each request, no
// redirects, capped answers, errors that tell what can be done and hold no
// secret, and no guessing of how to authenticate.
package authserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// maxAnswer is how large an answer may be once it is decompressed. Tokens with
// hundreds of group claims stay well below it.
const maxAnswer = 1 << 20

// Request is one request to an endpoint at which the client authenticates: a
// token request with Do, others with AuthorizeDevice and Revoke.
type Request struct {
	// Endpoint is the endpoint's URL; see CheckEndpoint.
	Endpoint string

	// Form has the parameters, such as the grant_type and those of the grant.
	// Empty values are left out (RFC 6749 section 3.2).
	Form url.Values

	// Auth adds the client's credentials.
	Auth ClientAuth

	// Assertion, if set, is signed for the jwt-bearer grant, anew for each
	// attempt: a server may take an assertion once only.
	Assertion *GrantAssertion

	// Header has further header fields; they win over the defaults.
	Header http.Header

	// UserAgent is the User-Agent, unless Header has one.
	UserAgent string

	// Timeout bounds the whole exchange.
	Timeout time.Duration

	// Held are credentials of earlier answers that must not show up in an
	// error text either, should the server repeat them.
	Held []Secret

	// Proof, if set, proves the possession of a key, to which the server then
	// binds the token (RFC 9449 section 5). Nonces keeps what nonces servers ask
	// for; it must be set where Proof is.
	Proof  *ProofKey
	Nonces *Nonces
}

// Do makes a token request and returns the token, or an *Error. It follows no
// redirect: the credentials in a token request are for the configured endpoint
// alone. If the server wants a DPoP nonce and sends one along, the request is
// made anew, once (RFC 9449 section 8). It is made anew for no other reason: an
// authorization code can be spent only once.
func (r Request) Do(ctx context.Context, transport http.RoundTripper) (*Token, error) {
	answer, err := r.send(ctx, transport, tokenEndpoint)
	if err != nil {
		return nil, err
	}
	return answer.token()
}

// send makes the request to that endpoint, as Do describes it, and returns the
// answer if it grants what was asked, and else an *Error.
func (r Request) send(ctx context.Context, transport http.RoundTripper, to endpoint) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()

	nonce := r.nonce()
	answer, offered, err := r.attempt(ctx, transport, to, nonce)
	if wantsNonce(err) && offered != "" && offered != nonce {
		// With the nonce of this very answer: another request may have been given
		// a newer one meanwhile, which is then for that request.
		answer, _, err = r.attempt(ctx, transport, to, offered)
	}
	if failed, ok := errors.AsType[*Error](err); ok {
		failed.URL, failed.Hint = r.url(), r.advice(failed)
	}
	return answer, err
}

// url returns where the request goes, fit for an error text.
func (r Request) url() string {
	var secrets []string
	for _, held := range r.Auth.Secrets() {
		secrets = append(secrets, held.Reveal())
	}
	return redact(publicURL(r.Endpoint), secrets)
}

// advice is the next step where what we sent tells a better one than the OAuth
// error code; "" for any other failure.
func (r Request) advice(failed *Error) string {
	_, certificate := r.Auth.(TLSClientAuth)
	basic, _ := r.Auth.(ClientSecretBasic)
	switch {
	case failed.Kind == Refused && failed.Code == "invalid_client",
		failed.Kind == Refused && failed.Code == "invalid_request" && basic.looksEncoded(),
		certificate && failed.rejectsCertificate():
		return r.Auth.Advice()
	case failed.Kind == Refused && failed.Code == "unauthorized_client" && failed.Status == http.StatusUnauthorized:
		return "with status 401, this is what Keycloak says of a wrong secret: " + r.Auth.Advice()
	case failed.Kind == Refused && failed.Code == "invalid_grant" && r.Assertion != nil:
		return r.Assertion.advice()
	}
	switch r.Form.Get("grant_type") {
	case AuthorizationCodeGrant:
		return codeHints[failed.Code]
	case DeviceCodeGrant:
		return deviceHints[failed.Code]
	}
	return ""
}

// attempt makes the request once, its proof with that nonce. It returns the
// nonce that came with the answer as well, "" if none did.
func (r Request) attempt(ctx context.Context, transport http.RoundTripper, to endpoint, nonce string) (_ *answer, offered string, _ error) {
	form, header, err := r.authenticated(nonce)
	if err != nil {
		return nil, "", unprepared(err)
	}
	secrets := secretsOf(r.Auth, r.Endpoint, form, header, r.Header)
	for _, held := range r.Held {
		secrets = append(secrets, held.Reveal())
	}

	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, "", unprepared(fmt.Errorf("'%s' is not a URL", to.option))
	}
	req.Header = header
	ownConnection(req)

	req, connection := traced(req)
	requestedAt := time.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		failed := unreachable(err, r.Timeout, secrets)
		failed.hungUp, failed.Unsent = hungUp(err), connection.never()
		return nil, "", failed
	}
	defer resp.Body.Close()
	if r.Proof != nil {
		offered = NonceOf(resp.Header)
		r.Nonces.Note(Origin(r.Endpoint), resp.Header)
	}
	body, err := readAnswer(resp)
	answer := &answer{
		from: to, url: r.url(), requestedAt: requestedAt,
		status: resp.StatusCode, header: resp.Header, body: body,
		secrets: secrets,
	}
	if err != nil {
		return nil, "", answer.incomplete(err, r.Timeout)
	}
	if err := answer.read(); err != nil {
		return nil, offered, err
	}
	return answer, offered, nil
}

// ownConnection gives a request a connection of its own. Token requests are rare: a kept
// connection has gone stale by the next one as like as not, which would cost a
// single-use credential; and what a server sends unasked on an idle connection,
// net/http writes into the log. Where a server says that it has not looked at
// the request (GOAWAY, REFUSED_STREAM), net/http sends it again, which is
// allowed once here and not for as long as the server says so.
func ownConnection(req *http.Request) {
	req.Close = true
	body, calls := req.GetBody, 0
	if body == nil {
		return
	}
	req.GetBody = func() (io.ReadCloser, error) {
		if calls++; calls > 2 { // net/http calls it twice for one repetition
			return nil, errors.New("the server keeps refusing the request")
		}
		return body()
	}
}

// errTooLarge is for answers beyond maxAnswer.
var errTooLarge = fmt.Errorf("larger than %d bytes", maxAnswer)

// readAnswer reads an answer's body. After 101 there is none, but a connection
// that no deadline ends.
func readAnswer(resp *http.Response) ([]byte, error) {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = errTooLarge
	}
	return body, err
}

// authenticated returns the form and header fields to send, with a proof that
// has the nonce.
func (r Request) authenticated(nonce string) (url.Values, http.Header, error) {
	form := withoutEmpty(r.Form)
	header := http.Header{
		"Accept":       {"application/json"},
		"Content-Type": {"application/x-www-form-urlencoded"},
		"User-Agent":   {r.UserAgent},
	}
	maps.Copy(header, r.Header)
	if r.Assertion != nil {
		assertion, err := SignAssertion(r.Assertion.Key, r.Assertion.Claims)
		if err != nil {
			return nil, nil, err
		}
		form.Set("assertion", assertion.Reveal())
	}
	if err := r.Auth.Authenticate(form, header); err != nil {
		return nil, nil, err
	}
	if r.Proof != nil {
		proof, err := r.Proof.Proof(Proof{Method: http.MethodPost, URL: r.Endpoint, Nonce: nonce})
		if err != nil {
			return nil, nil, err
		}
		header.Set("DPoP", proof)
	}
	return form, header, nil
}

// withoutEmpty returns a copy of the parameters without those that are empty.
func withoutEmpty(params url.Values) url.Values {
	form := make(url.Values, len(params)+2)
	for name, values := range params {
		for _, v := range values {
			if v != "" {
				form.Add(name, v)
			}
		}
	}
	return form
}

// nonce returns the newest DPoP nonce of the server, "" if there is none.
func (r Request) nonce() string {
	if r.Proof == nil {
		return ""
	}
	return r.Nonces.Get(Origin(r.Endpoint))
}

// CheckEndpoint reports why rawURL cannot serve as an endpoint of an
// authorization server: it must be absolute, with https unless its host is a
// loopback one or allowHTTP is set, and without a fragment (RFC 6749
// sections 3.1 and 3.2) or credentials. The error completes a sentence that
// begins with the name of the option.
func CheckEndpoint(rawURL string, allowHTTP bool) error {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.Hostname() == "" {
		return errors.New("must be an absolute URL, such as https://auth.example.com/oauth/token")
	}
	if u.User != nil {
		return errors.New("must not hold credentials: use 'client_id' and 'client_secret'")
	}
	if u.Fragment != "" || strings.Contains(rawURL, "#") {
		return errors.New("must not have a fragment (RFC 6749 section 3.2)")
	}
	if u.Scheme == "https" || u.Scheme == "http" && (allowHTTP || IsLoopback(u.Hostname())) {
		return nil
	}
	if u.Scheme == "http" {
		return errors.New("must use https, as credentials go there: write https://, or 'allow_http' if the network in between is trusted")
	}
	return fmt.Errorf("must be an https URL, not one of %q", u.Scheme)
}

// publicURL returns scheme, host and path of a URL: credentials and keys go into the
// rest.
func publicURL(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// IsLoopback reports whether host names this machine: localhost or a loopback
// address. Names under localhost do not, as resolvers ask DNS for them in spite of
// RFC 6761 section 6.3.
func IsLoopback(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
