package authserver_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// mustProofKey returns the key of a JWK.
func mustProofKey(t testing.TB, jwk string) *authserver.ProofKey {
	t.Helper()
	key, err := authserver.ParseProofKey([]byte(jwk))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// The examples of RFC 7638 section 3.1 and RFC 8037 appendix A.3, from keys in
// every format.
func TestThumbprint(t *testing.T) {
	tests := []struct{ name, key, want string }{
		{"RSA", rsaJWK, rsaThumbprint},
		{"RSA as PEM", pkcs8(t, keys()["RSA"]), rsaThumbprint},
		{"Ed25519", edJWK, edThumbprint},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := mustProofKey(t, test.key).Thumbprint(); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// The claims and the header of a proof.
func TestProof(t *testing.T) {
	const rfcToken = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU" // RFC 9449 section 7.1
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	tests := []struct {
		name  string
		proof authserver.Proof
		want  map[string]any
	}{
		{
			"token request",
			authserver.Proof{Method: "POST", URL: "https://server.example.com/token"},
			map[string]any{"htm": "POST", "htu": "https://server.example.com/token", "iat": now},
		},
		{
			"with the token of RFC 9449 section 7.1",
			authserver.Proof{Method: "GET", URL: "https://resource.example.org/protectedresource", AccessToken: authserver.NewSecret(rfcToken)},
			map[string]any{"htm": "GET", "htu": "https://resource.example.org/protectedresource", "iat": now, "ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"},
		},
		{
			"with nonce",
			authserver.Proof{Method: "POST", URL: "https://server.example.com/token", Nonce: "eyJ7S_zG.eyJH0-Z.HX4w-7v"},
			map[string]any{"htm": "POST", "htu": "https://server.example.com/token", "iat": now, "nonce": "eyJ7S_zG.eyJH0-Z.HX4w-7v"},
		},
		{
			"query and fragment left out",
			authserver.Proof{Method: "DELETE", URL: "https://api.example.com/a%2Fb/c?d=e#f"},
			map[string]any{"htm": "DELETE", "htu": "https://api.example.com/a%2Fb/c", "iat": now},
		},
		{
			"fragment left out",
			authserver.Proof{Method: "GET", URL: "https://api.example.com/a#b?c"},
			map[string]any{"htm": "GET", "htu": "https://api.example.com/a", "iat": now},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				proof, err := mustProofKey(t, ecJWK).Proof(test.proof)
				if err != nil {
					t.Fatal(err)
				}
				header, claims := verified(t, proof, "ES256", publicOf(t, ecPublicJWK))
				takeJTI(t, claims)
				checkSame(t, "the payload", claims, test.want)
				checkSame(t, "the header", header, map[string]any{
					"typ": "dpop+jwt", "alg": "ES256",
					"jwk": map[string]any{
						"kty": "EC", "crv": "P-256",
						"x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
					},
				})
			})
		})
	}
}

// The key in the header is the public one alone, whatever the kind, and
// whatever else its JWK says.
func TestProofHoldsPublicKey(t *testing.T) {
	tests := []struct {
		name, key, algorithm string
		members              []string
	}{
		{"RSA", rsaJWK, "RS256", []string{"e", "kty", "n"}},
		{"EC", ecJWK, "ES256", []string{"crv", "kty", "x", "y"}},
		{"Ed25519", edJWK, "EdDSA", []string{"crv", "kty", "x"}},
		{"PEM", pkcs8(t, keys()["RSA"]), "RS256", []string{"e", "kty", "n"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			key := mustProofKey(t, test.key)
			if key.Algorithm() != test.algorithm {
				t.Errorf("the algorithm is %s, want %s", key.Algorithm(), test.algorithm)
			}
			proof, err := key.Proof(authserver.Proof{Method: "GET", URL: "https://api.example.com/"})
			if err != nil {
				t.Fatal(err)
			}
			public := keys()["RSA"].Public()
			if test.algorithm != "RS256" {
				public = publicOf(t, test.key)
			}
			header, _ := verified(t, proof, test.algorithm, public)
			if len(header) != 3 {
				t.Errorf("the header is %v, want typ, alg and jwk", header)
			}
			jwk, _ := header["jwk"].(map[string]any)
			var members []string
			for name := range jwk {
				members = append(members, name)
			}
			slices.Sort(members)
			if !slices.Equal(members, test.members) {
				t.Errorf("the jwk has %q, want %q", members, test.members)
			}
		})
	}
}

