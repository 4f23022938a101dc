package integration

import (
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/internal/caddytest"
)

// upstreamBase is what the API is known by. It need not be where it listens.
const upstreamBase = "https://api.example/v1"

// dpopSiteWith is PartnerSite with dpop and further lines.
func dpopSiteWith(lines string) string {
	return caddytest.PartnerSiteWith("dpop\nupstream_base " + upstreamBase + "\n" + lines)
}

// proofs is what both servers do with DPoP proofs (RFC 9449 section 4.3): no
// proof is taken twice, and without the nonce of the day there is no way in.
type proofs struct {
	mu    sync.Mutex
	used  map[string]bool
	nonce string // that proofs must have; "" for none
}

var errWantsNonce = errors.New("use_dpop_nonce")

// check verifies the proof of a request, and returns the thumbprint of its key.
// token is the token that goes with it; "" for none.
func (p *proofs) check(r *http.Request, url, token string) (thumbprint string, _ error) {
	fields := r.Header["Dpop"]
	if len(fields) != 1 {
		return "", fmt.Errorf("there are %d proofs", len(fields))
	}
	signed, err := jose.ParseSigned(fields[0], []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA})
	if err != nil {
		return "", err
	}
	key := signed.Signatures[0].Protected.JSONWebKey
	if key == nil || !key.Valid() || !key.IsPublic() {
		return "", errors.New("there is no public key in the header")
	}
	j, err := verify(fields[0], signed.Signatures[0].Protected.Algorithm, key)
	if err != nil {
		return "", err
	}
	ath := ""
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		ath = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used == nil {
		p.used = make(map[string]bool)
	}
	id := j.text("jti")
	switch age := time.Since(j.time("iat")); {
	case j.extra("typ") != "dpop+jwt":
		return "", fmt.Errorf("typ is %q", j.extra("typ"))
	case j.text("htm") != r.Method || j.text("htu") != url:
		return "", fmt.Errorf("it is for %s %s, not for %s %s", j.text("htm"), j.text("htu"), r.Method, url)
	case j.text("ath") != ath:
		return "", fmt.Errorf("ath is %q, not %q", j.text("ath"), ath)
	case age < -time.Minute || age > time.Minute:
		return "", fmt.Errorf("it is %v old", age)
	case id == "" || p.used[id]:
		return "", fmt.Errorf("jti is %q, which is empty or was used before", id)
	}
	p.used[id] = true
	if p.nonce != "" && j.text("nonce") != p.nonce {
		return "", errWantsNonce
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), err
}

// today returns the nonce that proofs must have.
func (p *proofs) today() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nonce
}

// wants sets the nonce that proofs must have from now on.
func (p *proofs) wants(nonce string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nonce = nonce
}

// boundServers are an authorization server that binds tokens to keys, and an API
// that takes such tokens from who proves to have the key.
type boundServers struct {
	auth *caddytest.AuthServer
	api  *caddytest.APIServer

	atAuth, atAPI proofs
	life          time.Duration

	mu      sync.Mutex
	bound   map[string]string // thumbprints, by token
	refused []string          // why requests were, at either server
}

func newBoundServers(t testing.TB) *boundServers {
	t.Helper()
	b := &boundServers{auth: caddytest.NewAuthServer(t), api: caddytest.NewAPIServer(t), life: time.Hour, bound: make(map[string]string)}
	b.auth.Answers(b.serveToken)
	b.api.Answers(b.serveAPI)
	return b
}

func (b *boundServers) serveToken(w http.ResponseWriter, r caddytest.TokenRequest) {
	thumbprint, err := b.atAuth.check(r.Request, b.auth.URL+r.URL.Path, "")
	if err != nil {
		b.refuse(err)
		if errors.Is(err, errWantsNonce) {
			w.Header().Set("DPoP-Nonce", b.atAuth.today())
			caddytest.Say(w, http.StatusBadRequest, `{"error":"use_dpop_nonce"}`)
			return
		}
		caddytest.Say(w, http.StatusBadRequest, fmt.Sprintf(`{"error":"invalid_dpop_proof","error_description":%q}`, err))
		return
	}
	token := fmt.Sprint("bound-token-", r.Number)
	b.mu.Lock()
	b.bound[token] = thumbprint
	b.mu.Unlock()
	caddytest.Say(w, http.StatusOK, fmt.Sprintf(`{"access_token":%q,"token_type":"DPoP","expires_in":%v}`, token, b.life.Seconds()))
}

