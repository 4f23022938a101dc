package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// keySite is the Caddyfile of clients without a shared secret. Each account asks
// for a token of its own, so that a test can have as many token requests as it
// wants: see GetAs.
const keySite = `
http://{$SITE} {
	upstream_oauth2 partner {
		token_endpoint {$TOKEN_ENDPOINT}
		client_id      partner-id
		account        {http.request.header.X-User}
	}
	reverse_proxy {$API}
	handle_errors {
		respond "{err.status_code} {err.message}"
	}
}`

// keySiteWith is keySite with further lines in the directive's block.
func keySiteWith(lines string) string {
	return strings.Replace(keySite, "partner-id\n", "partner-id\n"+lines+"\n", 1)
}

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

// TestPrivateKeyJWT: a key of every kind and in every format proves the client,
// with an assertion of its own for each token request.
func TestPrivateKeyJWT(t *testing.T) {
	p256, p384, p521, ed := newECKey(t, elliptic.P256()), newECKey(t, elliptic.P384()), newECKey(t, elliptic.P521()), newEdKey(t)
	pkcs1 := pemText("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey()))
	tests := []struct {
		name      string
		key       any
		text      string
		lines     string
		algorithm string
	}{
		{"RS256, which an RSA key is made for", rsaKey(), pkcs8Text(t, rsaKey()), "", "RS256"},
		{"RS384", rsaKey(), pkcs8Text(t, rsaKey()), "algorithm RS384", "RS384"},
		{"RS512, PKCS #1", rsaKey(), pkcs1, "algorithm RS512", "RS512"},
		{"PS256", rsaKey(), pkcs1, "algorithm PS256", "PS256"},
		{"PS384, JWK", rsaKey(), jwkText(t, rsaKey(), ""), "algorithm PS384", "PS384"},
		{"PS512", rsaKey(), pkcs8Text(t, rsaKey()), "algorithm PS512", "PS512"},
		{"ES256, which P-256 is made for", p256, pkcs8Text(t, p256), "", "ES256"},
		{"ES256, SEC 1", p256, sec1Text(t, p256), "algorithm ES256", "ES256"},
		{"ES384", p384, sec1Text(t, p384), "", "ES384"},
		{"ES512, JWK", p521, jwkText(t, p521, ""), "", "ES512"},
		{"EdDSA", ed, pkcs8Text(t, ed), "", "EdDSA"},
		{"EdDSA, JWK", ed, jwkText(t, ed, ""), "algorithm EdDSA", "EdDSA"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			known := &registration{algorithm: test.algorithm, key: publicKey(test.key), audience: auth.URL + "/token"}
			auth.Answers(known.serve)
			t.Setenv("KEY_FILE", caddytest.SecretFile(t, test.text))
			proxy := caddytest.Run(t, keySiteWith("client_auth private_key_jwt {\nkey {$KEY_FILE}\n"+test.lines+"\n}"))

			// The second one would be refused with the first one's assertion.
			proxy.WantAs("alice", http.StatusOK)
			proxy.WantAs("bob", http.StatusOK)

			if got := api.LastAuthorization(t); got != "Bearer access-token-2" {
				t.Errorf("Authorization is %q", got)
			}
			for _, r := range auth.Seen() {
				if r.PostForm.Has("client_secret") || r.Header.Get("Authorization") != "" {
					t.Errorf("beside the assertion the client sends %v and %q", r.PostForm, r.Header.Get("Authorization"))
				}
			}
		})
	}
}

