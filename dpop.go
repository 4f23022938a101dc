package upstreamoauth2

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// dpopField is where proofs go, in net/http's canonical form of DPoP.
const dpopField = "Dpop"

// prover makes the proofs for upstream requests.
type prover struct {
	key    *authserver.ProofKey
	nonces *authserver.Nonces
	base   string // of the API, without a slash at its end
	origin string
}

func (c *client) newProver() *prover {
	if c.proofKey == nil {
		return nil
	}
	return &prover{
		key:    c.proofKey,
		nonces: c.shared.server.Nonces(),
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