func (b *boundServers) serveAPI(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "DPoP ")
	path, _, _ := strings.Cut(r.RequestURI, "?")
	thumbprint, err := b.atAPI.check(r, upstreamBase+path, token)
	bound := b.keyOf(token)
	switch {
	case !ok:
		err = fmt.Errorf("Authorization is %q", r.Header.Get("Authorization"))
	case err == nil && thumbprint != bound:
		err = fmt.Errorf("the token is bound to %q, and the proof made by %q", bound, thumbprint)
	}
	if err == nil {
		_, _ = fmt.Fprintf(w, "fine: %s", body)
		return
	}
	b.refuse(err)
	code := "invalid_dpop_proof"
	if errors.Is(err, errWantsNonce) {
		code = "use_dpop_nonce"
		w.Header().Set("DPoP-Nonce", b.atAPI.today())
	}
	w.Header().Set("WWW-Authenticate", `DPoP error="`+code+`", algs="ES256 EdDSA"`)
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = fmt.Fprint(w, err)
}

// keyOf returns the thumbprint of the key that a token is bound to.
func (b *boundServers) keyOf(token string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bound[token]
}

func (b *boundServers) refuse(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused = append(b.refused, err.Error())
}

// wantRefused fails the test unless the servers have refused requests for those
// reasons, in that order.
func (b *boundServers) wantRefused(t testing.TB, reasons ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.refused, reasons) {
		t.Errorf("the servers refuse requests for %q, want %q", b.refused, reasons)
	}
}