// TestAssertionIsMeantForTheIssuer unless it has none, or the config says
// whom; and RFC 10070 gives those for the issuer a type of their own.
func TestAssertionIsMeantForTheIssuer(t *testing.T) {
	secret := strings.Repeat("s", 64)
	tests := []struct {
		name, issuer, lines string
		audience, typ       string
	}{
		{"the issuer", "https://issuer.example", "", "https://issuer.example", "client-authentication+jwt"},
		{"without an issuer, the token endpoint", "", "", "", "JWT"},
		{"an audience of its own", "", "audience https://elsewhere.example", "https://elsewhere.example", "JWT"},
		{"an audience of its own beside an issuer", "https://issuer.example", "audience https://elsewhere.example", "https://elsewhere.example", "JWT"},
		{"the issuer, written out", "https://issuer.example", "audience https://issuer.example", "https://issuer.example", "client-authentication+jwt"},
		{"an audience from the environment", "", "audience {env.AUDIENCE}", "https://from-env.example", "JWT"},
	}
	for _, test := range tests {
		for _, method := range []string{"private_key_jwt", "client_secret_jwt"} {
			t.Run(test.name+", "+method, func(t *testing.T) {
				auth := caddytest.NewAuthServer(t)
				caddytest.NewAPIServer(t)
				key := newECKey(t, elliptic.P256())
				known := &registration{algorithm: "ES256", key: key.Public(), audience: test.audience}
				if known.audience == "" {
					known.audience = auth.URL + "/token"
				}
				lines := "client_auth private_key_jwt {\nkey {$KEY_FILE}\n" + test.lines + "\n}\n"
				if method == "client_secret_jwt" {
					known.algorithm, known.key = "HS256", []byte(secret)
					lines = "client_secret {env.SECRET}\nclient_auth client_secret_jwt {\n" + test.lines + "\n}\n"
				}
				if test.issuer != "" {
					lines += "issuer " + test.issuer + "\n"
				}
				auth.Answers(known.serve)
				t.Setenv("KEY_FILE", caddytest.SecretFile(t, pkcs8Text(t, key)))
				t.Setenv("SECRET", secret)
				t.Setenv("AUDIENCE", "https://from-env.example")
				proxy := caddytest.Run(t, keySiteWith(lines))

				proxy.WantAs("alice", http.StatusOK)

				if got := known.last(t).extra("typ"); got != test.typ {
					t.Errorf("typ is %q, want %q", got, test.typ)
				}
			})
		}
	}
}

// TestAssertionNamesItsKey: servers with several keys for a client go by kid,
// and Microsoft Entra by the certificate's thumbprint.
func TestAssertionNamesItsKey(t *testing.T) {
	key := newECKey(t, elliptic.P256())
	certificate := certificateFor(t, key, nil)
	sum := sha256.Sum256(certificate.Raw)
	thumbprint := base64.RawURLEncoding.EncodeToString(sum[:])
	tests := []struct {
		name, text, lines string
		kid, x5t          string
	}{
		{"nothing to name", pkcs8Text(t, key), "", "", ""},
		{"key_id", pkcs8Text(t, key), "key_id first", "first", ""},
		{"key_id from the environment", pkcs8Text(t, key), "key_id {env.KID}", "from-env", ""},
		{"the JWK's own", jwkText(t, key, "in-jwk"), "", "in-jwk", ""},
		{"key_id over the JWK's own", jwkText(t, key, "in-jwk"), "key_id first", "first", ""},
		{"certificate", pkcs8Text(t, key), "certificate {$CERT_FILE}", "", thumbprint},
		{"both", pkcs8Text(t, key), "key_id first\ncertificate {$CERT_FILE}", "first", thumbprint},
		{"the one that fits in a set", `{"keys":[` + jwkText(t, newEdKey(t), "other") + `,` + jwkText(t, key, "ours") + `]}`, "key_id ours", "ours", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			known := &registration{algorithm: "ES256", key: key.Public(), audience: auth.URL + "/token"}
			auth.Answers(known.serve)
			t.Setenv("KID", "from-env")
			t.Setenv("KEY_FILE", caddytest.SecretFile(t, test.text))
			t.Setenv("CERT_FILE", caddytest.SecretFile(t, certificateText(certificate)))
			proxy := caddytest.Run(t, keySiteWith("client_auth private_key_jwt {\nkey {$KEY_FILE}\n"+test.lines+"\n}"))

			proxy.WantAs("alice", http.StatusOK)

			got := known.last(t)
			if got.header.KeyID != test.kid {
				t.Errorf("kid is %q, want %q", got.header.KeyID, test.kid)
			}
			if got.extra("x5t#S256") != test.x5t {
				t.Errorf("x5t#S256 is %q, want %q", got.extra("x5t#S256"), test.x5t)
			}
		})
	}
}