func TestProofKeysDiffer(t *testing.T) {
	one, err := authserver.NewProofKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := authserver.NewProofKey()
	if err != nil {
		t.Fatal(err)
	}
	if one.Algorithm() != "ES256" || one.Thumbprint() == other.Thumbprint() || len(one.Thumbprint()) != 43 {
		t.Errorf("got %s %s and %s", one.Algorithm(), one.Thumbprint(), other.Thumbprint())
	}
}

func TestProofKeyRefused(t *testing.T) {
	for name, data := range map[string]string{"empty": "", "public": ecPublicJWK, "symmetric": symmetricJWK} {
		t.Run(name, func(t *testing.T) {
			key, err := authserver.ParseProofKey([]byte(data))
			if err == nil || key != nil {
				t.Fatalf("got %v and error %v, want an error alone", key, err)
			}
			checkKeyHidden(t, err.Error(), data)
		})
	}
}

// Proofs that are made at the same time are all good, and all different.
func TestProofsAreMadeAnew(t *testing.T) {
	key := mustProofKey(t, ecJWK)
	const workers, each = 8, 50
	proofs := make([][]string, workers)
	var working sync.WaitGroup
	for w := range workers {
		working.Go(func() {
			for range each {
				proof, err := key.Proof(authserver.Proof{Method: "GET", URL: "https://api.example.com/"})
				if err != nil {
					t.Error(err)
				}
				proofs[w] = append(proofs[w], proof)
			}
		})
	}
	working.Wait()
	seen := make(map[string]bool)
	for _, proof := range slices.Concat(proofs...) {
		_, claims := verified(t, proof, "ES256", publicOf(t, ecPublicJWK))
		seen[takeJTI(t, claims)] = true
	}
	if len(seen) != workers*each {
		t.Errorf("%d proofs have %d jti", workers*each, len(seen))
	}
}

