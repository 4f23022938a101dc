package authserver

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
)

// Revoke has the server revoke a token (RFC 7009 section 2.1) and returns nil or
// an *Error. Endpoint is the revocation endpoint; Form may hold further
// parameters. hint is the token_type_hint, refresh_token or access_token; with a
// refresh token, servers revoke the access tokens that came of it. A token that the
// server does not know is as good as revoked.
func (r Request) Revoke(ctx context.Context, transport http.RoundTripper, token Secret, hint string) error {
	form := url.Values{}
	maps.Copy(form, r.Form)
	form.Set("token", token.Reveal())
	form.Set("token_type_hint", hint)
	r.Form = form
	r.Proof = nil // for token requests only (RFC 9449 section 5)

	_, err := r.send(ctx, transport, revocationEndpoint)
	if failed, ok := errors.AsType[*Error](err); ok && failed.Kind == Refused && failed.Code == "invalid_token" {
		return nil // Google's word for what RFC 7009 section 2.2 has others answer with 200
	}
	return err
}