// TestAssertionLivesAsLongAsTheConfigSays, a minute by default: the registration
// refuses longer ones.
func TestAssertionLivesAsLongAsTheConfigSays(t *testing.T) {
	key := newECKey(t, elliptic.P256())
	for lines, want := range map[string]time.Duration{"": time.Minute, "lifetime 5m": 5 * time.Minute, "lifetime 20s": 20 * time.Second} {
		t.Run(want.String(), func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			known := &registration{algorithm: "ES256", key: key.Public(), audience: auth.URL + "/token", longest: want}
			auth.Answers(known.serve)
			t.Setenv("KEY_FILE", caddytest.SecretFile(t, pkcs8Text(t, key)))
			proxy := caddytest.Run(t, keySiteWith("client_auth private_key_jwt {\nkey {$KEY_FILE}\n"+lines+"\n}"))

			proxy.WantAs("alice", http.StatusOK)

			if got := known.last(t); got.time("exp").Sub(got.time("iat")) != want {
				t.Errorf("it lives for %v", got.time("exp").Sub(got.time("iat")))
			}
		})
	}
}

// TestKeyComesFromAFileOrAPlaceholder that holds the key itself, as a secret
// store passes it on.
func TestKeyComesFromAFileOrAPlaceholder(t *testing.T) {
	key := newECKey(t, elliptic.P256())
	text := pkcs8Text(t, key)
	tests := []struct{ name, line, env string }{
		{"a file", "key {$KEY_FILE}", ""},
		{"a file named by the environment", "key {env.KEY}", caddytest.SecretFile(t, text)},
		{"a file's content", "key {file.{$KEY_FILE}}", ""},
		{"PEM in the environment", "key {env.KEY}", text},
		{"PEM in the environment, its line breaks written out", "key {env.KEY}", strings.ReplaceAll(strings.TrimSpace(text), "\n", `\n`)},
		{"JWK in the environment", "key {env.KEY}", jwkText(t, key, "")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			known := &registration{algorithm: "ES256", key: key.Public(), audience: auth.URL + "/token"}
			auth.Answers(known.serve)
			t.Setenv("KEY_FILE", caddytest.SecretFile(t, text))
			t.Setenv("KEY", test.env)
			proxy := caddytest.Run(t, keySiteWith("client_auth private_key_jwt {\n"+test.line+"\n}"))

			proxy.WantAs("alice", http.StatusOK)
		})
	}
}

// TestClientSecretJWT proves the client by its secret, without sending it.
func TestClientSecretJWT(t *testing.T) {
	secret := strings.Repeat("a secret that is long enough ", 3)
	for _, test := range []struct{ algorithm, block string }{
		{"HS256", ""},
		{"HS256", "{\nalgorithm HS256\n}"},
		{"HS384", "{\nalgorithm HS384\n}"},
		{"HS512", "{\nalgorithm HS512\n}"},
	} {
		t.Run(test.algorithm, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			known := &registration{algorithm: test.algorithm, key: []byte(secret), audience: auth.URL + "/token"}
			auth.Answers(known.serve)
			t.Setenv("SECRET", secret)
			proxy := caddytest.Run(t, keySiteWith("client_secret {env.SECRET}\nclient_auth client_secret_jwt "+test.block))

			proxy.WantAs("alice", http.StatusOK)
			proxy.WantAs("bob", http.StatusOK)

			for _, r := range auth.Seen() {
				if r.PostForm.Has("client_secret") || r.Header.Get("Authorization") != "" {
					t.Errorf("the client sends %v and %q", r.PostForm, r.Header.Get("Authorization"))
				}
			}
		})
	}
}

