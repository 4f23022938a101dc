package authserver

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// minRSABits is the least size of an RSA key that may sign (RFC 7518
// sections 3.3 and 3.5).
const minRSABits = 2048

// KeyOptions say how a SigningKey is used; the zero value lets the key decide.
type KeyOptions struct {
	// Algorithm is a JWS algorithm (RFC 7518 section 3.1, RFC 8037). If empty,
	// it is the JWK's alg, or else what the key is made for: RS256, ES256,
	// ES384, ES512 or EdDSA.
	Algorithm string

	// KeyID is sent as kid. If empty, it is the JWK's kid. It also picks the
	// key in a JWK set that holds several.
	KeyID string

	// Certificate is the key's certificate as PEM, with or without its chain.
	// If there is one, its thumbprint is sent as x5t#S256 (RFC 7515
	// section 4.1.8), which Microsoft Entra goes by.
	Certificate []byte

	// SendCertificate sends the certificate itself with its chain as well, as x5c
	// (RFC 7515 section 4.1.6), for servers that trust its issuer and not its
	// thumbprint.
	SendCertificate bool
}

// SigningKey is a private key together with how it signs. It never changes and
// is safe for concurrent use.
type SigningKey struct {
	// A pointer, so that fmt prints an address and not the key.
	jwk *jose.JSONWebKey

	algorithm  jose.SignatureAlgorithm
	thumbprint string   // of the certificate; empty without one
	chain      []string // the certificate and its chain, if they are to be sent
}

// ParseSigningKey reads a private key: PEM with PKCS #1, PKCS #8 or SEC 1
// inside, a JWK (RFC 7517), or a JWK set. Other PEM blocks, such as
// certificates, may stand beside the key. RSA, EC (P-256, P-384, P-521) and
// Ed25519 keys can sign. No error holds any part of the data.
func ParseSigningKey(data []byte, o KeyOptions) (*SigningKey, error) {
	jwk, err := readKey(data, o.KeyID)
	if err != nil {
		return nil, err
	}
	if o.KeyID != "" {
		jwk.KeyID = o.KeyID
	}
	key := &SigningKey{jwk: jwk}
	if key.algorithm, err = chooseAlgorithm(jwk, o.Algorithm); err != nil {
		return nil, err
	}
	if len(o.Certificate) == 0 {
		if o.SendCertificate {
			return nil, errors.New("there is no certificate to send as x5c")
		}
		return key, nil
	}
	chain, err := certificateChain(o.Certificate, jwk.Key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(chain[0])
	key.thumbprint = base64.RawURLEncoding.EncodeToString(sum[:])
	if o.SendCertificate {
		for _, certificate := range chain {
			key.chain = append(key.chain, base64.StdEncoding.EncodeToString(certificate))
		}
	}
	return key, nil
}

// String names the key and the algorithm as a server knows them. It shows nothing
// that is secret.
func (k *SigningKey) String() string {
	name := string(k.algorithm) + " and "
	if k.jwk.KeyID == "" {
		name += "a key without an id"
	} else {
		name += "the key " + quoted(k.jwk.KeyID)
	}
	if k.thumbprint != "" {
		name += ", x5t#S256 " + k.thumbprint
	}
	return name
}

// Algorithm returns the JWS algorithm the key signs with.
func (k *SigningKey) Algorithm() string { return string(k.algorithm) }

// Sign returns the claims as a JWT (RFC 7519) in the compact form, with typ,
// and with kid, x5t#S256 and x5c where the key has them.
func (k *SigningKey) Sign(typ string, claims map[string]any) (Secret, error) {
	header := new(jose.SignerOptions).WithType(jose.ContentType(typ))
	if k.thumbprint != "" {
		header.WithHeader("x5t#S256", k.thumbprint)
	}
	if len(k.chain) > 0 {
		header.WithHeader("x5c", k.chain)
	}
	return signJWT(jose.SigningKey{Algorithm: k.algorithm, Key: k.jwk}, header, claims)
}

// signJWT signs claims with any kind of key.
func signJWT(key jose.SigningKey, header *jose.SignerOptions, claims map[string]any) (Secret, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return Secret{}, fmt.Errorf("a claim cannot be written as JSON: %w", err)
	}
	signer, err := jose.NewSigner(key, header)
	if err != nil {
		return Secret{}, fmt.Errorf("the assertion cannot be signed: %w", err)
	}
	jwt, err := compact(signer, payload)
	return NewSecret(jwt), err
}