// TestEachRequestHasAProofOfItsOwn, for its method, its path and its token.
func TestEachRequestHasAProofOfItsOwn(t *testing.T) {
	servers := newBoundServers(t)
	proxy := caddytest.Run(t, dpopSiteWith(""))
	for _, r := range []struct{ method, path string }{
		{http.MethodGet, "/"},
		{http.MethodGet, "/"}, // the same once more
		{http.MethodPost, "/orders"},
		{http.MethodDelete, "/orders/7?force=yes&a=b"},
		{http.MethodGet, "/a%2Fb/%C3%A4?c=%2F"},
		{http.MethodGet, "//double/./dots"},
		{http.MethodHead, "/orders"},
	} {
		if answer := proxy.Send(r.method, os.Getenv("SITE"), r.path, nil); answer.Status != http.StatusOK {
			t.Errorf("%s %s: status %d: %s", r.method, r.path, answer.Status, answer.Body)
		}
	}

	servers.wantRefused(t)
	if n := servers.auth.Count(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

// TestProofNamesThePathAsTheDirectiveSeesIt, so that a rewrite ahead of it counts.
func TestProofNamesThePathAsTheDirectiveSeesIt(t *testing.T) {
	for name, rewrite := range map[string]string{
		"a shorter path":   "uri strip_prefix /partner",
		"an empty path":    `uri replace /partner/orders ""`,
		"an escaped slash": "uri replace /partner/ /a%2Fb/",
	} {
		t.Run(name, func(t *testing.T) {
			servers := newBoundServers(t)
			proxy := caddytest.Run(t, strings.Replace(dpopSiteWith(""), "\n\treverse_proxy", "\n\t"+rewrite+"\n\treverse_proxy", 1))

			if answer := proxy.Get("/partner/orders?a=b", nil); answer.Status != http.StatusOK {
				t.Errorf("status %d: %s", answer.Status, answer.Body)
			}
			servers.wantRefused(t)
		})
	}
}

// TestNonces: a server that wants one says so once; after that they come with
// the answers, whatever their status (RFC 9449 sections 8 and 9).
func TestNonces(t *testing.T) {
	t.Run("at the token endpoint", func(t *testing.T) {
		servers := newBoundServers(t)
		servers.atAuth.wants("first-nonce")
		proxy := caddytest.Run(t, dpopSiteWith("account {http.request.header.X-User}"))

		proxy.WantAs("alice", http.StatusOK)
		servers.wantRefused(t, "use_dpop_nonce")
		proxy.WantAs("bob", http.StatusOK) // who needs a token too

		servers.wantRefused(t, "use_dpop_nonce")
		if n := servers.auth.Count(); n != 3 {
			t.Errorf("%d token requests, want 3", n)
		}
	})
	t.Run("at the API", func(t *testing.T) {
		servers := newBoundServers(t)
		servers.atAPI.wants("first-nonce")
		proxy := caddytest.Run(t, dpopSiteWith(""))

		proxy.Want(http.StatusOK)
		servers.wantRefused(t, "use_dpop_nonce")
		proxy.Want(http.StatusOK)
		servers.wantRefused(t, "use_dpop_nonce")
		servers.atAPI.wants("second-nonce")
		proxy.Want(http.StatusOK)

		servers.wantRefused(t, "use_dpop_nonce", "use_dpop_nonce")
		if n := servers.auth.Count(); n != 1 {
			t.Errorf("%d token requests, want 1: the token was not at fault", n)
		}
	})
	t.Run("at the API, with a body", func(t *testing.T) {
		servers := newBoundServers(t)
		servers.atAPI.wants("first-nonce")
		proxy := caddytest.Run(t, dpopSiteWith(""))

		resp, err := proxy.Client.Post("http://"+os.Getenv("SITE")+"/orders", "text/plain", strings.NewReader("an order"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); string(body) != "fine: an order" {
			t.Errorf("status %d: %s", resp.StatusCode, body)
		}
		servers.wantRefused(t, "use_dpop_nonce")
	})
	t.Run("from answers with status 200", func(t *testing.T) {
		servers := newBoundServers(t)
		servers.auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
			w.Header().Set("DPoP-Nonce", fmt.Sprint("auth-", r.Number))
			servers.serveToken(w, r)
			servers.atAuth.wants(fmt.Sprint("auth-", r.Number))
		})
		servers.api.Answers(func(w http.ResponseWriter, r *http.Request) {
			next := fmt.Sprint("api-", len(servers.api.Seen()))
			w.Header().Set("DPoP-Nonce", next)
			servers.serveAPI(w, r)
			servers.atAPI.wants(next)
		})
		proxy := caddytest.Run(t, dpopSiteWith("account {http.request.header.X-User}"))

		for i := range 5 {
			proxy.WantAs(fmt.Sprint("user-", i), http.StatusOK)
		}

		servers.wantRefused(t)
	})
	t.Run("one retry and no more", func(t *testing.T) {
		servers := newBoundServers(t)
		servers.api.Answers(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("DPoP-Nonce", fmt.Sprint("never-right-", len(servers.api.Seen())))
			w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		proxy := caddytest.Run(t, dpopSiteWith(""))

		proxy.Want(http.StatusUnauthorized)

		if got := len(servers.api.Seen()); got != 2 || servers.auth.Count() != 1 {
			t.Errorf("%d requests reached the API and %d the token endpoint, want 2 and 1", got, servers.auth.Count())
		}
	})
	t.Run("one retry at the token endpoint and no more", func(t *testing.T) {
		servers := newBoundServers(t)
		servers.auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
			w.Header().Set("DPoP-Nonce", fmt.Sprint("never-right-", r.Number))
			caddytest.Say(w, http.StatusBadRequest, `{"error":"use_dpop_nonce"}`)
		})
		proxy := caddytest.Run(t, dpopSiteWith(""))

		proxy.Want(http.StatusBadGateway)

		if n := servers.auth.Count(); n != 2 {
			t.Errorf("%d token requests, want 2", n)
		}
	})
}

// nonceGiver gives a nonce with each answer, and refuses the first request for want
// of one. It does not end that answer before it is released.
type nonceGiver struct {
	refused, release chan struct{}

	mu   sync.Mutex
	sent []string // the nonces of the proofs
}

func newNonceGiver() *nonceGiver {
	return &nonceGiver{refused: make(chan struct{}), release: make(chan struct{})}
}

