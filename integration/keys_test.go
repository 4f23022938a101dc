package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// jwt is a JWT that a server has verified.
type jwt struct {
	header jose.Header
	claims map[string]any
}

// verify is what a server does with a JWT: it takes the algorithm and the key
// that it knows, and no others.
func verify(text, algorithm string, key any) (jwt, error) {
	signed, err := jose.ParseSigned(text, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(algorithm)})
	if err != nil {
		return jwt{}, err
	}
	payload, err := signed.Verify(key)
	if err != nil {
		return jwt{}, err
	}
	j := jwt{header: signed.Signatures[0].Protected}
	return j, json.Unmarshal(payload, &j.claims)
}

// text returns a claim or header parameter that is a string.
func (j jwt) text(name string) string {
	text, _ := j.claims[name].(string)
	return text
}

func (j jwt) extra(name string) string {
	text, _ := j.header.ExtraHeaders[jose.HeaderKey(name)].(string)
	return text
}

// time returns a claim that is a time.
func (j jwt) time(name string) time.Time {
	seconds, _ := j.claims[name].(float64)
	return time.Unix(int64(seconds), 0)
}

// registration is what an authorization server knows about a client.
type registration struct {
	algorithm string
	key       any
	audience  string        // that it wants in assertions
	longest   time.Duration // life of an assertion; a minute if it is zero

	mu   sync.Mutex
	seen []jwt
	used map[string]bool // jti
}

// serve is an answer for AuthServer.Answers: it lets in who proves itself with
// the registered key, and takes no assertion twice (RFC 7523 section 3).
func (reg *registration) serve(w http.ResponseWriter, r caddytest.TokenRequest) {
	if err := reg.admit(r); err != nil {
		caddytest.Say(w, http.StatusUnauthorized, fmt.Sprintf(`{"error":"invalid_client","error_description":%q}`, err))
		return
	}
	caddytest.Issuing(time.Hour)(w, r)
}

func (reg *registration) admit(r caddytest.TokenRequest) error {
	j, err := verify(r.PostForm.Get("client_assertion"), reg.algorithm, reg.key)
	if err != nil {
		return err
	}
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if reg.used == nil {
		reg.used = make(map[string]bool)
	}
	longest := reg.longest
	if longest == 0 {
		longest = time.Minute
	}
	now, id := time.Now(), j.text("jti")
	switch {
	case r.PostForm.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
		return fmt.Errorf("client_assertion_type is %q", r.PostForm.Get("client_assertion_type"))
	case j.text("iss") != "partner-id" || j.text("sub") != "partner-id":
		return fmt.Errorf("iss and sub are %q and %q", j.text("iss"), j.text("sub"))
	case r.PostForm.Get("client_id") != "partner-id":
		return fmt.Errorf("client_id is %q", r.PostForm.Get("client_id"))
	case j.text("aud") != reg.audience:
		return fmt.Errorf("aud is %v, not %s", j.claims["aud"], reg.audience)
	case j.time("iat").After(now) || !j.time("exp").After(now) || j.time("exp").Sub(j.time("iat")) > longest:
		return fmt.Errorf("it lives from %v to %v, and it is %v", j.time("iat"), j.time("exp"), now)
	case id == "" || reg.used[id]:
		return fmt.Errorf("jti is %q, which is empty or was used before", id)
	}
	reg.used[id] = true
	reg.seen = append(reg.seen, j)
	return nil
}

// last returns the newest assertion that was accepted.
func (reg *registration) last(t testing.TB) jwt {
	t.Helper()
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if len(reg.seen) == 0 {
		t.Fatal("no assertion was accepted")
	}
	return reg.seen[len(reg.seen)-1]
}

// rsaKey is made once: that takes long.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newECKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEdKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicKey(key any) any { return key.(crypto.Signer).Public() }

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// pkcs8Text is a private key as most tools write it.
func pkcs8Text(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemText("PRIVATE KEY", der)
}

func sec1Text(t testing.TB, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemText("EC PRIVATE KEY", der)
}

func jwkText(t testing.TB, key any, id string) string {
	t.Helper()
	text, err := jose.JSONWebKey{Key: key, KeyID: id}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// certificateFor makes a certificate for the key, issued by an authority or, if
// that is nil, by the key itself.
func certificateFor(t testing.TB, key any, authority *certificateAuthority) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "partner-id"},
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key
	if authority != nil {
		parent, signer = authority.certificate, authority.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, publicKey(key), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func certificateText(certificate *x509.Certificate) string {
	return pemText("CERTIFICATE", certificate.Raw)
}

// certificateAuthority issues client certificates.
type certificateAuthority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func newCertificateAuthority(t testing.TB) *certificateAuthority {
	t.Helper()
	key := newECKey(t, elliptic.P256())
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "authority"},
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &certificateAuthority{key, certificate}
}

func (a *certificateAuthority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// assertionOf makes an assertion as a platform does for what runs on it.
func assertionOf(t testing.TB, subject string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: newECKey(t, elliptic.P256())}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte(`{"sub":"` + subject + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// pemFile writes a file with one PEM block, and returns its path.
func pemFile(t testing.TB, kind string, der []byte) string {
	t.Helper()
	return caddytest.SecretFile(t, pemText(kind, der))
}
