package upstreamoauth2

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// clientCertificate presents a certificate to the authorization server
// (RFC 8705). Its files are looked at for each token request, so that one that
// was renewed is used from then on.
type clientCertificate struct {
	*reverseproxy.HTTPTransport

	mu      sync.Mutex
	current [2]string // the certificate's and the key's PEM
	pair    *tls.Certificate
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
		return t.TLS != nil && (t.TLS.ClientCertificateFile != "" || t.TLS.ClientCertificateAutomate != "")
	}
	return false
}

// withClientCertificate makes transport present what use gives it.
func withClientCertificate(transport http.RoundTripper) (*clientCertificate, error) {
	h, ok := transport.(*reverseproxy.HTTPTransport)
	if !ok || len(h.Versions) == 1 && h.Versions[0] == "3" {
		return nil, errors.New("tls_client_auth needs 'transport http' with HTTP/1.1 or HTTP/2")
	}
	if h.TLS != nil && (h.TLS.ClientCertificateFile != "" || h.TLS.ClientCertificateAutomate != "") {
		return nil, errors.New("the transport has a client certificate of its own: remove 'tls_client_auth' there, or write 'client_auth none'")
	}
	c := &clientCertificate{HTTPTransport: h}
	if h.Transport.TLSClientConfig == nil {
		h.Transport.TLSClientConfig = new(tls.Config)
	}
	h.Transport.TLSClientConfig.GetClientCertificate = c.get
	return c, nil
}

// use takes the certificate and key to present from now on. Each token request
// has a connection of its own, so the next one presents them.
func (c *clientCertificate) use(certificate, key []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	content := [2]string{string(certificate), string(key)}
	if c.pair != nil && c.current == content {
		return nil
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return fmt.Errorf("certificate and key do not make a pair: %w", err)
	}
	c.pair, c.current = &pair, content
	return nil
}

// get is called for each TLS handshake whose server asks for a certificate.
func (c *clientCertificate) get(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair == nil {
		return new(tls.Certificate), nil
	}
	return c.pair, nil
}
