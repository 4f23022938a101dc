package upstreamoauth2

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// settings are a client's settings with every placeholder resolved, as one
// token request needs them. The grant adds its parameters to the form later.
type settings struct {
	issuer   string
	endpoint string // empty if metadata tells it
	clientID string
	secret   authserver.Secret
	form     url.Values
	header   http.Header
}

// resolve resolves the options that every grant has. What goes wrong here is
// the operator's to mend: the error names the option and the way out.
func (c *Client) resolve(e *expander) (*settings, error) {
	s := &settings{
		issuer:   e.value("issuer", c.Issuer),
		endpoint: e.value("token_endpoint", c.TokenEndpoint),
		clientID: e.value("client_id", c.ClientID),
		secret:   e.secret("client_secret", c.ClientSecret),
		form:     make(url.Values),
		header:   make(http.Header),
	}
	s.form.Set("scope", strings.Join(e.values("scope", c.Scope), " "))
	s.form["audience"] = e.values("audience", c.Audience)
	s.form["resource"] = e.values("resource", c.Resource)
	for name, value := range c.TokenParam {
		s.form.Set(name, e.value("token_param", string(value)))
	}
	for name, value := range c.TokenHeader {
		v := e.value("token_header", string(value))
		if !httpguts.ValidHeaderFieldValue(v) {
			e.fail("token_header", fmt.Errorf("the value for %s does not fit a header field", name))
		}
		s.header.Set(name, v)
	}
	if s.endpoint == "" && c.grant().ServiceAccount != "" {
		if account := e.serviceAccount(c.grant().ServiceAccount); account != nil {
			s.endpoint = account.TokenURI
		}
	}
	if e.err != nil {
		return s, e.err
	}
	if s.endpoint != "" {
		e.fail("token_endpoint", authserver.CheckEndpoint(s.endpoint, c.AllowHTTP))
	}
	if s.issuer != "" {
		e.fail("issuer", checkIssuer(s.issuer, c.AllowHTTP))
	}
	for _, resource := range s.form["resource"] {
		if !fromRequest(resource) {
			e.fail("resource", checkResource(resource))
		}
	}
	return s, e.err
}
