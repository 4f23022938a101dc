package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// resource is the API behind the proxy. It answers 200 to a request with exactly one good access token,
// proven by DPoP if it is bound to a key, and over a connection with the client's certificate if it is
// bound to one; 401 to any other. It remembers both.
type resource struct {
	*httptest.Server
	check func(token string) (tokenFacts, error)
	nonce string // that it wants in DPoP proofs; "" for none

	block string // of reverse_proxy: what it takes to reach this API

	// asksAgain means that it asks the authorization server about the token of every request.
	asksAgain bool

	mu       sync.Mutex
	tokens   map[string]*knownToken
	proofs   map[string]struct{} // of DPoP, by jti
	requests int
	refusals []string
}

// knownToken is a token that the API has asked the authorization server about. Like many APIs, this one asks
// once and from then on goes by the expiry, unless asksAgain is set.
type knownToken struct {
	ask   sync.Once
	asked bool // guarded by the API's mutex
	facts tokenFacts
	err   error
}

func startResource(t *testing.T, s *authServer) *resource {
	t.Helper()
	api := newResource(s)
	api.Server = httptest.NewServer(api)
	t.Cleanup(api.Close)
	return api
}

// startTLSResource is startResource for an API that is reached over TLS and asks for the client's
// certificate.
func startTLSResource(t *testing.T, s *authServer, certificate tls.Certificate) *resource {
	t.Helper()
	api := newResource(s)
	api.Server = startTLSServer(t, api, &tls.Config{
		Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert,
	})
	return api
}

func newResource(s *authServer) *resource {
	return &resource{check: s.check, tokens: make(map[string]*knownToken), proofs: make(map[string]struct{})}
}

func (api *resource) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	facts, err := api.admit(r)
	if err != nil {
		api.mu.Lock()
		api.refusals = append(api.refusals, err.Error())
		api.mu.Unlock()
		if errors.Is(err, errNonce) {
			w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
			w.Header().Set("DPoP-Nonce", api.nonce)
		} else {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		}
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	fmt.Fprintf(w, "welcome, %s, with your %s token\n", facts.client, facts.format)
	if facts.exchangedFor != "" {
		fmt.Fprintf(w, "for %s\n", facts.exchangedFor)
	}
}

func (api *resource) admit(r *http.Request) (tokenFacts, error) {
	fields := r.Header.Values("Authorization")
	api.mu.Lock()
	api.requests++
	api.mu.Unlock()
	if len(fields) != 1 {
		return tokenFacts{}, fmt.Errorf("%d Authorization fields", len(fields))
	}
	scheme, token, _ := strings.Cut(fields[0], " ")
	if scheme != "Bearer" && scheme != "DPoP" {
		return tokenFacts{}, errors.New("the Authorization field is neither a Bearer nor a DPoP token")
	}

	api.mu.Lock()
	known := api.tokens[token]
	if known == nil || api.asksAgain {
		known = new(knownToken)
		api.tokens[token] = known
	}
	api.mu.Unlock()
	known.ask.Do(func() {
		known.facts, known.err = api.check(token)
		api.mu.Lock()
		known.asked = true
		api.mu.Unlock()
	})
	if known.err != nil {
		return tokenFacts{}, known.err
	}
	if (scheme == "DPoP") != (known.facts.jkt != "") {
		return tokenFacts{}, fmt.Errorf("the scheme of the token is not %s", scheme)
	}
	if scheme == "DPoP" {
		if err := api.checkProof(r, token, known.facts.jkt); err != nil {
			return tokenFacts{}, err
		}
	}
	if bound := known.facts.x5t; bound != "" && bound != presented(r) {
		return tokenFacts{}, fmt.Errorf("the token is bound to the certificate %s, the connection has %q", bound, presented(r))
	}
	if late := time.Since(known.facts.expires); late >= 0 {
		return tokenFacts{}, fmt.Errorf("the token expired %v ago", late)
	}
	return known.facts, nil
}

// presented returns the thumbprint of the certificate on the request's connection; "" if there is none.
func presented(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return hashOf(r.TLS.PeerCertificates[0].Raw)
}

// accepted returns the tokens that the API found to be good, the earliest to expire first.
func (api *resource) accepted() []*knownToken {
	api.mu.Lock()
	defer api.mu.Unlock()
	var good []*knownToken
	for _, known := range api.tokens {
		if known.asked && known.err == nil {
			good = append(good, known)
		}
	}
	slices.SortFunc(good, func(a, b *knownToken) int { return a.facts.expires.Compare(b.facts.expires) })
	return good
}

// seen returns every token the API got, good or not.
func (api *resource) seen() []string {
	api.mu.Lock()
	defer api.mu.Unlock()
	return slices.Collect(maps.Keys(api.tokens))
}

// refused returns why the API refused requests, one line for each.
func (api *resource) refused() []string {
	api.mu.Lock()
	defer api.mu.Unlock()
	return slices.Clone(api.refusals)
}
