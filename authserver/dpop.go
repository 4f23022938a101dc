package authserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// ProofKey is the key pair that tokens are bound to (RFC 9449). It never
// changes and is safe for concurrent use.
type ProofKey struct {
	signer     jose.Signer
	algorithm  jose.SignatureAlgorithm
	thumbprint string
}

// NewProofKey makes a key pair for ES256, which every server with DPoP takes.
// Tokens that are bound to it end with the process.
func NewProofKey() (*ProofKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("no key can be made: %w", err)
	}
	return newProofKey(&SigningKey{jwk: &jose.JSONWebKey{Key: key}, algorithm: jose.ES256})
}

// ParseProofKey reads a private key as ParseSigningKey does.
func ParseProofKey(data []byte) (*ProofKey, error) {
	key, err := ParseSigningKey(data, KeyOptions{})
	if err != nil {
		return nil, err
	}
	return newProofKey(key)
}

func newProofKey(key *SigningKey) (*ProofKey, error) {
	// The bare key: what else a JWK file says stays here. It is written out
	// once, where EmbedJWK would do it twice for each proof.
	bare := jose.JSONWebKey{Key: key.jwk.Key}
	public, err := bare.Public().MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("the public key cannot be written: %w", err)
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: key.algorithm, Key: bare.Key},
		new(jose.SignerOptions).WithType("dpop+jwt").WithHeader("jwk", json.RawMessage(public)),
	)
	if err != nil {
		return nil, fmt.Errorf("the key cannot sign DPoP proofs: %w", err)
	}
	sum, err := bare.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, errors.New("the key has no thumbprint")
	}
	return &ProofKey{signer: signer, algorithm: key.algorithm, thumbprint: base64.RawURLEncoding.EncodeToString(sum)}, nil
}

// Thumbprint returns the public key's JWK thumbprint (RFC 7638), which a token
// that is bound to the key has as cnf.jkt.
func (k *ProofKey) Thumbprint() string { return k.thumbprint }

// Algorithm returns the JWS algorithm of the proofs.
func (k *ProofKey) Algorithm() string { return string(k.algorithm) }

// Proof describes the request that a proof is for.
type Proof struct {
	// Method and URL are the request's. Query and fragment are left out of the
	// proof.
	Method, URL string

	// Nonce is the newest nonce of the server, if it sends any.
	Nonce string

	// AccessToken is the token that goes with the request, if one does.
	AccessToken Secret
}

// proofClaims are the claims of a proof (RFC 9449 section 4.2).
type proofClaims struct {
	ID        string `json:"jti"`
	Method    string `json:"htm"`
	URL       string `json:"htu"`
	IssuedAt  int64  `json:"iat"`
	TokenHash string `json:"ath,omitempty"`
	Nonce     string `json:"nonce,omitempty"`
}

// Proof returns a proof for the DPoP header field. Each is good for one
// request.
func (k *ProofKey) Proof(p Proof) (string, error) {
	claims := proofClaims{
		ID:       rand.Text(),
		Method:   p.Method,
		URL:      p.URL,
		IssuedAt: time.Now().Unix(),
		Nonce:    p.Nonce,
	}
	if i := strings.IndexAny(p.URL, "?#"); i >= 0 {
		claims.URL = p.URL[:i]
	}
	if !p.AccessToken.IsZero() {
		sum := sha256.Sum256([]byte(p.AccessToken.Reveal()))
		claims.TokenHash = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("the DPoP proof cannot be made: %w", err)
	}
	return compact(k.signer, payload)
}

// Limits of what Nonces keeps.
const (
	maxNonceServers = 16   // a client talks to two: its authorization server and the API
	maxNonce        = 1024 // bytes; the longest seen are JWEs of a few hundred
)

// Nonces holds the newest DPoP nonce of each server (RFC 9449 sections 8
// and 9). It is bounded and safe for concurrent use. The zero value is ready.
type Nonces struct {
	mu       sync.RWMutex
	byServer map[string]string
}

// Origin returns the scheme, host and port of a URL in one spelling, by which
// Nonces tells servers apart; "" if there is none.
func Origin(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" {
		return ""
	}
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return u.Scheme + "://" + host
}

// Get returns the newest nonce of the server, "" if it sent none; see Origin.
func (n *Nonces) Get(origin string) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.byServer[origin]
}

// NonceOf returns the nonce that an answer brings, "" if it brings none that can
// be used. Any answer may, whatever its status (RFC 9449 section 8.2).
func NonceOf(answer http.Header) string {
	if values := answer["Dpop-Nonce"]; len(values) == 1 && isNonce(values[0]) {
		return values[0]
	}
	return ""
}

// Note keeps the nonce of an answer of the server, if it brings one.
func (n *Nonces) Note(origin string, answer http.Header) {
	value := NonceOf(answer)
	if value == "" || n.Get(origin) == value {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.byServer[origin]; n.byServer == nil || !known && len(n.byServer) >= maxNonceServers {
		n.byServer = make(map[string]string) // a lost nonce costs one retry
	}
	n.byServer[origin] = value
}

// isNonce reports whether s has the form of a nonce (RFC 9449 section 8.1) and
// a length that fits a header field.
func isNonce(s string) bool {
	return s != "" && len(s) <= maxNonce && visible(s) && !strings.ContainsAny(s, `"\`)
}

// wantsNonce reports whether the server refused a proof for its nonce (RFC 9449
// section 8).
func wantsNonce(err error) bool {
	failed, ok := errors.AsType[*Error](err)
	return ok && failed.Code == "use_dpop_nonce"
}
