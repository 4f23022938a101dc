package authserver

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ClientAuth is a way for a client to prove itself to an authorization server.
type ClientAuth interface {
	// Authenticate adds what the way needs to the form or the header of one
	// request.
	Authenticate(form url.Values, header http.Header) error

	// Advice tells the operator what to check when the server answers
	// invalid_client. It names what was sent, and shows no secret.
	Advice() string

	// Secrets lists the credentials that the client proves itself with and that no
	// text may show, whether they are sent or only sign what is.
	Secrets() []Secret
}

// ClientSecretBasic sends id and secret form-encoded in an HTTP Basic
// Authorization field (RFC 6749 section 2.3.1).
type ClientSecretBasic struct {
	ID     string
	Secret Secret

	// Raw leaves the form-encoding out, for servers that do not decode it.
	Raw bool
}

// Authenticate implements ClientAuth.
func (a ClientSecretBasic) Authenticate(_ url.Values, header http.Header) error {
	id, secret := a.ID, a.Secret.Reveal()
	if !a.Raw {
		id, secret = url.QueryEscape(id), url.QueryEscape(secret)
	}
	header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(id+":"+secret)))
	return nil
}

// looksEncoded reports whether a server that decodes id and secret, although they
// are not encoded, may fail at that: its invalid_request means the client then.
func (a ClientSecretBasic) looksEncoded() bool {
	return a.Raw && strings.Contains(a.ID+a.Secret.Reveal(), "%")
}

// Advice implements ClientAuth.
func (a ClientSecretBasic) Advice() string {
	if a.Raw {
		return checkSecret("client_secret_basic_raw", "client_secret_basic")
	}
	return checkSecret("client_secret_basic", "client_secret_post")
}

// Secrets implements ClientAuth.
func (a ClientSecretBasic) Secrets() []Secret { return []Secret{a.Secret} }

// checkSecret is the advice for a secret that was sent in one way and may have
// to be sent in another one.
func checkSecret(sent, other string) string {
	return fmt.Sprintf("check 'client_id' and 'client_secret', and whether the server wants them as %s: 'client_auth %s' is another way", sent, other)
}

// ClientSecretPost sends id and secret as form fields (RFC 6749 section 2.3.1).
type ClientSecretPost struct {
	ID     string
	Secret Secret
}

// Authenticate implements ClientAuth.
func (a ClientSecretPost) Authenticate(form url.Values, _ http.Header) error {
	form.Set("client_id", a.ID)
	form.Set("client_secret", a.Secret.Reveal())
	return nil
}

// Advice implements ClientAuth.
func (ClientSecretPost) Advice() string {
	return checkSecret("client_secret_post", "client_secret_basic")
}

// Secrets implements ClientAuth.
func (a ClientSecretPost) Secrets() []Secret { return []Secret{a.Secret} }

// PublicClient sends the client's id alone, as a client without credentials
// does (RFC 6749 section 3.2.1; "none" in RFC 7591 section 2).
type PublicClient struct {
	// ID is sent as client_id unless it is empty; the assertion of a grant then
	// tells who the client is.
	ID string
}

// Authenticate implements ClientAuth.
func (a PublicClient) Authenticate(form url.Values, _ http.Header) error {
	setClientID(form, a.ID)
	return nil
}

// Advice implements ClientAuth.
func (PublicClient) Advice() string {
	return "check 'client_id', and whether the server takes this client without a proof: 'client_auth' says how else it can prove itself"
}

// Secrets implements ClientAuth.
func (PublicClient) Secrets() []Secret { return nil }

// TLSClientAuth sends the client's id; the proof is the certificate that the
// transport presents (tls_client_auth and self_signed_tls_client_auth; RFC 8705
// section 2).
type TLSClientAuth struct {
	// ID is sent as client_id unless it is empty.
	ID string

	// Certificate is the certificate as PEM, with or without its chain.
	Certificate []byte
}

// Authenticate implements ClientAuth.
func (a TLSClientAuth) Authenticate(form url.Values, _ http.Header) error {
	setClientID(form, a.ID)
	return nil
}

// Advice implements ClientAuth.
func (a TLSClientAuth) Advice() string {
	const check = "check that the server takes it for this 'client_id'"
	for block, rest := pem.Decode(a.Certificate); block != nil; block, rest = pem.Decode(rest) {
		if certificate, err := x509.ParseCertificate(block.Bytes); block.Type == "CERTIFICATE" && err == nil {
			return fmt.Sprintf("the client certificate of %s, issued by %s, %s: %s",
				quoted(certificate.Subject.String()), quoted(certificate.Issuer.String()), expiry(certificate.NotAfter), check)
		}
	}
	return "a client certificate was presented: " + check
}

// Secrets implements ClientAuth. The certificate is no secret, and its key is the
// transport's.
func (TLSClientAuth) Secrets() []Secret { return nil }

// setClientID names the client, unless it has no id because something else says
// who it is, such as the assertion of a grant.
func setClientID(form url.Values, id string) {
	if id != "" {
		form.Set("client_id", id)
	}
}

// expiry tells when something expires, or that it has.
func expiry(at time.Time) string {
	verb := "expired"
	if time.Now().Before(at) {
		verb = "expires"
	}
	return verb + " on " + at.UTC().Format(time.RFC3339)
}

// quoted returns text from outside, fit for a log line.
func quoted(text string) string { return fmt.Sprintf("%q", redact(text, nil)) }

// Interface guards
var (
	_ ClientAuth = ClientSecretBasic{}
	_ ClientAuth = ClientSecretPost{}
	_ ClientAuth = PublicClient{}
	_ ClientAuth = TLSClientAuth{}
)
