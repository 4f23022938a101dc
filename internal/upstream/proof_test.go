package upstream

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/upstream-oauth2/caddy-upstream-oauth2/authserver"
)

// claims of a proof that matter here.
type claims struct {
	Method string `json:"htm"`
	URL    string `json:"htu"`
	Nonce  string `json:"nonce"`
	Hash   string `json:"ath"`
}

func claimsOf(t *testing.T, r *http.Request) (c claims) {
	t.Helper()
	parts := strings.Split(r.Header.Get("DPoP"), ".")
	if len(parts) != 3 {
		t.Fatalf("the proof is %q", r.Header.Get("DPoP"))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// boundTest is a request with a proof. Its nonces are in seen.
func boundTest(t *testing.T, attempts ...attempt) *upstreamTest {
	for i, attempt := range attempts {
		attempts[i] = func(w http.ResponseWriter, r *http.Request) error {
			c := claimsOf(t, r)
			if c.Method != "POST" || c.URL != "https://api.partner.example/orders" || c.Hash == "" {
				t.Errorf("the proof is for %+v", c)
			}
			w.Header().Set("X-Nonce-Seen", c.Nonce)
			return attempt(w, r)
		}
	}
	u := newTest("body", attempts...)
	u.settings.Proofs = testProofs(t)
	u.settings.Replay.Scheme = "DPoP"
	return u
}

func wantingNonce(nonce string) attempt {
	return answer(401, "a nonce, please", "Www-Authenticate", `DPoP error="use_dpop_nonce"`, "Dpop-Nonce", nonce)
}

func TestNonceThatTheAPIWants(t *testing.T) {
	u := boundTest(t, wantingNonce("fresh"), answer(200, "fine")).send()
	u.want(t, 200, "fine", nil, Accepted)
	if got := u.w.Header().Get("X-Nonce-Seen"); got != "fresh" {
		t.Errorf("the second proof has the nonce %q", got)
	}
	if u.request.Header.Get("DPoP") != "" {
		t.Error("the proof is left on the request")
	}
}

func TestNonceOfAnyAnswerIsUsedNext(t *testing.T) {
	u := boundTest(t, answer(200, "", "Dpop-Nonce", "next"))
	u.send()
	if got := u.settings.Proofs.nonces.Get("https://api.partner.example"); got != "next" {
		t.Errorf("the nonce held is %q", got)
	}
}

// TestNoNewNonce: the same request once more would get the same answer.
func TestNoNewNonce(t *testing.T) {
	tests := map[string]string{"none at all": "", "one that cannot be used": `a"b`, "the one that was sent": "held"}
	for name, nonce := range tests {
		t.Run(name, func(t *testing.T) {
			u := boundTest(t, wantingNonce(nonce))
			u.settings.Proofs.nonces.Note("https://api.partner.example", http.Header{"Dpop-Nonce": {"held"}})
			u.send().want(t, 401, "a nonce, please", nil)
		})
	}
	t.Run("for a token that is not bound", func(t *testing.T) {
		u := newTest("body", answer(401, "a nonce, please", "Www-Authenticate", `Bearer error="use_dpop_nonce"`, "Dpop-Nonce", "fresh"))
		u.send().want(t, 401, "a nonce, please", nil)
	})
}

// TestTokenThatExpiresWhileTheAPIAsksForANonce is not sent again.
func TestTokenThatExpiresWhileTheAPIAsksForANonce(t *testing.T) {
	newer := testToken("newer", "DPoP")
	t.Run("a newer one is", func(t *testing.T) {
		u := boundTest(t, nil, answer(200, "fine"))
		u.attempts[0] = func(w http.ResponseWriter, r *http.Request) error {
			u.tokens.current = newer
			return wantingNonce("fresh")(w, r)
		}
		u.send().want(t, 200, "fine", nil, Accepted)
		if !slices.Equal(u.seen, []string{"Bearer older", "DPoP newer"}) {
			t.Errorf("the API saw %q", u.seen)
		}
	})
	t.Run("there is none", func(t *testing.T) {
		u := boundTest(t, nil)
		u.attempts[0] = func(w http.ResponseWriter, r *http.Request) error {
			u.tokens.current = nil
			return wantingNonce("fresh")(w, r)
		}
		u.send().want(t, 401, "a nonce, please", nil, NotReplayed)
	})
}

func TestProofsBase(t *testing.T) {
	key, err := authserver.NewProofKey()
	if err != nil {
		t.Fatal(err)
	}
	for base, want := range map[string]string{
		"https://api.partner.example":     "https://api.partner.example/orders",
		"https://api.partner.example/":    "https://api.partner.example/orders",
		"https://api.partner.example/v1/": "https://api.partner.example/v1/orders",
	} {
		r := requestWith(http.Header{})
		NewProofs(key, new(authserver.Nonces), base).attach(r, testToken("opaque", "DPoP"))
		if got := claimsOf(t, r).URL; got != want {
			t.Errorf("with the base %s the proof is for %s, want %s", base, got, want)
		}
	}
	r := requestWith(http.Header{})
	r.URL.Path = ""
	NewProofs(key, new(authserver.Nonces), "https://api.partner.example").attach(r, testToken("opaque", "DPoP"))
	if got := claimsOf(t, r).URL; got != "https://api.partner.example/" {
		t.Errorf("without a path the proof is for %s", got)
	}
}