func (g *nonceGiver) serve(t testing.TB, w http.ResponseWriter, r *http.Request, refuse, accept func()) {
	nonce := nonceIn(t, r)
	g.mu.Lock()
	g.sent = append(g.sent, nonce)
	number := len(g.sent)
	g.mu.Unlock()
	w.Header().Set("DPoP-Nonce", fmt.Sprint("nonce-", number))
	if number > 1 {
		accept()
		return
	}
	refuse()
	_ = http.NewResponseController(w).Flush()
	close(g.refused)
	select {
	case <-g.release:
	case <-r.Context().Done():
	}
}

// TestSecondAttemptHasTheNonceOfItsOwnRefusal: where each nonce is good for one
// proof, the newest one belongs to whoever was given it.
func TestSecondAttemptHasTheNonceOfItsOwnRefusal(t *testing.T) {
	issueBound := func(w http.ResponseWriter) {
		caddytest.Say(w, http.StatusOK, `{"access_token":"T","token_type":"DPoP","expires_in":3600}`)
	}
	for name, atAPI := range map[string]bool{"at the token endpoint": false, "at the API": true} {
		t.Run(name, func(t *testing.T) {
			auth, api, giver := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t), newNonceGiver()
			if atAPI {
				auth.Answers(func(w http.ResponseWriter, _ caddytest.TokenRequest) { issueBound(w) })
				api.Answers(func(w http.ResponseWriter, r *http.Request) {
					giver.serve(t, w, r, func() {
						w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
						w.WriteHeader(http.StatusUnauthorized)
					}, func() {})
				})
			} else {
				auth.Answers(func(w http.ResponseWriter, r caddytest.TokenRequest) {
					giver.serve(t, w, r.Request, func() { caddytest.Say(w, http.StatusBadRequest, `{"error":"use_dpop_nonce"}`) }, func() { issueBound(w) })
				})
			}
			proxy := caddytest.Run(t, dpopSiteWith("account {http.request.header.X-User}"))

			site := os.Getenv("SITE")
			alice := make(chan int)
			go func() {
				answer, _ := proxy.Try(http.MethodGet, site, "/", http.Header{"X-User": {"alice"}})
				alice <- answer.Status
			}()
			<-giver.refused
			proxy.WantAs("bob", http.StatusOK) // who is given another nonce
			close(giver.release)

			if status := <-alice; status != http.StatusOK {
				t.Errorf("status %d", status)
			}
			if sent := giver.sent; len(sent) != 3 || sent[2] != "nonce-1" {
				t.Errorf("the nonces of the proofs are %q, the last of which should be nonce-1", sent)
			}
		})
	}
}

// TestSecondAttemptHasAnAssertionOfItsOwn: the server may have noted the first.
func TestSecondAttemptHasAnAssertionOfItsOwn(t *testing.T) {
	servers := newBoundServers(t)
	servers.atAuth.wants("first-nonce")
	key := newECKey(t, elliptic.P256())
	t.Setenv("KEY_FILE", caddytest.SecretFile(t, pkcs8Text(t, key)))
	proxy := caddytest.Run(t, dpopSiteWith("grant jwt_bearer {\nkey {$KEY_FILE}\nsubject alice\n}"))

	proxy.Want(http.StatusOK)

	servers.wantRefused(t, "use_dpop_nonce")
	seen := make(map[string]bool)
	for _, r := range servers.auth.Seen() {
		j, err := verify(r.PostForm.Get("assertion"), "ES256", key.Public())
		if err != nil {
			t.Fatal(err)
		}
		seen[j.text("jti")] = true
	}
	if len(seen) != 2 {
		t.Errorf("the assertions have %d different jti, want 2", len(seen))
	}
}

// nonceIn returns the nonce of a request's proof.
func nonceIn(t testing.TB, r *http.Request) string {
	signed, err := jose.ParseSigned(r.Header.Get("DPoP"), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Error(err)
		return ""
	}
	var claims struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &claims); err != nil {
		t.Error(err)
	}
	return claims.Nonce
}