// TestTLSClientAuth: the certificate proves the client, whether an authority
// issued it or it is the one that the server has on file.
func TestTLSClientAuth(t *testing.T) {
	authority := newCertificateAuthority(t)
	key := newECKey(t, elliptic.P256())
	issued, own := certificateFor(t, key, authority), certificateFor(t, key, nil)
	keyText := pkcs8Text(t, key)
	tests := []struct {
		name        string
		certificate *x509.Certificate
		files       map[string]string
		lines       string
	}{
		{"from an authority", issued, map[string]string{"CERT_FILE": certificateText(issued), "KEY_FILE": keyText}, "certificate {$CERT_FILE}\nkey {$KEY_FILE}"},
		{"self-signed", own, map[string]string{"CERT_FILE": certificateText(own), "KEY_FILE": keyText}, "certificate {$CERT_FILE}\nkey {$KEY_FILE}"},
		{"both in one file", issued, map[string]string{"CERT_FILE": keyText + certificateText(issued)}, "certificate {$CERT_FILE}"},
		{"with the authority's in the file", issued, map[string]string{"CERT_FILE": certificateText(issued) + certificateText(authority.certificate), "KEY_FILE": keyText}, "certificate {$CERT_FILE}\nkey {$KEY_FILE}"},
		{"the key from a placeholder", issued, map[string]string{"CERT_FILE": certificateText(issued), "KEY_FILE": keyText}, "certificate {$CERT_FILE}\nkey {file.{$KEY_FILE}}"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t, withTLS, func(s *httptest.Server) {
				s.TLS.ClientAuth = tls.RequireAnyClientCert
				if test.certificate == issued { // have crypto/tls verify it
					s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, authority.pool()
				}
			})
			caddytest.NewAPIServer(t)
			auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
				if r.PostForm.Get("client_id") != "partner-id" || !r.TLS.PeerCertificates[0].Equal(test.certificate) {
					caddytest.Say(w, http.StatusUnauthorized, `{"error":"invalid_client"}`)
					return
				}
				caddytest.Issuing(time.Hour)(w, r)
			})
			t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
			for name, content := range test.files {
				t.Setenv(name, caddytest.SecretFile(t, content))
			}
			proxy := caddytest.Run(t, keySiteWith("client_auth tls_client_auth {\n"+test.lines+"\n}\n"+trustingTransport))

			proxy.WantAs("alice", http.StatusOK)
		})
	}
}

// trustingTransport trusts the AuthServer's certificate.
const trustingTransport = `transport http {
	tls_trust_pool file {$CA_FILE}
}`

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

// TestAssertionFileIsSentAsItIs, but for the white space around it.
func TestAssertionFileIsSentAsItIs(t *testing.T) {
	assertion := assertionOf(t, "workload")
	for name, content := range map[string]string{
		"bare":                    assertion,
		"with a line break":       assertion + "\n",
		"with a DOS line break":   assertion + "\r\n",
		"with white space around": "\n  " + assertion + " \n\n",
	} {
		t.Run(name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			path := filepath.Join(t.TempDir(), "assertion")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("ASSERTION_FILE", path)
			proxy := caddytest.Run(t, keySiteWith("client_auth assertion_file {$ASSERTION_FILE}"))

			proxy.WantAs("alice", http.StatusOK)

			form := auth.Seen()[0].PostForm
			if form.Get("client_assertion") != assertion || form.Get("client_id") != "partner-id" ||
				form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
				t.Errorf("the token request is %v", form)
			}
		})
	}
}

