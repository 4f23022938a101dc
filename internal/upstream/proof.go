package upstream

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// proofField is where proofs go, in net/http's canonical form of DPoP.
const proofField = "Dpop"

// Proofs makes the DPoP proofs for requests to one API (RFC 9449 section 7).
type Proofs struct {
	key    *authserver.ProofKey
	nonces *authserver.Nonces
	base   string // of the API, without a slash at its end
	origin string
}

// NewProofs returns what makes proofs with that key for the API at base, an
// absolute URL. The nonces may be shared by several.
func NewProofs(key *authserver.ProofKey, nonces *authserver.Nonces, base string) *Proofs {
	return &Proofs{key: key, nonces: nonces, base: strings.TrimSuffix(base, "/"), origin: authserver.Origin(base)}
}

// attach puts a fresh proof on the request, with the newest nonce of the API, and
// returns that.
func (p *Proofs) attach(r *http.Request, token *authserver.Token) (nonce string) {
	nonce = p.nonces.Get(p.origin)
	p.attachWith(r, token, nonce)
	return nonce
}

// attachWith is attach with that nonce. Signing fails only if the system has no
// randomness; then there is no proof, and the API refuses the request.
func (p *Proofs) attachWith(r *http.Request, token *authserver.Token, nonce string) {
	proof, err := p.key.Proof(authserver.Proof{
		Method:      r.Method,
		URL:         p.base + cmp.Or(r.URL.EscapedPath(), "/"), // as it goes upstream
		Nonce:       nonce,
		AccessToken: token.AccessToken,
	})
	if err == nil {
		r.Header[proofField] = []string{proof}
	}
}

// nonceFor returns the nonce with which an answer asks for another proof than the
// one with nonce sent; "" if that would be no other.
func (p *Proofs) nonceFor(answer http.Header, sent string) string {
	if nonce := authserver.NonceOf(answer); p != nil && nonce != sent {
		return nonce
	}
	return ""
}

// note keeps the nonce that an answer brings, of whatever status.
func (p *Proofs) note(answer http.Header) {
	if p != nil {
		p.nonces.Note(p.origin, answer)
	}
}
