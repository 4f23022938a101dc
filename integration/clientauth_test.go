package integration

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

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
		{"in the config", key, "the value" + wayOut + ", at Caddyfile:6"},
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
