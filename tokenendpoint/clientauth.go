package tokenendpoint

import (
	"encoding/base64"
	"net/http"
	"net/url"
)

// ClientAuth is a way for a client to prove itself to the token endpoint. It
// adds what the way needs to the form or the header of one token request.
type ClientAuth interface {
	Authenticate(form url.Values, header http.Header) error
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

// PublicClient sends the client's id alone, as a client without credentials
// does (RFC 6749 section 3.2.1; "none" in RFC 7591 section 2).
type PublicClient struct {
	ID string
}

// Authenticate implements ClientAuth.
func (a PublicClient) Authenticate(form url.Values, _ http.Header) error {
	form.Set("client_id", a.ID)
	return nil
}

// Interface guards
var (
	_ ClientAuth = ClientSecretBasic{}
	_ ClientAuth = ClientSecretPost{}
	_ ClientAuth = PublicClient{}
)
