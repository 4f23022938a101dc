package e2e

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
)

// upstream holds the lines of reverse_proxy for an API with a certificate of the authority: it presents
// what stands in these two files.
func upstream(t *testing.T, ca *certificate, certificateFile, keyFile string) (block string) {
	t.Helper()
	return fmt.Sprintf("transport http {\ntls_client_auth %s %s\ntls_trust_pool file %s\n}",
		certificateFile, keyFile, newFile(t, ca.chainPEM))
}

// eventuallyAnswers waits for this answer. Right after a reload the old config may still give one, and Caddy
// itself may reset a connection.
func (p *proxy) eventuallyAnswers(body string) {
	p.t.Helper()
	var got answer
	defer func() {
		if got.body != body {
			p.t.Logf("the last answer was %v", got)
		}
	}()
	eventually(p.t, "an answer: "+body, func() bool {
		got = get(p.t.Context(), http.DefaultClient, p.URL)
		return got.body == body
	})
}

// A token that is bound to the client's certificate (RFC 8705 section 3) is good where reverse_proxy
// presents the same one to the API, and of no use to anybody else.
func TestTokensBoundToACertificate(t *testing.T) {
	const name = "partner.example"
	tomorrow := time.Now().Add(24 * time.Hour)
	ca := newCertificate(t, "an authority", tomorrow, nil)
	issued := newClient("partner", time.Hour)
	issued.AuthMethod, issued.CertificateName = "tls_client_auth", name
	ofAuthority, ofItself := newCertificate(t, name, tomorrow, ca), newCertificate(t, name, tomorrow, nil)

	for _, row := range []struct {
		name   string
		client client
		own    *certificate
	}{
		{"issued", issued, ofAuthority},
		{"self-signed", newClient("partner", time.Hour).withCertificates(ofItself), ofItself},
	} {
		for _, format := range []string{"opaque", "JWT"} {
			t.Run(row.name+"/"+format, func(t *testing.T) {
				client := row.client
				client.CertificateBound = true
				var more string
				if format == "JWT" {
					more = oidcProvider.jwt(&client)
				}
				server, lines := startMTLSServer(t, ca, client, tls.RequestClientCert)
				api := startTLSResource(t, server, newCertificate(t, "localhost", tomorrow, ca).Certificate)
				certificateFile, keyFile := newFile(t, row.own.chainPEM), newFile(t, row.own.keyPEM)
				lines += fmt.Sprintf("\n%s\nclient_auth tls_client_auth {\ncertificate %s\nkey %s\n}", more, certificateFile, keyFile)
				own := upstream(t, ca, certificateFile, keyFile)
				other := newCertificate(t, name, tomorrow, ca)

				api.block = own
				proxy := startProxy(t, server, client, api, lines)
				welcome := fmt.Sprintf("welcome, partner, with your %s token\n", format)
				refusal := func(connection string) string {
					return fmt.Sprintf("the token is bound to the certificate %s, the connection has %q\n", row.own.thumbprint(), connection)
				}
				for _, step := range []struct {
					name   string
					block  string
					status int
					body   string
					tokens int // so far
				}{
					{"with the certificate", own, http.StatusOK, welcome, 1},
					// As it may have been revoked, the refused token is replaced, and the next one is not.
					{"without a certificate", "transport http {\ntls_trust_pool file " + newFile(t, ca.chainPEM) + "\n}",
						http.StatusUnauthorized, refusal(""), 2},
					{"with another one for the same name", upstream(t, ca, newFile(t, other.chainPEM), newFile(t, other.keyPEM)),
						http.StatusUnauthorized, refusal(other.thumbprint()), 2},
					{"with the certificate again", own, http.StatusOK, welcome, 2},
				} {
					if api.block != step.block {
						api.block = step.block
						proxy.reload(lines)
						proxy.eventuallyAnswers(step.body)
					}
					for range 3 {
						if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != step.status || got.body != step.body {
							t.Errorf("%s: the caller got %v, want %d: %q", step.name, got, step.status, step.body)
						}
					}
					if got := len(server.tokenRequests()); got != step.tokens {
						t.Errorf("%s: %d token requests so far, want %d", step.name, got, step.tokens)
					}
				}
				for _, token := range api.accepted() {
					if token.facts.x5t != row.own.thumbprint() {
						t.Errorf("a token is bound to %q, want %q", token.facts.x5t, row.own.thumbprint())
					}
				}
			})
		}
	}
}

// reverse_proxy reads its certificate when the config is loaded. A reload after its renewal is all it takes,
// although the token in hand is bound to the old one.
func TestBoundTokensAfterTheirCertificateIsRenewed(t *testing.T) {
	const name = "partner.example"
	tomorrow := time.Now().Add(24 * time.Hour)
	ca := newCertificate(t, "an authority", tomorrow, nil)
	before, after := newCertificate(t, name, tomorrow, ca), newCertificate(t, name, tomorrow, ca)
	client := newClient("partner", time.Hour)
	client.AuthMethod, client.CertificateName, client.CertificateBound = "tls_client_auth", name, true
	server, lines := startMTLSServer(t, ca, client, tls.RequestClientCert)
	api := startTLSResource(t, server, newCertificate(t, "localhost", tomorrow, ca).Certificate)
	file := newFile(t, before.chainPEM+before.keyPEM)
	lines += fmt.Sprintf("\nclient_auth tls_client_auth {\ncertificate %s\n}", file)
	api.block = upstream(t, ca, file, file)
	proxy := startProxy(t, server, client, api, lines)

	for _, step := range []struct {
		name   string
		change func()
		proven []*certificate // what the token requests so far were made with
	}{
		{"at first", func() {}, []*certificate{before}},
		{"renewed", func() { replaceFile(t, file, after.chainPEM+after.keyPEM) }, []*certificate{before}},
		{"reloaded", func() {
			proxy.reload(lines)
			// Right after a reload the old config may still answer.
			eventually(t, "the new certificate is presented", func() bool {
				if got := get(t.Context(), http.DefaultClient, proxy.URL); got.err == nil && got.status != http.StatusOK {
					t.Errorf("the caller got %v", got)
				}
				return len(server.tokenRequests()) > 1
			})
		}, []*certificate{before, after}},
	} {
		step.change()
		for range 3 {
			if got := get(t.Context(), http.DefaultClient, proxy.URL); got.status != http.StatusOK {
				t.Errorf("%s: the caller got %v", step.name, got)
			}
		}
		requests := server.tokenRequests()
		if !slices.EqualFunc(requests, step.proven, func(r tokenRequest, c *certificate) bool { return r.certificate == c.base64() }) {
			t.Errorf("%s: the token requests were %+v", step.name, requests)
		}
	}
	// That was how the plugin learned that its token is of no use any more.
	if refused := api.refused(); len(refused) != 1 {
		t.Errorf("the API refused %d requests, want 1: %q", len(refused), refused)
	}
}
