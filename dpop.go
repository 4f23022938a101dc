package upstreamoauth2

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

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
		return optionErrorf("upstream_base", "goes with 'dpop' only: write both or none")
	case c.DPoP == nil:
		return nil
	case c.UpstreamBase == "":
		return optionErrorf("dpop", "needs 'upstream_base', the URL that the API is known by: it is part of each request's proof")
	case c.Inject != nil:
		return optionErrorf("inject", "tokens bound by 'dpop' go into the Authorization field (RFC 9449 section 7.1): remove 'inject'")
	}
	if strings.Contains(c.UpstreamBase, "{") {
		return nil // checked once it is resolved
	}
	if err := checkUpstreamBase(c.UpstreamBase); err != nil {
		return &optionError{"upstream_base", err}
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

// dpopField is where proofs go, in net/http's canonical form of DPoP.
const dpopField = "Dpop"

// prover makes the proofs for upstream requests.
type prover struct {
	key    *authserver.ProofKey
	nonces *authserver.Nonces
	base   string // of the API, without a slash at its end
	origin string
}

func (c *liveClient) newProver() *prover {
	if c.proofKey == nil {
		return nil
	}
	return &prover{
		key:    c.proofKey,
		nonces: &c.shared.session.nonces,
		base:   strings.TrimSuffix(c.upstreamBase, "/"),
		origin: authserver.Origin(c.upstreamBase),
	}
}

// prove puts a fresh proof on the request, with the newest nonce of the API.
func (p *prover) prove(r *http.Request, token *authserver.Token) {
	p.proveWith(r, token, p.nonces.Get(p.origin))
}

// proveWith is prove with that nonce. Signing fails only if the system has no
// randomness; then there is no proof, and the API refuses the request.
func (p *prover) proveWith(r *http.Request, token *authserver.Token, nonce string) {
	proof, err := p.key.Proof(authserver.Proof{
		Method:      r.Method,
		URL:         p.base + cmp.Or(r.URL.EscapedPath(), "/"), // as it goes upstream
		Nonce:       nonce,
		AccessToken: token.AccessToken,
	})
	if err == nil {
		r.Header[dpopField] = []string{proof}
	}
}

// note keeps the nonce that an answer brings, of whatever status.
func (p *prover) note(answer http.Header) {
	if p != nil {
		p.nonces.Note(p.origin, answer)
	}
}
