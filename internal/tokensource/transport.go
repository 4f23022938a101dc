package tokensource

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/config"
)

// Transport carries requests to the authorization server. It gives them what
// Caddy's transports want of a context, and keeps panics of what other plugins
// bring to itself, on whatever goroutine a request is made.
type Transport struct {
	next http.RoundTripper

	// The certificate to present from now on (RFC 8705). Its files are looked at for
	// each token request, which has a connection of its own: so one that was renewed
	// is presented by the next.
	certificate atomic.Pointer[tls.Certificate]
	presents    bool // this one, or one of the transport's own

	unverified bool // any certificate of the server will do
}

// NewTransport returns one that sends requests by next.
func NewTransport(next http.RoundTripper) *Transport { return &Transport{next: next} }

// LoadTransport provisions the client's transport, or a default one.
func LoadTransport(ctx caddy.Context, client config.Client) (*Transport, error) {
	h, err := loadHTTPTransport(ctx, client)
	if err != nil {
		return nil, err
	}
	t := NewTransport(h)
	own := h.TLS != nil && (h.TLS.ClientCertificateFile != "" || h.TLS.ClientCertificateAutomate != "")
	t.presents = own || client.PresentsCertificate()
	t.unverified = h.TLS != nil && h.TLS.InsecureSkipVerify
	if !client.PresentsCertificate() {
		return t, nil
	}
	switch {
	case len(h.Versions) == 1 && h.Versions[0] == "3":
		return nil, config.OptionErrorf("client_auth", "tls_client_auth needs 'transport http' with HTTP/1.1 or HTTP/2")
	case own:
		return nil, config.OptionErrorf("client_auth", "the transport has a client certificate of its own: remove 'tls_client_auth' there, or write 'client_auth none'")
	}
	if h.Transport.TLSClientConfig == nil {
		h.Transport.TLSClientConfig = new(tls.Config)
	}
	h.Transport.TLSClientConfig.GetClientCertificate = t.clientCertificate
	return t, nil
}

// loadHTTPTransport takes a copy of the client, as LoadModule empties the field it
// loads.
func loadHTTPTransport(ctx caddy.Context, client config.Client) (*reverseproxy.HTTPTransport, error) {
	if client.TransportRaw == nil {
		// Smaller than reverse_proxy's 10 MiB: a token answer needs no more.
		h := &reverseproxy.HTTPTransport{MaxResponseHeaderSize: 64 << 10}
		return h, h.Provision(ctx)
	}
	module, err := ctx.LoadModule(&client, "TransportRaw")
	if err != nil {
		return nil, &config.OptionError{Option: "transport", Err: err}
	}
	h, ok := module.(*reverseproxy.HTTPTransport)
	switch {
	case !ok:
		return nil, config.OptionErrorf("transport", "%T cannot send a token request: write 'transport http'", module)
	case h.ProxyProtocol != "":
		return nil, config.OptionErrorf("transport", "a token request has no client address to tell: remove 'proxy_protocol'")
	}
	return h, nil
}

// errPanic is for a panic in a transport or network proxy that another plugin
// brings. Its value is not shown: it may hold anything.
var errPanic = errors.New("the transport panicked: check 'transport'")

// RoundTrip implements http.RoundTripper. Caddy's transports look up placeholders,
// in a server name or a proxy's URL, on goroutines where a panic would end the
// process: no request goes to them without a replacer.
func (t *Transport) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if recover() != nil {
			resp, err = nil, errPanic
		}
	}()
	if _, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); !ok {
		r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
	}
	resp, err = t.next.RoundTrip(r)
	return resp, withCause(err)
}

// Present has a certificate presented from now on; nil leaves it as it is.
func (t *Transport) Present(certificate *tls.Certificate) {
	if certificate != nil {
		t.certificate.Store(certificate)
	}
}

// IsUnverified reports whether the server's certificate is not verified.
func (t *Transport) IsUnverified() bool { return t.unverified }

// presentsCertificate reports whether there is a certificate for the authorization
// server: for tls_client_auth, or one of the transport's own, to which the server
// may bind the tokens of a client that proves itself otherwise (RFC 8705 section 3).
func (t *Transport) presentsCertificate() bool { return t.presents }

// clientCertificate is called for each TLS handshake whose server asks for one.
func (t *Transport) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if certificate := t.certificate.Load(); certificate != nil {
		return certificate, nil
	}
	return new(tls.Certificate), nil
}