// compact signs payload and serializes it (RFC 7515 section 3.1).
func compact(signer jose.Signer, payload []byte) (string, error) {
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing failed: %w", err)
	}
	return signed.CompactSerialize()
}

// readKey reads a private key in any of its formats.
func readKey(data []byte, keyID string) (*jose.JSONWebKey, error) {
	data = bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(data), byteOrderMark))
	if len(data) == 0 {
		return nil, errors.New("the key is empty")
	}
	if data[0] == '{' {
		return readJWKOrSet(data, keyID)
	}
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		return readPEM(data)
	}
	return nil, errors.New("the key is neither PEM (-----BEGIN PRIVATE KEY-----) nor a JWK")
}

// readPEM reads the one private key among the blocks of a PEM file.
func readPEM(data []byte) (*jose.JSONWebKey, error) {
	// In environment variables the line breaks are often written out.
	if !bytes.Contains(data, []byte("\n")) {
		data = bytes.ReplaceAll(data, []byte(`\n`), []byte("\n"))
	}
	var key crypto.PrivateKey
	var others []string
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			others = append(others, block.Type)
			continue
		}
		if key != nil {
			return nil, errors.New("the PEM holds more than one private key: leave the one to sign with")
		}
		var err error
		if key, err = readPrivateBlock(block); err != nil {
			return nil, err
		}
	}
	if key != nil {
		return &jose.JSONWebKey{Key: key}, nil
	}
	if slices.ContainsFunc(others, func(t string) bool { return strings.HasSuffix(t, "PUBLIC KEY") }) {
		return nil, errors.New("the PEM holds a public key: the private one is needed")
	}
	if slices.Contains(others, "CERTIFICATE") {
		return nil, errors.New("the PEM holds a certificate and no private key")
	}
	return nil, errors.New("the PEM holds no private key, or is damaged")
}

// readPrivateBlock tries every format whatever the block is labelled, as
// tools mislabel them.
func readPrivateBlock(block *pem.Block) (crypto.PrivateKey, error) {
	if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, errors.New("the private key is encrypted: decrypt it first, with 'openssl pkey -in key.pem -out plain.pem'")
	}
	if block.Type == "OPENSSH PRIVATE KEY" {
		return nil, errors.New("the private key is in the format of OpenSSH: convert it first, with 'ssh-keygen -p -m PKCS8 -f key'")
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	return nil, errors.New("the private key cannot be read: it is damaged, or of another kind than RSA, EC (P-256, P-384, P-521) and Ed25519")
}

// readJWKOrSet reads a JWK, or the one of a JWK set that can sign.
func readJWKOrSet(data []byte, keyID string) (*jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(data, &set) != nil {
		return nil, errors.New("the key is not a JWK: its JSON is damaged")
	}
	if set.Keys == nil {
		return readJWK(data)
	}
	var found []*jose.JSONWebKey
	for _, raw := range set.Keys {
		if key, err := readJWK(raw); err == nil {
			found = append(found, key)
		}
	}
	if len(found) > 1 && keyID != "" {
		found = slices.DeleteFunc(found, func(k *jose.JSONWebKey) bool { return k.KeyID != keyID })
	}
	switch len(found) {
	case 0:
		return nil, errors.New("the JWK set holds no private key to sign with, or none with this 'key_id'")
	case 1:
		return found[0], nil
	}
	return nil, errors.New("the JWK set holds several private keys: write the 'key_id' of the one to sign with")
}

// readJWK reads a private key as a JWK.
func readJWK(data []byte) (*jose.JSONWebKey, error) {
	var member struct {
		Type    string          `json:"kty"`
		Use     string          `json:"use"`
		Ops     []string        `json:"key_ops"`
		Private json.RawMessage `json:"d"`
	}
	err := json.Unmarshal(data, &member)
	if err != nil {
		return nil, errors.New("the key is not a JWK: its members are not as RFC 7517 has them")
	}
	if member.Type == "" {
		return nil, errors.New("the key is not a JWK: it has no kty")
	}
	if member.Type == "oct" {
		return nil, errors.New("the JWK is a symmetric key: a private one is needed here; a shared secret goes with 'client_auth client_secret_jwt'")
	}
	if member.Private == nil {
		return nil, errors.New("the JWK is a public key: the private one is needed")
	}
	if member.Use == "enc" {
		return nil, errors.New("the JWK is for encryption, not for signatures: its use is enc")
	}
	if len(member.Ops) > 0 && !slices.Contains(member.Ops, "sign") {
		return nil, errors.New("the JWK is not for signing: its key_ops are without sign")
	}
	var key jose.JSONWebKey
	if json.Unmarshal(data, &key) != nil || !sound(key.Key) {
		return nil, errors.New("the JWK cannot be read: it is damaged, or of another kind than RSA (up to 4096 bits), EC (P-256, P-384, P-521) and Ed25519")
	}
	return &key, nil
}

