package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

const logUsesBefore = "a credential cannot be used as it stands in its file; the one read before is used until it can"

// fileChange is what somebody does to a file while token requests go on.
type fileChange struct {
	name    string            // of the variable with the file's path
	to      func(path string) // see becomes, emptied and missing
	problem string            // that the log tells; none if the new content can be used
}

// TestCredentialFilesBeingReplaced: token requests go on with what was read
// before while files are missing, empty, damaged or do not fit each other, and
// with the new content as soon as it is whole.
func TestCredentialFilesBeingReplaced(t *testing.T) {
	becomes := func(content string) func(string) {
		return func(path string) { caddytest.WriteSecret(t, path, content) }
	}
	emptied := func(path string) {
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
	}
	missing := func(path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}

	var (
		keys                               [2]*ecdsa.PrivateKey
		keyTexts, certTexts, googleAccount [2]string
		certificates                       [2]*x509.Certificate
		assertions                         = [2]string{assertionOf(t, "first"), assertionOf(t, "second")}
		secrets                            = [2]string{"first-secret", "second-secret"}
	)
	for i := range keys {
		keys[i] = newECKey(t, elliptic.P256())
		certificates[i] = certificateFor(t, keys[i], nil)
		keyTexts[i], certTexts[i] = pkcs8Text(t, keys[i]), certificateText(certificates[i])
		account, err := json.Marshal(map[string]string{
			"type": "service_account", "client_email": "robot@project.example", "token_uri": "https://auth.example/token",
			"private_key_id": secrets[i], "private_key": pkcs8Text(t, rsaKey()),
		})
		if err != nil {
			t.Fatal(err)
		}
		googleAccount[i] = string(account)
	}

	// What a request is proven with: 0 for what was there at first, 1 for what
	// replaced it.
	signedBy := func(field string) func(caddytest.TokenRequest) int {
		return func(r caddytest.TokenRequest) int {
			return slices.IndexFunc(keys[:], func(key *ecdsa.PrivateKey) bool {
				_, err := verify(r.PostForm.Get(field), "ES256", key.Public())
				return err == nil
			})
		}
	}
	field := func(name string, values [2]string) func(caddytest.TokenRequest) int {
		return func(r caddytest.TokenRequest) int { return slices.Index(values[:], r.PostForm.Get(name)) }
	}

	const (
		keyJWT     = "client_auth private_key_jwt {\nkey {$KEY}\n}"
		keyCertJWT = "client_auth private_key_jwt {\nkey {$KEY}\ncertificate {$CERT}\n}"
		pairTLS    = "client_auth tls_client_auth {\ncertificate {$CERT}\nkey {$KEY}\n}"
	)
	pair := map[string]string{"KEY": keyTexts[0], "CERT": certTexts[0]}
	presented := func(r caddytest.TokenRequest) int {
		return slices.IndexFunc(certificates[:], r.TLS.PeerCertificates[0].Equal)
	}
	tests := []struct {
		name    string
		lines   string
		files   map[string]string
		by      func(caddytest.TokenRequest) int
		changes []fileChange // the last one makes it whole
	}{
		{"private_key_jwt, first the key", keyCertJWT, pair, signedBy("client_assertion"), []fileChange{
			{"KEY", becomes(keyTexts[1]), "client_auth: the certificate is not this key's: its public key is another one"},
			{"CERT", becomes(certTexts[1]), ""},
		}},
		{"private_key_jwt, first the certificate", keyCertJWT, pair, signedBy("client_assertion"), []fileChange{
			{"CERT", becomes(certTexts[1]), "client_auth: the certificate is not this key's: its public key is another one"},
			{"KEY", becomes(keyTexts[1]), ""},
		}},
		{"private_key_jwt, the key written anew", keyJWT, pair, signedBy("client_assertion"), []fileChange{
			{"KEY", emptied, "client_auth: cannot read the file $KEY: it is empty"},
			{"KEY", becomes(keyTexts[1][:100]), "client_auth: the PEM holds no private key, or is damaged"},
			{"KEY", becomes(keyTexts[1]), ""},
		}},
		{"private_key_jwt, the key gone for a while", keyJWT, pair, signedBy("client_assertion"), []fileChange{
			{"KEY", missing, "client_auth: cannot read the file $KEY: no such file or directory"},
			{"KEY", becomes(keyTexts[1]), ""},
		}},
		{"private_key_jwt, the key in a placeholder", "client_auth private_key_jwt {\nkey {file.{$KEY}}\n}", pair, signedBy("client_assertion"), []fileChange{
			{"KEY", emptied, "client_auth: {file.$KEY} is empty"},
			{"KEY", becomes(keyTexts[1]), ""},
		}},
		{"tls_client_auth, first the certificate", pairTLS, pair, presented, []fileChange{
			{"CERT", becomes(certTexts[1]), "client_auth: certificate and key do not make a pair: tls: private key does not match public key"},
			{"KEY", becomes(keyTexts[1]), ""},
		}},
		{"tls_client_auth, first the key, which is gone for a while", pairTLS, pair, presented, []fileChange{
			{"KEY", missing, "client_auth: cannot read the file $KEY: no such file or directory"},
			{"KEY", becomes(keyTexts[1]), "client_auth: certificate and key do not make a pair: tls: private key does not match public key"},
			{"CERT", becomes(certTexts[1]), ""},
		}},
		{"assertion_file", "client_auth assertion_file {$FILE}", map[string]string{"FILE": assertions[0]}, field("client_assertion", assertions), []fileChange{
			{"FILE", emptied, "client_auth: cannot read the file $FILE: it is empty"},
			{"FILE", missing, "client_auth: cannot read the file $FILE: no such file or directory"},
			{"FILE", becomes(assertions[1]), ""},
		}},
		{"jwt_bearer, its key", "grant jwt_bearer {\nkey {$KEY}\n}", pair, signedBy("assertion"), []fileChange{
			{"KEY", emptied, "grant: cannot read the file $KEY: it is empty"},
			{"KEY", becomes(keyTexts[1]), ""},
		}},
		{"jwt_bearer, a service account", "grant jwt_bearer {\nservice_account {$FILE}\n}", map[string]string{"FILE": googleAccount[0]}, func(r caddytest.TokenRequest) int {
			j, _ := verify(r.PostForm.Get("assertion"), "RS256", rsaKey().Public())
			return slices.Index(secrets[:], j.header.KeyID)
		}, []fileChange{
			{"FILE", becomes(googleAccount[1][:100]), "grant: service_account: the service account's key file is damaged: download it again, as JSON"},
			{"FILE", becomes(googleAccount[1]), ""},
		}},
		{"jwt_bearer, a ready-made assertion", "grant jwt_bearer {\nassertion {file.{$FILE}}\n}", map[string]string{"FILE": assertions[0]}, field("assertion", assertions), []fileChange{
			{"FILE", emptied, "assertion: {file.$FILE} is empty"},
			{"FILE", becomes(assertions[1]), ""},
		}},
		{"refresh_token", "client_auth none\ngrant refresh_token {\nrefresh_token {file.{$FILE}}\n}", map[string]string{"FILE": secrets[0]}, field("refresh_token", secrets), []fileChange{
			{"FILE", emptied, "refresh_token: {file.$FILE} is empty"},
			{"FILE", becomes(secrets[1]), ""},
		}},
		{"client_secret", "client_secret {file.{$FILE}}", map[string]string{"FILE": secrets[0]}, func(r caddytest.TokenRequest) int {
			_, secret, _ := r.BasicAuth()
			return slices.Index(secrets[:], secret)
		}, []fileChange{
			{"FILE", emptied, "client_secret: {file.$FILE} is empty"},
			{"FILE", missing, "client_secret: cannot read the file: open $FILE: no such file or directory"},
			{"FILE", becomes(secrets[1]), ""},
		}},
		{"token_param", "client_auth none\ntoken_param password {file.{$FILE}}", map[string]string{"FILE": secrets[0]}, field("password", secrets), []fileChange{
			{"FILE", emptied, "token_param: {file.$FILE} is empty"},
			{"FILE", becomes(secrets[1]), ""},
		}},
		{"token_header", "client_auth none\ntoken_header X-Password {file.{$FILE}}", map[string]string{"FILE": secrets[0]}, func(r caddytest.TokenRequest) int {
			return slices.Index(secrets[:], r.Header.Get("X-Password"))
		}, []fileChange{
			{"FILE", emptied, "token_header: {file.$FILE} is empty"},
			{"FILE", becomes(secrets[1]), ""},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t, withTLS, func(s *httptest.Server) { s.TLS.ClientAuth = tls.RequestClientCert })
			caddytest.NewAPIServer(t)
			t.Setenv("CA_FILE", pemFile(t, "CERTIFICATE", auth.Certificate().Raw))
			for name, content := range test.files {
				t.Setenv(name, caddytest.SecretFile(t, content))
			}
			proxy := caddytest.Run(t, keySiteWith(test.lines+"\n"+trustingTransport))
			// Each user's token is asked for at that user's first request.
			wantProof := func(user string, want int) {
				t.Helper()
				proxy.WantAs(user, http.StatusOK)
				seen := auth.Seen()
				if got := test.by(seen[len(seen)-1]); got != want {
					t.Errorf("%s: the token request is proven with %d, want %d", user, got, want)
				}
			}
			wantProof("before", 0)

			for i, change := range test.changes {
				path := os.Getenv(change.name)
				change.to(path)
				if change.problem == "" {
					wantProof("after", 1)
					continue
				}
				wantProof(fmt.Sprint("during ", i), 0)
				wantProof(fmt.Sprint("still during ", i), 0)

				lines := proxy.Logged(logUsesBefore)
				if len(lines) != i+1 {
					t.Fatalf("the log says %d times that something read before is used, want %d", len(lines), i+1)
				}
				line := lines[i]
				if want := strings.ReplaceAll(change.problem, "$"+change.name, path); line["error"] != want || line["level"] != "warn" {
					t.Errorf("the log says %v, want the error %s", line, want)
				}
				if files := fmt.Sprint(line["files"]); !strings.Contains(files, path) {
					t.Errorf("the log names the files %s, want %s too", files, path)
				}
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
	const empty = "client_auth: cannot read the file FILE: it is empty"
	tests := []struct {
		name    string
		lines   string
		before  string // what is in the file; none if it is empty
		warning string
		after   string
	}{
		{"a missing assertion", "client_auth assertion_file {$FILE}", "", missing, assertion},
		{"an empty assertion", "client_auth assertion_file {$FILE}", "\n", empty, assertion},
		{"an empty secret", "client_secret {file.{$FILE}}", "\n", "client_secret: {file.FILE} is empty", "partner-secret"},
		{"an empty key", "client_auth private_key_jwt {\nkey {$FILE}\n}", "\n", empty, key},
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