// TestCallersProofStaysBehind: it is for us, if for anybody.
func TestCallersProofStaysBehind(t *testing.T) {
	servers := newBoundServers(t)
	proxy := caddytest.Run(t, dpopSiteWith(""))

	answer := proxy.Get("/", http.Header{"DPoP": {"the-callers-proof"}, "Dpop": {"another"}, "Authorization": {"DPoP the-callers-token"}})

	if answer.Status != http.StatusOK {
		t.Errorf("status %d: %s", answer.Status, answer.Body)
	}
	servers.wantRefused(t) // a request with two proofs would be
}

// TestCallersProofStaysBehindWithoutATokenToo: the API would wonder what it is for.
func TestCallersProofStaysBehindWithoutATokenToo(t *testing.T) {
	auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
	auth.Says(http.StatusBadRequest, `{"error":"invalid_client"}`)
	proxy := caddytest.Run(t, dpopSiteWith("on_error pass"))

	if answer := proxy.Get("/", http.Header{"DPoP": {"the-callers-proof"}}); answer.Status != http.StatusOK {
		t.Errorf("status %d: %s", answer.Status, answer.Body)
	}

	if values, ok := api.Last(t).Header["Dpop"]; ok {
		t.Errorf("DPoP goes upstream: %q", values)
	}
}