func TestOrigin(t *testing.T) {
	tests := []struct{ url, want string }{
		{"https://auth.example.com/oauth/token?a=b", "https://auth.example.com"},
		{"https://AUTH.example.com:443/", "https://auth.example.com"},
		{"HTTPS://auth.example.com", "https://auth.example.com"},
		{"https://auth.example.com:8443/", "https://auth.example.com:8443"},
		{"https://auth.example.com:80/", "https://auth.example.com:80"},
		{"http://auth.example.com:80/", "http://auth.example.com"},
		{"http://auth.example.com:443/", "http://auth.example.com:443"},
		{"https://[::1]:443/", "https://[::1]"},
		{"https://[::1]/", "https://[::1]"},
		{"auth.example.com", ""},
		{"", ""},
		{"https://%zz", ""},
	}
	for _, test := range tests {
		t.Run(test.url, func(t *testing.T) {
			if got := authserver.Origin(test.url); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// What is taken for a nonce (RFC 9449 section 8.1), and what leaves the one
// before in place.
func TestNoncesNote(t *testing.T) {
	tests := []struct {
		name   string
		values []string
		taken  bool
	}{
		{"as in RFC 9449", []string{"eyJ7S_zG.eyJH0-Z.HX4w-7v"}, true},
		{"every character that is allowed", []string{"!#$%&'()*+,-./09:;<=>?@AZ[]^_`az{|}~"}, true},
		{"one character", []string{"x"}, true},
		{"the longest", []string{strings.Repeat("x", 1024)}, true},
		{"none", nil, false},
		{"empty", []string{""}, false},
		{"too long", []string{strings.Repeat("x", 1025)}, false},
		{"two", []string{"a", "b"}, false},
		{"a space", []string{"a b"}, false},
		{"a quote", []string{`a"b`}, false},
		{"a backslash", []string{`a\b`}, false},
		{"a control character", []string{"a\x7fb"}, false},
		{"a letter beyond ASCII", []string{"é"}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var nonces authserver.Nonces
			answer := func(values ...string) http.Header {
				header := make(http.Header)
				for _, v := range values {
					header.Add("DPoP-Nonce", v)
				}
				return header
			}
			nonces.Note("https://a", answer("before"))
			nonces.Note("https://b", answer("other"))
			nonces.Note("https://a", answer(test.values...))
			want := "before"
			if test.taken {
				want = test.values[0]
			}
			if got := nonces.Get("https://a"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if got := nonces.Get("https://b"); got != "other" {
				t.Errorf("another server's nonce is %q", got)
			}
			if got := nonces.Get("https://c"); got != "" {
				t.Errorf("an unknown server's nonce is %q", got)
			}
		})
	}
}

// However many servers there are, the newest nonce is held, and not many more.
func TestNoncesAreBounded(t *testing.T) {
	const bound, servers = 16, 1000
	var nonces authserver.Nonces
	for i := range servers {
		name := fmt.Sprint(i)
		for range 2 { // once more changes nothing about the others
			nonces.Note(name, http.Header{"Dpop-Nonce": {"nonce-" + name}})
		}
		if got := nonces.Get(name); got != "nonce-"+name {
			t.Fatalf("the nonce of server %d is %q", i, got)
		}
	}
	held := 0
	for i := range servers {
		if nonces.Get(fmt.Sprint(i)) != "" {
			held++
		}
	}
	if held == 0 || held > bound {
		t.Errorf("%d nonces are held, want at most %d", held, bound)
	}
}

func TestNoncesAtTheSameTime(t *testing.T) {
	var nonces authserver.Nonces
	var working sync.WaitGroup
	for w := range 8 {
		working.Go(func() {
			for i := range 500 {
				server := fmt.Sprint(i % 300)
				nonces.Note(server, http.Header{"Dpop-Nonce": {server + "-" + fmt.Sprint(w)}})
				if got := nonces.Get(server); got != "" && !strings.HasPrefix(got, server+"-") {
					t.Errorf("server %s has the nonce %q", server, got)
				}
			}
		})
	}
	working.Wait()
}

// proofServer is a token endpoint that wants DPoP proofs. It checks the proof
// of each request and remembers its claims, and those of the assertion.
type proofServer struct {
	*httptest.Server
	mu         sync.Mutex
	proofs     []map[string]any
	assertions []map[string]any // of the client
	grants     []map[string]any // the assertions of the grant
}

// newProofServer answers the n-th request, from 1 on, as answer does.
func newProofServer(t *testing.T, answer func(n int, w http.ResponseWriter)) *proofServer {
	t.Helper()
	s := &proofServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(r.Header["Dpop"]) != 1 {
			t.Errorf("the request has %d proofs", len(r.Header["Dpop"]))
			return
		}
		_, proof := verified(t, r.Header.Get("DPoP"), "ES256", publicOf(t, ecPublicJWK))
		s.proofs = append(s.proofs, proof)
		_, assertion := verified(t, r.PostFormValue("client_assertion"), "EdDSA", publicOf(t, edJWK))
		s.assertions = append(s.assertions, assertion)
		_, grant := verified(t, r.PostFormValue("assertion"), "EdDSA", publicOf(t, edJWK))
		s.grants = append(s.grants, grant)
		answer(len(s.proofs), w)
	}))
	t.Cleanup(s.Close)
	return s
}

// wantNonce is the answer of RFC 9449 section 8.
func wantNonce(w http.ResponseWriter, nonce string) {
	if nonce != "" {
		w.Header().Set("DPoP-Nonce", nonce)
	}
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprint(w, `{"error":"use_dpop_nonce","error_description":"Authorization server requires nonce in DPoP proof"}`)
}

// A token request with a proof, and what becomes of the nonces.
func TestRequestWithProof(t *testing.T) {
	give := func(w http.ResponseWriter, nonce string) {
		if nonce != "" {
			w.Header().Set("DPoP-Nonce", nonce)
		}
		fmt.Fprint(w, `{"access_token":"t","token_type":"DPoP"}`)
	}
	tests := []struct {
		name   string
		known  string
		answer func(n int, w http.ResponseWriter)
		sent   []any  // the nonces of the proofs, nil for none
		held   string // the nonce at the end
		code   string // of the error
	}{
		{
			"no nonces", "",
			func(_ int, w http.ResponseWriter) { give(w, "") },
			[]any{nil}, "", "",
		},
		{
			"a nonce with the token", "",
			func(_ int, w http.ResponseWriter) { give(w, "n1") },
			[]any{nil}, "n1", "",
		},
		{
			"a nonce that is known", "n1",
			func(_ int, w http.ResponseWriter) { give(w, "n2") },
			[]any{"n1"}, "n2", "",
		},
		{
			"a nonce is asked for", "",
			func(n int, w http.ResponseWriter) {
				if n == 1 {
					wantNonce(w, "n1")
					return
				}
				give(w, "")
			},
			[]any{nil, "n1"}, "n1", "",
		},
		{
			"a newer nonce is asked for", "n1",
			func(n int, w http.ResponseWriter) {
				if n == 1 {
					wantNonce(w, "n2")
					return
				}
				give(w, "n3")
			},
			[]any{"n1", "n2"}, "n3", "",
		},
		{
			"one is asked for again and again", "",
			func(n int, w http.ResponseWriter) { wantNonce(w, fmt.Sprintf("n%d", n)) },
			[]any{nil, "n1"}, "n2", "use_dpop_nonce",
		},
		{
			"one is asked for and not sent", "",
			func(_ int, w http.ResponseWriter) { wantNonce(w, "") },
			[]any{nil}, "", "use_dpop_nonce",
		},
		{
			"another one is asked for and not sent", "n1",
			func(_ int, w http.ResponseWriter) { wantNonce(w, "") },
			[]any{"n1"}, "n1", "use_dpop_nonce",
		},
		{
			"the same is asked for", "n1",
			func(_ int, w http.ResponseWriter) { wantNonce(w, "n1") },
			[]any{"n1"}, "n1", "use_dpop_nonce",
		},
		{
			"a nonce with another error", "",
			func(_ int, w http.ResponseWriter) {
				w.Header().Set("DPoP-Nonce", "n1")
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, `{"error":"invalid_dpop_proof"}`)
			},
			[]any{nil}, "n1", "invalid_dpop_proof",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := newProofServer(t, test.answer)
			r := request(server.URL + "/token?tenant=7")
			r.Auth = authserver.PrivateKeyJWT{ID: clientID, Key: mustParseKey(t, edJWK, authserver.KeyOptions{}), Audience: issuer}
			r.Assertion = &authserver.GrantAssertion{
				Key:    mustParseKey(t, edJWK, authserver.KeyOptions{}),
				Claims: authserver.AssertionClaims{Issuer: clientID, Audience: issuer},
			}
			r.Proof = mustProofKey(t, ecJWK)
			r.Nonces = new(authserver.Nonces)
			if test.known != "" {
				r.Nonces.Note(authserver.Origin(server.URL), http.Header{"Dpop-Nonce": {test.known}})
			}
			token, err := do(t, r, newTransport(t))
			if test.code == "" {
				if token = mustSucceed(t, token, err); token.Type != "DPoP" {
					t.Errorf("the token is of type %q", token.Type)
				}
			} else if failed := mustFail(t, token, err); failed.Code != test.code {
				t.Errorf("the error is %v, want %s", failed, test.code)
			}
			if held := r.Nonces.Get(authserver.Origin(server.URL)); held != test.held {
				t.Errorf("the nonce at the end is %q, want %q", held, test.held)
			}
			server.check(t, test.sent)
		})
	}
}

