package integration

import (
	"crypto/elliptic"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// withTLS gives an AuthServer a certificate, which nobody trusts by itself.
func withTLS(s *httptest.Server) {
	s.TLS = new(tls.Config)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail on purpose
}

// TestTokenEndpointsCertificateIsVerified: a stranger's is refused before the
// credentials are sent.
func TestTokenEndpointsCertificateIsVerified(t *testing.T) {
	auth := caddytest.NewAuthServer(t, withTLS)
	caddytest.NewAPIServer(t)
	proxy := caddytest.Run(t, tellingSite(""))

	proxy.Want(http.StatusServiceUnavailable)

	if n := auth.Count(); n != 0 {
		t.Errorf("%d token requests reached a server with an unknown certificate", n)
	}
	line := proxy.AwaitLog(caddytest.LogFailed)
	if text, _ := line["error"].(string); !strings.Contains(text, "certificate signed by unknown authority") {
		t.Errorf("the log says %v", line)
	}
}

// TestTransportTakesWhatReverseProxysTakes: its lines mean the same here.
func TestTransportTakesWhatReverseProxysTakes(t *testing.T) {
	t.Run("tls_trust_pool", func(t *testing.T) {
		auth := caddytest.NewAuthServer(t, withTLS)
		caddytest.NewAPIServer(t)
		t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
		proxy := caddytest.Run(t, caddytest.PartnerSiteWith(`transport http {
				tls_trust_pool file {$CA_FILE}
			}`))
		proxy.Want(http.StatusOK)
	})

	t.Run("tls_server_name with a placeholder", func(t *testing.T) {
		auth := caddytest.NewAuthServer(t, withTLS)
		caddytest.NewAPIServer(t)
		t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
		t.Setenv("SERVER_NAME", "example.com")
		proxy := caddytest.Run(t, caddytest.PartnerSiteWith(`transport http {
				tls_trust_pool file {$CA_FILE}
				tls_server_name {env.SERVER_NAME}
			}`))
		proxy.Want(http.StatusOK)
		if got := auth.Seen()[0].TLS.ServerName; got != "example.com" {
			t.Errorf("the server name is %q", got)
		}
	})

	t.Run("tls_client_auth", func(t *testing.T) {
		key := newECKey(t, elliptic.P256())
		certificate := certificateFor(t, key, nil)
		auth := caddytest.NewAuthServer(t, withTLS, func(s *httptest.Server) { s.TLS.ClientAuth = tls.RequireAnyClientCert })
		caddytest.NewAPIServer(t)
		t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
		t.Setenv("CERT_FILE", pemFile(t, "CERTIFICATE", certificate.Raw))
		t.Setenv("KEY_FILE", caddytest.SecretFile(t, sec1Text(t, key)))
		proxy := caddytest.Run(t, caddytest.PartnerSiteWith(`transport http {
				tls_trust_pool file {$CA_FILE}
				tls_client_auth {$CERT_FILE} {$KEY_FILE}
			}`))
		proxy.Want(http.StatusOK)
		if shown := auth.Seen()[0].TLS.PeerCertificates; len(shown) != 1 || !shown[0].Equal(certificate) {
			t.Errorf("the client shows %d certificates, want its own", len(shown))
		}
	})

	t.Run("network_proxy", func(t *testing.T) {
		auth := caddytest.NewAuthServer(t, withTLS)
		caddytest.NewAPIServer(t)
		tunnel := newTunnel(t, auth.Listener.Addr().String())
		t.Setenv("PROXY", tunnel.URL)
		t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
		// A name that only the proxy can reach.
		t.Setenv("TOKEN_ENDPOINT", "https://example.com/token")
		proxy := caddytest.Run(t, caddytest.PartnerSiteWith(`transport http {
				tls_trust_pool file {$CA_FILE}
				network_proxy url {$PROXY}
			}`))
		proxy.Want(http.StatusOK)
		if n := tunnel.opened.Load(); n != 1 {
			t.Errorf("%d connections went through the proxy", n)
		}
		if got := auth.Seen()[0].Host; got != "example.com" {
			t.Errorf("the token request is for %q", got)
		}
	})
}

// TestTransportIsTheClientsOwn: requests to the API do not take it.
func TestTransportIsTheClientsOwn(t *testing.T) {
	auth := caddytest.NewAuthServer(t)
	api := caddytest.NewAPIServer(t)
	tunnel := newTunnel(t, auth.Listener.Addr().String())
	t.Setenv("PROXY", tunnel.URL)
	proxy := caddytest.Run(t, caddytest.PartnerSiteWith(`transport http {
			network_proxy url {$PROXY}
		}`))

	proxy.Want(http.StatusOK)

	if n := tunnel.opened.Load(); n != 1 || len(api.Seen()) != 1 {
		t.Errorf("%d requests went through the proxy, and %d reached the API", n, len(api.Seen()))
	}
}

// tunnel is an HTTP proxy with one destination.
type tunnel struct {
	*httptest.Server
	destination string
	opened      atomic.Int32
}

func newTunnel(t testing.TB, destination string) *tunnel {
	t.Helper()
	p := &tunnel{destination: destination}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *tunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.opened.Add(1)
	if r.Method != http.MethodConnect { // a request for an http URL
		r.RequestURI = ""
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
		return
	}
	out, err := net.Dial("tcp", p.destination)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	in, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		_ = out.Close()
		return
	}
	_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
	pipe := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		_, _ = to.Close(), from.Close()
	}
	go pipe(in, out)
	go pipe(out, in)
}

// TestUnverifiedServerIsWarnedOf: whoever is in between can take the credentials.
func TestUnverifiedServerIsWarnedOf(t *testing.T) {
	const warning = "the authorization server's certificate is not verified, so whoever is in between can take the credentials: remove 'tls_insecure_skip_verify', and write 'tls_trust_pool file <ca.pem>' in 'transport http' for a CA of your own"
	for _, test := range []struct {
		name, lines string
		want        int
	}{
		{"skipped", "transport http {\ntls_insecure_skip_verify\n}", 1},
		{"verified", "transport http {\ntls_server_name auth.example\n}", 0},
		{"by default", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			caddytest.NewAuthServer(t, withTLS)
			caddytest.NewAPIServer(t)
			proxy := caddytest.Run(t, caddytest.PartnerSiteWith(test.lines))
			caddytest.Eventually(t, "the first token request is over", func() bool {
				return len(proxy.Logged(caddytest.LogFailed))+len(proxy.Logged(caddytest.LogObtained)) > 0
			})
			lines := proxy.Logged(warning)
			if len(lines) != test.want {
				t.Fatalf("the log warns %d times, want %d", len(lines), test.want)
			}
			for _, line := range lines {
				if line["level"] != "warn" || line["client"] != "partner" {
					t.Errorf("the log says %v", line)
				}
			}
		})
	}
}
