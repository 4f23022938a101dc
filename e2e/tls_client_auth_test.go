package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// certificate is one with its key.
type certificate struct {
	tls.Certificate
	chainPEM string
	keyPEM   string
}

// newCertificate makes a certificate for a name on this machine, issued by an authority or, if that is
// nil, by itself.
func newCertificate(t *testing.T, name string, expires time.Time, by *certificate) *certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:             time.Now().Add(-48 * time.Hour),
		NotAfter:              expires,
		BasicConstraintsValid: true,
		IsCA:                  by == nil,
	}
	parent, signer := template, any(key)
	if by != nil {
		parent, signer = by.Leaf, by.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	c := &certificate{keyPEM: asPEM(t, jose.JSONWebKey{Key: key})}
	c.chainPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if c.Certificate, err = tls.X509KeyPair([]byte(c.chainPEM), []byte(c.keyPEM)); err != nil {
		t.Fatal(err)
	}
	return c
}

// base64 is the certificate as the front hands it on.
func (c *certificate) base64() string { return base64.StdEncoding.EncodeToString(c.Leaf.Raw) }

// thumbprint is the certificate's hash, as x5t#S256 has it.
func (c *certificate) thumbprint() string { return hashOf(c.Leaf.Raw) }

// withCertificates makes the client prove itself with any of these self-signed certificates.
func (c client) withCertificates(certificates ...*certificate) client {
	c.AuthMethod = "self_signed_tls_client_auth"
	c.JWKS = new(jose.JSONWebKeySet)
	for _, cert := range certificates {
		c.private = append(c.private, strings.Split(cert.keyPEM, "\n")[1])
		c.JWKS.Keys = append(c.JWKS.Keys, jose.JSONWebKey{
			Key: cert.Leaf.PublicKey, KeyID: rand.Text(), Certificates: []*x509.Certificate{cert.Leaf},
		})
	}
	return c
}

// startMTLSServer starts an authorization server with a token endpoint for clients with a certificate,
// which the TLS handshake there treats as handshake says. It returns what the directive says of the server.
func startMTLSServer(t *testing.T, ca *certificate, c client, handshake tls.ClientAuthType) (server *authServer, lines string) {
	t.Helper()
	server = startAuthServer(t, oidcProvider, c)
	authorities := x509.NewCertPool()
	authorities.AddCert(ca.Leaf)
	endpoint := startTLSServer(t, server.front, &tls.Config{
		Certificates: []tls.Certificate{newCertificate(t, "localhost", time.Now().Add(time.Hour), ca).Certificate},
		ClientAuth:   handshake,
		ClientCAs:    authorities,
	})
	server.config.MTLS = &mtlsConfig{TokenEndpoint: endpoint.URL + server.tokenPath, CA: ca.chainPEM}
	server.process.end()
	server.start()
	return server, fmt.Sprintf("issuer %s\nclient_id %q\ntransport http {\ntls_trust_pool file %s\n}",
		server.config.Issuer, c.ID, newFile(t, ca.chainPEM))
}