// check compares the nonces that were sent, and checks that nothing was sent
// twice.
func (s *proofServer) check(t *testing.T, nonces []any) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var got []any
	seen := make(map[string]bool)
	for i, proof := range s.proofs {
		got = append(got, proof["nonce"])
		seen[takeJTI(t, proof)] = true
		seen[takeJTI(t, s.assertions[i])] = true
		seen[takeJTI(t, s.grants[i])] = true
		checkSame(t, "htm, htu and ath", []any{proof["htm"], proof["htu"], proof["ath"]}, []any{"POST", s.URL + "/token", nil})
	}
	checkSame(t, "the nonces of the proofs", got, nonces)
	if len(seen) != 3*len(s.proofs) {
		t.Errorf("a proof or an assertion was sent twice")
	}
}

// Requests without a proof have no DPoP field, and what a server says of nonces
// is nothing to them.
func TestRequestWithoutProof(t *testing.T) {
	asked := 0
	token, err := do(t, request(endpoint), roundTrip(func(r *http.Request) (*http.Response, error) {
		asked++
		if _, ok := r.Header["Dpop"]; ok {
			t.Error("the request has a proof")
		}
		return answering(http.StatusBadRequest, http.Header{"Dpop-Nonce": {"n1"}}, `{"error":"use_dpop_nonce"}`)(r)
	}))
	if failed := mustFail(t, token, err); failed.Code != "use_dpop_nonce" {
		t.Errorf("the error is %v", failed)
	}
	if asked != 1 {
		t.Errorf("it asked %d times, want once", asked)
	}
}

