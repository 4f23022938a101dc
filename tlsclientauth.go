package upstreamoauth2

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// clientCertificate presents a certificate to the authorization server
// (RFC 8705). Its files are looked at for each token request, so that one that
// was renewed is used from then on.
type clientCertificate struct {
	*reverseproxy.HTTPTransport

	// The certificate to present from now on. Each token request has a connection
	// of its own, so the next one presents it.
	pair atomic.Pointer[tls.Certificate]
}

// presentsCertificate reports whether a transport has a certificate for the
// authorization server: that of tls_client_auth, or one of its own, to which the
// server may bind the tokens of a client that proves itself otherwise (RFC 8705
// section 3).
func presentsCertificate(transport http.RoundTripper) bool {
	switch t := transport.(type) {
	case *clientCertificate:
		return true
	case *reverseproxy.HTTPTransport:
		return hasCertificate(t)
	}
	return false
}

// hasCertificate reports whether a transport has a certificate of its own.
func hasCertificate(t *reverseproxy.HTTPTransport) bool {
	return t.TLS != nil && (t.TLS.ClientCertificateFile != "" || t.TLS.ClientCertificateAutomate != "")
}

// withClientCertificate makes transport present the pair it is given.
func withClientCertificate(transport http.RoundTripper) (*clientCertificate, error) {
	h, ok := transport.(*reverseproxy.HTTPTransport)
	if !ok || len(h.Versions) == 1 && h.Versions[0] == "3" {
		return nil, errors.New("tls_client_auth needs 'transport http' with HTTP/1.1 or HTTP/2")
	}
	if hasCertificate(h) {
		return nil, errors.New("the transport has a client certificate of its own: remove 'tls_client_auth' there, or write 'client_auth none'")
	}
	c := &clientCertificate{HTTPTransport: h}
	if h.Transport.TLSClientConfig == nil {
		h.Transport.TLSClientConfig = new(tls.Config)
	}
	h.Transport.TLSClientConfig.GetClientCertificate = c.get
	return c, nil
}

// get is called for each TLS handshake whose server asks for a certificate.
func (c *clientCertificate) get(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if pair := c.pair.Load(); pair != nil {
		return pair, nil
	}
	return new(tls.Certificate), nil
}

// keyPair is a client certificate with its key.
type keyPair struct {
	certificate []byte // PEM
	parsed      *tls.Certificate
}

// keyPair reads the client certificate and its key.
func (e *expander) keyPair(a ClientAuth) keyPair {
	return orLast(e, place{"client_auth", a.Certificate, string(a.Key)}, func(e *expander) keyPair {
		certificate := e.content("client_auth", Credential(a.Certificate))
		key := certificate // one file may hold both
		if a.Key != "" {
			key = e.content("client_auth", a.Key)
		}
		if e.err != nil {
			return keyPair{}
		}
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			e.fail("client_auth", fmt.Errorf("certificate and key do not make a pair: %w", err))
		}
		return keyPair{certificate, &pair}
	})
}
