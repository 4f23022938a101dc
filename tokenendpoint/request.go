// Package tokenendpoint is the client's side of an OAuth 2.0 token endpoint: it
// makes a token request (RFC 6749 section 3.2), proves who the client is, and
// reads the answer as servers really send it. It keeps no state: what it
// returns is cached, renewed and used elsewhere.
//
// It exists beside golang.org/x/oauth2, whose names it keeps to, because a
// proxy that runs for months needs more: a context for each request, no
// redirects, capped answers, errors that tell what can be done and hold no
// secret, and no guessing of how to authenticate.
package tokenendpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// maxAnswer is how large an answer may be once it is decompressed. Tokens with
// hundreds of group claims stay well below it.
const maxAnswer = 1 << 20

// Request is one token request.
type Request struct {
	// Endpoint is the token endpoint's URL; see CheckEndpoint.
	Endpoint string

	// Form has the grant_type and its parameters. Empty values are left out
	// (RFC 6749 section 3.2).
	Form url.Values

	// Auth adds the client's credentials.
	Auth ClientAuth

	// Header has further header fields; they win over the defaults.
	Header http.Header

	// UserAgent is the User-Agent, unless Header has one.
	UserAgent string

	// Timeout bounds the whole exchange.
	Timeout time.Duration

	// Held are credentials of earlier answers that must not show up in an
	// error text either, should the server repeat them.
	Held []Secret
}

// Do sends the request and returns the token, or an *Error. It follows no
// redirect: the credentials in a token request are for the configured endpoint
// alone. If a kept-alive connection turns out dead before a byte of the answer
// came, the request is made anew, once, on another.
func (r Request) Do(ctx context.Context, transport http.RoundTripper) (*Token, error) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()

	token, stale, err := r.attempt(ctx, transport)
	if stale {
		token, _, err = r.attempt(ctx, transport)
	}
	return token, err
}

// attempt makes the request once. stale tells that it failed on a connection
// that had been idle, before any answer.
func (r Request) attempt(ctx context.Context, transport http.RoundTripper) (_ *Token, stale bool, _ error) {
	form, header, err := r.authenticated()
	if err != nil {
		return nil, false, unprepared(err)
	}
	secrets := sentSecrets(form, header, r.Header)
	for _, held := range r.Held {
		secrets = append(secrets, held.Reveal())
	}

	var trace exchange
	body := []byte(form.Encode())
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace.hooks()), http.MethodPost, r.Endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, false, unprepared(errors.New("'token_endpoint' is not a URL"))
	}
	req.Header = header

	requestedAt := time.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, trace.stale() && ctx.Err() == nil, unreachable(err, r.Timeout, secrets)
	}
	defer resp.Body.Close()
	answerBody, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, false, unreachable(fmt.Errorf("its answer broke off: %w", err), r.Timeout, secrets)
	}
	if len(answerBody) > maxAnswer {
		return nil, false, &Error{Kind: Unreadable, Status: resp.StatusCode, what: fmt.Sprintf("the authorization server's answer is larger than %d bytes", maxAnswer)}
	}

	answer := answer{status: resp.StatusCode, header: resp.Header, body: answerBody, secrets: secrets}
	token, err := answer.token()
	if err != nil {
		return nil, false, err
	}
	token.RequestedAt = requestedAt
	return token, false, nil
}

// authenticated returns the form and header fields to send.
func (r Request) authenticated() (url.Values, http.Header, error) {
	form := make(url.Values, len(r.Form)+2)
	for name, values := range r.Form {
		for _, v := range values {
			if v != "" {
				form.Add(name, v)
			}
		}
	}
	header := http.Header{
		"Accept":       {"application/json"},
		"Content-Type": {"application/x-www-form-urlencoded"},
		"User-Agent":   {r.UserAgent},
	}
	maps.Copy(header, r.Header)
	if err := r.Auth.Authenticate(form, header); err != nil {
		return nil, nil, err
	}
	return form, header, nil
}

// exchange watches one round trip.
type exchange struct {
	reused   atomic.Bool
	answered atomic.Bool
}

func (e *exchange) hooks() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn:              func(info httptrace.GotConnInfo) { e.reused.Store(info.Reused) },
		GotFirstResponseByte: func() { e.answered.Store(true) },
	}
}

func (e *exchange) stale() bool { return e.reused.Load() && !e.answered.Load() }

// CheckEndpoint reports why rawURL cannot serve as an endpoint of an
// authorization server: it must be absolute, with https unless its host is a
// loopback one or allowHTTP is set, and without a fragment (RFC 6749
// sections 3.1 and 3.2) or credentials. The error completes a sentence that
// begins with the name of the option.
func CheckEndpoint(rawURL string, allowHTTP bool) error {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return errors.New("must be an absolute URL, such as https://auth.example.com/oauth/token")
	case u.User != nil:
		return errors.New("must not hold credentials: use 'client_id' and 'client_secret'")
	case u.Fragment != "" || strings.Contains(rawURL, "#"):
		return errors.New("must not have a fragment (RFC 6749 section 3.2)")
	case u.Scheme == "https", u.Scheme == "http" && (allowHTTP || IsLoopback(u.Hostname())):
		return nil
	case u.Scheme == "http":
		return errors.New("must use https, as credentials go there: write https://, or 'allow_http' if the network in between is trusted")
	}
	return fmt.Errorf("must be an https URL, not %s:", u.Scheme)
}

// IsLoopback reports whether host names this machine.
func IsLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