func TestTLSClientAuth(t *testing.T) {
	const name = "partner.example"
	tomorrow, yesterday := time.Now().Add(24*time.Hour), time.Now().Add(-24*time.Hour)
	ca, otherCA := newCertificate(t, "an authority", tomorrow, nil), newCertificate(t, "another authority", tomorrow, nil)
	own := newCertificate(t, name, tomorrow, nil)
	issued := newClient("partner", time.Hour)
	issued.AuthMethod, issued.CertificateName = "tls_client_auth", name
	selfSigned := newClient("partner", time.Hour).withCertificates(own)
	expired, stranger := newCertificate(t, name, yesterday, ca), newCertificate(t, name, tomorrow, otherCA)
	// Some servers take any certificate in the handshake and judge it later; others refuse it there.
	const asked, verified = tls.RequestClientCert, tls.RequireAndVerifyClientCert

	for _, row := range []struct {
		name        string
		client      client
		certificate *certificate
		handshake   tls.ClientAuthType
		status      int
		logged      string
	}{
		{"issued", issued, newCertificate(t, name, tomorrow, ca), asked, http.StatusOK, ""},
		{"issued, expired", issued, expired, asked, http.StatusBadGateway, invalidClient},
		{"issued by another authority", issued, stranger, asked, http.StatusBadGateway, invalidClient},
		{"issued for another name", issued, newCertificate(t, "other.example", tomorrow, ca), asked, http.StatusBadGateway, invalidClient},
		{"self-signed", selfSigned, own, asked, http.StatusOK, ""},
		{"self-signed, another", selfSigned, newCertificate(t, name, tomorrow, nil), asked, http.StatusBadGateway, invalidClient},
		{"verified", issued, newCertificate(t, name, tomorrow, ca), verified, http.StatusOK, ""},
		{"verified, expired", issued, expired, verified, http.StatusServiceUnavailable,
			"the authorization server does not accept the TLS connection: remote error: tls: expired certificate"},
		{"verified, by another authority", issued, stranger, verified, http.StatusServiceUnavailable,
			"the authorization server does not accept the TLS connection: remote error: tls: unknown certificate authority"},
	} {
		t.Run(row.name, func(t *testing.T) {
			server, lines := startMTLSServer(t, ca, row.client, row.handshake)
			api := startResource(t, server)
			proxy := startProxy(t, server, row.client, api, lines,
				fmt.Sprintf("client_auth tls_client_auth {\ncertificate %s\nkey %s\n}",
					newFile(t, row.certificate.chainPEM), newFile(t, row.certificate.keyPEM)))

			if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != row.status {
				t.Errorf("the caller got %v, want %d", got, row.status)
			}
			if row.status != http.StatusOK {
				expiry := row.certificate.Leaf.NotAfter.UTC().Format(time.RFC3339)
				eventually(t, "the log says why, and of which certificate", func() bool {
					return proxy.logged(row.logged) && proxy.logged("on "+expiry)
				})
			}
			for _, r := range server.tokenRequests() {
				if r.clientAuth != "tls_client_auth" || r.certificate != row.certificate.base64() {
					t.Errorf("the token request was %+v", r)
				}
			}
		})
	}
}

func TestCertificateFilesAreReplacedUnderTraffic(t *testing.T) {
	t.Parallel()
	tomorrow := time.Now().Add(24 * time.Hour)
	ca := newCertificate(t, "an authority", tomorrow, nil)
	certificates := []*certificate{newCertificate(t, "partner", tomorrow, nil), newCertificate(t, "partner", tomorrow, nil)}
	client := newClient("partner", 4*time.Second).withCertificates(certificates...)
	server, lines := startMTLSServer(t, ca, client, tls.RequestClientCert)
	api := startResource(t, server)
	both := func(i int) string { return certificates[i%2].chainPEM + certificates[i%2].keyPEM }
	file := newFile(t, both(0))
	proxy := startProxy(t, server, client, api, lines, fmt.Sprintf("client_auth tls_client_auth {\ncertificate %s\n}", file))

	const tokens = 4
	flow := startTraffic(t, proxy.URL, 4)
	for i := range tokens {
		eventually(t, "a token is granted", func() bool { return len(server.granted()) == i+1 })
		// The next token request is seconds away.
		replaceFile(t, file, both(i+1))
	}
	eventually(t, "the last token is in use", func() bool { return len(api.accepted()) == tokens })
	answers := flow.stop()
	allOK(t, answers)
	requests := server.tokenRequests()
	t.Logf("%d requests, %d token requests", len(answers), len(requests))
	for i, r := range requests[:tokens] {
		if r.status != http.StatusOK || r.certificate != certificates[i%2].base64() {
			t.Errorf("token request %d was not proven with certificate %d: %+v", i, i%2, r)
		}
	}
}