// TestBoundTokenThatTheAPIRejectsIsReplaced, as any other is.
func TestBoundTokenThatTheAPIRejectsIsReplaced(t *testing.T) {
	servers := newBoundServers(t)
	proxy := caddytest.Run(t, dpopSiteWith(""))
	proxy.Want(http.StatusOK)
	servers.api.Answers(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Authorization"), "-1") {
			w.Header().Set("WWW-Authenticate", `DPoP error="invalid_token"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		servers.serveAPI(w, r)
	})

	proxy.Want(http.StatusOK)

	servers.wantRefused(t)
	if n := servers.auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// TestTokenTypeHasToFit: a token that is not bound would be sent to no avail, and
// so would a bound one without a proof.
func TestTokenTypeHasToFit(t *testing.T) {
	tests := []struct{ name, site, answer, says string }{
		{"a bearer token with dpop", dpopSiteWith(""), `{"access_token":"T","token_type":"Bearer"}`, `the authorization server issued a token that is not bound to our key (token_type "Bearer"): it may not support DPoP, remove 'dpop'`},
		{"no token type with dpop", dpopSiteWith(""), `{"access_token":"T"}`, `the authorization server issued a token that is not bound to our key (token_type ""): it may not support DPoP, remove 'dpop'`},
		{"a bound token without dpop", caddytest.PartnerSite, `{"access_token":"T","token_type":"dpop"}`, `the authorization server issued a token that wants DPoP proofs: write 'dpop' and 'upstream_base'`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			auth, api := caddytest.NewAuthServer(t), caddytest.NewAPIServer(t)
			auth.Says(http.StatusOK, test.answer)
			proxy := caddytest.Run(t, test.site)

			proxy.Want(http.StatusBadGateway)

			if got := proxy.Failure(); got != test.says {
				t.Errorf("the log says\n%s, want\n%s", got, test.says)
			}
			if n := len(api.Seen()); n != 0 {
				t.Errorf("%d requests reached the API", n)
			}
		})
	}
}

// TestServerThatInsistsOnProofs tells those who send none what to write.
func TestServerThatInsistsOnProofs(t *testing.T) {
	for _, code := range []string{"invalid_dpop_proof", "use_dpop_nonce"} {
		t.Run(code, func(t *testing.T) {
			auth := caddytest.NewAuthServer(t)
			caddytest.NewAPIServer(t)
			auth.Says(http.StatusBadRequest, `{"error":"`+code+`"}`)
			proxy := caddytest.Run(t, caddytest.PartnerSite)

			proxy.Want(http.StatusBadGateway)

			want := "the authorization server refused the token request (" + code + "); the server wants to bind tokens to a key: write 'dpop' and 'upstream_base'"
			if got := proxy.Failure(); got != want {
				t.Errorf("the log says\n%s, want\n%s", got, want)
			}
		})
	}
}

// TestKeyOfProofs: one from a file is the file's; one made here is another for
// each client; and both outlive a reload, with their tokens.
func TestKeyOfProofs(t *testing.T) {
	key := newECKey(t, elliptic.P256())
	ed := newEdKey(t)
	thumbprint := func(key any) string {
		sum, err := (&jose.JSONWebKey{Key: publicKey(key)}).Thumbprint(crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(sum)
	}
	tests := []struct {
		name, argument, file string
		want                 string // the key's thumbprint; "" for one made here
	}{
		{"made here", "", "", ""},
		{"from a PEM file", "{$KEY_FILE}", pkcs8Text(t, key), thumbprint(key)},
		{"from a JWK file", "{$KEY_FILE}", jwkText(t, ed, ""), thumbprint(ed)},
		{"from the environment", "{env.KEY}", sec1Text(t, key), thumbprint(key)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			servers := newBoundServers(t)
			t.Setenv("KEY", test.file)
			t.Setenv("KEY_FILE", caddytest.SecretFile(t, test.file))
			site := strings.Replace(dpopSiteWith(""), "dpop\n", "dpop "+test.argument+"\n", 1)
			proxy := caddytest.Run(t, site)
			proxy.Want(http.StatusOK)
			first := servers.keyOf("bound-token-1")
			if test.want != "" && first != test.want {
				t.Errorf("the token is bound to %s, want %s", first, test.want)
			}

			for i := range 3 {
				proxy.Reload(strings.Replace(site, "reverse_proxy", fmt.Sprintf("header X-Reload %d\n\treverse_proxy", i), 1))
				proxy.Want(http.StatusOK)
			}
			servers.wantRefused(t)
			if n := servers.auth.Count(); n != 1 {
				t.Errorf("%d token requests after three reloads, want 1", n)
			}

			proxy.Reload(strings.Replace(site, "client_secret", "scope more\n\t\tclient_secret", 1))
			proxy.Want(http.StatusOK)
			second := servers.keyOf("bound-token-2")
			if kept := second == first; kept != (test.want != "") {
				t.Errorf("with other settings the token is bound to %s, and it was %s", second, first)
			}
		})
	}
}

// TestAnotherKeyFileGivesANewToken at the reload: the old token is bound to the
// old key.
func TestAnotherKeyFileGivesANewToken(t *testing.T) {
	servers := newBoundServers(t)
	path := caddytest.SecretFile(t, pkcs8Text(t, newEdKey(t)))
	t.Setenv("KEY_FILE", path)
	site := strings.Replace(dpopSiteWith(""), "dpop\n", "dpop {$KEY_FILE}\n", 1)
	proxy := caddytest.Run(t, site)
	proxy.Want(http.StatusOK)

	caddytest.WriteSecret(t, path, pkcs8Text(t, newEdKey(t)))
	proxy.Want(http.StatusOK) // with the key that was there when the config was loaded
	proxy.Reload(site)
	proxy.Want(http.StatusOK)

	servers.wantRefused(t)
	if n := servers.auth.Count(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

// TestRefusedKeysOfProofs: without its key a bound client is of no use, so the
// config does not load.
func TestRefusedKeysOfProofs(t *testing.T) {
	missing := t.TempDir() + "/missing"
	tests := []struct{ name, path, want string }{
		{"a missing file", missing, "cannot read the file " + missing + ": no such file or directory"},
		{"a file without a key", caddytest.SecretFile(t, "whatever"), "the key is neither PEM (-----BEGIN PRIVATE KEY-----) nor a JWK"},
		{"an encrypted key", caddytest.SecretFile(t, pemText("ENCRYPTED PRIVATE KEY", nil)), "the private key is encrypted: decrypt it first, with 'openssl pkey -in key.pem -out plain.pem'"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PARTNER_SECRET", "secret")
			err := caddytest.Validate(`http://localhost:8080 {
	upstream_oauth2 partner {
		token_endpoint https://auth.example/token
		client_id      partner-id
		client_secret  {env.PARTNER_SECRET}
		dpop           ` + test.path + `
		upstream_base  https://api.example
	}
}`)
			if want := `client "partner": dpop: ` + test.want; err == nil || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("the error is\n%v, want\n%s", err, want)
			}
		})
	}
}
