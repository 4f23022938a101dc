package authserver_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// Private keys that RFCs publish as examples.
const (
	// RFC 7517 appendix A.2, without what is not needed.
	rsaJWK = `{"kty":"RSA","alg":"RS256","kid":"2011-04-29","e":"AQAB",` +
		`"n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",` +
		`"d":"X4cTteJY_gn4FYPsXB8rdXix5vwsg1FLN5E3EaG6RJoVH-HLLKD9M7dx5oo7GURknchnrRweUkC7hT5fJLM0WbFAKNLWY2vv7B6NqXSzUvxT0_YSfqijwp3RTzlBaCxWp4doFk5N2o8Gy_nHNKroADIkJ46pRUohsXywbReAdYaMwFs9tv8d_cPVY3i07a3t8MN6TNwm0dSawm9v47UiCl3Sk5ZiG7xojPLu4sbg1U2jx4IBTNBznbJSzFHK66jT8bgkuqsk0GjskDJk19Z4qwjwbsnn4j2WBii3RL-Us2lGVkY8fkFzme1z0HbIkfz0Y6mqnOYtqc0X4jfcKoAC8Q",` +
		`"p":"83i-7IvMGXoMXCskv73TKr8637FiO7Z27zv8oj6pbWUQyLPQBQxtPVnwD20R-60eTDmD2ujnMt5PoqMrm8RfmNhVWDtjjMmCMjOpSXicFHj7XOuVIYQyqVWlWEh6dN36GVZYk93N8Bc9vY41xy8B9RzzOGVQzXvNEvn7O0nVbfs",` +
		`"q":"3dfOR9cuYq-0S-mkFLzgItgMEfFzB2q3hWehMuG0oCuqnb3vobLyumqjVZQO1dIrdwgTnCdpYzBcOfW5r370AFXjiWft_NGEiovonizhKpo9VVS78TzFgxkIdrecRezsZ-1kYd_s1qDbxtkDEgfAITAG9LUnADun4vIcb6yelxk"}`
	rsaThumbprint = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" // RFC 7638 section 3.1

	// RFC 7517 appendix A.2, where it is for encryption.
	ecPublic      = `"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"`
	ecPublicJWK   = `{` + ecPublic + `}`
	ecJWK         = `{` + ecPublic + `,"d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}`
	encryptionJWK = `{` + ecPublic + `,"d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE","use":"enc","kid":"1"}`

	// RFC 8037 appendix A.1 and A.3.
	edJWK        = `{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
	edThumbprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"

	symmetricJWK = `{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}`
)

// keys are one private key of each kind, made once.
var keys = sync.OnceValue(func() map[string]crypto.Signer {
	must := func(key crypto.Signer, err error) crypto.Signer {
		if err != nil {
			panic(err)
		}
		return key
	}
	ec := func(c elliptic.Curve) crypto.Signer {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		return must(k, err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	var rsaKey jose.JSONWebKey
	if err := rsaKey.UnmarshalJSON([]byte(rsaJWK)); err != nil {
		panic(err)
	}
	return map[string]crypto.Signer{
		"RSA":     rsaKey.Key.(*rsa.PrivateKey),
		"P-224":   ec(elliptic.P224()),
		"P-256":   ec(elliptic.P256()),
		"P-384":   ec(elliptic.P384()),
		"P-521":   ec(elliptic.P521()),
		"Ed25519": must(ed, err),
	}
})

// blockOf returns a PEM block.
func blockOf(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}

// pkcs8 returns a key as "PRIVATE KEY".
func pkcs8(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return blockOf("PRIVATE KEY", der)
}

// sec1 returns a key as "EC PRIVATE KEY".
func sec1(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return blockOf("EC PRIVATE KEY", der)
}

// certificate returns a certificate of a key, and its thumbprint.
func certificate(t *testing.T, key crypto.Signer) (_, thumbprint string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7),
		Subject:      pkix.Name{CommonName: "app-7"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return blockOf("CERTIFICATE", der), base64.RawURLEncoding.EncodeToString(sum[:])
}

// mustParseKey returns a key that is known to be in order.
func mustParseKey(t *testing.T, data string, o authserver.KeyOptions) *authserver.SigningKey {
	t.Helper()
	key, err := authserver.ParseSigningKey([]byte(data), o)
	if err != nil {
		t.Fatalf("the key is refused: %v", err)
	}
	return key
}

// publicOf returns the public key of a JWK.
func publicOf(t *testing.T, jwk string) crypto.PublicKey {
	t.Helper()
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON([]byte(jwk)); err != nil {
		t.Fatal(err)
	}
	return key.Public().Key
}

// verified checks the signature of a JWT and returns its header and claims.
func verified(t *testing.T, jwt string, algorithm string, key any) (header, claims map[string]any) {
	t.Helper()
	signed, err := jose.ParseSignedCompact(jwt, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(algorithm)})
	if err != nil {
		t.Fatalf("not a JWT of %s: %v", algorithm, err)
	}
	payload, err := signed.Verify(key)
	if err != nil {
		t.Fatalf("the signature is wrong: %v", err)
	}
	rawHeader, _, _ := strings.Cut(jwt, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(rawHeader)
	if err != nil {
		t.Fatal(err)
	}
	for raw, into := range map[string]*map[string]any{string(decoded): &header, string(payload): &claims} {
		if err := json.Unmarshal([]byte(raw), into); err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

// checkSame compares two values as JSON.
func checkSame(t *testing.T, what string, got, want any) {
	t.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g, w) {
		t.Errorf("%s is\n%s, want\n%s", what, g, w)
	}
}

// checkKeyHidden checks that a text holds no piece of the data that is of any use.
func checkKeyHidden(t *testing.T, text, data string) {
	t.Helper()
	const piece = 12
	for i := 0; i+piece <= len(data); i++ {
		p := data[i : i+piece]
		if strings.Contains(text, p) && !strings.ContainsAny(p, " -") {
			t.Fatalf("%q shows %q of the data", text, p)
		}
	}
}

// Each way to write a key down gives a key that signs.
func TestSigningKeyFormats(t *testing.T) {
	k := keys()
	rsaKey := k["RSA"].(*rsa.PrivateKey)
	pkcs1 := blockOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey))
	cert, _ := certificate(t, rsaKey)
	p256Parameters := blockOf("EC PARAMETERS", []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07})
	tests := []struct {
		name      string
		data      string
		algorithm string
		public    crypto.PublicKey
	}{
		{"PKCS #1", pkcs1, "RS256", rsaKey.Public()},
		{"PKCS #8 with RSA", pkcs8(t, rsaKey), "RS256", rsaKey.Public()},
		{"PKCS #8 with P-256", pkcs8(t, k["P-256"]), "ES256", k["P-256"].Public()},
		{"PKCS #8 with P-384", pkcs8(t, k["P-384"]), "ES384", k["P-384"].Public()},
		{"PKCS #8 with P-521", pkcs8(t, k["P-521"]), "ES512", k["P-521"].Public()},
		{"PKCS #8 with Ed25519", pkcs8(t, k["Ed25519"]), "EdDSA", k["Ed25519"].Public()},
		{"SEC 1 with P-256", sec1(t, k["P-256"]), "ES256", k["P-256"].Public()},
		{"SEC 1 with P-384", sec1(t, k["P-384"]), "ES384", k["P-384"].Public()},
		{"SEC 1 with P-521", sec1(t, k["P-521"]), "ES512", k["P-521"].Public()},
		{"SEC 1 after its parameters, as openssl ecparam writes", p256Parameters + sec1(t, k["P-256"]), "ES256", k["P-256"].Public()},
		{"certificate before the key", cert + pkcs1, "RS256", rsaKey.Public()},
		{"certificate after the key", pkcs1 + cert, "RS256", rsaKey.Public()},
		{"PKCS #8 labelled as PKCS #1", strings.ReplaceAll(pkcs8(t, rsaKey), " PRIVATE", " RSA PRIVATE"), "RS256", rsaKey.Public()},
		{"PKCS #1 labelled as PKCS #8", strings.ReplaceAll(pkcs1, "RSA PRIVATE", "PRIVATE"), "RS256", rsaKey.Public()},
		{"line breaks of Windows", strings.ReplaceAll(pkcs1, "\n", "\r\n"), "RS256", rsaKey.Public()},
		{"line breaks written out", strings.ReplaceAll(pkcs1, "\n", `\n`), "RS256", rsaKey.Public()},
		{"no line break at the end", strings.TrimSpace(pkcs1), "RS256", rsaKey.Public()},
		{"words before, as openssl pkcs12 writes", "Bag Attributes\n    friendlyName: app\nKey Attributes: <No Attributes>\n" + pkcs1, "RS256", rsaKey.Public()},
		{"byte order mark before PEM", "\xef\xbb\xbf" + pkcs1, "RS256", rsaKey.Public()},
		{"JWK with RSA", rsaJWK, "RS256", rsaKey.Public()},
		{"JWK with EC", ecJWK, "ES256", publicOf(t, ecJWK)},
		{"JWK with Ed25519", edJWK, "EdDSA", publicOf(t, edJWK)},
		{"byte order mark before a JWK", "\xef\xbb\xbf\n" + edJWK + "\n", "EdDSA", publicOf(t, edJWK)},
		{"JWK set of RFC 7517 appendix A.2", `{"keys":[` + encryptionJWK + `,` + rsaJWK + `]}`, "RS256", rsaKey.Public()},
		{"JWK set with others that cannot sign", `{"keys":[` + ecPublicJWK + `,` + symmetricJWK + `,{"kty":"new"},` + edJWK + `]}`, "EdDSA", publicOf(t, edJWK)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			key := mustParseKey(t, test.data, authserver.KeyOptions{})
			if key.Algorithm() != test.algorithm {
				t.Errorf("the algorithm is %s, want %s", key.Algorithm(), test.algorithm)
			}
			jwt, err := key.Sign("JWT", map[string]any{"iss": "app-7"})
			if err != nil {
				t.Fatal(err)
			}
			_, claims := verified(t, jwt.Reveal(), test.algorithm, test.public)
			checkSame(t, "the payload", claims, map[string]any{"iss": "app-7"})
		})
	}
}

// Every key signs with the algorithms of its kind and with no other.
func TestSigningKeyAlgorithm(t *testing.T) {
	fitting := map[string][]string{
		"RSA":     {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
		"P-256":   {"ES256"},
		"P-384":   {"ES384"},
		"P-521":   {"ES512"},
		"Ed25519": {"EdDSA"},
	}
	algorithms := []string{"none", "HS256", "HS512", "ES256K", "Ed25519", "rs256", "RS1"}
	for _, names := range fitting {
		algorithms = append(algorithms, names...)
	}
	for kind, names := range fitting {
		data := pkcs8(t, keys()[kind])
		for _, algorithm := range algorithms {
			t.Run(kind+" with "+algorithm, func(t *testing.T) {
				key, err := authserver.ParseSigningKey([]byte(data), authserver.KeyOptions{Algorithm: algorithm})
				if !slices.Contains(names, algorithm) {
					if err == nil {
						t.Fatal("the key is taken")
					}
					if text := err.Error(); !strings.Contains(text, algorithm) || !strings.Contains(text, kind) || !strings.Contains(text, names[0]) {
						t.Errorf("%q does not name the algorithm, the key and the way out", text)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				jwt, err := key.Sign("JWT", map[string]any{})
				if err != nil {
					t.Fatal(err)
				}
				header, _ := verified(t, jwt.Reveal(), algorithm, keys()[kind].Public())
				checkSame(t, "the header", header, map[string]any{"alg": algorithm, "typ": "JWT"})
			})
		}
	}
}

// inX5C returns a certificate as it stands in x5c: base64 of its DER.
func inX5C(cert string) string {
	block, _ := pem.Decode([]byte(cert))
	return base64.StdEncoding.EncodeToString(block.Bytes)
}

// The way out of an algorithm that does not fit names all that do.
func TestSigningKeyNamesAlgorithms(t *testing.T) {
	for kind, want := range map[string]string{
		"RSA":   "write 'algorithm' as RS256, RS384, RS512, PS256, PS384 or PS512",
		"P-256": "write 'algorithm' as ES256",
	} {
		_, err := authserver.ParseSigningKey([]byte(pkcs8(t, keys()[kind])), authserver.KeyOptions{Algorithm: "none"})
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", kind, err, want)
		}
	}
}

// What a JWT's header says of its key.
func TestSigningKeyHeader(t *testing.T) {
	k := keys()
	cert, thumbprint := certificate(t, k["RSA"])
	other, _ := certificate(t, k["P-256"])
	tests := []struct {
		name   string
		data   string
		o      authserver.KeyOptions
		header map[string]any
	}{
		{"nothing", ecJWK, authserver.KeyOptions{}, map[string]any{"alg": "ES256", "typ": "x+jwt"}},
		{"key_id", ecJWK, authserver.KeyOptions{KeyID: "k1"}, map[string]any{"alg": "ES256", "typ": "x+jwt", "kid": "k1"}},
		{"the JWK's own kid", rsaJWK, authserver.KeyOptions{}, map[string]any{"alg": "RS256", "typ": "x+jwt", "kid": "2011-04-29"}},
		{"key_id wins over the JWK's", rsaJWK, authserver.KeyOptions{KeyID: "k1"}, map[string]any{"alg": "RS256", "typ": "x+jwt", "kid": "k1"}},
		{
			"the JWK's own alg", strings.Replace(rsaJWK, "RS256", "PS384", 1), authserver.KeyOptions{},
			map[string]any{"alg": "PS384", "typ": "x+jwt", "kid": "2011-04-29"},
		},
		{
			"algorithm wins over the JWK's", rsaJWK, authserver.KeyOptions{Algorithm: "PS256"},
			map[string]any{"alg": "PS256", "typ": "x+jwt", "kid": "2011-04-29"},
		},
		{
			"certificate", rsaJWK, authserver.KeyOptions{Certificate: []byte(cert)},
			map[string]any{"alg": "RS256", "typ": "x+jwt", "kid": "2011-04-29", "x5t#S256": thumbprint},
		},
		{
			"certificate after another of its chain", pkcs8(t, k["RSA"]), authserver.KeyOptions{Certificate: []byte(other + cert)},
			map[string]any{"alg": "RS256", "typ": "x+jwt", "x5t#S256": thumbprint},
		},
		{
			"one file for both", pkcs8(t, k["RSA"]) + cert, authserver.KeyOptions{Certificate: []byte(pkcs8(t, k["RSA"]) + cert)},
			map[string]any{"alg": "RS256", "typ": "x+jwt", "x5t#S256": thumbprint},
		},
		{
			"certificate sent", pkcs8(t, k["RSA"]), authserver.KeyOptions{Certificate: []byte(cert), SendCertificate: true},
			map[string]any{"alg": "RS256", "typ": "x+jwt", "x5t#S256": thumbprint, "x5c": []any{inX5C(cert)}},
		},
		{
			"certificate sent with its chain, which stands in front", pkcs8(t, k["RSA"]), authserver.KeyOptions{Certificate: []byte(other + cert), SendCertificate: true},
			map[string]any{"alg": "RS256", "typ": "x+jwt", "x5t#S256": thumbprint, "x5c": []any{inX5C(cert), inX5C(other)}},
		},
		{
			"certificate with a chain that Go cannot read", pkcs8(t, k["RSA"]),
			authserver.KeyOptions{Certificate: []byte(cert + blockOf("CERTIFICATE", []byte{1}))},
			map[string]any{"alg": "RS256", "typ": "x+jwt", "x5t#S256": thumbprint},
		},
		{"a renamed key in a set of one", `{"keys":[` + rsaJWK + `]}`, authserver.KeyOptions{KeyID: "k1"}, map[string]any{"alg": "RS256", "typ": "x+jwt", "kid": "k1"}},
		{
			"key_id picks from a set", `{"keys":[` + ecJWK + `,` + rsaJWK + `]}`, authserver.KeyOptions{KeyID: "2011-04-29"},
			map[string]any{"alg": "RS256", "typ": "x+jwt", "kid": "2011-04-29"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			key := mustParseKey(t, test.data, test.o)
			jwt, err := key.Sign("x+jwt", map[string]any{})
			if err != nil {
				t.Fatal(err)
			}
			var public crypto.PublicKey = k["RSA"].Public()
			if test.header["alg"] == "ES256" {
				public = publicOf(t, ecPublicJWK)
			}
			header, _ := verified(t, jwt.Reveal(), key.Algorithm(), public)
			checkSame(t, "the header", header, test.header)
		})
	}
}

// What cannot sign is refused with the reason, and never shown.
func TestSigningKeyRefused(t *testing.T) {
	k := keys()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	agreement, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(k["RSA"].Public())
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := certificate(t, k["RSA"])
	pkcs1 := blockOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k["RSA"].(*rsa.PrivateKey)))
	der := x509.MarshalPKCS1PrivateKey(k["RSA"].(*rsa.PrivateKey))
	encrypted := string(pem.EncodeToMemory(&pem.Block{
		Type:    "RSA PRIVATE KEY",
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"},
		Bytes:   der,
	}))
	swap := func(data, old, replacement string) string {
		if !strings.Contains(data, old) {
			t.Fatalf("no %q to replace", old)
		}
		return strings.Replace(data, old, replacement, 1)
	}
	tests := []struct {
		name string
		data string
		o    authserver.KeyOptions
		says string
	}{
		{"empty", "", authserver.KeyOptions{}, "empty"},
		{"white space", " \r\n\t", authserver.KeyOptions{}, "empty"},
		{"a password", "correct-horse-battery-staple", authserver.KeyOptions{}, "neither PEM"},
		{"DER", string(der), authserver.KeyOptions{}, "neither PEM"},
		{"PEM cut short", pkcs1[:len(pkcs1)/2], authserver.KeyOptions{}, "damaged"},
		{"PEM of something else", blockOf("RSA PRIVATE KEY", der[:len(der)/2]), authserver.KeyOptions{}, "damaged"},
		{"encrypted PKCS #8", blockOf("ENCRYPTED PRIVATE KEY", der), authserver.KeyOptions{}, "encrypted: decrypt it"},
		{"encrypted as openssl did before", encrypted, authserver.KeyOptions{}, "encrypted: decrypt it"},
		{"OpenSSH", blockOf("OPENSSH PRIVATE KEY", der), authserver.KeyOptions{}, "ssh-keygen"},
		{"public key", blockOf("PUBLIC KEY", public), authserver.KeyOptions{}, "public key"},
		{"certificate alone", cert, authserver.KeyOptions{}, "certificate and no private key"},
		{"two keys", pkcs1 + sec1(t, k["P-256"]), authserver.KeyOptions{}, "more than one"},
		{"parameters alone", blockOf("EC PARAMETERS", []byte{6, 0}), authserver.KeyOptions{}, "no private key"},
		{"P-224", pkcs8(t, k["P-224"]), authserver.KeyOptions{}, "cannot sign here"},
		{"small RSA key as PEM", pkcs8(t, small), authserver.KeyOptions{}, "1024 bits"},
		{"a key for agreement", pkcs8(t, agreement), authserver.KeyOptions{}, "cannot sign here"},
		{"JWK cut short", rsaJWK[:200], authserver.KeyOptions{}, "damaged"},
		{"JWK without kty", `{"d":"AAAAAAAAAAAAAAAA"}`, authserver.KeyOptions{}, "no kty"},
		{"JWK with a number as kty", `{"kty":1,"d":"AAAAAAAAAAAAAAAA"}`, authserver.KeyOptions{}, "RFC 7517"},
		{"symmetric JWK", symmetricJWK, authserver.KeyOptions{}, "client_secret_jwt"},
		{"public JWK", ecPublicJWK, authserver.KeyOptions{}, "public key"},
		{"JWK for encryption", encryptionJWK, authserver.KeyOptions{}, "for encryption"},
		{"JWK for another operation", swap(edJWK, `"kty"`, `"key_ops":["verify"],"kty"`), authserver.KeyOptions{}, "not for signing"},
		{"JWK with X25519", swap(edJWK, "Ed25519", "X25519"), authserver.KeyOptions{}, "another kind"},
		{"JWK with secp256k1", swap(ecJWK, "P-256", "secp256k1"), authserver.KeyOptions{}, "another kind"},
		{"JWK whose parts do not belong together", swap(ecJWK, "870MB6gf", "870MB6gg"), authserver.KeyOptions{}, "damaged"},
		{"JWK whose Ed25519 parts do not belong together", swap(edJWK, "nWGxne", "nWGxnf"), authserver.KeyOptions{}, "damaged"},
		{"JWK whose RSA parts do not belong together", swap(rsaJWK, "83i-7Iv", "83i-7Iw"), authserver.KeyOptions{}, "damaged"},
		{"JWK with a wrong member", swap(ecJWK, `"870M`, `"!!!!`), authserver.KeyOptions{}, "damaged"},
		{"JWK for another algorithm", swap(rsaJWK, "RS256", "RSA-OAEP"), authserver.KeyOptions{}, `"RSA-OAEP" does not fit`},
		{"empty JWK set", `{"keys":[]}`, authserver.KeyOptions{}, "no private key"},
		{"JWK set of public keys", `{"keys":[` + ecPublicJWK + `]}`, authserver.KeyOptions{}, "no private key"},
		{"JWK set with keys of another type", `{"keys":7}`, authserver.KeyOptions{}, "damaged"},
		{"JWK set with several", `{"keys":[` + rsaJWK + `,` + ecJWK + `]}`, authserver.KeyOptions{}, "key_id"},
		{"JWK set without that one", `{"keys":[` + rsaJWK + `,` + ecJWK + `]}`, authserver.KeyOptions{KeyID: "k1"}, "key_id"},
		{"certificate of another key", sec1(t, k["P-256"]), authserver.KeyOptions{Certificate: []byte(cert)}, "not this key's"},
		{"certificate that is none", pkcs1, authserver.KeyOptions{Certificate: []byte(pkcs1)}, "not PEM"},
		{"no certificate to send", pkcs1, authserver.KeyOptions{SendCertificate: true}, "no certificate to send as x5c"},
		{"certificate that is damaged", pkcs1, authserver.KeyOptions{Certificate: []byte(blockOf("CERTIFICATE", der))}, "damaged"},
		{"a key as algorithm", pkcs1, authserver.KeyOptions{Algorithm: "\n" + strings.Repeat("A", 999)}, "does not fit"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			key, err := authserver.ParseSigningKey([]byte(test.data), test.o)
			if err == nil || key != nil {
				t.Fatalf("got key %v and error %v, want an error alone", key, err)
			}
			text := err.Error()
			if !strings.Contains(text, test.says) {
				t.Errorf("%q does not say %q", text, test.says)
			}
			if len(text) > 1000 || strings.ContainsAny(text, "\n\r") {
				t.Errorf("%q does not fit a log line", text)
			}
			checkKeyHidden(t, text, test.data)
		})
	}
}

// Keys that are cut anywhere, or have any character changed, are a key or a
// plain refusal.
func TestSigningKeyDamagedAnywhere(t *testing.T) {
	for name, data := range map[string]string{"PEM": sec1(t, keys()["P-256"]), "JWK": ecJWK} {
		for i := range len(data) {
			for _, damaged := range []string{data[:i], data[:i] + "~" + data[i+1:]} {
				_, err := authserver.ParseSigningKey([]byte(damaged), authserver.KeyOptions{})
				if err != nil {
					checkKeyHidden(t, err.Error(), damaged)
				} else if i < len(data)/3 && damaged == data[:i] {
					t.Errorf("%s: a key from its first %d bytes", name, i)
				}
			}
		}
	}
}

// A key does not show itself, whoever prints it and however.
func TestSigningKeyIsNotPrinted(t *testing.T) {
	seed := keys()["Ed25519"].(ed25519.PrivateKey).Seed()
	signing := mustParseKey(t, pkcs8(t, keys()["Ed25519"]), authserver.KeyOptions{})
	proof, err := authserver.ParseProofKey([]byte(pkcs8(t, keys()["Ed25519"])))
	if err != nil {
		t.Fatal(err)
	}
	for _, holder := range []any{signing, *signing, proof, *proof, authserver.PrivateKeyJWT{Key: signing}, authserver.Request{Proof: proof}} {
		asJSON, err := json.Marshal(holder)
		if err != nil && !strings.Contains(err.Error(), "unsupported type") {
			t.Fatal(err)
		}
		for _, text := range []string{fmt.Sprintf("%v", holder), fmt.Sprintf("%+v", holder), fmt.Sprintf("%#v", holder), string(asJSON)} {
			for _, form := range []string{fmt.Sprint(seed[:8]), fmt.Sprintf("%x", seed[:8]), fmt.Sprintf("%#v", seed[:8])[7:30], base64.StdEncoding.EncodeToString(seed)[:10]} {
				if strings.Contains(text, strings.Trim(form, "[]{}")) {
					t.Errorf("%T is printed with its key", holder)
				}
			}
		}
	}
}

func TestSigningClaimsThatAreNotJSON(t *testing.T) {
	key := mustParseKey(t, edJWK, authserver.KeyOptions{})
	jwt, err := key.Sign("JWT", map[string]any{"claim": make(chan int)})
	if err == nil || !jwt.IsZero() {
		t.Fatalf("got %v and error %v, want an error alone", jwt, err)
	}
}
