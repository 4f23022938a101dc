package authserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// A connection that does not come about has a cause that can be mended, which the
// error names.
func TestUnreachableSaysWhatToCheck(t *testing.T) {
	failing := func(err error) func(*http.Transport) {
		return func(transport *http.Transport) {
			transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, err }
		}
	}
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	trusting := func(change func(*tls.Config)) func(*http.Transport) {
		return func(transport *http.Transport) { change(transport.TLSClientConfig) }
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()

	tests := []struct {
		name   string
		url    string
		change func(*http.Transport)
		want   string // the end of the error; "" for no next step
	}{
		{
			"an unknown authority", secure.URL, trusting(func(c *tls.Config) { c.RootCAs = x509.NewCertPool() }),
			"; if the certificate is from an authority of your own, write 'transport http { tls_trust_pool file <its certificate> }'",
		},
		{
			"another name", secure.URL, trusting(func(c *tls.Config) { c.ServerName = "other.example" }),
			"; the server's certificate is for another name: check the host in the URL, or write 'transport http { tls_server_name <the name> }'",
		},
		{
			"expired", secure.URL, trusting(func(c *tls.Config) { c.Time = func() time.Time { return time.Now().AddDate(500, 0, 0) } }),
			"; the server's certificate has expired, or is not valid yet: have it renewed, or check this machine's clock",
		},
		{
			"not valid for servers", secure.URL, failing(x509.CertificateInvalidError{Reason: x509.IncompatibleUsage}),
			"",
		},
		{
			"no TLS", strings.Replace(plain.URL, "http:", "https:", 1), func(*http.Transport) {},
			"; the server speaks plain HTTP there: check scheme and port in the URL",
		},
		{
			"an unknown host", endpoint, failing(dial(&net.DNSError{Err: "no such host", Name: "auth.example.com", IsNotFound: true})),
			"; check the host in the URL, and what this machine's DNS says of it",
		},
		{
			"connection refused", endpoint, failing(dial(syscall.ECONNREFUSED)),
			"connection refused; check host and port in the URL, and that the server is running",
		},
		{
			"no route to the host", endpoint, failing(dial(syscall.EHOSTUNREACH)),
			"; check this machine's routes and firewall, and the host in the URL",
		},
		{
			"no route to the network", endpoint, failing(dial(syscall.ENETUNREACH)),
			"; check this machine's routes and firewall, and the host in the URL",
		},
		{"anything else", endpoint, failing(io.ErrNoProgress), io.ErrNoProgress.Error()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			transport := secure.Client().Transport.(*http.Transport).Clone()
			defer transport.CloseIdleConnections()
			test.change(transport)
			token, err := do(t, request(test.url), transport)
			failed := mustFail(t, token, err)
			checkKind(t, failed, authserver.Unavailable)
			text := failed.Error()
			if !strings.HasPrefix(text, "the authorization server cannot be reached: ") || !strings.HasSuffix(text, test.want) {
				t.Errorf("the error says %q, want it to end with %q", text, test.want)
			}
			if test.want == "" && strings.Contains(text, "; ") {
				t.Errorf("%q has a next step", text)
			}
			if failed.Status != 0 || failed.URL != test.url {
				t.Errorf("URL %q and status %d, want %q and none", failed.URL, failed.Status, test.url)
			}
		})
	}
}

// An error tells where the request went, without what may be a secret in the URL.
func TestErrorNamesURL(t *testing.T) {
	const secret = "kQ3vYxT8mB5nWc2RzJ7h"
	tests := []struct{ name, endpoint, want string }{
		{"as it is", "https://auth.example.com/oauth/token", "https://auth.example.com/oauth/token"},
		{"a port", "https://auth.example.com:8443/token", "https://auth.example.com:8443/token"},
		{"no path", "https://auth.example.com", "https://auth.example.com"},
		{"an escaped path", "https://auth.example.com/a%2Fb/token", "https://auth.example.com/a%2Fb/token"},
		{"a query", "https://auth.example.com/token?key=" + secret, "https://auth.example.com/token"},
		{"credentials", "https://app:" + secret + "@auth.example.com/token", "https://auth.example.com/token"},
		{"the secret in the path", "https://auth.example.com/" + secret + "/token", "https://auth.example.com/[redacted]/token"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := request(test.endpoint)
			r.Auth = authserver.ClientSecretPost{ID: clientID, Secret: authserver.NewSecret(secret)}
			token, err := do(t, r, answering(http.StatusNotFound, contentType("text/html; charset=utf-8"), "<html>"))
			failed := mustFail(t, token, err)
			if failed.URL != test.want || failed.Status != http.StatusNotFound {
				t.Errorf("URL %q and status %d, want %q and 404", failed.URL, failed.Status, test.want)
			}
			if want := test.want + " answered 404 (text/html): check the path of 'token_endpoint'"; failed.Error() != want {
				t.Errorf("the error says %q, want %q", failed, want)
			}
		})
	}
	t.Run("an answer that cannot be used", func(t *testing.T) {
		token, err := do(t, request(endpoint), answering(http.StatusOK, contentType(jsonType), `{"token_type":"bearer"}`))
		if failed := mustFail(t, token, err); failed.URL != endpoint || failed.Status != http.StatusOK {
			t.Errorf("URL %q and status %d", failed.URL, failed.Status)
		}
	})
	t.Run("metadata", func(t *testing.T) {
		r := authserver.MetadataRequest{Issuer: issuer, Timeout: time.Minute}
		_, err := r.Do(t.Context(), answering(http.StatusNotFound, http.Header{}, ""))
		if failed := mustFail(t, nil, err); failed.URL != issuer+"/.well-known/oauth-authorization-server" || failed.Status != http.StatusNotFound {
			t.Errorf("URL %q and status %d", failed.URL, failed.Status)
		}
	})
}

// Keycloak says unauthorized_client with status 401 of a wrong secret; with any other
// status it is what RFC 6749 section 5.2 says it is.
func TestUnauthorizedClient(t *testing.T) {
	for status, want := range map[int]string{
		400: "(unauthorized_client); allow this client the grant type at the authorization server, or change 'grant'",
		401: "(unauthorized_client); with status 401, this is what Keycloak says of a wrong secret: check 'client_id' and 'client_secret'",
	} {
		token, err := do(t, request(endpoint), answering(status, contentType(jsonType), `{"error":"unauthorized_client"}`))
		if text := mustFail(t, token, err).Error(); !strings.Contains(text, want) {
			t.Errorf("%d: %q does not say %q", status, text, want)
		}
	}
}