// TestFilesThatAreNotThereYet are a warning when the config loads, an error for
// the requests, and no trouble once they are there.
func TestFilesThatAreNotThereYet(t *testing.T) {
	assertion := assertionOf(t, "workload")
	key := pkcs8Text(t, newECKey(t, elliptic.P256()))
	const missing = "client_auth: cannot read the file FILE: no such file or directory"
	const empty = "client_auth: cannot read the file: FILE is empty"
	tests := []struct {
		name    string
		lines   string
		before  string // what is in the file; none if it is empty
		warning string
		after   string
	}{
		{"a missing assertion", "client_auth assertion_file {$FILE}", "", missing, assertion},
		{"an empty assertion", "client_auth assertion_file {$FILE}", "\n", empty, assertion},
		{"a missing key", "client_auth private_key_jwt {\nkey {$FILE}\n}", "", missing, key},
		{"a missing client certificate", "client_auth tls_client_auth {\ncertificate {$FILE}\n}", "", missing, key + certificateText(certificateFor(t, parsePKCS8(t, key), nil))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			path := filepath.Join(t.TempDir(), "file")
			if test.before != "" {
				if err := os.WriteFile(path, []byte(test.before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("FILE", path)
			proxy := caddytest.Run(t, keySiteWith(test.lines))

			want := strings.ReplaceAll(test.warning, "FILE", path)
			line := proxy.AwaitLog("a credential cannot be read yet; it is tried again at each token request")
			if line["error"] != want || line["level"] != "warn" {
				t.Errorf("when the config loads the log says %v, want the error %s", line, want)
			}
			answer := proxy.GetAs("alice")
			if answer.Body != "502 no access token for the upstream: the request for one failed" {
				t.Errorf("the caller reads %s", answer.Body)
			}
			if got := proxy.Failure(); got != want {
				t.Errorf("the log says %s, want %s", got, want)
			}
			if n := auth.Count(); n != 0 {
				t.Errorf("%d token requests without proof", n)
			}

			caddytest.WriteSecret(t, path, test.after)
			caddytest.Eventually(t, "requests succeeded", func() bool { return proxy.GetAs("alice").Status == http.StatusOK })
		})
	}
}

func parsePKCS8(t testing.TB, text string) any {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestReplacedFilesAreUsedAtOnce: the next token request has what is in them
// now, and no request of the load fails.
func TestReplacedFilesAreUsedAtOnce(t *testing.T) {
	authority := newCertificateAuthority(t)
	keys := [2]*ecdsa.PrivateKey{newECKey(t, elliptic.P256()), newECKey(t, elliptic.P256())}
	assertions := [2]string{assertionOf(t, "first"), assertionOf(t, "second")}
	var certificates [2]*x509.Certificate
	for i := range keys {
		certificates[i] = certificateFor(t, keys[i], authority)
	}
	tests := []struct {
		name  string
		lines string
		tls   bool
		files [2]string
		by    func(caddytest.TokenRequest) int // which of the two the request is proven by
	}{
		{
			name:  "the key of private_key_jwt",
			lines: "client_auth private_key_jwt {\nkey {$FILE}\n}",
			files: [2]string{pkcs8Text(t, keys[0]), pkcs8Text(t, keys[1])},
			by: func(r caddytest.TokenRequest) int {
				for i, key := range keys {
					if _, err := verify(r.PostForm.Get("client_assertion"), "ES256", key.Public()); err == nil {
						return i
					}
				}
				return -1
			},
		},
		{
			name:  "the client certificate and its key",
			lines: "client_auth tls_client_auth {\ncertificate {$FILE}\n}\n" + trustingTransport,
			tls:   true,
			files: [2]string{pkcs8Text(t, keys[0]) + certificateText(certificates[0]), pkcs8Text(t, keys[1]) + certificateText(certificates[1])},
			by: func(r caddytest.TokenRequest) int {
				for i, certificate := range certificates {
					if r.TLS.PeerCertificates[0].Equal(certificate) {
						return i
					}
				}
				return -1
			},
		},
		{
			name:  "the assertion",
			lines: "client_auth assertion_file {$FILE}",
			files: assertions,
			by: func(r caddytest.TokenRequest) int {
				for i, assertion := range assertions {
					if r.PostForm.Get("client_assertion") == assertion {
						return i
					}
				}
				return -1
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var configure []func(*httptest.Server)
			if test.tls {
				configure = append(configure, withTLS, func(s *httptest.Server) {
					s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, authority.pool()
				})
			}
			auth := caddytest.NewAuthServer(t, configure...)
			caddytest.NewAPIServer(t)
			auth.Answers(caddytest.Issuing(2 * time.Second))
			if test.tls {
				t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
			}
			path := caddytest.SecretFile(t, test.files[0])
			t.Setenv("FILE", path)
			// Short tokens that are renewed early: the file is read all the time.
			proxy := caddytest.Run(t, keySiteWith("refresh_ahead 90%\n"+test.lines))
			stop := underLoad(t, proxy)

			caddytest.Eventually(t, "a token was renewed", func() bool { return auth.Count() >= 2 })
			before := auth.Count()
			caddytest.WriteSecret(t, path, test.files[1])
			after := auth.Count() + 1 // one token request may be on its way
			caddytest.Eventually(t, "the new file was used", func() bool { return auth.Count() > after })
			stop()

			for i, r := range auth.Seen() {
				got := test.by(r)
				if i < before && got != 0 || i >= after && got != 1 || got < 0 {
					t.Errorf("token request %d has what is in file %d; the file was replaced after %d to %d requests", i+1, got+1, before, after)
				}
			}
		})
	}
}

// TestCertificateReplacedBeforeItsKey: until both files are new they make no
// pair, and the old one is presented.
func TestCertificateReplacedBeforeItsKey(t *testing.T) {
	authority := newCertificateAuthority(t)
	old, renewed := newECKey(t, elliptic.P256()), newECKey(t, elliptic.P256())
	certificate := certificateFor(t, renewed, authority)
	auth := caddytest.NewAuthServer(t, withTLS, func(s *httptest.Server) {
		s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, authority.pool()
	})
	caddytest.NewAPIServer(t)
	auth.Answers(caddytest.Issuing(10 * time.Second))
	certificateFile, keyFile := caddytest.SecretFile(t, certificateText(certificateFor(t, old, authority))), caddytest.SecretFile(t, pkcs8Text(t, old))
	t.Setenv("CERT_FILE", certificateFile)
	t.Setenv("KEY_FILE", keyFile)
	t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
	proxy := caddytest.Run(t, keySiteWith("refresh_ahead 90%\nclient_auth tls_client_auth {\ncertificate {$CERT_FILE}\nkey {$KEY_FILE}\n}\n"+trustingTransport))
	stop := underLoad(t, proxy)
	caddytest.Eventually(t, "there was a token", func() bool { return auth.Count() == 1 })

	caddytest.WriteSecret(t, certificateFile, certificateText(certificate))
	half := proxy.AwaitLog(logUsesBefore)
	caddytest.WriteSecret(t, keyFile, pkcs8Text(t, renewed))
	caddytest.Eventually(t, "the new pair was used", func() bool {
		seen := auth.Seen()
		return seen[len(seen)-1].TLS.PeerCertificates[0].Equal(certificate)
	})
	stop()

	if text, _ := half["error"].(string); !strings.Contains(text, "client_auth: certificate and key do not make a pair") {
		t.Errorf("the log says %q", text)
	}
}

// underLoad has callers send requests until the test calls stop. All are to be
// answered with 200.
func underLoad(t *testing.T, proxy *caddytest.Caddy) (stop func()) {
	var (
		calling sync.WaitGroup
		stopped atomic.Bool
	)
	site := os.Getenv("SITE")
	for range 4 {
		calling.Go(func() {
			for !stopped.Load() {
				answer, err := proxy.Try(http.MethodGet, site, "/", http.Header{"X-User": {"alice"}})
				if err != nil || answer.Status != http.StatusOK {
					t.Errorf("status %d, %v: %s", answer.Status, err, answer.Body)
					return
				}
			}
		})
	}
	stop = sync.OnceFunc(func() {
		stopped.Store(true)
		calling.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// TestRefusedKeys: what is wrong with a key shows when the config is validated,
// with the way out, and with nothing of the key.
func TestRefusedKeys(t *testing.T) {
	p256, other := newECKey(t, elliptic.P256()), newECKey(t, elliptic.P256())
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(p256.Public())
	if err != nil {
		t.Fatal(err)
	}
	encrypted := pemText("ENCRYPTED PRIVATE KEY", []byte("whatever"))
	const (
		keyJWT  = "client_auth private_key_jwt {\nkey {$FILE}\nLINES\n}"
		tlsAuth = "client_auth tls_client_auth {\ncertificate {$CERT_FILE}\nkey {$FILE}\n}"
	)
	tests := []struct{ name, lines, file, want string }{
		{"an encrypted key", keyJWT, encrypted, "the private key is encrypted: decrypt it first, with 'openssl pkey -in key.pem -out plain.pem'"},
		{"a public key", keyJWT, pemText("PUBLIC KEY", public), "the PEM holds a public key: the private one is needed"},
		{"a public JWK", keyJWT, jwkText(t, p256.Public(), ""), "the JWK is a public key: the private one is needed"},
		{"a symmetric JWK", keyJWT, `{"kty":"oct","k":"c2VjcmV0"}`, "the JWK is a symmetric key: a private one is needed here; a shared secret goes with 'client_auth client_secret_jwt'"},
		{"a certificate", keyJWT, certificateText(certificateFor(t, p256, nil)), "the PEM holds a certificate and no private key"},
		{"text", keyJWT, "whatever", "the key is neither PEM (-----BEGIN PRIVATE KEY-----) nor a JWK"},
		{"an empty file", keyJWT, "\n", "the key is empty"},
		{"a short RSA key", keyJWT, pkcs8Text(t, small), "the RSA key has 1024 bits: at least 2048 are needed (RFC 7518 section 3.3)"},
		{"an algorithm of other keys", strings.Replace(keyJWT, "LINES", "algorithm RS256", 1), pkcs8Text(t, p256), `the algorithm "RS256" does not fit the key, which is an EC key on P-256: write 'algorithm' as ES256`},
		{"an algorithm of another curve", strings.Replace(keyJWT, "LINES", "algorithm ES384", 1), pkcs8Text(t, p256), `the algorithm "ES384" does not fit the key, which is an EC key on P-256: write 'algorithm' as ES256`},
		{"an algorithm for RSA that is none", strings.Replace(keyJWT, "LINES", "algorithm none", 1), pkcs8Text(t, rsaKey()), `the algorithm "none" does not fit the key, which is an RSA key: write 'algorithm' as RS256, RS384, RS512, PS256, PS384 or PS512`},
		{"another key's certificate", strings.Replace(keyJWT, "LINES", "certificate {$CERT_FILE}", 1), pkcs8Text(t, p256), "the certificate is not this key's: its public key is another one"},
		{"a certificate that is none", strings.Replace(keyJWT, "LINES", "certificate {$FILE}", 1), pkcs8Text(t, p256), "the certificate is not PEM (-----BEGIN CERTIFICATE-----)"},
		{"a client certificate of another key", tlsAuth, pkcs8Text(t, p256), "certificate and key do not make a pair: tls: private key does not match public key"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("TOKEN_ENDPOINT", "https://auth.example/token")
			t.Setenv("FILE", caddytest.SecretFile(t, test.file))
			t.Setenv("CERT_FILE", caddytest.SecretFile(t, certificateText(certificateFor(t, other, nil))))
			t.Setenv("SITE", "localhost:8080")
			t.Setenv("API", "localhost:8081")
			err := caddytest.Validate(keySiteWith(strings.Replace(test.lines, "LINES", "", 1)))
			if err == nil {
				t.Fatal("it validates")
			}
			if want := `client "partner": client_auth: ` + test.want; !strings.HasSuffix(err.Error(), want) {
				t.Errorf("the error is\n%v, want\n%s", err, want)
			}
		})
	}
}

// TestKeyThatIsNoFile is not printed as if it were a file's name.
func TestKeyThatIsNoFile(t *testing.T) {
	der, err := x509.MarshalPKCS8PrivateKey(newECKey(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	key := base64.StdEncoding.EncodeToString(der)
	const wayOut = " is neither PEM, a JWK nor the path of a file: write an absolute path, such as /etc/caddy/partner.pem"
	for _, test := range []struct{ name, key, want string }{
		{"in the config", key, "the value" + wayOut},
		{"in the environment", "{env.KEY}", "what {env.KEY} holds" + wayOut},
		{"in a file's placeholder", "{file." + caddytest.SecretFile(t, key) + "}", "holds" + wayOut},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("TOKEN_ENDPOINT", "https://auth.example/token")
			t.Setenv("SITE", "localhost:8080")
			t.Setenv("API", "localhost:8081")
			t.Setenv("KEY", key)
			err := caddytest.Validate(keySiteWith("client_auth private_key_jwt {\nkey " + test.key + "\n}"))
			if err == nil {
				t.Fatal("it validates")
			}
			if !strings.HasSuffix(err.Error(), test.want) || strings.Contains(err.Error(), key) {
				t.Errorf("the error is\n%v, want\n%s", err, test.want)
			}
		})
	}

	t.Run("the path of a file, in the environment", func(t *testing.T) {
		caddytest.NewAuthServer(t)
		caddytest.NewAPIServer(t)
		t.Setenv("KEY", filepath.Join(t.TempDir(), "not-yet"))
		proxy := caddytest.Run(t, keySiteWith("client_auth private_key_jwt {\nkey {env.KEY}\n}"))

		line := proxy.AwaitLog("a credential cannot be read yet; it is tried again at each token request")
		if want := "client_auth: cannot read the file {env.KEY}: no such file or directory"; line["error"] != want {
			t.Errorf("the log says %v, want %s", line["error"], want)
		}
	})
}

// TestRefusedProofs: what the server does not accept is told to the operator,
// with the server's words and what to look at.
func TestRefusedProofs(t *testing.T) {
	key, other := newECKey(t, elliptic.P256()), newECKey(t, elliptic.P256())
	tests := []struct {
		name  string
		known *registration
		says  string
	}{
		{"another key", &registration{algorithm: "ES256", key: other.Public()}, "error in cryptographic primitive"},
		{"another algorithm", &registration{algorithm: "PS256", key: rsaKey().Public()}, `unexpected signature algorithm`},
		{"another audience", &registration{algorithm: "ES256", key: key.Public(), audience: "https://issuer.example"}, "not https://issuer.example"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Answers(test.known.serve)
			t.Setenv("KEY_FILE", caddytest.SecretFile(t, pkcs8Text(t, key)))
			proxy := caddytest.Run(t, keySiteWith("client_auth private_key_jwt {\nkey {$KEY_FILE}\n}"))

			answer := proxy.GetAs("alice")

			if want := "502 no access token for the upstream: the authorization server refused to issue one (invalid_client)"; answer.Body != want {
				t.Errorf("the caller reads\n%s, want\n%s", answer.Body, want)
			}
			for _, part := range []string{"the authorization server refused the token request (invalid_client)", test.says, "the assertion was signed with ES256 and a key without an id, for the audience \"" + auth.URL} {
				if got := proxy.Failure(); !strings.Contains(got, part) {
					t.Errorf("the log says %s, which does not hold %q", got, part)
				}
			}
		})
	}

	t.Run("a certificate of another authority", func(t *testing.T) {
		auth := caddytest.NewAuthServer(t, withTLS, func(s *httptest.Server) {
			s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, newCertificateAuthority(t).pool()
		})
		caddytest.NewAPIServer(t)
		t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
		t.Setenv("CERT_FILE", caddytest.SecretFile(t, pkcs8Text(t, key)+certificateText(certificateFor(t, key, nil))))
		proxy := caddytest.Run(t, keySiteWith("client_auth tls_client_auth {\ncertificate {$CERT_FILE}\n}\n"+trustingTransport))

		proxy.WantAs("alice", http.StatusServiceUnavailable)

		if got := proxy.Failure(); !strings.Contains(got, `the authorization server does not accept the TLS connection: remote error: tls: unknown certificate authority; the client certificate of "CN=`) {
			t.Errorf("the log says %s", got)
		}
		if n := auth.Count(); n != 0 {
			t.Errorf("%d token requests came through", n)
		}
	})
	for name, version := range map[string]string{"HTTP/1.1": "http/1.1", "HTTP/2": "h2"} {
		t.Run("a certificate, and a connection closed without a word, with "+name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t, withTLS)
			caddytest.NewAPIServer(t)
			config := auth.TLS.Clone()
			config.NextProtos = []string{version}
			t.Setenv("TOKEN_ENDPOINT", "https://"+closingListener(t, config)+"/token")
			t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
			t.Setenv("CERT_FILE", caddytest.SecretFile(t, pkcs8Text(t, key)+certificateText(certificateFor(t, key, nil))))
			proxy := caddytest.Run(t, keySiteWith("client_auth tls_client_auth {\ncertificate {$CERT_FILE}\n}\n"+trustingTransport))

			proxy.WantAs("alice", http.StatusServiceUnavailable)

			if got := proxy.Failure(); !strings.Contains(got, `; the client certificate of "CN=`) {
				t.Errorf("the log says %s", got)
			}
		})
	}
}

// closingListener accepts connections and closes them after the TLS handshake. It
// returns its address.
func closingListener(t *testing.T, config *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake()
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}
