package e2e

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
)

var errNonce = errors.New("the DPoP proof has not the nonce of this API")

// checkProof checks a request's DPoP proof as RFC 9449 section 4.3 says.
func (api *resource) checkProof(r *http.Request, token, jkt string) error {
	fields := r.Header.Values("DPoP")
	if len(fields) != 1 {
		return fmt.Errorf("%d DPoP fields", len(fields))
	}
	proof, err := jose.ParseSignedCompact(fields[0], []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return fmt.Errorf("the DPoP proof: %w", err)
	}
	header := proof.Signatures[0].Protected
	if typ := header.ExtraHeaders[jose.HeaderType]; typ != "dpop+jwt" {
		return fmt.Errorf("the DPoP proof is of type %v", typ)
	}
	if header.JSONWebKey == nil || !header.JSONWebKey.IsPublic() {
		return errors.New("the DPoP proof has no public key")
	}
	payload, err := proof.Verify(header.JSONWebKey)
	if err != nil {
		return fmt.Errorf("the DPoP proof: %w", err)
	}
	if got := thumbprint(*header.JSONWebKey); got != jkt {
		return fmt.Errorf("the DPoP proof is made with the key %s, the token is bound to %s", got, jkt)
	}
	type claims struct{ HTM, HTU, ATH, Nonce string }
	var got struct {
		claims
		JTI string
		IAT int64
	}
	if err := json.Unmarshal(payload, &got); err != nil {
		return err
	}
	want := claims{r.Method, api.URL + r.URL.EscapedPath(), hashOf(token), api.nonce}
	if got.Nonce != want.Nonce {
		return errNonce
	}
	if got.claims != want {
		return fmt.Errorf("the DPoP proof is for %+v, want %+v", got.claims, want)
	}
	if age := time.Since(time.Unix(got.IAT, 0)); age < -time.Second || age > 10*time.Second {
		return fmt.Errorf("the DPoP proof is %v old", age)
	}
	api.mu.Lock()
	defer api.mu.Unlock()
	if _, again := api.proofs[got.JTI]; again || got.JTI == "" {
		return fmt.Errorf("the DPoP proof %q is used again", got.JTI)
	}
	api.proofs[got.JTI] = struct{}{}
	return nil
}

// thumbprint returns a key's RFC 7638 thumbprint.
func thumbprint(key jose.JSONWebKey) string {
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return err.Error()
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

// hashOf is the SHA-256 hash of a token or certificate, as claims have it.
func hashOf[T string | []byte](value T) string {
	sum := sha256.Sum256([]byte(value))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
