package config

import (
	"errors"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Inject says where on a request the token goes.
type Inject struct {
	// "header" (the default), or "query" as a last resort (RFC 6750 section
	// 2.3): URLs end up in logs.
	In string `json:"in,omitempty"`

	// The name of the header field or query parameter. Default for a header:
	// Authorization. Required for a query parameter.
	Name string `json:"name,omitempty"`

	// What stands before the token in the header field. Default: in
	// Authorization what the token_type asks for, that is Bearer; nothing in any
	// other field. With a scheme the token is used whatever its token_type.
	Scheme string `json:"scheme,omitempty"`
}

// Ways to send the token.
const (
	injectHeader = "header"
	injectQuery  = "query"
)

// InjectUsage is what stands behind 'inject'.
const InjectUsage = "header [<name> [<scheme>]] | query <name>"

// Placement is where on a request the token goes, with the defaults applied.
type Placement struct {
	Name   string // header field in canonical form, or query parameter
	Query  bool
	Scheme string // before the token in a header field; "" for none
	ByType bool   // the scheme comes from the token's type instead
}

// Placement applies the defaults of inject.
func (c *Client) Placement() Placement {
	switch {
	case c.Inject == nil:
		return Placement{Name: "Authorization", ByType: true}
	case c.Inject.In == injectQuery:
		return Placement{Name: c.Inject.Name, Query: true}
	}
	p := Placement{Name: textproto.CanonicalMIMEHeaderKey(c.Inject.Name), Scheme: c.Inject.Scheme}
	if p.Name == "" {
		p.Name = "Authorization"
	}
	p.ByType = p.Name == "Authorization" && p.Scheme == ""
	return p
}

// checkInject refuses fields that could never carry a token.
func (c *Client) checkInject() error {
	if c.Inject == nil {
		return nil
	}
	in := *c.Inject
	switch in.In {
	case injectQuery:
		if in.Name == "" {
			return OptionErrorf("inject", "the query parameter has no name: write 'inject query access_token'")
		}
		if in.Scheme != "" {
			return OptionErrorf("inject", "a query parameter takes no scheme: write 'inject query %s'", in.Name)
		}
	case "", injectHeader:
		name := textproto.CanonicalMIMEHeaderKey(in.Name)
		switch {
		case name != "" && !httpguts.ValidHeaderFieldName(name):
			return OptionErrorf("inject", "%q is not a header field name: write one such as X-Api-Key", in.Name)
		case slices.Contains(hopByHopHeaders, name):
			return OptionErrorf("inject", "the %s field never reaches the upstream, as it is for one connection only: use another", name)
		case in.Scheme != "" && !httpguts.ValidHeaderFieldName(in.Scheme): // both are RFC 9110 tokens
			return OptionErrorf("inject", "%q is not an authentication scheme: write one word, such as Bearer", in.Scheme)
		}
	default:
		return OptionErrorf("inject", "must be 'header' or 'query', not %q: write 'inject %s'", in.In, InjectUsage)
	}
	return nil
}

// hopByHopHeaders are the fields that reverse_proxy drops or rewrites.
var hopByHopHeaders = []string{
	"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// Replay says what happens when the API rejects the token. The token is
// replaced in any case, at most every 30 seconds; and the request is sent once
// more with the new one, unless the caller has been sent something already.
//
// A request is sent again with what the handlers behind this one get to see:
// header operations placed there are applied again.
type Replay struct {
	// Never send a request again. Default: false.
	Off bool `json:"off,omitempty"`

	// The statuses that mean a rejected token, each between 400 and 599. A 401
	// counts if its WWW-Authenticate field is absent or has a Bearer challenge,
	// or one of the token's own scheme; a challenge that says insufficient_scope
	// never counts, as another token would not help (RFC 6750 section 3.1).
	// Default: 401.
	Status []int `json:"status,omitempty"`

	// How many bytes of a request body are kept for a replay while they stream
	// through. A request with a longer body is not sent again; with 0, none with
	// a body is. Default: 65536 (64 KiB).
	BodyLimit *int64 `json:"body_limit,omitempty"`
}

const defaultBodyLimit = 64 << 10

func (c *Client) checkReplay() error {
	if c.Replay == nil {
		return nil
	}
	if c.Replay.Off && (len(c.Replay.Status) > 0 || c.Replay.BodyLimit != nil) {
		return OptionErrorf("replay", "'replay off' takes nothing else: remove 'off' or the block")
	}
	for _, status := range c.Replay.Status {
		if status < 400 || status > 599 {
			return OptionErrorf("replay", "status %d is no rejection: write error statuses, such as 401", status)
		}
	}
	if c.Replay.BodyLimit != nil && *c.Replay.BodyLimit < 0 {
		return OptionErrorf("replay", "body_limit must not be negative")
	}
	return nil
}

// TakesAnyTokenType reports whether the config says how to send the token, whatever
// its type: with a scheme, or in a place where it stands alone.
func (c *Client) TakesAnyTokenType() bool { return !c.Placement().ByType }

// ExpectsOtherTypes reports whether tokens of a type that others cannot send are to be
// expected: a scheme is given, or an exchanged token that need not have a type ("N_A",
// RFC 8693 section 2.2.1) stands alone. Such a client shares no token with those.
func (c *Client) ExpectsOtherTypes() bool {
	return c.TakesAnyTokenType() && (c.Placement().Scheme != "" || c.IsTokenExchange())
}

// Rejection is what counts as a rejected token, and when a request is sent again,
// with the defaults applied.
type Rejection struct {
	Status    []int
	Scheme    string // of the token's own challenges, beside Bearer
	Off       bool   // no request is sent again
	BodyLimit int64
}

// Rejection applies the defaults of replay.
func (c *Client) Rejection() Rejection {
	r := Rejection{Status: []int{http.StatusUnauthorized}, BodyLimit: defaultBodyLimit}
	switch {
	case c.DPoP != nil:
		r.Scheme = "DPoP"
	case c.Inject != nil:
		r.Scheme = c.Inject.Scheme
	}
	if c.Replay == nil {
		return r
	}
	r.Off = c.Replay.Off
	if len(c.Replay.Status) > 0 {
		r.Status = c.Replay.Status
	}
	if c.Replay.BodyLimit != nil {
		r.BodyLimit = *c.Replay.BodyLimit
	}
	return r
}

// DPoP binds tokens to a key pair (RFC 9449): each request carries a proof,
// signed for it alone, that its sender has the key.
type DPoP struct {
	// The private key, as PEM or JWK: a file, or a placeholder that holds the key
	// itself. It is read when the config is loaded. Default: a key pair made in
	// this process, which lives as long as the client's tokens.
	Key Credential `json:"key,omitempty"`
}

func (c *Client) checkDPoP() error {
	switch {
	case c.DPoP == nil && c.UpstreamBase != "":
		return OptionErrorf("upstream_base", "goes with 'dpop' only: write both or none")
	case c.DPoP == nil:
		return nil
	case c.UpstreamBase == "":
		return OptionErrorf("dpop", "needs 'upstream_base', the URL that the API is known by: it is part of each request's proof")
	case c.Inject != nil:
		return OptionErrorf("inject", "tokens bound by 'dpop' go into the Authorization field (RFC 9449 section 7.1): remove 'inject'")
	}
	if strings.Contains(c.UpstreamBase, "{") {
		return nil // checked once it is resolved
	}
	if err := checkUpstreamBase(c.UpstreamBase); err != nil {
		return &OptionError{Option: "upstream_base", Err: err}
	}
	return nil
}

func checkUpstreamBase(base string) error {
	u, err := url.Parse(base)
	if err != nil || !isPlain(base, "") || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.ContainsAny(base, "?#") {
		return errors.New("must be an absolute URL without credentials, query and fragment, such as https://api.example.com")
	}
	return nil
}