// A proof that the server repeats does not show up in the error.
func TestProofIsRedacted(t *testing.T) {
	r := request(endpoint)
	r.Proof, r.Nonces = mustProofKey(t, ecJWK), new(authserver.Nonces)
	var sent string
	token, err := do(t, r, roundTrip(func(r *http.Request) (*http.Response, error) {
		sent = r.Header.Get("DPoP")
		return answering(http.StatusBadRequest, nil, `{"error":"invalid_dpop_proof","error_description":"bad proof `+sent+`"}`)(r)
	}))
	failed := mustFail(t, token, err)
	if !strings.Contains(failed.Error(), "bad proof [redacted]") {
		t.Errorf("%q is not what the server says, redacted", failed)
	}
	checkKeyHidden(t, failed.Error(), sent)
}

func BenchmarkProof(b *testing.B) {
	token := authserver.NewSecret(strings.Repeat("t", 1024))
	for _, test := range []struct{ name, key string }{{"ES256", ecJWK}, {"EdDSA", edJWK}, {"RS256", rsaJWK}} {
		b.Run(test.name, func(b *testing.B) {
			key := mustProofKey(b, test.key)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := key.Proof(authserver.Proof{Method: "GET", URL: "https://api.example.com/v1/things?page=2", Nonce: "n1", AccessToken: token}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPrivateKeyJWT(b *testing.B) {
	key, err := authserver.ParseSigningKey([]byte(ecJWK), authserver.KeyOptions{})
	if err != nil {
		b.Fatal(err)
	}
	auth := authserver.PrivateKeyJWT{ID: clientID, Key: key, Audience: issuer}
	b.ReportAllocs()
	for b.Loop() {
		if err := auth.Authenticate(make(url.Values), nil); err != nil {
			b.Fatal(err)
		}
	}
}