// sound reports whether the parts of an EC key belong together. go-jose checks
// that of the other kinds, and PEM holds no part twice.
func sound(key any) bool {
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return true
	}
	private, err := ec.Bytes()
	if err != nil {
		return false
	}
	derived, err := ecdsa.ParseRawPrivateKey(ec.Curve, private)
	return err == nil && derived.PublicKey.Equal(&ec.PublicKey)
}

// chooseAlgorithm returns the algorithm that is asked for, or the JWK's, or
// the key's own, if the key can sign with it.
func chooseAlgorithm(jwk *jose.JSONWebKey, wanted string) (jose.SignatureAlgorithm, error) {
	if k, ok := jwk.Key.(*rsa.PrivateKey); ok && k.N.BitLen() < minRSABits {
		return "", fmt.Errorf("the RSA key has %d bits: at least %d are needed (RFC 7518 section 3.3)", k.N.BitLen(), minRSABits)
	}
	kind, fitting := algorithmsOf(jwk.Key)
	if len(fitting) == 0 {
		return "", errors.New("the private key is of a kind that cannot sign here: RSA, EC (P-256, P-384, P-521) and Ed25519 can")
	}
	if wanted == "" {
		wanted = jwk.Algorithm
	}
	if wanted == "" {
		return fitting[0], nil
	}
	if !slices.Contains(fitting, jose.SignatureAlgorithm(wanted)) {
		return "", fmt.Errorf("the algorithm %q does not fit the key, which is %s: write 'algorithm' as %s", redact(wanted, nil), kind, oneOf(fitting))
	}
	return jose.SignatureAlgorithm(wanted), nil
}

// algorithmsOf returns what a key is called and what it can sign with, the
// default first.
func algorithmsOf(key any) (kind string, _ []jose.SignatureAlgorithm) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return "an RSA key", []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	case ed25519.PrivateKey:
		return "an Ed25519 key", []jose.SignatureAlgorithm{jose.EdDSA}
	case *ecdsa.PrivateKey:
		switch k.Curve {
		case elliptic.P256():
			return "an EC key on P-256", []jose.SignatureAlgorithm{jose.ES256}
		case elliptic.P384():
			return "an EC key on P-384", []jose.SignatureAlgorithm{jose.ES384}
		case elliptic.P521():
			return "an EC key on P-521", []jose.SignatureAlgorithm{jose.ES512}
		}
	}
	return "", nil
}

// oneOf joins names for a sentence.
func oneOf[S ~string](names []S) string {
	var s strings.Builder
	for i, n := range names {
		switch {
		case i > 0 && i == len(names)-1:
			s.WriteString(" or ")
		case i > 0:
			s.WriteString(", ")
		}
		s.WriteString(string(n))
	}
	return s.String()
}

// certificateChain returns the certificate that is key's, and behind it the others
// in the PEM, which are its chain, in their order.
func certificateChain(data []byte, key crypto.PrivateKey) ([][]byte, error) {
	public := key.(crypto.Signer).Public().(interface{ Equal(crypto.PublicKey) bool })
	var own []byte
	var others [][]byte
	damaged := false
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err == nil && own == nil && public.Equal(certificate.PublicKey) {
			own = block.Bytes
			continue
		}
		damaged = damaged || err != nil
		others = append(others, block.Bytes)
	}
	if own != nil {
		return append([][]byte{own}, others...), nil
	}
	if damaged {
		return nil, errors.New("the certificate cannot be read: it is damaged")
	}
	if others != nil {
		return nil, errors.New("the certificate is not this key's: its public key is another one")
	}
	return nil, errors.New("the certificate is not PEM (-----BEGIN CERTIFICATE-----)")
}
